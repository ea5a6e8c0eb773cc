"""Reading a new archive back: nothing of the old one may be missing or different, and every key must come out of it."""

from collections.abc import Sequence

from riafs.archive.archive import Archive
from riafs.errors import CorruptContent, RiafsError
from riafs.formats.sevenzip.header import Member
from riafs.packing.archives import in_reading_order, look_at_member
from riafs.packing.loose import LooseObject
from riafs.packing.objects import ObjectReader, read_object
from riafs.packing.problems import Damage
from riafs.packing.watching import Watcher
from riafs.packing.writing import Packed
from riafs.storage.bytesource import RangedBytes

_CHUNK = 8 << 20


async def check_kept(old: RangedBytes, new: RangedBytes, start: int, end: int, watcher: Watcher) -> None:
    """Compare the packed bytes of the old archive with the same place in the new one. Raises CorruptContent."""
    for offset in range(start, end, _CHUNK):
        length = min(_CHUNK, end - offset)
        watcher.advance(length)
        if await old.read(offset, length) != await new.read(offset, length):
            raise CorruptContent(f"what the archive held is not the same in the new one (near byte {offset})")


def check_members(old: Archive, new: Archive) -> None:
    """The members of the old archive must be the first ones of the new. Raises CorruptContent."""
    before, after = old.listing, new.listing
    for position in range(len(before)):
        if before.member(position) != after.member(position):
            name = before.member(position).name.decode(errors="replace")
            raise CorruptContent(f"member {name} of the archive is not the same in the new one")


async def check_packed(archive: Archive, packed: Sequence[Packed], watcher: Watcher) -> None:
    """Read every packed object out of the archive. Raises CorruptContent for the first that is not what went in."""
    found = [(_member(archive, each.object), each) for each in packed]
    for number, (member, each) in enumerate(sorted(found, key=lambda pair: in_reading_order(pair[0]))):
        watcher.files(number, len(found))
        seen = await look_at_member(archive, member, each.object.key, watcher)
        if seen != each.seen:
            key = each.object.key.serialised.decode(errors="replace")
            raise CorruptContent(f"key {key} comes out of the new archive damaged; memory or disk may be faulty")


def _member(archive: Archive, found: LooseObject) -> Member:
    member = archive.find(found.member)
    if member is None:
        raise CorruptContent(f"the new archive lacks {found.member.decode(errors='replace')}")
    return member


async def look_at_already(
    archive: Archive, objects: Sequence[LooseObject], reader: ObjectReader, watcher: Watcher
) -> tuple[list[LooseObject], list[Damage]]:
    """Which of `objects`, all of which the archive names, it holds intact, and what is wrong with the others."""
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
    """Why the archive's copy cannot replace the loose one; empty if it can."""
    try:
        seen = await look_at_member(archive, member, loose.key, watcher)
    except RiafsError as error:
        return f"cannot be read: {error}"
    if member.crc is not None and member.crc != seen.crc:
        return "does not have the CRC32 that the archive says"
    if seen.problem or seen.sha256 is None:
        return seen.problem
    same = read_object(reader, loose.key, loose.path) == seen
    return "" if same else "is not the same as the loose object, and its key has no digest"
