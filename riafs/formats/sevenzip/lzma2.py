"""LZMA2 streams as chunks: how many bytes each takes and makes, and where decoding can begin, without decoding.

Owns the chunk headers only. An LZMA2 stream is a row of chunks that ends with a zero byte; at a chunk that resets the
dictionary a fresh decoder can start (control bytes as in liblzma's ``lzma2_decoder.c``, checked with 7-Zip 26.02, which
resets at the start of each encoder block: every MiB at ``-mx1``). Whatever the bytes are, the only exception is
MalformedArchive.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from riafs.errors import MalformedArchive

HEADER_SIZE = 6
"""Bytes that the longest chunk header takes; less are enough at the end of a stream."""

_END = 0x00
_STORED_RESETS_DICTIONARY = 0x01
_STORED = 0x02
_FIRST_PACKED = 0x80
_NEW_PROPERTIES = 0xC0
_RESETS_DICTIONARY = 0xE0

NEAREST_RESETS = 256 << 10
"""Resets less than this many decoded bytes after a remembered one are not remembered: they would gain nothing, and a
stream of tiny chunks could not be told from one that is made to fill memory."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: bytes that it takes in the stream, header included, and bytes that it makes."""

    packed: int
    unpacked: int
    resets: bool
    """Whether a decoder can begin here."""


def parse_chunk(header: bytes) -> Chunk | None:
    """The chunk that begins with `header`; None at the end of the stream. Raises MalformedArchive."""
    control = header[0] if header else None
    if control == _END:
        return None
    if control is None or _STORED < control < _FIRST_PACKED:
        raise MalformedArchive(f"LZMA2 chunk begins with {header[:1].hex() or 'nothing'}")
    taken = 3 if control < _FIRST_PACKED else 6 if control >= _NEW_PROPERTIES else 5
    if len(header) < taken:
        raise MalformedArchive("LZMA2 stream ends inside the header of a chunk")
    size = int.from_bytes(header[1:3], "big") + 1
    if control < _FIRST_PACKED:
        return Chunk(taken + size, size, control == _STORED_RESETS_DICTIONARY)
    unpacked = size + ((control & 0x1F) << 16)
    return Chunk(taken + int.from_bytes(header[3:5], "big") + 1, unpacked, control >= _RESETS_DICTIONARY)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a stream that is decoded by itself: from a reset up to the next one, or up to a later one (a *run*)."""

    packed: int
    """Its offset in the stream."""
    packed_end: int
    start: int
    """The offset of its bytes in the decoded stream."""
    end: int
    is_run: bool = False
    """Whether decoding could begin inside it as well."""

    @property
    def size(self) -> int:
        """The number of its decoded bytes."""
        return self.end - self.start


class Resets:
    """The offsets at which decoding of a stream (`size` decoded bytes in `packed_size`) can begin, as far as it was
    walked.

    Invariants: both columns rise; the first reset is at 0; `walked` is where the next chunk header is.
    """

    __slots__ = ("_given_up", "_packed", "_starts", "packed_size", "size", "walked", "walked_packed")

    def __init__(self, packed_size: int, size: int) -> None:
        self.packed_size = packed_size
        self.size = size
        self.walked = 0
        self.walked_packed = 0
        self._given_up = False
        self._starts = array("Q", [0])
        self._packed = array("Q", [0])

    @property
    def complete(self) -> bool:
        """Whether every reset is known that can be."""
        return self._given_up or self.walked >= self.size

    def give_up(self) -> None:
        """End the walk, as the stream is damaged here: the rest is one stretch, which cannot be decoded completely."""
        self._given_up = True

    def knows(self, offset: int) -> bool:
        """Whether the stretch that holds the decoded byte `offset` is known to its end."""
        return self.complete or offset < self._starts[-1]

    def stretch(self, offset: int, last: int = 0) -> Stretch:
        """From the reset before the decoded byte `offset` to the one after it, or after the byte `last` if that comes
        later; `knows` must know both."""
        number, following = bisect_right(self._starts, offset) - 1, bisect_right(self._starts, max(offset, last))
        end, packed_end = self.size, self.packed_size
        if following < len(self._starts):
            end, packed_end = self._starts[following], self._packed[following]
        return Stretch(self._packed[number], packed_end, self._starts[number], end, is_run=following > number + 1)

    def walk(self, read: Callable[[int, int], bytes | bytearray | memoryview], beyond: int, most: int) -> None:
        """Go over at most `most` chunks, or until the stretch of the decoded byte `beyond` is known.

        `read(offset, length)` gives bytes of the stream. Raises MalformedArchive, and what `read` raises.
        """
        for _ in range(most):
            if self.knows(beyond):
                return
            left = self.packed_size - self.walked_packed
            chunk = parse_chunk(bytes(read(self.walked_packed, min(HEADER_SIZE, left))) if left > 0 else b"")
            if chunk is None:
                raise MalformedArchive(f"LZMA2 stream ends after {self.walked} of {self.size} bytes")
            self._pass(chunk)

    def _pass(self, chunk: Chunk) -> None:
        if self.walked == 0 and not chunk.resets:
            raise MalformedArchive("LZMA2 stream begins without a reset of the dictionary")
        if chunk.packed > self.packed_size - self.walked_packed or chunk.unpacked > self.size - self.walked:
            raise MalformedArchive("LZMA2 chunk reaches beyond the end of its stream")
        if chunk.resets and self.walked - self._starts[-1] >= NEAREST_RESETS:
            self._starts.append(self.walked)
            self._packed.append(self.walked_packed)
        self.walked += chunk.unpacked
        self.walked_packed += chunk.packed

    def columns(self) -> tuple["array[int]", "array[int]"]:
        """The known resets: where they are among the decoded bytes, and in the stream."""
        return self._starts, self._packed

    def restore(self, starts: "array[int]", packed: "array[int]", walked: int, walked_packed: int) -> bool:
        """Take over what was found earlier. False, and nothing taken over, where it cannot be about this stream."""
        rising = all(a < b for column in (starts, packed) for a, b in pairwise(column))
        inside = len(starts) == len(packed) > 0 and starts[-1] <= walked <= self.size
        if not (rising and inside and packed[-1] <= walked_packed <= self.packed_size and starts[0] == packed[0] == 0):
            return False
        self._starts, self._packed = starts, packed
        self.walked, self.walked_packed = walked, walked_packed
        return True
