"""Columns: numbers of one type by position, in memory, in a saved file, or partly in pages on disk.

Archives of whole keystores and large manifests have millions of members, so nothing is an object per member, and what
is on disk is used where it lies, without being read as a whole. While a column grows, its end is an array; once it
has `_AT_FIRST` bytes, whole groups of pages are handed to `Pages`, and read back one page at a time. What stays small
is an array all its life.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol, overload


class Column(Protocol):
    """Unsigned numbers by position: an array, bytes, or a part of a file."""

    def __len__(self) -> int:
        """The number of elements."""

    @overload
    def __getitem__(self, position: int, /) -> int: ...
    @overload
    def __getitem__(self, position: slice, /) -> Sequence[int]: ...
    def __iter__(self) -> Iterator[int]:
        """All elements in order."""


NamedColumns = Mapping[str, Column]

PAGE = 16 << 10
_GROUP = 16 * PAGE
_AT_FIRST = 1 << 20
_NAMES = 512


class PageSource(Protocol):
    """Pages of `PAGE` bytes by number."""

    def page(self, number: int) -> bytes:
        """A page, in any thread."""


class Pages(PageSource, Protocol):
    """A store of pages."""

    def write(self, data: bytes) -> int:
        """Keep whole pages. Returns the number of the first; the others follow."""


class GrowingColumn:
    """A column to which numbers are added.

    `code`: the element's type as in the module `array`; `pages`: None for memory only.
    """

    __slots__ = ("_code", "_firsts", "_most", "_pages", "_tail")

    def __init__(self, code: str, pages: Pages | None) -> None:
        self._code = code
        self._pages = pages
        self._tail = array(code)
        self._most = sys.maxsize if pages is None else _AT_FIRST // self._tail.itemsize
        self._firsts = array("I")
        """The first page of each group that was written."""

    def __len__(self) -> int:
        return len(self._firsts) * (_GROUP // self._tail.itemsize) + len(self._tail)

    def append(self, value: int) -> None:
        """Add one number."""
        self._tail.append(value)
        if len(self._tail) >= self._most:
            self._spill()

    def extend(self, values: Iterable[int] | bytes | bytearray) -> None:
        """Add numbers; bytes for a column of bytes only."""
        if isinstance(values, bytes | bytearray):
            self._tail.frombytes(values)
        else:
            self._tail.extend(values)
        if len(self._tail) >= self._most:
            self._spill()

    def _spill(self) -> None:
        assert self._pages is not None
        count = self._most = _GROUP // self._tail.itemsize
        whole = len(self._tail) // count * count
        for start in range(0, whole, count):
            self._firsts.append(self._pages.write(self._tail[start : start + count].tobytes()))
        del self._tail[:whole]

    def finished(self) -> Column:
        """The complete column. Nothing may be added afterwards."""
        if self._pages is None or not self._firsts:
            return self._tail
        return PagedColumn(self._tail, self._pages, self._firsts, _GROUP)


class PagedColumn:
    """A column whose beginning is in pages and whose end is the array `tail`, which also has the type.

    The pages are in groups of `group` bytes, each a row of pages whose first one `firsts` has; `in_pages` is how many
    elements are in them, as many as fit where it is not given.
    """

    __slots__ = ("_firsts", "_group", "_in_pages", "_pages", "_signed", "_tail", "_width")

    def __init__(
        self, tail: "array[int]", pages: PageSource, firsts: Sequence[int], group: int, in_pages: int | None = None
    ) -> None:
        self._tail = tail
        self._width = tail.itemsize
        self._signed = tail.typecode.islower()
        self._pages = pages
        self._firsts = firsts
        self._group = group
        self._in_pages = len(firsts) * (group // tail.itemsize) if in_pages is None else in_pages

    def __len__(self) -> int:
        return self._in_pages + len(self._tail)

    @overload
    def __getitem__(self, position: int, /) -> int: ...
    @overload
    def __getitem__(self, position: slice, /) -> Sequence[int]: ...
    def __getitem__(self, position: int | slice, /) -> int | Sequence[int]:
        if isinstance(position, slice):
            start, stop, _ = position.indices(len(self))
            return self._read(start, max(start, stop))
        if not 0 <= position < self._in_pages:
            if not -len(self) <= position < len(self):
                raise IndexError(position)
            position %= len(self)
            if position >= self._in_pages:
                return self._tail[position - self._in_pages]
        # As in `_page`, without the call: names are looked up by bisection.
        group, within = divmod(position * self._width, self._group)
        page, at = self._pages.page(self._firsts[group] + within // PAGE), within % PAGE
        return int.from_bytes(page[at : at + self._width], sys.byteorder, signed=self._signed)

    def __iter__(self) -> Iterator[int]:
        step = PAGE // self._width
        for start in range(0, len(self), step):
            yield from self._read(start, min(start + step, len(self)))

    def _page(self, offset: int) -> tuple[bytes, int]:
        """The page that has the byte at `offset` of the column, and where in it that is."""
        group, within = divmod(offset, self._group)
        return self._pages.page(self._firsts[group] + within // PAGE), within % PAGE

    def _read(self, start: int, stop: int) -> Sequence[int]:
        found = array(self._tail.typecode)
        offset, end = start * self._width, min(stop, self._in_pages) * self._width
        while offset < end:
            page, at = self._page(offset)
            piece = page[at : at + end - offset]
            found.frombytes(piece)
            offset += len(piece)
        if stop > self._in_pages:
            found.extend(self._tail[max(start - self._in_pages, 0) : stop - self._in_pages])
        return found


class GrowingNames:
    """Names to which more are added: their bytes, one behind the other, and where each ends."""

    __slots__ = ("_block", "_ends")

    def __init__(self, pages: Pages | None) -> None:
        self._block = GrowingColumn("B", pages)
        self._ends = GrowingColumn("Q", pages)

    def extend(self, names: Sequence[bytes]) -> None:
        """Add names."""
        if names:
            ends = accumulate(map(len, names), initial=len(self._block))
            next(ends)
            self._ends.extend(ends)
            self._block.extend(b"".join(names))

    def finished(self) -> "PagedNames":
        """The complete names. Nothing may be added afterwards."""
        return PagedNames(self._block.finished(), self._ends.finished())


class PagedNames(Sequence[bytes]):
    """Names by position."""

    __slots__ = ("_block", "_ends")

    def __init__(self, block: Column, ends: Column) -> None:
        self._block = block
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, position: int, /) -> bytes: ...
    @overload
    def __getitem__(self, position: slice, /) -> Sequence[bytes]: ...
    def __getitem__(self, position: int | slice, /) -> bytes | Sequence[bytes]:
        if isinstance(position, slice):
            start, stop, _ = position.indices(len(self))
            return self._several(start, max(start, stop))
        end = self._ends[position]
        position %= len(self)
        return bytes(self._block[self._ends[position - 1] if position else 0 : end])

    def _several(self, start: int, stop: int) -> Sequence[bytes]:
        if start == stop:
            return []
        first = self._ends[start - 1] if start else 0
        ends = [end - first for end in self._ends[start:stop]]
        block = bytes(self._block[first : first + ends[-1]])
        return [block[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), _NAMES):
            yield from self._several(start, min(start + _NAMES, len(self)))
