"""All information of a 7z archive's header, in columns that can be extended, for writers that add to an archive.

Owns reading a plain header without losing anything: packed streams, folders, streams, and each property of each member,
also those that readers have no use for (times, start positions). What cannot be kept is refused, so that nothing is
ever dropped silently. Invariants of `FullHeader`: a member for every flag in `kinds`; as many streams as members with
content; as many packed streams as the folders need, one after the other. Formats as in ``7zFormat.txt`` of 7-Zip's
sources, checked with archives of 7-Zip 26.02.
"""

import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from riafs.errors import EncryptedArchive, MalformedArchive, UnsupportedArchive
from riafs.formats.sevenzip.cursor import SIGNATURE_HEADER_SIZE, Cursor, Digests, Limits, Record
from riafs.formats.sevenzip.folder import parse_shape
from riafs.formats.sevenzip.header import HAS_STREAM, IS_EMPTY_FILE, UNIX_MODE_PRESENT, member_kinds
from riafs.formats.sevenzip.names import encode_name
from riafs.formats.sevenzip.streams import StreamsInfo, parse_streams

LONG_PROPERTIES = (Record.CREATED, Record.ACCESSED, Record.MODIFIED, Record.START_POSITION)
"""Times (100 ns since 1601) and start positions: 64 bits for some of the members."""

_EPOCH = 116_444_736_000_000_000  # 1970 in 100 ns since 1601
_FILE_TYPE = 0o100000
_ARCHIVE_ATTRIBUTE, _READ_ONLY_ATTRIBUTE = 0x20, 0x01  # what 7-Zip sets for files of Unix


@dataclass(slots=True)
class OptionalNumbers:
    """Numbers of which some may be undefined; `defined` has a byte 0 or 1 for each."""

    values: "array[int]"
    defined: bytearray

    @classmethod
    def none(cls, code: str, count: int = 0) -> "OptionalNumbers":
        """`count` undefined numbers of the array type `code`."""
        return cls(array(code, bytes(array(code).itemsize * count)), bytearray(count))

    def append(self, value: int | None) -> None:
        """Add one, None for undefined."""
        self.values.append(value or 0)
        self.defined.append(value is not None)


@dataclass(frozen=True, slots=True)
class NewMember:
    """A file to be added: `mode` is the Unix mode's permission bits, `mtime_ns` counts from 1970."""

    name: bytes
    size: int
    crc: int
    mode: int
    mtime_ns: int


