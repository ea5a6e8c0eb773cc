"""Failures of writing to a store, as classes; who holds a lock."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from riafs.errors import ReadOnly, RiafsError, StoreDenied, StoreError

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@contextmanager
def writing(path: bytes) -> Iterator[None]:
    """Turns an OSError of writing at `path` into StoreError (no room, …), ReadOnly or StoreDenied."""
    try:
        yield
    except OSError as error:
        raise translated(error, os.fsdecode(path)) from error


def translated(error: OSError, path: str) -> RiafsError:
    """The failure for an OSError of writing at `path`."""
    if error.errno == errno.EROFS:
        return ReadOnly(f"{path} is on a read-only file system")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreDenied(f"{path} may not be written by this user; the store's manager can")
    if error.errno in _NO_ROOM:
        return StoreError(f"no room to write {path}: {error.strerror}; nothing in the store was changed by that")
    return StoreError(f"{path} cannot be written: {error.strerror}")


def lock_holder(descriptor: int) -> str:
    """`` (process NUMBER)`` for who holds the flock(2) of an open file, as the kernel tells it; else nothing."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as table:
        for line in table:
            fields = line.split()  # "1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF"
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
                return f" (process {fields[4]})"
    return ""
