"""System calls for writers to a local store: directories below its root whatever links are there, complete writes,
durability, and failures as classes.
"""

import ctypes
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from riafs.errors import ReadOnly, RiafsError, StoreDenied, StoreError
from riafs.storage.bytesource import Buffer
from riafs.storage.openat import DIRECTORY_FLAGS, open_beneath, open_plain
from riafs.storage.permissions import DIRECTORY_MODE, Sharing

_ITSELF = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ABSENT = -1
"""The descriptor of a directory that is not there."""


@dataclass(frozen=True, slots=True)
class HeldDirectory:
    """An open directory, which stays the same whatever is put at its path. `path`: for messages."""

    descriptor: int
    path: bytes

    def named(self, name: bytes) -> str:
        """The path of its entry `name`, for messages."""
        return os.fsdecode(self.path + b"/" + name)

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor != ABSENT:
            os.close(self.descriptor)


@contextmanager
def opened_directory(root: int, path: bytes) -> Iterator[int]:
    """A descriptor of the directory `path` below the descriptor `root`. Raises OSError."""
    descriptor = open_beneath(root, path or b".", DIRECTORY_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make_directories(root: int, path: bytes, sharing: Sharing, known: set[bytes]) -> None:
    """Make the directory `path` below `root`, and its missing parents, with the modes that `sharing` gives.

    A directory of git-annex that its owner may not write to is made writable for the owner, as DataLad's ORA does.
    Directories in `known` are not looked at; those that exist or are made are added to it. Raises OSError.
    """
    missing = []
    while path not in known:
        missing.append(path)
        try:
            with opened_directory(root, path) as directory:
                mode = os.fstat(directory).st_mode
                if not mode & 0o200:
                    os.fchmod(directory, mode & 0o7777 | 0o200)
        except FileNotFoundError:
            if not path:
                raise
            path = os.path.dirname(path)
        else:
            known.add(path)
    for path in reversed([each for each in missing if each not in known]):
        _make_one(root, *os.path.split(path), sharing)
        known.add(path)


def remove_tree(parent: int, name: bytes) -> None:
    """Remove the directory `name` in the descriptor `parent` with all its content. Raises OSError.

    Nested directories are first moved to the top of `name`, so that no depth exhausts descriptors or the stack. If this
    is interrupted, all that is left is still in `name`.
    """
    with _opened_itself(parent, name) as top:
        moved = 0
        while directories := _emptied(top):
            for each in directories:
                with _opened_itself(top, each) as directory:
                    for below in _emptied(directory):
                        moved = _move_up(top, directory, below, moved)
                os.rmdir(each, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


@contextmanager
def _opened_itself(parent: int, name: bytes) -> Iterator[int]:
    """A descriptor of a directory; a link is not followed."""
    descriptor = os.open(name, _ITSELF, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _emptied(directory: int) -> list[bytes]:
    """Remove all entries that are no directories; returns the names of the directories."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories


def _move_up(top: int, directory: int, name: bytes, number: int) -> int:
    """Move a directory to `top`, under a name that is free there, counting up from `number`. Returns its number."""
    while True:
        number += 1
        lifted = b".%d" % number
        try:
            os.rename(name, lifted, src_dir_fd=directory, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return number


def _make_one(root: int, above: bytes, name: bytes, sharing: Sharing) -> None:
    with opened_directory(root, above) as directory:
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=directory)
        except FileExistsError:
            return
        made = open_plain(directory, name, DIRECTORY_FLAGS)
        try:
            sharing.apply(made)
        finally:
            os.close(made)


_MAX_FSYNCS: Final = 64
"""More files than these are made durable by one syncfs(2) of each file system they are on."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)


def make_durable(paths: Sequence[bytes], open_path: Callable[[bytes], int], *, everything: bool = False) -> None:
    """Make durable the content of files and the names in directories; or `everything` on the file systems they are on.
    `open_path` returns a new descriptor for each of `paths`. Raises OSError.
    """
    if everything or len(paths) > _MAX_FSYNCS:
        _sync_file_systems(paths, open_path)
        return
    with ExitStack() as stack:
        descriptors = []
        for path in paths:
            descriptors.append(open_path(path))
            stack.callback(os.close, descriptors[-1])
            start_writing(descriptors[-1], 0, 0)  # the kernel writes all of them while fsync waits for the first
        for descriptor in descriptors:
            os.fsync(descriptor)


def _sync_file_systems(paths: Iterable[bytes], open_path: Callable[[bytes], int]) -> None:
    done: set[int] = set()  # devices: a store may be on several file systems
    for path in paths:
        descriptor = open_path(path)
        try:
            if (device := os.fstat(descriptor).st_dev) not in done:
                sync_file_system(descriptor)
                done.add(device)
        finally:
            os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """syncfs(2), which Python lacks; it also reports errors of earlier writes. Raises OSError."""
    if _libc.syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def start_writing(descriptor: int, start: int, length: int) -> None:
    """Let the kernel start to write a range to the disk (`length` 0: to the end), without waiting. A hint: failures are
    reported by a later fsync(2).
    """
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@contextmanager
def writing_to(path: bytes) -> Iterator[None]:
    """Turn an OSError of writing at `path` into StoreError (no room, …), ReadOnly or StoreDenied."""
    try:
        yield
    except OSError as error:
        raise write_failure(error, os.fsdecode(path)) from error


def write_failure(error: OSError, path: str) -> RiafsError:
    """The failure for an OSError of writing at `path`."""
    if error.errno == errno.EROFS:
        return ReadOnly(f"{path} is on a read-only file system")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StoreDenied(f"{path} may not be written by this user; the store's manager can")
    if error.errno in _NO_ROOM:
        return StoreError(f"no room to write {path}: {error.strerror}; nothing in the store was changed by that")
    return StoreError(f"{path} cannot be written: {error.strerror}")


def lock_holder(descriptor: int) -> str:
    """`` (process NUMBER)`` of the process that has the flock(2) lock of an open file, from /proc/locks; else empty."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as table:
        for line in table:
            fields = line.split()  # "1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF"
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
                return f" (process {fields[4]})"
    return ""


def write_all(descriptor: int, data: Buffer, offset: int | None = None) -> None:
    """Write all of `data`, at `offset` or at the descriptor's position. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        offset = None if offset is None else offset + written
        view = view[written:]
