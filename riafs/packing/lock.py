"""One packer at a time in a dataset, and no traces of killed ones.

Owns the directory ``archives/.riafs-packing``, in which everything lies that is not finished yet: the new archive,
objects on their way out. Who holds the lock on it owns what is in it, so what is found there was left by a process
that died, and is removed. The lock is the kernel's: it ends with its process.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from riafs.errors import Busy
from riafs.storage.failures import lock_holder, writing

DIRECTORY = b".riafs-packing"
_LOCK = b"lock"


@contextmanager
def workspace(archives: bytes) -> Iterator[bytes]:
    """The path of an empty directory in the directory `archives`, of this process alone; removed at the end.

    Raises Busy where another process has it, ReadOnly, StoreDenied, StoreError.
    """
    path = archives + b"/" + DIRECTORY
    with writing(path):
        lock = _lock(path)
    try:
        with writing(path):
            _remove_all_but_lock(path)
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _lock(path: bytes) -> int:
    """A descriptor that has the lock. The one who held it before may have removed the file: then there is a new one."""
    while True:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        try:
            lock = os.open(path + b"/" + _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # the directory was removed in between
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = lock_holder(lock)
            os.close(lock)
            raise Busy(f"another riafs archive or unarchive{holder} is at work in {os.fsdecode(path)}") from error
        if _is_current(lock, path):
            return lock
        os.close(lock)


def _is_current(lock: int, path: bytes) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path + b"/" + _LOCK, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(path: bytes) -> None:
    """The lock goes last of all files: whoever comes next may then put new ones there."""
    with suppress(OSError):
        _remove_all_but_lock(path)
        os.unlink(path + b"/" + _LOCK)
        os.rmdir(path)


def _remove_all_but_lock(path: bytes) -> None:
    with os.scandir(path) as entries:
        left = [entry for entry in entries if entry.name != _LOCK]
    for entry in left:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