@dataclass(slots=True)
class FullHeader:
    """An archive's header. An empty one describes an archive without members."""

    pack_position: int = 0
    """Offset of the first packed stream, after the 32 bytes of the signature header."""
    pack_sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    descriptions: list[bytes] = field(default_factory=list)
    """One per folder."""
    unpack_sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    folder_crcs: OptionalNumbers = field(default_factory=lambda: OptionalNumbers.none("I"))
    """CRC32 of folders with several members or none; that of a single member is its stream's."""
    stream_counts: "array[int]" = field(default_factory=lambda: array("I"))
    stream_sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    stream_crcs: OptionalNumbers = field(default_factory=lambda: OptionalNumbers.none("I"))
    names: bytearray = field(default_factory=bytearray)
    """UTF-16LE, each ended by a zero."""
    kinds: bytearray = field(default_factory=bytearray)
    attributes: OptionalNumbers = field(default_factory=lambda: OptionalNumbers.none("I"))
    longs: dict[int, OptionalNumbers] = field(default_factory=dict)
    """Property number → values."""

    @property
    def packed_end(self) -> int:
        """The end of the last packed stream, from the archive's first byte."""
        return SIGNATURE_HEADER_SIZE + self.pack_position + sum(self.pack_sizes)

    def add_folder(self, description: bytes, packed_size: int, members: list[NewMember]) -> None:
        """Add members, none of them empty, whose bytes are one folder with one coder and one packed stream."""
        self.pack_sizes.append(packed_size)
        self.descriptions.append(description)
        self.unpack_sizes.append(sum(member.size for member in members))
        self.folder_crcs.append(None)
        self.stream_counts.append(len(members))
        for member in members:
            self.stream_sizes.append(member.size)
            self.stream_crcs.append(member.crc)
            self._add_member(member, HAS_STREAM)

    def add_empty_file(self, member: NewMember) -> None:
        """Add a file of no bytes."""
        self._add_member(member, IS_EMPTY_FILE)

    def _add_member(self, member: NewMember, kind: int) -> None:
        if Record.MODIFIED not in self.longs:
            self.longs[Record.MODIFIED] = OptionalNumbers.none("Q", len(self.kinds))
        for number, values in self.longs.items():
            if number != Record.MODIFIED:
                values.append(None)
        self.longs[Record.MODIFIED].append(max(0, _EPOCH + member.mtime_ns // 100))
        self.names += encode_name(member.name)
        self.kinds.append(kind)
        read_only = 0 if member.mode & 0o200 else _READ_ONLY_ATTRIBUTE
        unix = (_FILE_TYPE | member.mode & 0o7777) << 16 | UNIX_MODE_PRESENT
        self.attributes.append(unix | _ARCHIVE_ATTRIBUTE | read_only)


def parse_full_header(header: bytes, limits: Limits) -> FullHeader:
    """The parsed plain header; that of empty bytes is empty.

    Raises MalformedArchive, and UnsupportedArchive for what could not be written again.
    """
    columns = FullHeader()
    if not header:
        return columns
    cursor = Cursor(header)
    if cursor.record() != Record.HEADER:
        raise MalformedArchive(f"7z header begins with {header[0]:#x}")
    record = cursor.record()
    if record == Record.MAIN_STREAMS:
        _take_streams(columns, parse_streams(cursor, limits))
        record = cursor.record()
    if record == Record.FILES:
        _take_members(columns, cursor, limits)
        record = cursor.record()
    if record != Record.END:
        raise UnsupportedArchive(f"7z header has a record {record:#x} that cannot be kept")
    if columns.kinds.count(HAS_STREAM) != len(columns.stream_sizes):
        raise MalformedArchive("7z header has not as many streams as files with content")
    return columns


def _take_streams(columns: FullHeader, streams: StreamsInfo) -> None:
    folders, substreams = streams.folders, streams.substreams
    shapes = [parse_shape(Cursor(description)) for description in folders.descriptions]
    if any(coder.method.startswith(b"\x06\xf1") for shape in shapes for coder in shape.coders):
        raise EncryptedArchive("an encrypted archive cannot be added to")
    offsets = streams.pack_offsets
    if folders.first_pack[-1] != len(offsets) - 1:
        raise UnsupportedArchive("7z archive has packed streams that belong to nothing")
    columns.pack_position = offsets[0] - SIGNATURE_HEADER_SIZE
    columns.pack_sizes = array("Q", (end - start for start, end in pairwise(offsets)))
    columns.descriptions = [folders.descriptions[number] for number in folders.description_of]
    columns.unpack_sizes = array("Q", folders.sizes)
    counts = Counter(substreams.folder)
    columns.stream_counts = array("I", (counts[number] for number in range(len(folders))))
    columns.stream_sizes = array("Q", substreams.size)
    columns.stream_crcs = _optional(substreams.digests)
    columns.folder_crcs = _optional(folders.digests)
    for number, count in enumerate(columns.stream_counts):
        if count == 1:  # parse_streams has given it to the stream
            columns.folder_crcs.defined[number] = 0
            columns.folder_crcs.values[number] = 0


def _optional(digests: Digests) -> OptionalNumbers:
    return OptionalNumbers(array("I", digests.values), bytearray(digests.defined))


def _take_members(columns: FullHeader, cursor: Cursor, limits: Limits) -> None:
    count = cursor.count("members", limits.entries, bytes_each=2)
    empty, empty_file, anti = bytes(count), b"", b""
    columns.attributes = OptionalNumbers.none("I", count)
    while (record := cursor.record()) != Record.END:
        part = cursor.part(cursor.number())
        if record == Record.NAMES:
            part.refuse_external()
            columns.names = bytearray(part.take(part.left))
        elif record == Record.EMPTY_STREAM:
            empty = part.bits(count)
        elif record == Record.EMPTY_FILE:
            empty_file = part.bits(empty.count(1))
        elif record == Record.ANTI:
            anti = part.bits(empty.count(1))
        elif record in (Record.ATTRIBUTES, *LONG_PROPERTIES):
            values = _read_optional(part, count, "I" if record == Record.ATTRIBUTES else "Q")
            if record == Record.ATTRIBUTES:
                columns.attributes = values
            else:
                columns.longs[record] = values
        elif record != Record.DUMMY:
            raise UnsupportedArchive(f"7z members have a property {record:#x} that cannot be kept")
    columns.kinds = bytearray(member_kinds(empty, empty_file, anti))
    _check_names(columns.names, count)


def _read_optional(part: Cursor, count: int, code: str) -> OptionalNumbers:
    defined = part.optional_bits(count)
    part.refuse_external()
    found = array(code)
    found.frombytes(part.take(found.itemsize * defined.count(1)))
    if sys.byteorder == "big":
        found.byteswap()
    values = iter(found)
    return OptionalNumbers(array(code, (next(values) if flag else 0 for flag in defined)), bytearray(defined))


def _check_names(names: bytearray, count: int) -> None:
    units = memoryview(names[: len(names) & ~1]).cast("H")
    zeros = sum(1 for unit in units if unit == 0)
    if len(names) % 2 or zeros != count or (count and units[-1] != 0):
        raise MalformedArchive(f"7z header has {zeros} whole names for {count} members")


def shape_of_stored() -> bytes:
    """The description of a folder whose bytes lie in the archive as they are."""
    return bytes([1, 0x01, 0x00])


def shape_of_lzma2(dictionary_code: int) -> bytes:
    """The description of a folder packed with LZMA2; for the code of its dictionary's size see sevenzip_folder."""
    return bytes([1, 0x21, 0x21, 1, dictionary_code])
