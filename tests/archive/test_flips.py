"""One wrong bit anywhere in small archives of every method: right bytes or an error, never wrong bytes."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from riafs.archive.archive import Archive
from riafs.cache.blocks import BlockLimits
from riafs.errors import RiafsError
from riafs.formats.sevenzip.header import parse_signature
from riafs.storage.bytesource import Extent, MemoryBytes
from tests.archive.conftest import Announce, Pack, tools_with
from tests.archive.headers import archive as archive_of
from tests.archive.test_members import keys_of, text
from tests.archive.test_methods import METHODS

CONTENTS = keys_of([text(1, 700), b"", text(2, 300), b"x"])
RIGHT = {content or b"" for content in CONTENTS.values()}
BY_CHILD = {"PPMd", "Deflate64", "BCJ2", "ARM64"}
OTHERS = {
    "stored",
    "stored, plain header",
    "default",
    "LZMA2, solid",
    "LZMA",
    "BZip2",
    "Deflate",
    "BCJ",
    "Delta",
    "BCJ, LZMA",
}
WARNED = ("this copy is not used",)
NO_CACHE = BlockLimits(memory=0)


async def members_of(data: bytes, spool: Path) -> Sequence[bytes]:
    """Bytes of all members that can be read. Those that are stored are checked as their readers do."""
    tools = tools_with(spool, NO_CACHE, search_path=())
    found = []
    try:
        opened = await Archive.open(MemoryBytes(data), tools, None)
        members = list(opened.listing)
    except RiafsError:
        return []
    for member in members:
        try:
            source = await opened.open_member(member)
            content = bytes(await source.read(0, 1 << 20))
            source.close()
        except RiafsError:
            continue
        assert len(content) == member.size
        if not isinstance(source, Extent) or member.crc is None or member.crc == zlib.crc32(content):
            found.append(content)
    tools.close()
    return found


def flips(size: int, method: str, *, long: bool) -> Iterator[tuple[int, int]]:
    """Positions and bits: one bit of every byte, of fewer where a child has to be started for each."""
    for position in range(0, size, (19 if method in BY_CHILD else 1) * (1 if long else 3)):
        yield position, 1 << position % 8


@pytest.mark.parametrize("method", sorted(BY_CHILD | OTHERS))
async def test_a_wrong_bit_of_a_header_with_right_checksums(
    method: str, pack: Pack, spool: Path, expected_warnings: Announce, long: bool
) -> None:
    expected_warnings(*WARNED)
    whole = pack(CONTENTS, *METHODS[method], "-mhc=off").read_bytes()
    place = parse_signature(whole[:32])
    data, plain = whole[32 : place.offset], whole[place.offset :]
    assert set(await members_of(whole, spool)) == RIGHT
    for position, bit in flips(len(plain), method, long=long):
        broken = bytearray(plain)
        broken[position] ^= bit
        assert set(await members_of(archive_of(data, bytes(broken)), spool)) <= RIGHT, position


@pytest.mark.parametrize("method", sorted(BY_CHILD | OTHERS))
async def test_a_wrong_bit_anywhere(
    method: str, pack: Pack, spool: Path, expected_warnings: Announce, long: bool
) -> None:
    expected_warnings(*WARNED)
    whole = pack(CONTENTS, *METHODS[method]).read_bytes()
    for position, bit in flips(len(whole), method, long=long):
        broken = bytearray(whole)
        broken[position] ^= bit
        assert set(await members_of(bytes(broken), spool)) <= RIGHT, position
