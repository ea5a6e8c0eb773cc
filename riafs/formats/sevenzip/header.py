"""7z archives as bytes: from the 32 bytes at the front to the list of members.

Owns the two outer records: the signature header, which has the header's position, and the header itself, plain or
encoded (then it describes a folder whose decoded bytes are the header). Reading and decoding are the caller's. Formats
as in ``7zFormat.txt`` of 7-Zip's sources, checked with archives of 7-Zip 26.02. Invariants of a `Listing`: every member
that is not empty has a stream, every stream a folder; whether those lie inside the archive's file is not known here.
"""

import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, compress

from riafs.errors import MalformedArchive, NotAnArchive, UnsupportedArchive
from riafs.formats.columns import Column, NamedColumns
from riafs.formats.sevenzip.cursor import MAX_SIZE, SIGNATURE_HEADER_SIZE, Cursor, Limits, Record
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.names import MemberNames, no_names, parse_names
from riafs.formats.sevenzip.streams import StreamsInfo, no_streams, parse_streams

SIGNATURE = b"7z\xbc\xaf\x27\x1c"

HAS_STREAM, IS_EMPTY_FILE, IS_DIRECTORY, IS_ANTI_FILE, IS_ANTI_DIRECTORY = range(5)
"""The kinds of members; an anti item means that an existing file is to be deleted."""
_ANTI_FILES_ONLY = bytes.maketrans(bytes([IS_ANTI_DIRECTORY]), bytes([IS_ANTI_FILE]))

# 7-Zip and p7zip put the Unix mode into the upper half of the Windows attributes and set this bit.
UNIX_MODE_PRESENT = 0x8000


@dataclass(frozen=True, slots=True)
class HeaderPlace:
    """The header's position, from the archive's first byte, and its CRC32. Size 0: an archive without members."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Member:
    """A file or directory of an archive."""

    name: bytes
    size: int
    folder: int | None
    """The folder that holds its bytes; None for directories and empty files."""
    offset: int
    """Offset of its bytes in the folder."""
    crc: int | None
    """CRC32 of its bytes, where the archive has one."""
    is_directory: bool
    mode: int | None
    """Unix mode with the file type's bits, where the archive has one."""
    stream: int | None = None
    """The number of its stream, by which `Listing.member_of_stream` finds it."""


class Listing:
    """The members of one archive, by position in it or by name; 21 bytes a member besides names and streams."""

    __slots__ = ("_attributes", "_first_streams", "_kinds", "_names", "_streams")

    def __init__(
        self, streams: StreamsInfo, names: MemberNames, kinds: Column, attributes: Column, first_streams: Column
    ) -> None:
        """For `make` and `from_columns`, which check the columns."""
        self._streams = streams
        self._names = names
        self._kinds = kinds
        self._attributes = attributes
        self._first_streams = first_streams

    @classmethod
    def make(cls, streams: StreamsInfo, names: MemberNames, kinds: bytes, attributes: Column) -> "Listing":
        """The listing of members whose columns are equally long. Raises MalformedArchive where the streams differ."""
        first_streams = array("I", accumulate([kind == HAS_STREAM for kind in kinds], initial=0))
        if first_streams[-1] != len(streams):
            raise MalformedArchive(f"7z header has {len(streams)} streams for {first_streams[-1]} files")
        return cls(streams, names, kinds, attributes, first_streams)

    @classmethod
    def from_columns(cls, columns: NamedColumns) -> "Listing":
        """The listing that `columns` hold: all of `ELEMENTS`, as `columns` gave them."""
        streams, names = StreamsInfo.from_columns(columns), MemberNames.from_columns(columns)
        return cls(streams, names, columns["kinds"], columns["attributes"], columns["first_streams"])

    def columns(self) -> NamedColumns:
        """All columns of the listing, to be saved."""
        own = {"kinds": self._kinds, "attributes": self._attributes, "first_streams": self._first_streams}
        return {**self._names.columns(), **own, **self._streams.columns()}

    def __len__(self) -> int:
        return len(self._kinds)

    def __iter__(self) -> Iterator[Member]:
        """All members in the archive's order, also those that `find` hides behind later ones."""
        return (self.member(position) for position in range(len(self)) if self._kinds[position] != IS_ANTI_FILE)

    def file_names(self) -> Iterator[bytes]:
        """The names of all members that are files, in the archive's order: quicker than members."""
        not_files = (IS_DIRECTORY, IS_ANTI_FILE)
        return (name for name, kind in zip(self._names, self._kinds, strict=True) if kind not in not_files)

    def find(self, name: bytes) -> Member | None:
        """The last member of this name; None also if that is an anti item."""
        position = self._names.find(name)
        if position is None or self._kinds[position] == IS_ANTI_FILE:
            return None
        return self.member(position)

    def member(self, position: int) -> Member:
        """The member at `position`."""
        name, kind, attributes = self._names[position], self._kinds[position], self._attributes[position]
        mode = attributes >> 16 if attributes & UNIX_MODE_PRESENT else None
        if kind != HAS_STREAM:
            return Member(name, 0, None, 0, None, kind == IS_DIRECTORY, mode)
        number = self._first_streams[position]
        stream = self._streams.stream(number)
        return Member(
            name, stream.size, stream.folder, stream.offset, stream.crc, is_directory=False, mode=mode, stream=number
        )

    def member_of_stream(self, stream: int) -> Member:
        """The member whose bytes are the stream of that number, which has to exist."""
        return self.member(bisect_right(self._first_streams, stream) - 1)

    def streams_of(self, folder: int) -> range:
        """The numbers of the streams in a folder, in the order in which they are decoded."""
        return self._streams.streams_of(folder)

    def stream_at(self, streams: range, offset: int) -> int:
        """Of `streams_of` a folder, the one that has the byte at `offset` of it, or the first one after that."""
        return self._streams.stream_at(streams, offset)

    @property
    def stream_count(self) -> int:
        """The number of streams."""
        return len(self._streams)

    def folder(self, number: int) -> Folder:
        """The folder that `Member.folder` names."""
        return self._streams.folder(number)


