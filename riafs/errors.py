"""Every failure riafs knows, one class each.

A class has the ``errno`` that a program gets through the kernel, the exit status that a command ends with (mount(8)'s
bits: 1 usage or permission, 2 system, 4 bug, 16 conflict, 32 mount failed), and whether trying again later can help.
Messages name the thing, the place and the way out.
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
    """A source that is neither a RIA URL nor a path, or whose part after ``#`` is not a possible name."""

    errno = _errno.EINVAL
    exit_code = 1


class SourceNotFound(RiafsError):
    """The store, dataset, alias or version that the source names does not exist."""

    errno = _errno.ENOENT
    exit_code = 32


class MountpointError(RiafsError):
    """The mountpoint is missing, not a directory, in use, or another user's mount."""

    errno = _errno.EBUSY
    exit_code = 32


class MountFailed(RiafsError):
    """The kernel or fusermount3 refused the mount, or the new mount did not answer."""

    exit_code = 32


class Interrupted(RiafsError):
    """A signal ended a mount before it was ready."""

    errno = _errno.EINTR
    exit_code = 8


class NotMounted(RiafsError):
    """A command that needs a riafs mount was given another directory."""

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
    """A name that can be looked up but is not listed (``hcp@v1``) does not exist now, but may later."""


class NoSuchAttribute(RiafsError):
    """A file has no extended attribute of that name."""

    errno = _errno.ENODATA


class NoSuchVersion(RiafsError):
    """A ref or commit that the dataset does not have."""

    errno = _errno.ENOENT
    exit_code = 32


class NotADirectoryHere(RiafsError):
    """A directory operation on a file."""

    errno = _errno.ENOTDIR


class IsADirectoryHere(RiafsError):
    """A file operation on a directory."""

    errno = _errno.EISDIR


class ReadOnly(RiafsError):
    """A change in a read-only mount, or in a read-only part of a writable one."""

    errno = _errno.EROFS


class ChangedElsewhere(ReadOnly):
    """The dataset has changes under another of its names in the same mount; the log has both names."""


class StaleHandle(RiafsError):
    """The file or directory of an inode number or handle no longer exists."""

    errno = _errno.ESTALE


# -- changes ----------------------------------------------------------------------------------------------------------


class NameExists(RiafsError):
    """The name exists already."""

    errno = _errno.EEXIST


class DirectoryNotEmpty(RiafsError):
    """A directory that is to be removed or replaced is not empty."""

    errno = _errno.ENOTEMPTY


class NameTooLong(RiafsError):
    """A name of more than 255 bytes, or a link's target of more than 4095."""

    errno = _errno.ENAMETOOLONG


class BadChange(RiafsError):
    """An impossible change: a directory moved into itself, an invalid name, a negative size."""

    errno = _errno.EINVAL


class FileTooLarge(RiafsError):
    """A size or an offset beyond the largest possible file."""

    errno = _errno.EFBIG


class NotPermitted(RiafsError):
    """A name that git cannot check out on every system."""

    errno = _errno.EPERM


class AcrossDatasets(RiafsError):
    """A move or hard link from one dataset to another; mv then copies."""

    errno = _errno.EXDEV


class OverlayFull(RiafsError):
    """The disk of the overlay is full; nothing was changed."""

    errno = _errno.ENOSPC


class OverlayFailed(RiafsError):
    """The overlay's directory cannot be read or written, or is damaged."""


class OverlayDamaged(OverlayFailed):
    """A part of an overlay is missing, cut off, exchanged or older than the rest; nothing was changed in it."""


# -- stores -----------------------------------------------------------------------------------------------------------


class NotInStore(RiafsError):
    """A path below the store's root does not exist."""

    errno = _errno.ENOENT
    exit_code = 32


class NotAFile(NotInStore):
    """A path below the store's root is not a regular file but a directory, a fifo or a device."""


class OutsideStore(RiafsError):
    """A path in the store leads out of it (by a symbolic link or ``..``) and is not followed."""

    errno = _errno.EACCES


class LinkLoop(OutsideStore):
    """A link in the store leads to itself, or through too many others."""

    errno = _errno.ELOOP


class NotOurs(RiafsError):
    """There is a link, a file, or another user's directory in the place of a working directory of riafs in a store."""

    errno = _errno.EACCES


class StoreDenied(RiafsError):
    """This user may not read the store's files."""

    errno = _errno.EACCES
    exit_code = 32


class StoreError(RiafsError):
    """The store's file system failed (I/O error, stale handle)."""

    retryable = True


class StoreTimeout(RiafsError):
    """The store did not answer within the deadline."""

    errno = _errno.ETIMEDOUT
    exit_code = 32
    retryable = True


class StoreUnreachable(StoreError):
    """The machine that has the store cannot be reached, or its connection was lost; the message says since when."""

    errno = _errno.EHOSTUNREACH
    exit_code = 32


class TaskFailed(StoreError):
    """A background task of riafs failed: no thread or descriptor was left, or there is a bug."""

    exit_code = 4


