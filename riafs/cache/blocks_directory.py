"""The directory of all blocks: ``blocks-1`` below the cache directory, one directory in it for each first byte of a
content's digest.

Invariant: every use goes through a descriptor that was checked to be a directory of this user that nobody else can
enter, so nobody can put something else in its place between the check and the use.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from riafs.cache.blocks_file import VERSION, BlockName, parse_file_name
from riafs.cache.private import private_directory
from riafs.errors import StoreDenied

NEW = "new-"
"""Prefix of files that are being written."""
_NAME = f"blocks-{VERSION}"
OBSTRUCTED = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO))
"""How opening or replacing a file fails where a link, a directory, or a socket is in its place or above it."""
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_UNIT = 512  # stat(2) counts allocated blocks in these


@dataclass(frozen=True, slots=True)
class Found:
    """A file among the blocks."""

    path: str
    """Below the directory of all blocks."""
    block: BlockName | None
    """None for a file that is being written, was left by a killed process, or has no business here."""
    size: int
    """Bytes that it takes on the disk."""
    used_ns: int
    """When it was used last, to the minute, in nanoseconds since 1970."""


@contextlib.contextmanager
def open_blocks(cache: str, *, make: bool) -> Iterator[int]:
    """A descriptor of the directory of all blocks below the cache directory `cache`.

    `make`: make what is missing. Raises FileNotFoundError without it, StoreDenied where others could get in, OSError.
    """
    path = f"{cache}/{_NAME}"
    if make and not os.path.isdir(path):
        private_directory(cache)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o700)
    root = os.open(path, DIRECTORY_FLAGS)
    try:
        _refuse_others(path, os.fstat(root))
        yield root
    finally:
        os.close(root)


def _refuse_others(path: str, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StoreDenied(f"{path} must be a directory of user {os.geteuid()} that nobody else can enter (chmod 700)")


def walk(root: int) -> Iterator[Found]:
    """All files, directory by directory; what vanishes meanwhile is left out."""
    for number in range(256):
        yield from walk_directory(root, f"{number:02x}")


def walk_directory(root: int, name: str) -> Iterator[Found]:
    """The files in one of the directories; none if it is not there."""
    try:
        directory = os.open(name, DIRECTORY_FLAGS, dir_fd=root)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in OBSTRUCTED:
            raise
        clear_away(root, name)
        return
    try:
        with os.scandir(directory) as entries:
            listed = list(entries)  # at once: whoever takes what this gives may stop in the middle
        for entry in listed:
            with contextlib.suppress(FileNotFoundError):
                yield _found(name, entry)
    finally:
        os.close(directory)


def _found(directory: str, entry: "os.DirEntry[str]") -> Found:
    status = entry.stat(follow_symlinks=False)
    block = parse_file_name(entry.name) if stat.S_ISREG(status.st_mode) else None
    return Found(f"{directory}/{entry.name}", block, status.st_blocks * _DISK_UNIT, status.st_mtime_ns)


def remove(root: int, found: Found) -> bool:
    """Remove a file; whether it was there."""
    try:
        os.unlink(found.path, dir_fd=root)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def clear_away(root: int, path: str) -> None:
    """Remove whatever is at `path` below `root`, where a block or a directory of blocks has its place. Raises OSError.

    A link is removed, and not what it leads to.
    """
    try:
        os.unlink(path, dir_fd=root)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(path, dir_fd=root)
