"""Which readers of a collection go through it in order, and which blocks they will want next.

A collection's blocks have an order, that of its manifest, and programs that read a collection's files one after the
other go through it across files as one that reads a large file does. A front is how far one of them has come. Kernels
ask slightly out of order; one that only looks at some bytes here and there never gets a front moving.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from riafs.formats.locators import MAX_BLOCK

_FRONTS = 16
_OUT_OF_ORDER = 8 << 20
_IN_ORDER = 2 << 20  # bytes after which a reader counts as one that goes on
_CROSSINGS = 2  # or so many borders of blocks
_FAR = 128 << 20  # bytes after which more is read ahead of it
_AGAIN = 4 << 20
_WINDOW, _FAR_WINDOW = 2 * MAX_BLOCK, 3 * MAX_BLOCK
_MOST_BLOCKS = 8


@dataclass(slots=True)
class _Front:
    block: int
    end: int
    """The byte of the block behind the last one read."""
    advance: int
    """Bytes that it has moved on."""
    crossings: int = 0
    looked: int = 0
    """The advance at which was looked ahead the last time."""

    def leads_to(self, block: int, offset: int, following: int | None) -> bool:
        """Whether a reader that has come here may read there next."""
        if block == self.block:
            return abs(offset - self.end) <= _OUT_OF_ORDER
        return block == following and offset <= _OUT_OF_ORDER

    def move(self, block: int, end: int, length: int) -> None:
        """The reader has come further."""
        if block != self.block:
            self.crossings += 1
            self.advance += length
            self.block, self.end = block, end
        elif end > self.end:
            self.advance += end - self.end
            self.end = end

    @property
    def is_moving(self) -> bool:
        """Whether it belongs to a reader that goes on."""
        return self.advance >= _IN_ORDER or self.crossings >= _CROSSINGS


class ReadAhead:
    """One per collection. `following` gives the blocks behind one; `fetch` begins to fetch one and returns its size."""

    def __init__(self, following: Callable[[int], Iterable[int]], fetch: Callable[[int], int]) -> None:
        self._following = following
        self._fetch = fetch
        self._fronts: list[_Front] = []

    def has_read(self, block: int, offset: int, length: int) -> None:
        """Somebody was given `length` bytes of a block."""
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
