"""Read-ahead of a collection: finding its sequential readers, and the blocks that they need next.

The blocks of a collection have the order of its manifest. A program that reads the files of a collection one after the
other reads its blocks in this order, like a program that reads a large file. A front is the position of one reader.
Requests of the kernel may be slightly out of order. A program that reads at random never moves its front far enough for
read-ahead.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from riafs.formats.locators import MAX_BLOCK

_FRONTS = 16
_OUT_OF_ORDER = 8 << 20
_IN_ORDER = 2 << 20  # bytes after which a reader is sequential
_CROSSINGS = 2  # or so many borders of blocks
_FAR = 128 << 20  # bytes after which more is read ahead
_AGAIN = 4 << 20
_WINDOW, _FAR_WINDOW = 2 * MAX_BLOCK, 3 * MAX_BLOCK
_MOST_BLOCKS = 8


@dataclass(slots=True)
class _Front:
    block: int
    end: int
    """End of the last read in the block."""
    advance: int
    """Bytes that it has advanced."""
    crossings: int = 0
    looked: int = 0
    """The advance at the last read-ahead."""

    def leads_to(self, block: int, offset: int, following: int | None) -> bool:
        """Whether a read at `offset` of `block` may continue this front. `following`: the next block."""
        if block == self.block:
            return abs(offset - self.end) <= _OUT_OF_ORDER
        return block == following and offset <= _OUT_OF_ORDER

    def move(self, block: int, end: int, length: int) -> None:
        """Advance to `end` of `block`."""
        if block != self.block:
            self.crossings += 1
            self.advance += length
            self.block, self.end = block, end
        elif end > self.end:
            self.advance += end - self.end
            self.end = end

    @property
    def is_moving(self) -> bool:
        """Whether it belongs to a sequential reader."""
        return self.advance >= _IN_ORDER or self.crossings >= _CROSSINGS


class ReadAhead:
    """One per collection. `following`: the blocks after a block; `fetch`: begins to fetch a block and returns its
    size.
    """

    def __init__(self, following: Callable[[int], Iterable[int]], fetch: Callable[[int], int]) -> None:
        self._following = following
        self._fetch = fetch
        self._fronts: list[_Front] = []

    def has_read(self, block: int, offset: int, length: int) -> None:
        """Note that a program has read `length` bytes of a block."""
        for front in self._fronts:
            if front.leads_to(block, offset, next(iter(self._following(front.block)), None)):
                crossed = front.block != block
                front.move(block, offset + length, length)
                self._fronts.remove(front)
                break
        else:
            front, crossed = _Front(block, offset + length, length), False
        self._fronts.insert(0, front)
        del self._fronts[_FRONTS:]
        if front.is_moving and (crossed or not front.looked or front.advance - front.looked >= _AGAIN):
            front.looked = front.advance
            self._look(front)

    def _look(self, front: _Front) -> None:
        window = _FAR_WINDOW if front.advance >= _FAR else _WINDOW
        for block in islice(self._following(front.block), _MOST_BLOCKS):
            window -= self._fetch(block)
            if window <= 0:
                return
