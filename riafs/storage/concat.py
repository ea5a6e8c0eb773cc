"""Several ranged bytes read as one, in order: the chunks of a key."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from riafs.storage.ranged import Buffer, RangedBytes


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
        pieces: list[Buffer] = []
        length = min(length, self.size - offset)
        index = bisect_right(self._ends, offset)
        while length > 0:
            start = self._ends[index] - self._parts[index].size
            piece = await self._parts[index].read(offset - start, length)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
            index += 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()
