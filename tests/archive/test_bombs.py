"""Archives that are made to take memory, disk or time: refused or read within bounds, and their neighbours are served.

What takes memory is tried in a child whose address space is limited, so that one allocation too many is noticed.
"""

import functools
import json
import lzma
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from riafs.archive.archive import Archive
from riafs.archive.header import read_plain_header
from riafs.errors import MalformedArchive, RiafsError
from riafs.formats.sevenzip.cursor import Limits, write_number
from riafs.formats.sevenzip.fullheader import FullHeader, NewMember, shape_of_lzma2, shape_of_stored
from riafs.formats.sevenzip.header import Member, parse_header
from riafs.formats.sevenzip.writing import write_header
from riafs.storage.bytesource import MemoryBytes
from tests.archive.conftest import tools_with
from tests.archive.headers import File, archive, copy_streams, header, sized

ADDRESS_SPACE = 420 << 20
GOOD = b"good" * 100
ZEROS = 150 << 20

Folder = tuple[bytes, bytes, int]
"""Description, packed bytes, claimed size."""


def beside_good(*folders: Folder) -> bytes:
    """An archive of a stored member ``good`` and one member, ``bomb`` and its number, for each folder."""
    columns = FullHeader(pack_position=0)
    columns.add_folder(shape_of_stored(), len(GOOD), [NewMember(b"good", len(GOOD), zlib.crc32(GOOD), 0o444, 0)])
    packed, crc = [GOOD], zlib.crc32(bytes(ZEROS))
    for position, (description, data, size) in enumerate(folders):
        columns.add_folder(description, len(data), [NewMember(b"bomb%d" % position, size, crc, 0o444, 0)])
        packed.append(data)
    return archive(b"".join(packed), write_header(columns))


def lzma_shape(dictionary: int) -> bytes:
    return b"\x01\x23\x03\x01\x01\x05\x5d" + dictionary.to_bytes(4, "little")


@functools.cache
def zeros(size: int) -> bytes:
    return lzma.compress(bytes(size), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])


def dictionary_bombs() -> bytes:
    """Decoders of 1 GiB, of more than may be, and of sizes that no stream has."""
    lzma2 = shape_of_lzma2
    return beside_good(
        (lzma_shape(1 << 30), b"\0" * 50, 1 << 40),
        (lzma_shape(1 << 30), b"\0" * 50, 1 << 30),
        (lzma2(36), b"\xe0\0\0\0\0\x5d\0", 1 << 33),
        (lzma2(40), b"\1\0\0x\0", 1),
        (lzma_shape(0xFFFFFFFF), b"\0" * 50, 1),
        (b"\x01\x23\x03\x04\x01\x05\x06\xff\xff\xff\xff", b"\0" * 50, 1000),
    )


def ratio_bomb() -> bytes:
    """A few kB that are ZEROS bytes, and the same claiming to be a TiB."""
    packed = zeros(ZEROS)
    return beside_good((shape_of_lzma2(10), packed, ZEROS), (shape_of_lzma2(10), packed, 1 << 40))


def packed_header(size: int, pack_size: int, claimed: int | None = None) -> bytes:
    """An archive whose header is `size` zeros, at least `pack_size` bytes packed; it may claim to be more."""
    packed = zeros(size).ljust(pack_size, b"\0")
    streams = b"\x06\x00\x01\x09" + write_number(len(packed)) + b"\x00\x07\x0b\x01\x00" + shape_of_lzma2(10)
    return archive(packed, b"\x17" + streams + b"\x0c" + write_number(claimed or size) + b"\x00\x00")


def header_bombs() -> Sequence[bytes]:
    """Refused for its size, refused for its ratio, decoded to nonsense, and too large for this memory."""
    return (
        packed_header(1000, 0, claimed=1 << 30),
        packed_header(ZEROS, 0),
        packed_header(30 << 20, 0),
        packed_header(200 << 20, 220_000),
    )


