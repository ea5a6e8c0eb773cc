"""The 7z header parser: pure, on headers written by hand."""

import struct
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import ArchiveError, MalformedArchive, NotAnArchive, UnsupportedArchive
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sevenzip.header import Listing, is_encoded, parse_encoded_header, parse_header, parse_signature
from tests.archive.headers import (
    COPY_FOLDER,
    END,
    File,
    archive,
    bits,
    copy_streams,
    files_record,
    header,
    name_text,
    number,
    optional,
    signature_header,
    sized,
)

LIMITS = Limits()
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)
FILES = st.lists(
    st.builds(File, NAMES, st.none() | st.binary(max_size=9), st.none() | st.integers(0, 0xFFFF)),
    max_size=12,
    unique_by=lambda file: file.name,
)


def members_of(listing: Listing) -> list[tuple[bytes, int, bool, int | None]]:
    return [(member.name, member.size, member.is_directory, member.mode) for member in listing]


@given(FILES)
def test_what_was_written_is_listed(files: list[File]) -> None:
    listing = parse_header(header(files), LIMITS)
    expected = [(file.name, len(file.content or b""), file.content is None, file.mode) for file in files]
    assert members_of(listing) == expected
    for file in files:
        member = listing.find(file.name)
        assert member is not None
        assert member.crc == (zlib.crc32(file.content) if file.content else None)


@given(FILES)
def test_stored_members_lie_one_after_the_other(files: list[File]) -> None:
    listing = parse_header(header(files), LIMITS)
    data = bytes(32) + b"".join(file.content or b"" for file in files)
    for file in files:
        member = listing.find(file.name)
        assert member is not None
        if member.folder is not None:
            folder = listing.folder(member.folder)
            assert folder.is_stored
            assert data[folder.pack_offset :][: folder.size] == file.content


@given(st.binary(max_size=300))
def test_any_bytes_after_the_first_are_a_listing_or_an_archive_error(data: bytes) -> None:
    for start in (b"\x01", b"\x01\x04\x06", b"\x01\x04\x07\x0b", b"\x01\x05", b"\x01\x05\x02", b""):
        with suppress(ArchiveError):
            list(parse_header(start + data, LIMITS))


@given(st.binary(max_size=300))
def test_any_encoded_header_is_a_folder_or_an_archive_error(data: bytes) -> None:
    for start in (b"\x17\x06", b"\x17\x06\x00\x01\x09\x05\x00\x07\x0b\x01\x00", b""):
        try:
            folder = parse_encoded_header(start + data, LIMITS)
            assert folder.memory >= 0
        except ArchiveError:
            pass


@given(st.binary(max_size=40))
def test_any_start_is_a_place_or_an_archive_error(data: bytes) -> None:
    for start in (b"7z\xbc\xaf\x27\x1c", b""):
        with suppress(ArchiveError):
            parse_signature(start + data)


def test_header_cut_anywhere_is_malformed() -> None:
    whole = header([File(b"a", b"one"), File(b"d", None), File(b"e", b""), File(b"z\xff", b"three")])
    for length in range(1, len(whole)):
        with pytest.raises(MalformedArchive):
            parse_header(whole[:length], LIMITS)


