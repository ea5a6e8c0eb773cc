"""What makes bytes and names last: fsync(2) of each file and directory, or syncfs(2) where they are many."""

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Final

_ONE_BY_ONE: Final = 64
"""More than these are made durable by one syncfs(2) of each file system they are on."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def make_durable(paths: Sequence[bytes], open_path: Callable[[bytes], int], *, everything: bool = False) -> None:
    """Make files, and the names in directories, durable; or `everything` on the file systems they are on. `open_path`
    gives a new descriptor for each of `paths`. Raises OSError.
    """
    if everything or len(paths) > _ONE_BY_ONE:
        _sync_file_systems(paths, open_path)
        return
    with ExitStack() as stack:
        descriptors = []
        for path in paths:
            descriptors.append(open_path(path))
            stack.callback(os.close, descriptors[-1])
            start_writing(descriptors[-1], 0, 0)  # all of them are written while the first is waited for
        for descriptor in descriptors:
            os.fsync(descriptor)


def _sync_file_systems(paths: Iterable[bytes], open_path: Callable[[bytes], int]) -> None:
    """A store may be spread over several."""
    done: set[int] = set()
    for path in paths:
        descriptor = open_path(path)
        try:
            if (device := os.fstat(descriptor).st_dev) not in done:
                sync_file_system(descriptor)
                done.add(device)
        finally:
            os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """syncfs(2), which Python does not have; it also reports what could not be written before. Raises OSError."""
    if _libc.syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def start_writing(descriptor: int, start: int, length: int) -> None:
    """Let the kernel write out a range (`length` 0: to the end) without waiting for it; a hint, of which failures are
    found out later.
    """
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
