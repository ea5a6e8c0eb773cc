"""Every failure riafs knows, one class each.

A class carries what the two edges need and nothing else decides: the ``errno`` a program gets through the kernel, the
exit status a command ends with (mount(8)'s bits: 1 usage or permission, 2 system, 4 bug, 16 conflict, 32 mount failed),
and whether trying again later can help. Messages name the thing, the place and the way out.
"""

import errno as _errno
from typing import ClassVar


class RiafsError(Exception):
    """Base of all failures that riafs itself reports.

    >>> MissingContent("key MD5E-s1--x.txt is in none of 4 places").errno == _errno.EIO
    True
    """

    errno: ClassVar[int] = _errno.EIO
    exit_code: ClassVar[int] = 2
    retryable: ClassVar[bool] = False
    reported: bool = False
    """Whether the log has it already."""


# -- what the caller got wrong ----------------------------------------------------------------------------------------


class UsageError(RiafsError):
    """Unknown option, bad value, wrong number of arguments."""

    errno = _errno.EINVAL
    exit_code = 1


class BadSource(RiafsError):
    """A source that is no RIA URL, no path, or has a fragment that names nothing possible."""

    errno = _errno.EINVAL
    exit_code = 1


class SourceNotFound(RiafsError):
    """The store, dataset, alias or version that the source names does not exist."""

    errno = _errno.ENOENT
    exit_code = 32


class MountpointError(RiafsError):
    """The mountpoint is missing, not a directory, busy, or not ours."""

    errno = _errno.EBUSY
    exit_code = 32


class MountFailed(RiafsError):
    """The kernel or fusermount3 refused, or the new mount did not answer."""

    exit_code = 32


class Interrupted(RiafsError):
    """A signal ended a mount before it was ready."""

    errno = _errno.EINTR
    exit_code = 8


class NotMounted(RiafsError):
    """A command that needs a riafs mount was given a directory that is none."""

    errno = _errno.EINVAL
    exit_code = 1


class MissingProgram(RiafsError):
    """A program that this operation needs is not installed."""

    errno = _errno.EIO


# -- names and trees --------------------------------------------------------------------------------------------------


class NoSuchName(RiafsError):
    """A directory has no entry of that name."""

    errno = _errno.ENOENT


class NotThereYet(NoSuchName):
    """A name that is looked up but never listed (``hcp@v1``) stands for nothing now, and may at any time."""


class NoSuchAttribute(RiafsError):
    """A file has no extended attribute of that name."""

    errno = _errno.ENODATA


class NoSuchVersion(RiafsError):
    """A ref or commit that the dataset does not have."""

    errno = _errno.ENOENT
    exit_code = 32


class NotADirectoryHere(RiafsError):
    """A directory operation on something that is no directory."""

    errno = _errno.ENOTDIR


class IsADirectoryHere(RiafsError):
    """A file operation on a directory."""

    errno = _errno.EISDIR


class ReadOnly(RiafsError):
    """Any change asked of a mount that shows a store as it is."""

    errno = _errno.EROFS


class ChangedElsewhere(ReadOnly):
    """A dataset is changed by another of its names in the same mount; the log names both."""


class StaleHandle(RiafsError):
    """What an inode number or handle stood for is gone."""

    errno = _errno.ESTALE


# -- changes ----------------------------------------------------------------------------------------------------------


class NameExists(RiafsError):
    """A name that is to be made is there already."""

    errno = _errno.EEXIST


class DirectoryNotEmpty(RiafsError):
    """A directory that is to be removed or replaced still has entries."""

    errno = _errno.ENOTEMPTY


class NameTooLong(RiafsError):
    """A name of more than 255 bytes, or a link's target of more than 4095."""

    errno = _errno.ENAMETOOLONG


class BadChange(RiafsError):
    """A change that cannot be made anywhere: a directory moved into itself, a name that is none, a negative size."""

    errno = _errno.EINVAL


class FileTooLarge(RiafsError):
    """A size or an offset beyond what a file can have."""

    errno = _errno.EFBIG


class NotPermitted(RiafsError):
    """What git cannot carry (some names), refused where it is made."""

    errno = _errno.EPERM


class AcrossDatasets(RiafsError):
    """A move from one dataset to another; mv copies then."""

    errno = _errno.EXDEV


class OverlayFull(RiafsError):
    """There is no room left where the overlay lies; nothing was changed."""

    errno = _errno.ENOSPC


class OverlayFailed(RiafsError):
    """The overlay's directory cannot be read or written, or is damaged."""


class OverlayDamaged(OverlayFailed):
    """A part of an overlay is missing, cut off, another's or older than the rest; nothing was changed in it."""


# -- stores -----------------------------------------------------------------------------------------------------------


class NotInStore(RiafsError):
    """A path below the store's root does not exist; whoever asked decides what that means."""

    errno = _errno.ENOENT
    exit_code = 32


class OutsideStore(RiafsError):
    """A path below the store's root leads out of it (symbolic link or ``..``): never followed."""

    errno = _errno.EACCES


class LinkLoop(OutsideStore):
    """A link in the store that leads to itself, or through too many others."""

    errno = _errno.ELOOP


class NotOurs(RiafsError):
    """In the place of a working directory of riafs in a store there is a link, a file, or somebody else's directory."""

    errno = _errno.EACCES