def test_any_wrong_byte_gives_a_listing_or_an_archive_error() -> None:
    whole = header([File(b"a", b"one"), File(b"d", None), File(b"e", b""), File(b"z\xff", b"three")])
    for position in range(len(whole)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            broken = bytearray(whole)
            broken[position] ^= flip
            try:
                for member in parse_header(bytes(broken), LIMITS):
                    assert member.size >= 0
            except ArchiveError:
                pass


def test_numbers_of_every_length_are_read() -> None:
    sizes = [1 << shift for shift in range(62)] + [(1 << shift) - 1 for shift in range(1, 60)]
    sizes = [size for size in sizes if size < 1 << 56]
    listing = parse_header(
        b"\x01\x04"
        + copy_streams(sizes, [None] * len(sizes))
        + files_record([File(b"%d" % n, b"x") for n in range(len(sizes))])
        + END,
        LIMITS,
    )
    assert [member.size for member in listing] == sizes


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("a\uefff\uef80.txt", b"a\xff\x80.txt"),
        ("\uef7f\uf000", "\uef7f\uf000".encode()),
        ("\uefee\uefbe\uef80", "\uef80".encode()),
        ("tär.gz", "tär.gz".encode()),
        ("\U0001f9e0", "\U0001f9e0".encode()),
    ],
)
def test_bytes_that_are_no_utf8_come_back(stored: str, expected: bytes) -> None:
    plain = header([File(b"x", b"1")]).replace(name_text(b"x"), (stored + "\0").encode("utf-16-le"))
    size = 1 + len(name_text(b"x"))
    plain = plain.replace(
        b"\x11" + number(size) + b"\0", b"\x11" + number(1 + 2 * len(stored.encode("utf-16-le")) // 2 + 2) + b"\0"
    )
    listing = parse_header(plain, LIMITS)
    assert [member.name for member in listing] == [expected]
    assert listing.find(expected) is not None


def test_names_longer_than_one_piece_are_joined() -> None:
    names = [b"%07d/" % position + b"\xc3\xa4" * 100 for position in range(12_000)]
    listing = parse_header(header([File(name, b"") for name in names]), LIMITS)
    assert [member.name for member in listing] == names


def test_a_name_over_the_bound_is_refused() -> None:
    with pytest.raises(MalformedArchive, match="over 65536 bytes"):
        parse_header(header([File(b"n" * 3_000_000, b"1")]), LIMITS)


def test_the_last_of_equal_names_counts() -> None:
    listing = parse_header(header([File(b"a", b"one"), File(b"b", b"1"), File(b"a", b"three")]), LIMITS)
    found = listing.find(b"a")
    assert found is not None
    assert (found.size, found.folder) == (5, 2)


def test_a_hundred_thousand_equal_names_take_no_longer_than_different_ones() -> None:
    listing = parse_header(header([File(b"same", b"")] * 100_000), LIMITS)
    assert listing.find(b"same") == listing.member(99_999)


def test_seventy_thousand_folders_are_listed() -> None:
    listing = parse_header(
        header([File(b"%d" % position, b"x" * (1 + position % 3)) for position in range(70_000)]), LIMITS
    )
    member = listing.find(b"69999")
    assert member is not None
    assert (member.folder, member.size) == (69_999, 1)
    assert listing.folder(69_999).pack_offset == 32 + 2 * 69_999


def test_an_anti_member_is_not_found() -> None:
    plain = b"\x01\x05\x01" + sized(0x0E, b"\x80") + sized(0x10, b"\x80") + sized(0x11, b"\0a\0\0\0") + END + END
    listing = parse_header(plain, LIMITS)
    assert listing.find(b"a") is None
    assert list(listing) == []


def test_unneeded_records_are_passed_over() -> None:
    plain = header([File(b"a", b"one")])
    streams_at = plain.index(b"\x04\x06")
    properties = b"\x02" + sized(0x33, b"anything") + END
    additional = b"\x03" + copy_streams([5], [7])
    listing = parse_header(b"\x01" + properties + additional + plain[streams_at:], LIMITS)
    assert [member.name for member in listing] == [b"a"]


def solid_header(counts: list[int], written_sizes: list[int], crcs: bytes, folder_crcs: bytes = b"") -> bytes:
    folders = number(len(counts))
    streams = sum(counts)
    return b"".join(
        [
            b"\x01\x04\x06\x00" + folders + b"\x09" + number(10) * len(counts) + END,
            b"\x07\x0b" + folders + b"\0" + COPY_FOLDER * len(counts) + b"\x0c" + number(10) * len(counts),
            (b"\x0a" + folder_crcs if folder_crcs else b"") + END,
            b"\x08\x0d" + b"".join(map(number, counts)) + b"\x09" + b"".join(map(number, written_sizes)),
            b"\x0a" + crcs + END + END,
            files_record([File(b"%d" % position, b"x") for position in range(streams)]) + END,
        ]
    )


def test_solid_folders_are_cut_into_streams() -> None:
    listing = parse_header(solid_header([3, 0, 2], [2, 3, 4], optional([1, None, 3, 4, 5])), LIMITS)
    assert [(member.folder, member.offset, member.size, member.crc) for member in listing] == [
        (0, 0, 2, 1),
        (0, 2, 3, None),
        (0, 5, 5, 3),
        (2, 0, 4, 4),
        (2, 4, 6, 5),
    ]


def test_the_crc_of_a_folder_with_one_stream_is_the_streams() -> None:
    plain = solid_header([1, 2, 1], [4], optional([11, 12, 13]), folder_crcs=optional([21, 22, None]))
    assert [member.crc for member in parse_header(plain, LIMITS)] == [21, 11, 12, 13]


def test_streams_larger_than_their_folder_are_refused() -> None:
    with pytest.raises(MalformedArchive, match="folder 0 has 10 bytes"):
        parse_header(solid_header([2], [11], optional([1, 2])), LIMITS)


@pytest.mark.parametrize(
    "record", [b"\x01\x04\x06\x00%s\x09", b"\x01\x04\x06\x00\x00\x09\x00\x07\x0b%s\x00", b"\x01\x05%s\x11"]
)
def test_ten_million_claimed_in_a_hundred_bytes_are_refused(record: bytes) -> None:
    for claim in (10_000_000, 5_000_000, 1 << 40, (1 << 64) - 1):
        with pytest.raises(MalformedArchive):
            parse_header((record % number(claim)).ljust(100, b"\x01"), LIMITS)


def test_claims_are_refused_before_memory_is_taken() -> None:
    tracemalloc.start()
    try:
        for record in (b"\x01\x04\x06\x00%s\x0a\x01", b"\x01\x05%s\x11", b"\x01\x04\x06\x00%s\x09"):
            with suppress(ArchiveError):
                parse_header((record % number(7_999_999)).ljust(100, b"\x01"), LIMITS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_counts_over_the_limits_are_refused() -> None:
    small = Limits(entries=2)
    with pytest.raises(MalformedArchive, match="3 members, the bound is 2"):
        parse_header(header([File(b"%d" % position, b"") for position in range(3)]), small)
    with pytest.raises(MalformedArchive, match="3 folders, the bound is 2"):
        parse_header(header([File(b"%d" % position, b"x") for position in range(3)]), small)
    with pytest.raises(MalformedArchive, match="3 streams in 1 folders"):
        parse_header(solid_header([3], [1, 1], optional([1, 2, 3])), small)


def test_folders_without_packed_streams_are_refused() -> None:
    unpack = b"\x07\x0b\x01\x00" + COPY_FOLDER + b"\x0c\x05\x00\x00"
    for pack in (b"", b"\x06\x00\x00\x09\x00"):
        with pytest.raises(MalformedArchive, match="1 packed streams of 0"):
            parse_header(b"\x01\x04" + pack + unpack + files_record([File(b"a", b"x")]) + END, LIMITS)


def test_streams_claimed_beyond_the_bound_are_refused() -> None:
    counts = [10_000_000]
    plain = (
        b"\x01\x04\x06\x00\x01\x09\x0a\x00\x07\x0b\x01\x00" + COPY_FOLDER + b"\x0c\x0a\x00\x08\x0d" + number(counts[0])
    )
    with pytest.raises(MalformedArchive):
        parse_header(plain + b"\x09" + bytes(100), LIMITS)


def test_sizes_beyond_63_bits_are_refused() -> None:
    for sizes in ([1 << 63], [1 << 62, 1 << 62], [(1 << 64) - 1]):
        files = [File(b"%d" % position, b"x") for position in range(len(sizes))]
        plain = b"\x01\x04" + copy_streams(sizes, [None] * len(sizes)) + files_record(files) + END
        with pytest.raises(MalformedArchive, match="2\\*\\*63"):
            parse_header(plain, LIMITS)


def test_a_decoded_size_beyond_63_bits_is_refused() -> None:
    streams = copy_streams([5], [None]).replace(b"\x0c\x05", b"\x0c" + number(1 << 63))
    with pytest.raises(MalformedArchive, match=r"2\*\*63"):
        parse_header(b"\x01\x04" + streams + files_record([File(b"a", b"x")]) + END, LIMITS)


def folder_header(folder: bytes) -> bytes:
    return b"\x17\x06\x00\x01\x09\x05\x00\x07\x0b\x01\x00" + folder + b"\x0c\x0a\x00\x00"


@pytest.mark.parametrize(
    "folder",
    [
        b"\x00",
        b"\x21" + COPY_FOLDER[1:] * 33,
        b"\x02\x01\x00\x01\x00\x00\x05",
        b"\x02\x01\x00\x01\x00\x02\x00",
        b"\x03\x01\x00\x01\x00\x01\x00\x00\x01\x00\x01",
        b"\x01\x11\x00\x02\x01\x00\x00",
        b"\x01\x11\x00\x02\x01\x00\x02",
        b"\x01\x23\x03\x01\x01\x04\x00\x00\x00\x00",
        b"\x01\x21\x21\x01\x29",
        b"\x01\x21\x21\x00",
    ],
)
def test_a_folder_that_contradicts_itself_is_malformed(folder: bytes) -> None:
    with pytest.raises(MalformedArchive):
        assert parse_encoded_header(folder_header(folder), LIMITS).memory < 0


@pytest.mark.parametrize(
    ("coder", "method"),
    [
        (b"\x00", b"\0"),
        (b"\x04\0\0\0\x04", b"\x04"),
        (b"\x09" + bytes(8) + b"\x08", b"\x08"),
        (b"\x0c" + b"x" * 12, b"x" * 12),
    ],
)
def test_a_method_is_a_number_of_any_length_and_none_is_copy(coder: bytes, method: bytes) -> None:
    assert parse_encoded_header(folder_header(b"\x01" + coder), LIMITS).shape.coders[0].method == method


@pytest.mark.parametrize("folder", [b"\x01\x81\x00", b"\x01\x11\x00\x01\x02", b"\x01\x11\x00\x21\x01"])
def test_a_coder_of_an_unknown_form_is_unsupported(folder: bytes) -> None:
    with pytest.raises(UnsupportedArchive):
        parse_encoded_header(folder_header(folder), LIMITS)


def test_external_values_are_unsupported() -> None:
    plain = b"\x01\x05\x01" + sized(0x11, b"\x01a\0\0\0") + END + END
    with pytest.raises(UnsupportedArchive, match="external"):
        parse_header(plain, LIMITS)


@pytest.mark.parametrize(
    ("properties", "size"), [(b"\x00", 4096), (b"\x01", 6144), (b"\x18", 16 << 20), (b"\x28", 0xFFFFFFFF)]
)
def test_the_lzma2_property_says_the_dictionary(properties: bytes, size: int) -> None:
    assert parse_encoded_header(folder_header(b"\x01\x21\x21\x01" + properties), LIMITS).memory == size


def test_the_lzma_properties_say_the_dictionary() -> None:
    folder = b"\x01\x23\x03\x01\x01\x05\x5d" + struct.pack("<I", 3 << 30)
    assert parse_encoded_header(folder_header(folder), LIMITS).memory == 3 << 30


def test_bound_coders_are_understood() -> None:
    # BCJ2 as 7-Zip writes it: four inputs, three of them made by LZMA coders.
    bcj2 = b"\x14\x03\x03\x01\x1b\x04\x01"
    lzma = b"\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00"
    folder = b"\x04" + bcj2 + lzma * 3 + b"\x00\x01\x01\x02\x02\x03" + b"\x06\x04\x05\x03"
    plain = b"\x17\x06\x00\x04\x09\x05\x06\x07\x08\x00\x07\x0b\x01\x00" + folder + b"\x0c\x0a\x0b\x0c\x0d\x00\x00"
    found = parse_encoded_header(plain, LIMITS)
    assert (found.shape.main, found.size, found.shape.packed) == (0, 10, (6, 4, 5, 3))
    assert (found.pack_offset, found.pack_sizes, found.unpack_sizes) == (32, (5, 6, 7, 8), (10, 11, 12, 13))


def test_only_the_encoded_mark_is_encoded() -> None:
    assert is_encoded(b"\x17rest")
    assert not is_encoded(b"\x01rest")
    assert not is_encoded(b"")


def test_an_archive_without_members_lists_none() -> None:
    assert list(parse_header(b"", LIMITS)) == []
    assert list(parse_header(b"\x01\x00", LIMITS)) == []


def test_streams_without_files_are_refused() -> None:
    with pytest.raises(MalformedArchive, match="1 streams for 0 files"):
        parse_header(b"\x01\x04" + copy_streams([5], [1]) + END, LIMITS)


def test_the_signature_header_says_where_the_header_is() -> None:
    place = parse_signature(archive(b"12345", b"\x01\x00")[:32])
    assert (place.offset, place.size, place.crc) == (37, 2, zlib.crc32(b"\x01\x00"))


def test_something_else_is_not_an_archive() -> None:
    for start in (b"", b"PK\x03\x04" + bytes(40), b"7z\xbc\xaf\x27"):
        with pytest.raises(NotAnArchive):
            parse_signature(start)


def test_a_damaged_signature_header_is_malformed() -> None:
    whole = signature_header(5, 2, 7)
    for length in range(6, 32):
        with pytest.raises(MalformedArchive):
            parse_signature(whole[:length])
    for position in range(8, 32):
        broken = bytearray(whole)
        broken[position] ^= 0x10
        with pytest.raises(MalformedArchive):
            parse_signature(bytes(broken))


def test_another_format_version_is_unsupported() -> None:
    with pytest.raises(UnsupportedArchive, match=r"1\.4"):
        parse_signature(b"7z\xbc\xaf\x27\x1c\x01\x04" + bytes(24))


@given(st.lists(st.booleans(), max_size=70))
def test_bit_vectors_are_read_back(flags: list[bool]) -> None:
    files = [File(b"%d" % position, b"" if flag else b"x") for position, flag in enumerate(flags)]
    assert len(bits(flags)) == (len(flags) + 7) // 8
    assert [member.folder is None for member in parse_header(header(files), LIMITS)] == flags
