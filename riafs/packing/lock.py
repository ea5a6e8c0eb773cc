"""One packer at a time in a dataset, and no traces of killed ones.

Owns the directory ``archives/.riafs-packing``, in which everything lies that is not finished yet: the new archive,
objects on their way out. Who holds the lock on it owns what is in it, so what is found there was left by a process
that died, and is removed. The lock is the kernel's: it ends with its process.

So nothing is taken for that directory but one that riafs made for this user: no link, nobody else's, none that others
can write to, none with files but no lock. It stays open, and is worked in by its descriptor.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from riafs.errors import Busy, NotOurs
from riafs.storage.openat import open_regular
from riafs.storage.posix import HeldDirectory, lock_holder, writing_to
from riafs.storage.staging import is_ours, open_working_directory, remove_content

DIRECTORY = b".riafs-packing"
_LOCK = b"lock"
_NEW_LOCK = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def workspace(archives: HeldDirectory) -> Iterator[HeldDirectory]:
    """An empty directory in the directory `archives`, of this process alone; removed at the end.

    Raises Busy where another process has it, NotOurs, ReadOnly, StoreDenied, StoreError.
    """
    with ExitStack() as stack:
        with writing_to(archives.path + b"/" + DIRECTORY):
            held = _locked(archives, stack)
            remove_content(held, keep=_LOCK)
        try:
            yield held
        finally:
            _remove(archives, held)


def _locked(archives: HeldDirectory, stack: ExitStack) -> HeldDirectory:
    """The directory, locked. The one who held it before may have removed it: then there is a new one. Descriptors go
    with `stack`.
    """
    while True:
        held = open_working_directory(archives, DIRECTORY, 0o700)
        with ExitStack() as attempt:
            attempt.callback(held.close)
            _check(held, archives)
            try:
                lock = _lock_file(held)
            except FileNotFoundError:  # the directory was removed in between
                continue
            attempt.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                place = os.fsdecode(held.path)
                raise Busy(f"another riafs archive or unarchive{lock_holder(lock)} is at work in {place}") from error
            if _is_current(lock, held, archives):
                stack.push(attempt.pop_all())
                return held


def _check(held: HeldDirectory, archives: HeldDirectory) -> None:
    status = os.fstat(held.descriptor)
    names = os.listdir(held.descriptor)
    if not is_ours(status, archives):
        reason = f"belongs to user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}, not to this user alone"
    elif status.st_dev != os.fstat(archives.descriptor).st_dev:
        reason = "is another file system"
    elif names and os.fsdecode(_LOCK) not in names:
        reason = "has files in it but no lock"
    else:
        return
    raise NotOurs(
        f"{os.fsdecode(held.path)}, where riafs keeps unfinished work, {reason}: it is left alone; "
        "if no riafs is at work there and nobody needs what is in it, remove it"
    )


def _lock_file(held: HeldDirectory) -> int:
    with suppress(FileExistsError):
        return os.open(_LOCK, _NEW_LOCK, 0o600, dir_fd=held.descriptor)
    try:
        lock = open_regular(held.descriptor, _LOCK, os.O_RDWR)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotOurs(f"{held.named(_LOCK)} is left alone: {error.strerror}") from error
    status = os.fstat(lock)
    if not is_ours(status, held) or status.st_nlink > 1:
        os.close(lock)
        raise NotOurs(f"{held.named(_LOCK)} is left alone: it is no lock of this user")
    return lock


def _is_current(lock: int, held: HeldDirectory, archives: HeldDirectory) -> bool:
    """Whether both still have their names."""
    try:
        named = os.stat(_LOCK, dir_fd=held.descriptor, follow_symlinks=False)
        above = os.stat(DIRECTORY, dir_fd=archives.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(lock), named) and os.path.samestat(os.fstat(held.descriptor), above)


def _remove(archives: HeldDirectory, held: HeldDirectory) -> None:
    """The lock goes last of all files: whoever comes next may then put new ones there."""
    with suppress(OSError):
        remove_content(held, keep=_LOCK)
        os.unlink(_LOCK, dir_fd=held.descriptor)
        os.rmdir(DIRECTORY, dir_fd=archives.descriptor)
