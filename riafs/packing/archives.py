"""A dataset's archive as packers see it: told from any other file there, its header in full, its members read."""

import os
import stat
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.archive.header import decode_header
from riafs.errors import MalformedArchive, ShortRead, StoreError
from riafs.formats.keys import Key
from riafs.formats.sevenzip import Member, is_encoded, parse_encoded_header, parse_signature
from riafs.formats.sevenzip_cursor import Limits
from riafs.formats.sevenzip_streams import SIGNATURE_HEADER_SIZE
from riafs.packing.content import ContentCheck, Seen
from riafs.packing.watching import Watcher
from riafs.storage.failures import writing
from riafs.storage.files import FileBytes, Identity
from riafs.storage.ranged import RangedBytes

NAME = b"archive.7z"
_CHUNK = 1 << 20
_MAX_ENCODINGS = 4


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


async def read_plain_header(source: RangedBytes, limits: Limits) -> bytes:
    """The header of an archive, decoded as often as it is encoded. Raises ArchiveError and its kinds, ShortRead."""
    place = parse_signature(bytes(await source.read(0, SIGNATURE_HEADER_SIZE)))
    header = await _read(source, place.offset, place.size, limits)
    for _ in range(_MAX_ENCODINGS):
        if not is_encoded(header):
            return header
        folder = parse_encoded_header(header, limits)
        header = decode_header(folder, await _read(source, folder.pack_offset, folder.pack_size, limits), limits)
    raise MalformedArchive(f"7z header is encoded more than {_MAX_ENCODINGS} times")


async def _read(source: RangedBytes, offset: int, size: int, limits: Limits) -> bytes:
    if size > limits.header:
        raise MalformedArchive(f"7z header of {size} bytes, the bound is {limits.header}")
    if offset + size > source.size:
        raise ShortRead(f"7z archive of {source.size} bytes has its header at {offset} to {offset + size}")
    return bytes(await source.read(offset, size))


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
