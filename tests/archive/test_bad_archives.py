"""Archives that are damaged, hostile or locked: an error of the right class, never wrong bytes, nothing worse."""

import lzma
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.header import decode_header
from riafs.errors import (
    ArchiveError,
    CorruptContent,
    DecodeFailed,
    EncryptedArchive,
    IsADirectoryHere,
    MalformedArchive,
    MissingProgram,
    NotAnArchive,
    RiafsError,
    ShortRead,
)
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sevenzip.header import parse_encoded_header, parse_signature
from riafs.storage.bytesource import MemoryBytes
from tests.archive.conftest import Announce, Pack, content_of, open_archive, tools_with
from tests.archive.headers import File, archive, copy_streams, files_record, header, number, stored_archive

CONTENTS: dict[bytes, bytes | None] = {b"a/one": b"first " * 50, b"a/two": b"second" * 70, b"b": b"", b"c": b"3" * 9}
NO_CHILD = tools_with(None, search_path=())


async def every_member(source: MemoryBytes, tools: ArchiveTools) -> dict[bytes, bytes | RiafsError]:
    """What each member of an archive that opens is: its bytes, or the error."""
    opened = await Archive.open(source, tools, None)
    found: dict[bytes, bytes | RiafsError] = {}
    for member in opened.listing:
        try:
            content = await opened.open_member(member)
            found[member.name] = bytes(await content.read(0, 1 << 20))
        except RiafsError as error:
            found[member.name] = error
    return found


async def outcome(data: bytes) -> dict[bytes, bytes | RiafsError] | RiafsError:
    try:
        return await every_member(MemoryBytes(data), NO_CHILD)
    except RiafsError as error:
        return error


@pytest.mark.parametrize("switches", [("-mx0",), ("-mx0", "-mhc=off"), ("-mx5",)])
async def test_an_archive_cut_anywhere_does_not_open(pack: Pack, switches: tuple[str, ...]) -> None:
    whole = pack(CONTENTS, *switches).read_bytes()
    for length in range(len(whole)):
        result = await outcome(whole[:length])
        assert isinstance(result, NotAnArchive | MalformedArchive | ShortRead)


@pytest.mark.parametrize("switches", [("-mx0",), ("-mx0", "-mhc=off")])
async def test_a_wrong_byte_in_a_header_is_noticed(pack: Pack, switches: tuple[str, ...]) -> None:
    whole = pack(CONTENTS, *switches).read_bytes()
    header_at = parse_signature(whole[:32]).offset
    # Byte 7 is the minor version, which has no checksum.
    for position in [*range(7), *range(8, 32), *range(header_at, len(whole))]:
        for flip in (0x01, 0x80):
            broken = bytearray(whole)
            broken[position] ^= flip
            assert isinstance(await outcome(bytes(broken)), ArchiveError)


async def test_a_wrong_byte_in_a_header_with_right_checksums_breaks_nothing_else(pack: Pack) -> None:
    whole = pack(CONTENTS, "-mx0", "-mhc=off").read_bytes()
    place = parse_signature(whole[:32])
    data, plain = whole[32 : place.offset], whole[place.offset :]
    for position in range(len(plain)):
        for bit in range(8):
            broken = bytearray(plain)
            broken[position] ^= 1 << bit
            result = await outcome(archive(data, bytes(broken)))
            assert isinstance(result, dict | ArchiveError | ShortRead)


async def test_a_wrong_byte_in_a_packed_header_with_right_checksums_breaks_nothing_else(pack: Pack) -> None:
    whole = pack(CONTENTS, "-mx0").read_bytes()
    place = parse_signature(whole[:32])
    data, encoded = whole[32 : place.offset], whole[place.offset :]
    folder = parse_encoded_header(encoded, Limits())
    end = folder.pack_offset - 32 + folder.pack_size
    for position in range(folder.pack_offset - 32, end):
        broken = bytearray(data)
        broken[position] ^= 0x04
        result = await outcome(archive(bytes(broken), encoded))
        # The last bytes that the encoder flushed do not matter to the decoder.
        assert isinstance(result, MalformedArchive) or (position > end - 5 and isinstance(result, dict))
    for position in range(len(encoded)):
        for bit in range(8):
            described = bytearray(encoded)
            described[position] ^= 1 << bit
            assert isinstance(await outcome(archive(data, bytes(described))), dict | ArchiveError | ShortRead)


