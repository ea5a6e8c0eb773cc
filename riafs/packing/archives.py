"""A dataset's archive as packers see it: told from any other file there, its members read."""

import os
import stat
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.errors import StoreError
from riafs.formats.keys import Key
from riafs.formats.sevenzip import Member
from riafs.packing.content import ContentCheck, Seen
from riafs.packing.watching import Watcher
from riafs.storage.failures import writing
from riafs.storage.files import FileBytes, Identity

NAME = b"archive.7z"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileMark:
    """What tells a file from any that takes its place; a rename changes none of it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileMark":
        """The mark in a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def mark_at(path: bytes) -> FileMark | None:
    """Of the file at `path`, None where there is none. Raises StoreError, StoreDenied."""
    with writing(path):
        try:
            return FileMark.of(os.stat(path, follow_symlinks=False))
        except FileNotFoundError:
            return None


def open_file(path: bytes) -> int:
    """A descriptor of the archive at `path`. Raises StoreError where there is no regular file, StoreDenied."""
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{os.fsdecode(path)} is no regular file")
    return descriptor


def file_bytes(descriptor: int, path: bytes) -> FileBytes:
    """The archive behind `descriptor`, which goes to what is returned."""
    status = os.fstat(descriptor)
    return FileBytes(descriptor, status.st_size, os.fsdecode(path), identity=Identity.of(status))


def in_reading_order(member: Member) -> tuple[int, int]:
    """Sorts members as their bytes lie in the archive, so that each block is decoded once."""
    return (-1 if member.folder is None else member.folder, member.offset)


async def look_at_member(archive: Archive, member: Member, key: Key, watcher: Watcher) -> Seen:
    """Read a whole member and say whether it is the content of `key`. Raises what opening and reading it raises."""
    check = ContentCheck(key)
    content = await archive.open_member(member)
    try:
        for offset in range(0, content.size, _CHUNK):
            data = await content.read(offset, _CHUNK)
            watcher.advance(len(data))
            check.update(data)
    finally:
        content.close()
    return check.seen()