class StoreDenied(RiafsError):
    """The store's files may not be read by this user."""

    errno = _errno.EACCES
    exit_code = 32


class StoreError(RiafsError):
    """The store answered with a failure that is not this key's fault (I/O error, stale handle)."""

    retryable = True


class StoreTimeout(RiafsError):
    """The store did not answer within the deadline."""

    errno = _errno.ETIMEDOUT
    exit_code = 32
    retryable = True


class TaskFailed(StoreError):
    """A part of riafs could not do its work: no thread or descriptor was left, or it has a bug."""

    exit_code = 4


class OutOfMemory(TaskFailed):
    """There is not enough memory here for one request: this process or its control group has no more."""

    errno = _errno.ENOMEM
    exit_code = 2


class CacheFailed(RiafsError):
    """What is kept in the cache directory cannot be read or written; it is made anew or done without."""

    retryable = True


class Overloaded(StoreError):
    """A server has too much to do at the moment."""

    retry_after: float = 0.0
    """Seconds that it asks for."""


class BadAnswer(RiafsError):
    """A server refused a request, or answered in a way that asking again does not change."""


class AccessExpired(RiafsError):
    """A server no longer takes the signature in a block's locator; a new manifest has a new one."""

    errno = _errno.EACCES


class ShortRead(RiafsError):
    """A file, archive or block holds fewer bytes than it says."""


class CutOff(ShortRead):
    """A connection ended in the middle of an answer: the network's trouble, or a server that met damage."""

    retryable = True


class TooLarge(RiafsError):
    """A file that is read whole (ref, version file, configuration, manifest) is over its bound."""


class Busy(RiafsError):
    """Somebody else is at work where only one may be; or changed what this command was working on."""

    errno = _errno.EBUSY
    retryable = True


# -- push -------------------------------------------------------------------------------------------------------------


class PushRefused(RiafsError):
    """A dataset that cannot be pushed to as it is, found out before anything was written."""

    errno = _errno.EROFS
    exit_code = 1


class PushConflict(RiafsError):
    """The same paths were changed in the store since; nothing was pushed, and the local changes are as they were."""

    errno = _errno.EBUSY
    exit_code = 16

    def __init__(self, message: str, paths: tuple[bytes, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class NoAuthor(RiafsError):
    """git does not know who makes a commit."""

    errno = _errno.EINVAL
    exit_code = 1


# -- git --------------------------------------------------------------------------------------------------------------


class GitError(RiafsError):
    """git could not read an object: damaged pack, missing object, unusable repository."""


class MissingObject(GitError):
    """A git object that a tree, commit or ref names is not in the repository."""


class MalformedObject(GitError):
    """A git object or ref file that does not follow git's format."""


class UnsupportedRepository(GitError):
    """A repository in a form riafs cannot read (reftable, unknown object names)."""


# -- content ----------------------------------------------------------------------------------------------------------


class MalformedKey(RiafsError):
    """Text that is not a git-annex key."""

    errno = _errno.EINVAL


class MalformedLog(RiafsError):
    """A log of the git-annex branch that cannot be used."""


class MalformedText(RiafsError):
    """A file that is not in the encoding that ``.gitattributes`` asks for."""

    errno = _errno.EINVAL
    exit_code = 1


class MissingContent(RiafsError):
    """A key or block that is in none of the places where it may be."""


class CorruptContent(RiafsError):
    """Bytes that are not the key's or block's: wrong size or wrong digest."""


class ChangedContent(RiafsError):
    """Stored content that was changed while it was being read; opened again, it is looked at anew."""

    retryable = True


class EncryptedContent(RiafsError):
    """Content that needs a password or secret key riafs does not have."""

    errno = _errno.EACCES


class DecodeFailed(RiafsError):
    """A decoder (7z, gpg) failed on what the store holds."""


class DecoderDied(RiafsError):
    """A decoder's process was ended by a signal, which says nothing about what it was decoding."""

    retryable = True


# -- archives ---------------------------------------------------------------------------------------------------------


class ArchiveError(RiafsError):
    """A 7z archive that cannot be used."""


class NotAnArchive(ArchiveError):
    """A file without a 7z signature."""


class MalformedArchive(ArchiveError):
    """A 7z archive whose header is truncated, damaged, contradicts itself, or is over the bounds."""


class OversizedArchive(MalformedArchive):
    """A 7z archive that claims more than the bounds allow: nobody looked further, and it may be good."""


class EncryptedArchive(ArchiveError):
    """An archive or member that needs a password."""

    errno = _errno.EACCES


class DamagedIndex(ArchiveError):
    """A saved index that is not as it was written; it is made again."""

    retryable = True


class UnsupportedArchive(ArchiveError):
    """A method or feature of 7z that riafs does not read."""


class NoSuchMember(ArchiveError):
    """A name that the archive does not hold."""

    errno = _errno.ENOENT


# -- collections ------------------------------------------------------------------------------------------------------


class MalformedLocator(RiafsError):
    """Text that is not the locator of a block."""


class BrokenCollection(RiafsError):
    """A collection that cannot be shown, because its manifest is refused or cannot be had."""


class MalformedComposition(RiafsError):
    """A file of a composed tree that cannot be used: the line and the reason."""

    exit_code = 1


class MalformedManifest(RiafsError):
    """A manifest that does not follow the grammar, or contradicts itself: the line and the reason."""
