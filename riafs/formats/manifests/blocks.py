"""The blocks of a manifest: what they are called, and where they lie in their streams.

A stream is one line of a manifest, its blocks one after the other. Blocks are numbered through the whole manifest. What
names them (with hints, which change) is separate from their positions (which do not).
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from riafs.formats.columns import Column, GrowingColumn, Pages
from riafs.formats.locators import Locator, parse_locator

NO_BLOCK = -1
"""In place of a block: bytes that a file has by its length, but that lie beyond the end of its stream."""


class Segment(NamedTuple):
    """A part of a file: `length` bytes from `offset` on in the block with that number."""

    block: int
    offset: int
    length: int


class Locators:
    """The text of each locator, by the block's number."""

    __slots__ = ("_starts", "_text")

    def __init__(self, text: Column, starts: Column) -> None:
        """`starts` has one element more than there are locators."""
        self._text = text
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def locator(self, block: int) -> Locator:
        """The locator of a block. Raises MalformedLocator where a manifest was read leniently."""
        return parse_locator(bytes(self._text[self._starts[block] : self._starts[block + 1]]))

    def digest(self, block: int) -> bytes:
        """The digest of a block, quicker."""
        start = self._starts[block]
        return bytes(self._text[start : start + 32])


class LocatorsBuilder:
    """Locators to which more are added."""

    __slots__ = ("_starts", "_text")

    def __init__(self, pages: Pages | None) -> None:
        self._text = GrowingColumn("B", pages)
        self._starts = GrowingColumn("Q", pages)
        self._starts.append(0)

    def append(self, text: bytes) -> None:
        """Add a block."""
        self._text.extend(text)
        self._starts.append(len(self._text))

    def build(self) -> Locators:
        """All that was added."""
        return Locators(self._text.finished(), self._starts.finished())


class Streams:
    """The positions of blocks: the first block of each stream, and the end of each block in its stream."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, firsts: Column, ends: Column) -> None:
        self._firsts = firsts
        self._ends = ends

    def within_one(self, stream: int, position: int, length: int) -> tuple[int, int]:
        """The block that holds all of a range of a stream, and the range's offset in it; NO_BLOCK where none does."""
        first = self._firsts[stream]
        after = self._firsts[stream + 1] if stream + 1 < len(self._firsts) else len(self._ends)
        ends = self._ends
        block = bisect_right(ends, position, first, after)
        if block == after or position + length > ends[block]:
            return NO_BLOCK, 0
        return block, position - (ends[block - 1] if block > first else 0)

    def segments(self, stream: int, position: int, length: int) -> Iterator[Segment]:
        """The segments of a range of a stream, in order; those of blocks without bytes too, which have none."""
        first = self._firsts[stream]
        after = self._firsts[stream + 1] if stream + 1 < len(self._firsts) else len(self._ends)
        block = bisect_right(self._ends, position, first, after)
        while length > 0 and block < after:
            begin = self._ends[block - 1] if block > first else 0
            taken = min(length, self._ends[block] - position)
            yield Segment(block, position - begin, taken)
            position, length, block = position + taken, length - taken, block + 1
        if length > 0:
            yield Segment(NO_BLOCK, 0, length)


class StreamsBuilder:
    """Streams to which more are added."""

    __slots__ = ("_ends", "_firsts")

    def __init__(self, pages: Pages | None) -> None:
        self._firsts = GrowingColumn("Q", pages)
        self._ends = GrowingColumn("Q", pages)

    def __len__(self) -> int:
        return len(self._firsts)

    def begin(self) -> int:
        """A new stream, without blocks yet. Returns its number."""
        self._firsts.append(len(self._ends))
        return len(self._firsts) - 1

    def append(self, end: int) -> None:
        """Add a block to the newest stream, which it makes `end` bytes long."""
        self._ends.append(end)

    def build(self) -> Streams:
        """All that was added."""
        return Streams(self._firsts.finished(), self._ends.finished())
