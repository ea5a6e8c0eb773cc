"""Several ranged bytes read as one, in order: the chunks of a key."""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate

from riafs.storage.ranged import Buffer, RangedBytes

ReadPart = Callable[[int, int, int], Awaitable[Buffer]]
"""Reads from one part: its index, an offset in it, and a length that may reach beyond its end."""


async def read_across(ends: Sequence[int], offset: int, length: int, read: ReadPart) -> Buffer:
    """Bytes of parts that stand one after the other and end at `ends`. Raises what `read` raises."""
    pieces: list[Buffer] = []
    length = min(length, ends[-1] - offset if ends else 0)
    index = bisect_right(ends, offset)
    while length > 0:
        piece = await read(index, offset - (ends[index - 1] if index else 0), length)
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
        index += 1
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Concatenated:
    """RangedBytes over `parts`, which it owns."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[RangedBytes]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(part.size for part in parts))

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._ends[-1] if self._ends else 0

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes."""
        return await read_across(self._ends, offset, length, self._read_part)

    async def _read_part(self, index: int, offset: int, length: int) -> Buffer:
        return await self._parts[index].read(offset, length)

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()