async def outcomes(data: bytes) -> dict[str, str]:
    """For each member, or the archive: the failure, or how many right bytes the member has."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as spool:
        try:
            opened = await Archive.open(MemoryBytes(data), tools_with(Path(spool), search_path=()), None)
        except RiafsError as error:
            return {"archive": f"{type(error).__name__}: {error}"}
        for member in opened.listing:
            found[member.name.decode()] = await outcome(opened, member)
    return found


async def outcome(opened: Archive, member: Member) -> str:
    try:
        source = await opened.open_member(member)
        pieces = [bytes(await source.read(offset, 1 << 20)) for offset in range(0, min(source.size, ZEROS), 1 << 20)]
        source.close()
    except RiafsError as error:
        return f"{type(error).__name__}: {error}"
    right = all(piece == (GOOD if member.name == b"good" else bytes(len(piece))) for piece in pieces)
    return f"{sum(map(len, pieces))} right bytes" if right else "wrong"


LIMITED = """
import json, logging, resource, sys, trio
from tests.archive import test_bombs
logging.disable()
made = getattr(test_bombs, sys.argv[1])()
resource.setrlimit(resource.RLIMIT_AS, (test_bombs.ADDRESS_SPACE, test_bombs.ADDRESS_SPACE))
archives = [made] if isinstance(made, bytes) else made
print(json.dumps([trio.run(test_bombs.outcomes, each) for each in archives]))
"""


def limited(bomb: str) -> list[dict[str, str]]:
    """The outcomes in a process whose address space is limited."""
    command = [sys.executable, "-c", LIMITED, bomb]
    result = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert result.stderr == b""
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def assert_matches(found: dict[str, str], expected: dict[str, str]) -> None:
    assert found.keys() == expected.keys()
    for name, start in expected.items():
        assert re.match(start, found[name]), (name, found[name])


def test_dictionary_bombs_are_refused_and_the_neighbour_is_served() -> None:
    (found,) = limited("dictionary_bombs")
    expected = {
        "good": "400 right bytes",
        "bomb0": "TooLarge",
        "bomb1": "OutOfMemory: .*memory",
        "bomb2": "OutOfMemory: .*memory",
        "bomb3": "OversizedArchive: .*4294967295",
        "bomb4": "OversizedArchive: .*4294967295",
        "bomb5": "OversizedArchive: .*4294967295",
    }
    assert_matches(found, expected)


def test_ratio_bombs_take_disk_but_no_memory_and_the_neighbour_is_served() -> None:
    (found,) = limited("ratio_bomb")
    assert_matches(found, {"good": "400 right bytes", "bomb0": f"{ZEROS} right bytes", "bomb1": "TooLarge"})


def test_header_bombs_are_failures_of_ours() -> None:
    size, ratio, nonsense, large = limited("header_bombs")
    assert_matches(size, {"archive": "OversizedArchive: .*the bound is"})
    assert_matches(ratio, {"archive": "OversizedArchive: .*claims to decode from"})
    assert_matches(nonsense, {"archive": "MalformedArchive: .*begins with"})
    assert_matches(large, {"archive": "OutOfMemory: .*memory"})


async def test_a_packers_reader_of_headers_has_the_same_bounds() -> None:
    bomb = packed_header(1000, 0, claimed=1 << 30)
    with pytest.raises(MalformedArchive, match="the bound is"):
        await read_plain_header(MemoryBytes(bomb), Limits())


# -- time -------------------------------------------------------------------------------------------------------------

MANY = 200_000


def refused_soon(plain: bytes) -> None:
    began = time.process_time()
    with pytest.raises(MalformedArchive, match=r"records|twice"):
        parse_header(plain, Limits())
    assert time.process_time() - began < 5


@pytest.mark.parametrize("record", [b"\x0f\x00", b"\x10\x00", b"\x19\x00", b"\x7f\x00"])
def test_properties_of_members_that_come_again_and_again_are_refused(record: bytes) -> None:
    """Each looks at all members, and takes two bytes."""
    names = b"".join(b"%x\0" % position for position in range(MANY)).decode().encode("utf-16-le")
    refused_soon(b"\x01\x05" + write_number(MANY) + record * 100_000 + sized(0x11, b"\0" + names) + b"\0\0")


def test_checksums_of_streams_that_come_again_and_again_are_refused() -> None:
    streams = copy_streams([1] * MANY, [7] * MANY)
    assert streams.endswith(b"\0\0")
    refused_soon(b"\x01\x04" + streams[:-2] + b"\x0a\x01" * 100_000 + b"\0\0")


@pytest.mark.parametrize("start", [b"\x01\x02", b"\x01\x04\x06\x00\x00", b"\x01\x04\x07", b"\x01\x03\x06\x00\x00"])
def test_records_that_say_nothing_are_counted(start: bytes) -> None:
    refused_soon(start + b"\x19\x00" * 5_000_000)


def test_many_kinds_of_folders_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riafs.formats.sevenzip.streams._MOST_DESCRIPTIONS", 100)
    kinds = b"".join(b"\x01\x24\x06\xf1\x07\x01\x04" + position.to_bytes(4, "little") for position in range(101))
    plain = b"\x01\x04\x07\x0b" + write_number(101) + b"\x00" + kinds + b"\x0c" + b"\x01" * 101 + b"\x00\x00"
    with pytest.raises(MalformedArchive, match="100 different"):
        parse_header(plain, Limits())


# -- what a million members cost --------------------------------------------------------------------------------------


def test_members_of_a_large_archive_take_little_time_and_memory() -> None:
    """The aim is 2 µs and 200 bytes a member, names included; a machine that is busy gets ten times as long."""
    count = 100_000
    files = [
        File(b"%03x/%03x/MD5E-s%d--%032x.dat" % (each % 4096, each % 97, each, each), b"x") for each in range(count)
    ]
    plain = header(files)
    began = time.process_time()
    listing = parse_header(plain, Limits())
    assert (time.process_time() - began) / count < 20e-6
    size = sum(memoryview(column).nbytes for column in listing.columns().values())  # type: ignore[arg-type]
    assert len(listing) == count
    assert size / count < 200
