"""Ranges of bytes: which parts of a file are local. Pure.

Invariant: sorted, disjoint, none empty, none touching the next.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of offsets as half-open ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> tuple[int, int]:
        """Add ``[start, end)``, which is not empty; returns the range that it is a part of now."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return start, end

    def clip(self, end: int) -> None:
        """Take out everything from `end` on."""
        kept = bisect_left(self._starts, end)
        del self._starts[kept:], self._ends[kept:]
        if kept and self._ends[-1] > end:
            self._ends[-1] = end

    def covers(self, start: int, end: int) -> bool:
        """Whether every offset of ``[start, end)`` is in."""
        place = bisect_right(self._starts, start) - 1
        return start >= end or (place >= 0 and self._ends[place] >= end)

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """``[start, end)`` cut into (start, end, whether it is in), in order."""
        place = bisect_right(self._ends, start)
        while start < end:
            if place == len(self._starts) or self._starts[place] >= end:
                yield start, end, False
                return
            if self._starts[place] > start:
                yield start, self._starts[place], False
                start = self._starts[place]
            stop = min(end, self._ends[place])
            yield start, stop, True
            start, place = stop, place + 1
