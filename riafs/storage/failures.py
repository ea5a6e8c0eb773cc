"""Failures of writing to a store, as classes."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

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
