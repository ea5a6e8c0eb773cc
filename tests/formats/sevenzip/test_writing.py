"""What is written of a 7z header is what was put into it, for our own reader and for py7zr."""

import dataclasses
import io
import lzma
import time
import zlib

import py7zr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import EncryptedArchive, MalformedArchive, RiafsError, UnsupportedArchive
from riafs.formats.sevenzip.cursor import Cursor, Limits, write_number
from riafs.formats.sevenzip.folder import Folder, parse_shape, write_shape
from riafs.formats.sevenzip.fullheader import FullHeader, NewMember, parse_full_header, shape_of_lzma2, shape_of_stored
from riafs.formats.sevenzip.header import parse_encoded_header, parse_header, parse_signature
from riafs.formats.sevenzip.names import encode_name, parse_names
from riafs.formats.sevenzip.writing import encode_header, single_folder_ends, write_header, write_signature

LIMITS = Limits()
names = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)
contents = st.dictionaries(names, st.binary(max_size=200), max_size=12)


def member(name: bytes, content: bytes, mode: int = 0o444) -> NewMember:
    return NewMember(name, len(content), zlib.crc32(content), mode, 1_700_000_000_123_456_700)


def build(
    files: dict[bytes, bytes], columns: FullHeader | None = None, *, solid: bool = False
) -> tuple[FullHeader, bytes]:
    """The columns and packed bytes of an archive of `files`, each stored or all in one LZMA2 folder."""
    columns = columns or FullHeader()
    full = {name: content for name, content in files.items() if content}
    for name in files.keys() - full.keys():
        columns.add_empty_file(member(name, b""))
    if solid and full:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
        packed = lzma.compress(b"".join(full.values()), lzma.FORMAT_RAW, filters=filters)
        columns.add_folder(shape_of_lzma2(16), len(packed), [member(*item) for item in full.items()])
        return columns, packed
    for name, content in full.items():
        columns.add_folder(shape_of_stored(), len(content), [member(name, content)])
    return columns, b"".join(full.values())


def archive(columns: FullHeader, packed: bytes, *, encoded: bool) -> bytes:
    """A whole archive."""
    header = write_header(columns)
    between = b""
    if encoded and header:
        between, header = encode_header(header, 32 + len(packed))
    return write_signature(32 + len(packed) + len(between), header) + packed + between + header


@given(contents, st.booleans())
def test_every_member_written_is_listed(files: dict[bytes, bytes], solid: bool) -> None:
    columns, packed = build(files, solid=solid)
    listing = parse_header(write_header(columns), LIMITS)
    assert len(listing) == len(files)
    for name, content in files.items():
        found = listing.find(name)
        assert found is not None
        assert (found.size, found.mode, found.is_directory) == (len(content), 0o100444, False)
        assert found.crc == (zlib.crc32(content) if content else None)
        if content and not solid:
            assert found.folder is not None
            start = listing.folder(found.folder).pack_offset - 32
            assert packed[start : start + found.size] == content


@given(contents, contents, st.booleans())
def test_a_header_read_in_full_is_written_as_it_was(
    files: dict[bytes, bytes], later: dict[bytes, bytes], solid: bool
) -> None:
    columns, _ = build(files, solid=solid)
    build(later, columns)
    header = write_header(columns)
    again = parse_full_header(header, LIMITS)
    assert write_header(again) == header
    assert again.packed_end == columns.packed_end


@given(contents, contents)
def test_members_added_to_a_parsed_header_come_after_the_old_ones(
    files: dict[bytes, bytes], later: dict[bytes, bytes]
) -> None:
    before, _ = build(files, solid=True)
    old = parse_header(write_header(before), LIMITS)
    columns = parse_full_header(write_header(before), LIMITS)
    build(later, columns)
    new = parse_header(write_header(columns), LIMITS)
    assert [new.member(position) for position in range(len(old))] == list(old)
    assert len(new) == len(files) + len(later)


@given(st.binary(max_size=300))
def test_any_bytes_are_columns_or_a_failure_of_ours(data: bytes) -> None:
    try:
        columns = parse_full_header(data, LIMITS)
    except RiafsError:
        return
    write_header(columns)


