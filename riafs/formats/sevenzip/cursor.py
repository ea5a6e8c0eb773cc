"""Reading the bytes of a 7z header: numbers, bit vectors, digests, all bounded.

Owns the encoding of single values; knows nothing of what they mean. Invariant: no count read from a header leads to an
allocation before it was checked against the bytes that are left and against `Limits`. Whatever the bytes are, the only
exceptions are MalformedArchive and UnsupportedArchive. The format is that of ``7zFormat.txt`` in 7-Zip's sources.
"""

import enum
import sys
from array import array
from dataclasses import dataclass

from riafs.errors import MalformedArchive, OversizedArchive, UnsupportedArchive
from riafs.formats.columns import Column

# Sizes, offsets and their sums stay inside signed 64-bit arithmetic, as in 7-Zip itself.
MAX_SIZE = (1 << 63) - 1
SIGNATURE_HEADER_SIZE = 32
"""Bytes at an archive's front that say where its header is; packed streams come behind them."""

_EXTRA_BYTES = bytes(8 - (0xFF ^ first).bit_length() for first in range(256))
_MOST_REPEATS_AT_ONCE = 4096
_MOST_RECORDS = 256  # 7-Zip writes about 20; each may take as long as all members do
_DIGIT_TO_FLAG = bytes(digit & 1 for digit in range(256))


class Record(enum.IntEnum):
    """The kinds of records and properties (``7zFormat.txt``: property IDs)."""

    END = 0x00
    HEADER = 0x01
    ARCHIVE_PROPERTIES = 0x02
    ADDITIONAL_STREAMS = 0x03
    MAIN_STREAMS = 0x04
    FILES = 0x05
    PACK_INFO = 0x06
    UNPACK_INFO = 0x07
    SUBSTREAMS_INFO = 0x08
    SIZE = 0x09
    CRC = 0x0A
    FOLDER = 0x0B
    CODERS_UNPACK_SIZE = 0x0C
    NUM_UNPACK_STREAM = 0x0D
    EMPTY_STREAM = 0x0E
    EMPTY_FILE = 0x0F
    ANTI = 0x10
    NAMES = 0x11
    CREATED = 0x12
    ACCESSED = 0x13
    MODIFIED = 0x14
    ATTRIBUTES = 0x15
    ENCODED_HEADER = 0x17
    START_POSITION = 0x18
    DUMMY = 0x19

    @property
    def byte(self) -> bytes:
        """Its byte in a header."""
        return bytes([self])


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that an archive may claim. Sizes in bytes."""

    header: int = 512 << 20
    """Bytes of the header, packed and decoded."""
    entries: int = 8_000_000
    """Number of members and directories, and of folders."""
    dictionary: int = 1 << 30
    """Bytes of memory of one decoder (LZMA, LZMA2 dictionary; PPMd model)."""
    name: int = 65_536
    """Bytes of one member's name."""


@dataclass(frozen=True, slots=True)
class Digests:
    """CRC32 values by position; `defined` has a byte 0 or 1 for each."""

    values: Column
    defined: Column

    def get(self, position: int) -> int | None:
        """The CRC32 at `position`, None where the archive has none."""
        return self.values[position] if self.defined[position] else None

    @classmethod
    def none(cls, count: int) -> "Digests":
        """`count` undefined values."""
        return cls(array("I", bytes(4 * count)), bytes(count))