def parse_signature(start: bytes) -> HeaderPlace:
    """The parsed first 32 bytes of an archive.

    Raises NotAnArchive where they are no 7z signature, MalformedArchive where they are damaged, UnsupportedArchive.
    """
    if not start.startswith(SIGNATURE):
        raise NotAnArchive("no 7z signature")
    if len(start) < SIGNATURE_HEADER_SIZE:
        raise MalformedArchive(f"7z archive of {len(start)} bytes")
    if start[6] != 0:
        raise UnsupportedArchive(f"7z format version {start[6]}.{start[7]}")
    checksum, offset, size, crc = struct.unpack_from("<IQQI", start, 8)
    if zlib.crc32(start[12:SIGNATURE_HEADER_SIZE]) != checksum:
        raise MalformedArchive("7z start header has a wrong checksum")
    if offset + size > MAX_SIZE:
        raise MalformedArchive("7z start header puts the header beyond 2**63 bytes")
    return HeaderPlace(SIGNATURE_HEADER_SIZE + offset, size, crc)


def is_encoded(header: bytes) -> bool:
    """Whether these bytes describe how the header is packed, and are not yet the header."""
    return header[:1] == bytes([Record.ENCODED_HEADER])


def parse_encoded_header(header: bytes, limits: Limits) -> Folder:
    """The folder whose decoded bytes are the header (again encoded, or plain). Raises MalformedArchive, …"""
    cursor = Cursor(header)
    if cursor.record() != Record.ENCODED_HEADER:
        raise MalformedArchive("7z header is not an encoded one")
    streams = parse_streams(cursor, limits)
    if streams.folder_count != 1:
        raise MalformedArchive(f"7z header is packed in {streams.folder_count} folders")
    return streams.folder(0)


def parse_header(header: bytes, limits: Limits) -> Listing:
    """The members that a plain header lists; empty bytes list none. Raises MalformedArchive, UnsupportedArchive."""
    streams = no_streams()
    if not header:
        return Listing.make(streams, no_names(), b"", array("I"))
    cursor = Cursor(header)
    if cursor.record() != Record.HEADER:
        raise MalformedArchive(f"7z header begins with {header[0]:#x}")
    listing = None
    while (record := cursor.record()) != Record.END:
        if record == Record.ARCHIVE_PROPERTIES:
            while cursor.record() != Record.END:
                cursor.skip_property()
        elif record == Record.ADDITIONAL_STREAMS:
            parse_streams(cursor, limits)
        elif record == Record.MAIN_STREAMS:
            streams = parse_streams(cursor, limits)
        elif record == Record.FILES and listing is None:
            listing = _parse_files(cursor, streams, limits)
        else:
            raise MalformedArchive(f"7z header has an unknown record {record:#x}")
    return listing or Listing.make(streams, no_names(), b"", array("I"))


def _parse_files(cursor: Cursor, streams: StreamsInfo, limits: Limits) -> Listing:
    # A name takes at least its ending zero of two bytes.
    count = cursor.count("members", limits.entries, bytes_each=2)
    names = no_names()
    empty, empty_file, anti = bytes(count), b"", b""
    attributes = array("I", bytes(4 * count))
    while (record := cursor.record()) != Record.END:
        part = cursor.part(cursor.number())
        if record == Record.NAMES:
            part.refuse_external()
            names = parse_names(part, count, limits)
        elif record == Record.EMPTY_STREAM:
            empty = part.bits(count)
        elif record == Record.EMPTY_FILE:
            empty_file = part.bits(empty.count(1))
        elif record == Record.ANTI:
            anti = part.bits(empty.count(1))
        elif record == Record.ATTRIBUTES:
            defined = part.optional_bits(count)
            part.refuse_external()
            attributes = part.words(defined)
    if len(names) != count:
        raise MalformedArchive(f"7z header has {len(names)} names for {count} members")
    kinds = member_kinds(empty, empty_file, anti).translate(_ANTI_FILES_ONLY)
    return Listing.make(streams, names, kinds, attributes)


def member_kinds(empty: bytes, empty_file: bytes, anti: bytes) -> bytes:
    """The kind of each member. `empty` has a flag for each; the others have one for each member that it marks."""
    kinds = bytearray(len(empty))
    count = empty.count(1)
    empty_file, anti = empty_file.ljust(count, b"\0")[:count], anti.ljust(count, b"\0")[:count]
    for position, is_file, is_anti in zip(compress(range(len(empty)), empty), empty_file, anti, strict=True):
        kinds[position] = (IS_EMPTY_FILE if is_file else IS_DIRECTORY) + (2 if is_anti else 0)
    return bytes(kinds)