@given(contents.filter(bool), st.data())
def test_a_damaged_header_is_columns_or_a_failure_of_ours(files: dict[bytes, bytes], data: st.DataObject) -> None:
    header = bytearray(write_header(build(files)[0]))
    position = data.draw(st.integers(0, len(header) - 1))
    header[position] = data.draw(st.integers(0, 255))
    try:
        columns = parse_full_header(bytes(header), LIMITS)
    except RiafsError:
        return
    write_header(columns)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_read_as_it_was_written(value: int) -> None:
    cursor = Cursor(write_number(value))
    assert cursor.number() == value
    assert cursor.left == 0


@given(names)
def test_a_name_of_any_bytes_is_read_as_it_was_written(name: bytes) -> None:
    assert parse_names(Cursor(encode_name(name)), 1, LIMITS)[0] == name


def test_bytes_that_are_no_text_are_written_as_7zip_writes_them() -> None:
    assert encode_name(b"a\xff\xee\xbe\x80z") == "a\uefff\uefee\uefbe\uef80z\0".encode("utf-16-le")


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("solid", [False, True])
def test_py7zr_reads_what_is_written(encoded: bool, solid: bool) -> None:
    files = {b"a/b/one": b"1" * 1000, "ä/zwei".encode(): b"2" * 5, b"leer": b""}
    raw = archive(*build(files, solid=solid), encoded=encoded)
    factory = py7zr.io.BytesIOFactory(10_000)
    with py7zr.SevenZipFile(io.BytesIO(raw)) as opened:
        assert opened.test() is not False
        opened.extract(factory=factory)
    assert {name.encode(): made.read() for name, made in factory.products.items()} == files


def test_an_encoded_header_describes_itself() -> None:
    raw = archive(*build({b"one": b"1"}), encoded=True)
    place = parse_signature(raw[:32])
    folder = parse_encoded_header(raw[place.offset :], LIMITS)
    assert folder.pack_offset + folder.pack_size == place.offset


def test_an_encrypted_archive_is_not_added_to() -> None:
    columns = FullHeader()
    aes = bytes([1, 0x24]) + b"\x06\xf1\x07\x01" + bytes([2, 0x13, 0x00])
    columns.add_folder(aes, 16, [member(b"secret", b"x")])
    with pytest.raises(EncryptedArchive):
        parse_full_header(write_header(columns), LIMITS)


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UnsupportedArchive):
        parse_full_header(b"\x01\x02\x00\x00", LIMITS)  # archive properties
    columns, _ = build({b"one": b"1"})
    header = write_header(columns)
    comment = header[:-2] + bytes([0x16, 1, 0]) + header[-2:]
    with pytest.raises(UnsupportedArchive):
        parse_full_header(comment, LIMITS)


def test_a_header_with_too_few_streams_is_malformed() -> None:
    columns, _ = build({b"one": b"1"})
    columns.kinds[0] = 1
    with pytest.raises(MalformedArchive):
        parse_full_header(write_header(columns), LIMITS)


def test_a_hundred_thousand_members_take_time_that_grows_with_their_number() -> None:
    def seconds(count: int) -> float:
        columns = FullHeader()
        members = [member(b"%d" % number, b"x") for number in range(count)]
        began = time.process_time()
        columns.add_folder(shape_of_stored(), count, members)
        return time.process_time() - began

    assert seconds(100_000) < 40 * max(seconds(10_000), 0.01)  # ten times is linear, a hundred quadratic


BCJ2 = (
    b"\x04\x14\x03\x03\x01\x1b\x04\x01\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00"
    b"\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00\x00\x01\x01\x02\x02\x03\x03\x04\x05\x06"
)


@pytest.mark.parametrize(
    ("description", "packs", "sizes"),
    [(b"\x01\x01\x00", (5,), (5,)), (b"\x01\x21\x21\x01\x18", (300,), (1 << 40,)), (BCJ2, (9, 8, 7, 6), (5, 4, 3, 2))],
    ids=["Copy", "LZMA2", "BCJ2"],
)
def test_the_folder_is_read_back(description: bytes, packs: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    shape = parse_shape(Cursor(description))
    if len(shape.coders) != len(sizes):
        sizes = sizes[: len(shape.coders)]
    folder = Folder(shape, 1234, packs, sizes, None)
    front, header = single_folder_ends(folder)
    place = parse_signature(front)
    assert (place.offset, place.size) == (32 + folder.pack_size, len(header))
    listing = parse_header(header, Limits())
    read = listing.folder(0)
    assert read == dataclasses.replace(folder, pack_offset=32)
    assert write_shape(read.shape) == description
    member = listing.find(b"folder")
    assert member is not None
    assert (member.size, member.offset) == (folder.size, 0)