@given(st.binary(max_size=400))
async def test_any_bytes_are_an_archive_or_an_error(data: bytes) -> None:
    for source in (data, archive(b"", data), archive(data, b"\x17" + data), archive(b"", b"\x01" + data)):
        assert isinstance(await outcome(source), dict | ArchiveError | ShortRead)


async def test_files_that_are_no_archives_are_refused() -> None:
    for data in (b"", b"PK\x03\x04" + bytes(100), bytes(1000), b"#!/bin/sh\n"):
        assert isinstance(await outcome(data), NotAnArchive)


async def test_a_header_beyond_the_end_is_a_short_read() -> None:
    whole = stored_archive([File(b"a", b"one")])
    assert isinstance(await outcome(whole[:-1]), ShortRead)


async def test_a_member_beyond_the_end_is_a_short_read_and_the_others_are_served() -> None:
    plain = b"\x01\x04" + copy_streams([5, 1 << 40], [None, None])
    plain += files_record([File(b"good", b"x"), File(b"beyond", b"x")]) + b"\0"
    result = await outcome(archive(b"12345", plain))
    assert isinstance(result, dict)
    assert result[b"good"] == b"12345"
    assert isinstance(result[b"beyond"], ShortRead)


async def test_a_member_beyond_the_end_is_noticed_when_it_is_opened() -> None:
    plain = b"\x01\x04" + copy_streams([6], [None]) + files_record([File(b"beyond", b"x")]) + b"\0"
    whole = archive(b"", plain)
    opened = await Archive.open(MemoryBytes(whole), NO_CHILD, None)
    member = opened.listing.member(0)
    assert opened.listing.folder(0).pack_offset + member.size <= len(whole)
    # It overlaps the header, which is harmless; one that leaves the file is not opened.
    await opened.open_member(member)
    beyond = b"\x01\x04" + copy_streams([len(whole)], [None]) + files_record([File(b"beyond", b"x")]) + b"\0"
    opened = await Archive.open(MemoryBytes(archive(b"", beyond)), NO_CHILD, None)
    with pytest.raises(ShortRead, match="folder that ends at"):
        await opened.open_member(opened.listing.member(0))


async def test_a_stored_member_that_claims_more_than_it_takes_is_malformed() -> None:
    plain = b"\x01\x04" + copy_streams([5], [None]).replace(b"\x0c\x05", b"\x0c\x06") + files_record([File(b"a", b"x")])
    result = await outcome(archive(b"12345", plain + b"\0"))
    assert isinstance(result, dict)
    assert isinstance(result[b"a"], MalformedArchive)


def compressed(properties: bytes, size: int = 10) -> bytes:
    """An archive of one member packed with LZMA2."""
    folder = b"\x01\x21\x21\x01" + properties
    streams = b"\x06\x00\x01\x09\x05\x00\x07\x0b\x01\x00" + folder + b"\x0c" + number(size) + b"\x00\x00"
    return archive(b"12345", b"\x01\x04" + streams + files_record([File(b"a", b"x")]) + b"\0")


async def test_a_huge_dictionary_is_refused_before_a_program_starts(tools: ArchiveTools) -> None:
    opened = await Archive.open(MemoryBytes(compressed(b"\x28")), tools, b"/nonexistent")
    with pytest.raises(MalformedArchive, match="4294967295 bytes"):
        await opened.open_member(opened.listing.member(0))


