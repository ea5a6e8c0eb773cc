"""A dataset's archive file: opening it, noticing that it was replaced, and checking a new one.

A new archive is read back after it was written: all bytes and members of the old one must be unchanged, and each packed
key must have its content.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.errors import CorruptContent, RiafsError, StoreError
from riafs.formats.keys import Key
from riafs.formats.sevenzip.header import Member
from riafs.packing.loose_objects import Checked, ContentCheck, Damage, LooseObject, ObjectReader, read_object
from riafs.storage.bytesource import RangedBytes
from riafs.storage.local_file import FileBytes, LocalVersion
from riafs.storage.openat import open_regular
from riafs.storage.posix import ABSENT, HeldDirectory, writing_to
from riafs.watching import Watcher

ARCHIVE = b"archive.7z"
_READ_AT_ONCE = 1 << 20
_COMPARED_AT_ONCE = 8 << 20


@dataclass(frozen=True, slots=True)
class FileMark:
    """Equal for the same file, also after a rename, and different for one that replaces it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileMark":
        """The mark in a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def mark_at(directory: HeldDirectory) -> FileMark | None:
    """The mark of the archive in `directory`, None if there is none. Raises StoreError, StoreDenied."""
    if directory.descriptor == ABSENT:
        return None
    with writing_to(path_in(directory)):
        try:
            return FileMark.of(os.stat(ARCHIVE, dir_fd=directory.descriptor, follow_symlinks=False))
        except FileNotFoundError:
            return None


def path_in(directory: HeldDirectory) -> bytes:
    """The path of the archive in `directory`, for messages."""
    return directory.path + b"/" + ARCHIVE


def open_file(directory: HeldDirectory) -> int:
    """A descriptor of the archive in `directory`. Raises StoreError if it is no regular file, StoreDenied."""
    path = path_in(directory)
    with writing_to(path):
        try:
            return open_regular(directory.descriptor, ARCHIVE, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EINVAL):
                raise StoreError(f"{os.fsdecode(path)} is not used: {error.strerror}") from error
            raise


def file_bytes(descriptor: int, directory: HeldDirectory) -> FileBytes:
    """The archive that is open as `descriptor`, which the result owns."""
    status = os.fstat(descriptor)
    return FileBytes(descriptor, status.st_size, os.fsdecode(path_in(directory)), version=LocalVersion.of(status))


def in_reading_order(member: Member) -> tuple[int, int]:
    """A sort key: the order of members' bytes in the archive, in which each block is decoded once."""
    return (-1 if member.folder is None else member.folder, member.offset)


async def read_member(archive: Archive, member: Member, key: Key, watcher: Watcher) -> Checked:
    """Read a whole member and check whether it is the content of `key`. Raises what opening and reading it raises."""
    check = ContentCheck(key)
    content = await archive.open_member(member)
    try:
        for offset in range(0, content.size, _READ_AT_ONCE):
            data = await content.read(offset, _READ_AT_ONCE)
            watcher.advance(len(data))
            check.update(data)
    finally:
        content.close()
    return check.result()


# -- reading a new archive back ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """An object in the new archive, and the result of reading it."""

    object: LooseObject
    checked: Checked
    compressed: bool


async def check_kept(old: RangedBytes, new: RangedBytes, start: int, end: int, watcher: Watcher) -> None:
    """Compare the packed bytes of the old archive with those at the same offsets of the new. Raises CorruptContent."""
    for offset in range(start, end, _COMPARED_AT_ONCE):
        length = min(_COMPARED_AT_ONCE, end - offset)
        watcher.advance(length)
        if await old.read(offset, length) != await new.read(offset, length):
            raise CorruptContent(f"the new archive differs from the old one (near byte {offset})")


def check_members(old: Archive, new: Archive) -> None:
    """Raise CorruptContent unless the first members of the new archive are those of the old."""
    before, after = old.listing, new.listing
    for position in range(len(before)):
        if before.member(position) != after.member(position):
            name = before.member(position).name.decode(errors="replace")
            raise CorruptContent(f"member {name} of the archive differs in the new one")


async def check_packed(archive: Archive, packed: Sequence[Packed], watcher: Watcher) -> None:
    """Read each packed object from the archive. Raises CorruptContent for the first that differs."""
    found = [(_member(archive, each.object), each) for each in packed]
    for number, (member, each) in enumerate(sorted(found, key=lambda pair: in_reading_order(pair[0]))):
        watcher.files(number, len(found))
        if await read_member(archive, member, each.object.key, watcher) != each.checked:
            key = each.object.key.serialised.decode(errors="replace")
            raise CorruptContent(f"key {key} comes out of the new archive damaged; memory or disk may be faulty")


def _member(archive: Archive, found: LooseObject) -> Member:
    member = archive.find(found.member)
    if member is None:
        raise CorruptContent(f"the new archive lacks {found.member.decode(errors='replace')}")
    return member


async def check_already_packed(
    archive: Archive, objects: Sequence[LooseObject], reader: ObjectReader, watcher: Watcher
) -> tuple[list[LooseObject], list[Damage]]:
    """The `objects` of which the archive has a good copy, and the damage of the copies of others. It has all names."""
    good: list[LooseObject] = []
    damaged: list[Damage] = []
    members = [(_member(archive, each), each) for each in objects]
    for number, (member, each) in enumerate(sorted(members, key=lambda pair: in_reading_order(pair[0]))):
        watcher.files(number, len(members))
        problem = await _compare(archive, member, each, reader, watcher)
        if problem:
            damaged.append(Damage(each.key.serialised, "archives/archive.7z", problem))
        else:
            good.append(each)
    return good, damaged


async def _compare(archive: Archive, member: Member, loose: LooseObject, reader: ObjectReader, watcher: Watcher) -> str:
    """The reason why the archive's copy cannot replace the loose one; empty if it can."""
    try:
        packed = await read_member(archive, member, loose.key, watcher)
    except RiafsError as error:
        return f"cannot be read: {error}"
    if member.crc is not None and member.crc != packed.crc:
        return "does not have the CRC32 of the archive's header"
    if packed.problem or packed.sha256 is None:
        return packed.problem
    same = read_object(reader, loose.key, loose.path) == packed
    return "" if same else "is not the same as the loose object, and its key has no digest"