class OutOfMemory(TaskFailed):
    """This process or its control group has not enough memory for the request."""

    errno = _errno.ENOMEM
    exit_code = 2


class ProgramKilled(TaskFailed):
    """A program that riafs started was ended by others again and again (SIGKILL, SIGTERM, the kernel short of memory),
    which says nothing about what it was working on."""

    exit_code = 2


class CacheFailed(RiafsError):
    """A file of the cache cannot be read or written; it is made again, or reading continues without it."""

    retryable = True


class Overloaded(StoreError):
    """A server is overloaded at the moment."""

    retry_after: float = 0.0
    """Seconds to wait, as the server says."""


class BadAnswer(RiafsError):
    """A server refused a request, or gave an invalid answer; asking again does not help."""


class AccessExpired(RiafsError):
    """A server no longer accepts the signature in a block's locator; the manifest is fetched again for a new one."""

    errno = _errno.EACCES


class ShortRead(RiafsError):
    """A file, archive or block has fewer bytes than it should."""


class CutOff(ShortRead):
    """A connection ended in the middle of an answer: a network failure, or a server with a damaged block."""

    retryable = True


class TooLarge(RiafsError):
    """A file that is read whole (ref, version file, configuration, manifest) is too large."""


class Busy(RiafsError):
    """Another process is using the overlay or dataset, or changed it while this command was running."""

    errno = _errno.EBUSY
    retryable = True


# -- push -------------------------------------------------------------------------------------------------------------


class PushRefused(RiafsError):
    """The dataset cannot be pushed to in its present state; nothing was written."""

    errno = _errno.EROFS
    exit_code = 1


class PushConflict(RiafsError):
    """The same paths were changed here and in the store; nothing was pushed, and the local changes are kept."""

    errno = _errno.EBUSY
    exit_code = 16

    def __init__(self, message: str, paths: tuple[bytes, ...] = ()) -> None:
        super().__init__(message)
        self.paths = paths


class NoAuthor(RiafsError):
    """git has no name and address for the author of a commit."""

    errno = _errno.EINVAL
    exit_code = 1


# -- git --------------------------------------------------------------------------------------------------------------


class GitError(RiafsError):
    """git could not read an object: damaged pack, missing object, unusable repository."""


class MissingObject(GitError):
    """A git object that a tree, commit or ref names is not in the repository."""


class MalformedObject(GitError):
    """A git object or ref file that is not in git's format."""


class UnsupportedRepository(GitError):
    """A repository in a format that riafs cannot read (reftable, unknown object names)."""


# -- content ----------------------------------------------------------------------------------------------------------


class MalformedKey(RiafsError):
    """Text that is not a git-annex key."""

    errno = _errno.EINVAL


class MalformedLog(RiafsError):
    """A log of the git-annex branch that cannot be used."""


class MalformedText(RiafsError):
    """A file is not in the encoding that ``.gitattributes`` gives for it."""

    errno = _errno.EINVAL
    exit_code = 1


class MissingContent(RiafsError):
    """There is no copy of a key or block in any place where it may be."""


class CorruptContent(RiafsError):
    """Content does not have the size or digest of its key or block."""


class ChangedContent(RiafsError):
    """Stored content was changed while it was being read; open it again."""

    retryable = True


class EncryptedContent(RiafsError):
    """Content needs a password or secret key that riafs does not have."""

    errno = _errno.EACCES


class DecodeFailed(RiafsError):
    """A decoder (7z, gpg) failed on content of the store."""


class DecoderDied(RiafsError):
    """A decoder was ended by a signal that damaged data or a fault of the decoder may cause (SIGSEGV, …)."""

    retryable = True


# -- archives ---------------------------------------------------------------------------------------------------------


class ArchiveError(RiafsError):
    """A 7z archive that cannot be used."""


class NotAnArchive(ArchiveError):
    """A file without a 7z signature."""


class MalformedArchive(ArchiveError):
    """A 7z archive whose header is truncated, damaged, contradictory, or too large."""


class OversizedArchive(MalformedArchive):
    """A 7z archive that is larger than the limits of riafs allow; it may be undamaged."""


class EncryptedArchive(ArchiveError):
    """An archive or member that needs a password."""

    errno = _errno.EACCES


class DamagedIndex(ArchiveError):
    """A saved index is damaged; it is made again."""

    retryable = True


class UnsupportedArchive(ArchiveError):
    """A method or feature of 7z that riafs does not read."""


# -- collections ------------------------------------------------------------------------------------------------------


class MalformedLocator(RiafsError):
    """Text that is not the locator of a block."""


class BrokenCollection(RiafsError):
    """A collection cannot be shown because its manifest is invalid or cannot be fetched."""


class MalformedComposition(RiafsError):
    """An invalid file of a composed tree; the message has the line and the reason."""

    exit_code = 1


class MalformedManifest(RiafsError):
    """A manifest breaks the grammar or contradicts itself; the message has the line and the reason."""
