"""A dataset's archive as packers see it: told from any other file there, its members read."""

import errno
import os
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.errors import StoreError
from riafs.formats.keys import Key
from riafs.formats.sevenzip.header import Member
from riafs.packing.content import ContentCheck, Seen
from riafs.packing.watching import Watcher
from riafs.storage.local_file import FileBytes, LocalVersion
from riafs.storage.openat import open_regular
from riafs.storage.posix import ABSENT, HeldDirectory, writing_to

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


def mark_at(directory: HeldDirectory) -> FileMark | None:
    """Of the archive in `directory`, None where there is none. Raises StoreError, StoreDenied."""
    if directory.descriptor == ABSENT:
        return None
    with writing_to(path_in(directory)):
        try:
            return FileMark.of(os.stat(NAME, dir_fd=directory.descriptor, follow_symlinks=False))
        except FileNotFoundError:
            return None


def path_in(directory: HeldDirectory) -> bytes:
    """How messages call the archive in `directory`."""
    return directory.path + b"/" + NAME


def open_file(directory: HeldDirectory) -> int:
    """A descriptor of the archive in `directory`. Raises StoreError where there is no regular file, StoreDenied."""
    path = path_in(directory)
    with writing_to(path):
        try:
            return open_regular(directory.descriptor, NAME, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EINVAL):
                raise StoreError(f"{os.fsdecode(path)} is left alone: {error.strerror}") from error
            raise


def file_bytes(descriptor: int, directory: HeldDirectory) -> FileBytes:
    """The archive behind `descriptor`, which goes to what is returned."""
    status = os.fstat(descriptor)
    return FileBytes(descriptor, status.st_size, os.fsdecode(path_in(directory)), version=LocalVersion.of(status))


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