class Cursor:
    """A position in ``data[start:end]`` that only moves forward."""

    __slots__ = ("_data", "_end", "_position", "_records")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._position = start
        self._end = len(data) if end is None else end
        self._records = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._end - self._position

    @property
    def position(self) -> int:
        """Bytes of the data before the next one to be read."""
        return self._position

    def span(self, start: int) -> bytes:
        """The bytes from `start` up to the position."""
        return self._data[start : self._position]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start = self._position
        self.skip(count)
        return self._data[start : self._position]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        if count > self.left:
            raise MalformedArchive(f"7z header ends at byte {self._end}, {count - self.left} bytes too early")
        self._position += count

    def skip_property(self) -> None:
        """Pass over a property whose meaning is not needed: its size, then that many bytes."""
        self.skip(self.number())

    def skip_repeats(self, expected: bytes, most: int) -> int:
        """Pass over `expected` as often as it comes next, at most `most` times. Returns how often it came."""
        found, step = 0, 1
        while step:
            # The block compared is never much longer than what came already, so a wrong guess costs nothing.
            end = self._position + step * len(expected)
            if found + step <= most and end <= self._end and self._data.startswith(expected * step, self._position):
                self._position = end
                found += step
                step = min(2 * step, _MOST_REPEATS_AT_ONCE)
            else:
                step //= 2
        return found

    def part(self, count: int) -> "Cursor":
        """A cursor over the next `count` bytes, which this one passes over."""
        start = self._position
        self.skip(count)
        return Cursor(self._data, start, self._position)

    def number(self) -> int:
        """A 7z number: the leading one bits of the first byte tell how many bytes follow. 0 to 2**64 - 1."""
        return self.numbers(1)[0]

    def record(self) -> int:
        """A 7z number that is the kind of the next record or property, or its end mark."""
        self._records += 1
        if self._records > _MOST_RECORDS:
            raise MalformedArchive(f"7z header has more than {_MOST_RECORDS} records and properties")
        return self.number()

    def numbers(self, count: int) -> "array[int]":
        """`count` 7z numbers."""
        self.at_least(count)
        data, position, values = self._data, self._position, array("Q")
        try:
            for _ in range(count):
                first = data[position]
                position += 1
                if first < 0x80:
                    values.append(first)
                    continue
                if first < 0xC0:
                    values.append((first & 0x3F) << 8 | data[position])
                    position += 1
                    continue
                extra = _EXTRA_BYTES[first]
                low = int.from_bytes(data[position : position + extra], "little")
                values.append(low | (first & (0x7F >> extra)) << 8 * extra)
                position += extra
        except IndexError:
            position = self._end + 1
        self.skip(position - self._position)
        return values

    def sizes(self, count: int) -> "array[int]":
        """`count` 7z numbers that are sizes in bytes; even their sum is at most `MAX_SIZE`."""
        values = self.numbers(count)
        if sum(values) > MAX_SIZE:
            raise MalformedArchive("7z header claims sizes beyond 2**63 bytes")
        return values

    def count(self, what: str, limit: int, bytes_each: int = 0) -> int:
        """A 7z number that counts `what`, of which each takes at least `bytes_each` of the bytes left."""
        count = self.number()
        if count > limit:
            raise OversizedArchive(f"7z header claims {count} {what}, the bound is {limit}")
        self.at_least(count * bytes_each)
        return count

    def at_least(self, count: int) -> None:
        """Refuse a header that has fewer than `count` bytes left."""
        if count > self.left:
            raise MalformedArchive(f"7z header claims at least {count} more bytes, {self.left} are left")

    def bits(self, count: int) -> bytes:
        """`count` bits, highest of each byte first, as bytes 0 or 1."""
        raw = self.take((count + 7) // 8)
        digits = f"{int.from_bytes(raw, 'big'):0{8 * len(raw)}b}" if raw else ""
        return digits[:count].encode().translate(_DIGIT_TO_FLAG)

    def optional_bits(self, count: int) -> bytes:
        """A byte that is not 0 for `count` one bits, or 0 and the `count` bits."""
        return self.bits(count) if self.byte() == 0 else b"\x01" * count

    def words(self, flags: bytes) -> "array[int]":
        """A little-endian 32-bit word for each flag that is 1; 0 for the others."""
        found = array("I", self.take(4 * flags.count(1)))
        if sys.byteorder == "big":
            found.byteswap()
        if len(found) == len(flags):
            return found
        values = iter(found)
        return array("I", [next(values) if flag else 0 for flag in flags])

    def digests(self, count: int) -> Digests:
        """`count` CRC32 values, of which some may be undefined."""
        self.at_least(1 + count // 8)
        defined = self.optional_bits(count)
        return Digests(self.words(defined), defined)

    def refuse_external(self) -> None:
        """The byte for values in another stream, which no known program writes."""
        if self.byte() != 0:
            raise UnsupportedArchive("7z header keeps values in an external stream")


def write_number(value: int) -> bytes:
    """The 7z number that `Cursor.number` reads as `value`, 0 to 2**64 - 1."""
    for extra in range(8):
        if value < 1 << 7 * (extra + 1):
            first = (0xFF00 >> extra) & 0xFF | value >> 8 * extra
            return bytes([first]) + (value & (1 << 8 * extra) - 1).to_bytes(extra, "little")
    return b"\xff" + value.to_bytes(8, "little")
