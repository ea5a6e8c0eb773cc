"""The names of a 7z archive's members, and the way from a name to its member.

Owns how names are written: UTF-16LE, each ended by a zero. A byte that is no part of valid UTF-8 is written by 7-Zip as
U+EF00 + byte (0xFF as U+EFFF); so are the three bytes of characters in that range and of lone surrogates, so nothing is
ambiguous (seen with 7-Zip 26.02). Kept as one block of bytes and a hash table of positions: 20 bytes a name besides its
own, since archives of whole keystores have millions. Of equal names the last one counts.
"""

import codecs
import re
from array import array
from itertools import accumulate

from riafs.errors import MalformedArchive
from riafs.formats.sevenzip_cursor import Cursor, Limits

_CHUNK = 1 << 20
# U+EF80 to U+EFFF in UTF-8.
_ESCAPED_BYTE = re.compile(rb"\xee([\xbe\xbf])([\x80-\xbf])")


class Names:
    """Names by position, and positions by name. Names are bytes as in a file system, ``/`` between parts."""

    __slots__ = ("_block", "_slots", "_starts")

    def __init__(self, count: int) -> None:
        """Room for `count` names; more must not be added, or looking one up may not end."""
        self._block = bytearray()
        self._starts = array("I", [0])
        # Open addressing: position + 1, or 0 for empty; at most half full, so a look-up meets an empty slot.
        self._slots = array("I", bytes(4 << (2 * count).bit_length()))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, position: int) -> bytes:
        return bytes(self._block[self._starts[position] : self._starts[position + 1] - 1])

    def find(self, name: bytes) -> int | None:
        """The position of the last of these names."""
        occupant = self._slots[self._slot_of(name)]
        return occupant - 1 if occupant else None

    def extend(self, names: list[bytes]) -> None:
        """Add names after those that are there."""
        first = len(self)
        self._starts.pop()
        self._starts.extend(accumulate([len(name) + 1 for name in names], initial=len(self._block)))
        self._block += b"\0".join(names) + b"\0"
        slots, mask = self._slots, len(self._slots) - 1
        for number, name in enumerate(names, first + 1):
            slot = hash(name) & mask
            slots[slot if not slots[slot] else self._slot_of(name)] = number

    def _slot_of(self, name: bytes) -> int:
        """The slot of `name`, or the empty one where it belongs."""
        mask = len(self._slots) - 1
        slot = hash(name) & mask
        while (occupant := self._slots[slot]) and self[occupant - 1] != name:
            slot = (slot + 1) & mask
        return slot


def parse_names(cursor: Cursor, count: int, limits: Limits) -> Names:
    """The `count` names that fill `cursor`. Raises MalformedArchive."""
    names = Names(count)
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
    return names


def _encoded(text: str) -> bytes:
    """The bytes of names as a file system has them."""
    encoded = text.encode("utf-8", "surrogatepass")
    if b"\xee\xbe" in encoded or b"\xee\xbf" in encoded:
        return _ESCAPED_BYTE.sub(_escaped_byte, encoded)
    return encoded


def _escaped_byte(match: "re.Match[bytes]") -> bytes:
    return bytes([0x80 | (match[1][0] & 1) << 6 | match[2][0] & 0x3F])