def test_a_header_of_huge_size_or_dictionary_is_refused_before_decoding() -> None:
    for dictionary, size in ((b"\x28", 100), (b"\x10", 1 << 40), (b"\x10", 400 << 20)):
        header = b"\x17\x06\x00\x01\x09\x05\x00\x07\x0b\x01\x00\x01\x21\x21\x01" + dictionary
        folder = parse_encoded_header(header + b"\x0c" + number(size) + b"\x00\x00", Limits())
        with pytest.raises(MalformedArchive):
            decode_header(folder, b"12345", Limits())


async def test_a_header_encoded_without_end_is_malformed() -> None:
    header = b"\x17\x06\x00\x01\x09%s\x00\x07\x0b\x01\x00\x01\x01\x00\x0c%s\x00\x00"
    size = number(len(header) - 2)
    endless = header % (size, size)
    assert isinstance(await outcome(archive(endless, endless)), MalformedArchive)


async def test_a_wrong_crc_of_a_decoded_member_is_corrupt(
    pack: Pack, tools: ArchiveTools, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("CRC32 .* this copy is not used")
    path = pack(CONTENTS, "-mhc=off", "-ms=off")
    whole = path.read_bytes()
    place = parse_signature(whole[:32])
    content = CONTENTS[b"a/one"]
    assert content is not None
    wrong = whole[place.offset :].replace(struct.pack("<I", zlib.crc32(content)), b"\1\2\3\4")
    damaged = await open_archive(written(tmp_path / "bad.7z", archive(whole[32 : place.offset], wrong)), tools)
    with pytest.raises(CorruptContent, match="CRC32"):
        await content_of(damaged, b"a/one")
    assert await content_of(damaged, b"a/two") == CONTENTS[b"a/two"]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("method", ["LZMA", "LZMA2", "PPMd", "BZip2", "Deflate"])
async def test_damaged_packed_bytes_are_an_error(
    method: str, pack: Pack, tools: ArchiveTools, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    content = b"".join(b"line %d\n" % line for line in range(2000))
    whole = pack({b"a": content}, f"-m0={method}", "-ms=off", "-mhc=off").read_bytes()
    end = parse_signature(whole[:32]).offset
    for position in (32, 40, (32 + end) // 2, end - 5):
        broken = bytearray(whole)
        broken[position] ^= 0x55
        damaged = await open_archive(written(tmp_path / "bad.7z", bytes(broken)), tools)
        with pytest.raises((DecodeFailed, CorruptContent)):
            await content_of(damaged, b"a")


@pytest.mark.parametrize("claimed", [1, 2000, 5000])
async def test_a_member_of_another_size_than_claimed_is_not_served(
    claimed: int, pack: Pack, tools: ArchiveTools, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    path = pack({b"a": bytes(3000)}, "-m0=LZMA2", "-mhc=off")
    whole = path.read_bytes()
    place = parse_signature(whole[:32])
    header = whole[place.offset :]
    changed = header.replace(b"\x0c" + number(3000), b"\x0c" + number(claimed))
    assert changed != header
    lying = await Archive.open(MemoryBytes(archive(whole[32 : place.offset], changed)), tools, None)
    with pytest.raises(DecodeFailed if claimed > 3000 else CorruptContent):
        await content_of(lying, b"a")


@pytest.mark.parametrize("method", ["LZMA2", "PPMd"])
async def test_an_archive_that_was_replaced_is_read_as_it_was(method: str, pack: Pack, tools: ArchiveTools) -> None:
    path = pack({b"a": b"content" * 99, b"other": b"x" * 999}, f"-m0={method}", "-ms=off")
    opened = await open_archive(path, tools)
    path.unlink()
    path.write_bytes(b"something else")
    assert await content_of(opened, b"a") == b"content" * 99


async def test_encrypted_members_are_refused_and_nothing_is_started(pack: Pack) -> None:
    path = pack(CONTENTS, "-psecret", "-mhe=off")
    opened = await open_archive(path, NO_CHILD)
    with pytest.raises(EncryptedArchive):
        await content_of(opened, b"a/one")
    assert await content_of(opened, b"b") == b""


@pytest.mark.parametrize("switches", [("-mhe=on",), ("-mhe=on", "-mx0")])
async def test_an_encrypted_header_is_refused(pack: Pack, switches: tuple[str, ...]) -> None:
    with pytest.raises(EncryptedArchive):
        await open_archive(pack(CONTENTS, "-psecret", *switches), NO_CHILD)


async def test_a_missing_program_is_named_with_its_package(pack: Pack, spool: Path) -> None:
    opened = await open_archive(pack(CONTENTS, "-m0=LZMA:lc=8:lp=4"), tools_with(spool, search_path=()))
    with pytest.raises(MissingProgram, match="7zip"):
        await content_of(opened, b"a/one")


@pytest.mark.parametrize("method", ["LZMA2", "PPMd", "BCJ2"])
async def test_members_of_an_archive_that_is_no_local_file_are_read(
    method: str, pack: Pack, tools: ArchiveTools
) -> None:
    opened = await Archive.open(MemoryBytes(pack(CONTENTS, f"-m0={method}").read_bytes()), tools, None)
    assert await content_of(opened, b"a/two") == CONTENTS[b"a/two"]


async def test_a_directory_is_no_file(pack: Pack) -> None:
    opened = await open_archive(pack({b"d": None}), NO_CHILD)
    with pytest.raises(IsADirectoryHere):
        await opened.open_member(opened.listing.member(0))


UNDER_LIMITS = """
import resource
import trio
from riafs.archive.encryption import Unlocker
from riafs.archive.header import read_listing
from riafs.errors import RiafsError
from riafs.formats.sevenzip.cursor import Limits
from riafs.storage.bytesource import MemoryBytes
from tests.archive.test_bad_archives import claiming_headers, large_dictionary

resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
tried = refused = 0
for data in claiming_headers():
    tried += 1
    try:
        trio.run(read_listing, MemoryBytes(data), Limits(), Unlocker(None))
    except RiafsError:
        refused += 1
listing, _ = trio.run(read_listing, MemoryBytes(large_dictionary()), Limits(), Unlocker(None))
found = listing.find(b"name")
print(refused, tried, found is not None)
"""

ONE_FOLDER = b"\x06\x00\x01\x09\x05\x00\x07\x0b\x01\x00"
CLAIMING_RECORDS = (
    b"\x01\x04\x06\x00%s\x09",
    b"\x01\x04\x06\x00%s\x0a\x01",
    b"\x01\x04\x06\x00\x00\x09\x00\x07\x0b%s\x00",
    b"\x01\x04" + ONE_FOLDER + b"\x01\x01\x00\x0c\x05\x00\x08\x0d%s\x0a\x01",
    b"\x01\x05%s\x11",
    b"\x17" + ONE_FOLDER + b"\x01\x21\x21\x01\x28\x0c%s\x00\x00",
)


def claiming_headers() -> Iterator[bytes]:
    """Archives of little more than 100 bytes whose headers claim millions of something."""
    for record in CLAIMING_RECORDS:
        for claim in (100_000, 7_999_999, 10_000_000, 1 << 40, (1 << 64) - 1):
            for filler in (b"\x00", b"\x01", b"\xff"):
                yield archive(b"12345", (record % number(claim)).ljust(100, filler))


def large_dictionary() -> bytes:
    """A good archive whose packed header claims to need a dictionary of 1 GiB."""
    plain = header([File(b"name", b"")])
    packed = lzma.compress(plain, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 4096}])
    coder = b"\x01\x23\x03\x01\x01\x05\x5d" + struct.pack("<I", 1 << 30)
    streams = b"\x06\x00\x01\x09" + number(len(packed)) + b"\x00\x07\x0b\x01\x00" + coder
    return archive(packed, b"\x17" + streams + b"\x0c" + number(len(plain)) + b"\x00\x00")


def test_claims_of_a_header_cost_little_memory() -> None:
    result = subprocess.run([sys.executable, "-c", UNDER_LIMITS], capture_output=True, check=False)
    assert result.stderr == b""
    assert result.stdout == b"90 90 True\n"
