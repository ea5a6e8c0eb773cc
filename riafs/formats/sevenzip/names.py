"""The names of a 7z archive's members, and the way from a name to its member.

In a header names are UTF-16LE, each ended by a zero. 7-Zip writes a byte that is no part of valid UTF-8 as U+EF00 +
byte (0xFF as U+EFFF), and so the three bytes of characters in that range and of lone surrogates: nothing is ambiguous
(seen with 7-Zip 26.02). Archives of whole keystores have millions of names, so they are kept as one block of bytes and
sorted checksums, 12 bytes a name besides its own. Of equal names the last one counts.
"""

import codecs
import re
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, pairwise

from riafs.errors import MalformedArchive
from riafs.formats.columns import Column, NamedColumns
from riafs.formats.sevenzip.cursor import Cursor, Limits

_CHUNK = 1 << 20
_READ_AT_ONCE = 512
_RUN = 1 << 20  # sorting more at once would need much memory for a moment
_MOST_COLLISIONS = 4096  # equal CRC32 of different names: chance gives two or three, malice any number
# U+EF80 to U+EFFF in UTF-8.
_ESCAPED_BYTE = re.compile(rb"\xee([\xbe\xbf])([\x80-\xbf])")


class MemberNames:
    """Names by position, and positions by name. Names are bytes as in a file system, ``/`` between parts."""

    __slots__ = ("_block", "_order", "_starts")

    def __init__(self, block: Column, starts: Column, order: Column) -> None:
        """From the columns of a `MemberNamesBuilder`."""
        self._block = block
        self._starts = starts
        self._order = order

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, position: int) -> bytes:
        return bytes(self._block[self._starts[position] : self._starts[position + 1] - 1])

    def __iter__(self) -> Iterator[bytes]:
        """All in order: quicker than one by one."""
        for first in range(0, len(self), _READ_AT_ONCE):
            starts = self._starts[first : first + _READ_AT_ONCE + 1]
            block = bytes(self._block[starts[0] : starts[-1]])
            base = starts[0]
            yield from (block[start - base : end - base - 1] for start, end in pairwise(starts))

    def columns(self) -> NamedColumns:
        """The columns, for `from_columns`."""
        return {"names": self._block, "name_starts": self._starts, "name_order": self._order}

    @classmethod
    def from_columns(cls, columns: NamedColumns) -> "MemberNames":
        """The names that `columns` hold."""
        return cls(columns["names"], columns["name_starts"], columns["name_order"])

    def find(self, name: bytes) -> int | None:
        """The position of the last of these names. Raises MalformedArchive where too many different ones collide."""
        checksum = zlib.crc32(name)
        for run in range((len(self) - 1) // _RUN, -1, -1):
            found = self._find_in_run(name, checksum, run * _RUN, min((run + 1) * _RUN, len(self)))
            if found is not None:
                return found
        return None

    def _find_in_run(self, name: bytes, checksum: int, start: int, end: int) -> int | None:
        at = bisect_left(self._order, (checksum + 1) << 32, start, end) - 1
        for place in range(at, max(start - 1, at - _MOST_COLLISIONS), -1):
            entry = self._order[place]
            if entry >> 32 != checksum:
                return None
            position = entry & 0xFFFFFFFF
            if self[position] == name:
                return position
        if at - _MOST_COLLISIONS >= start:
            raise MalformedArchive(f"7z archive has more than {_MOST_COLLISIONS} names that collide")
        return None


class MemberNamesBuilder:
    """Names in the making.

    The block has each name with a zero after it; `_starts` has one element more than there are names. To find a name,
    each run of `_RUN` positions is sorted by the names' CRC32: ``crc << 32 | position``.
    """

    __slots__ = ("_block", "_order", "_run", "_starts")

    def __init__(self) -> None:
        self._block = bytearray()
        self._starts = array("I", [0])
        self._order = array("Q")
        self._run: list[int] = []

    def __len__(self) -> int:
        return len(self._starts) - 1

    def extend(self, names: list[bytes]) -> None:
        """Add names after those that are there."""
        first = len(self)
        self._starts.pop()
        self._starts.extend(accumulate([len(name) + 1 for name in names], initial=len(self._block)))
        self._block += b"\0".join(names) + b"\0"
        self._run += [crc << 32 | position for position, crc in enumerate(map(zlib.crc32, names), first)]
        while len(self._run) >= _RUN:
            self._sort(_RUN)

    def _sort(self, count: int) -> None:
        self._order.extend(sorted(self._run[:count]))
        del self._run[:count]

    def build(self) -> MemberNames:
        """All that was added."""
        self._sort(len(self._run))
        return MemberNames(memoryview(self._block), self._starts, self._order)


def no_names() -> MemberNames:
    """None at all."""
    return MemberNamesBuilder().build()


def parse_names(cursor: Cursor, count: int, limits: Limits) -> MemberNames:
    """The `count` names that fill `cursor`. Raises MalformedArchive."""
    names = MemberNamesBuilder()
    decoder = codecs.getincrementaldecoder("utf-16-le")("surrogatepass")
    rest = b""
    while cursor.left:
        text = decoder.decode(cursor.take(min(cursor.left, _CHUNK)))
        *whole, rest = (rest + _encoded(text)).split(b"\0")
        if len(names) + len(whole) > count:
            raise MalformedArchive(f"7z header has more than {count} names for {count} members")
        if len(max(whole, key=len, default=b"")) > limits.name or len(rest) > limits.name:
            raise MalformedArchive(f"7z header has a name over {limits.name} bytes")
        if whole:
            names.extend(whole)
    if rest or decoder.getstate()[0] or len(names) != count:
        raise MalformedArchive(f"7z header has {len(names)} whole names for {count} members")
    return names.build()


def _encoded(text: str) -> bytes:
    """The bytes of names as a file system has them."""
    encoded = text.encode("utf-8", "surrogatepass")
    if b"\xee\xbe" in encoded or b"\xee\xbf" in encoded:
        return _ESCAPED_BYTE.sub(_escaped_byte, encoded)
    return encoded


def _escaped_byte(match: "re.Match[bytes]") -> bytes:
    return bytes([0x80 | (match[1][0] & 1) << 6 | match[2][0] & 0x3F])


def encode_name(name: bytes) -> bytes:
    """A name as 7-Zip stores it, with its ending zero: UTF-16LE, bytes that are no UTF-8 as U+EF00 + byte.

    So are the bytes of the characters U+EF80 to U+EFFF, which would else stand for such bytes (seen with 7-Zip 26.02).
    """
    if name.isascii():
        return (name + b"\0").decode().encode("utf-16-le")
    text = name.decode("utf-8", "surrogateescape")
    return ("".join(map(_encode_character, text)) + "\0").encode("utf-16-le")


def _encode_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape makes of a byte
        return chr(code - 0xDC00 + 0xEF00)
    if 0xEF80 <= code <= 0xEFFF:
        return "".join(chr(0xEF00 + byte) for byte in character.encode())
    return character
