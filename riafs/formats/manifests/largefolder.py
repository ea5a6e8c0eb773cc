"""A folder of very many files, parsed into columns in pages, with bounded memory.

Its tokens are sorted some ten thousand at a time. Where these runs follow each other, as in what Arvados writes, they
are the folder; else they are merged into a second set of columns, which has the parts of a file side by side.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, groupby, islice, pairwise
from operator import eq, itemgetter

from riafs.formats.columns import GrowingColumn, GrowingNames, Pages
from riafs.formats.manifests.blocks import NO_BLOCK, Streams
from riafs.formats.manifests.folder import FolderColumns, ManifestFolder, StreamRange
from riafs.formats.manifests.tree import FolderTree, Runs

LARGE = 1 << 20
"""Bytes of its tokens from which on a folder is large."""
_AT_ONCE = 50_000
_ROWS = 1 << 16
"""Rows in memory while runs are merged."""
_PARTS = 1 << 10
_SEVERAL = (1 << 32) - 1
"""Instead of the stream, for a file of several parts: its position is that of the list of parts."""

_Row = tuple[bytes, int, int, int]
"""Name, position, length, stream."""


class _Rows:
    """Rows to which more are added."""

    def __init__(self, pages: Pages) -> None:
        self._names = GrowingNames(pages)
        self._positions, self._lengths, self._streams = (
            GrowingColumn("Q", pages),
            GrowingColumn("q", pages),
            GrowingColumn("I", pages),
        )
        self._batch: list[_Row] = []

    def __len__(self) -> int:
        return len(self._positions) + len(self._batch)

    def add(self, columns: FolderColumns) -> None:
        """Add many rows."""
        self._names.extend(columns.names)
        self._positions.extend(columns.positions)
        self._lengths.extend(columns.lengths)
        self._streams.extend(columns.streams)

    def append(self, row: _Row) -> None:
        """Add a row."""
        self._batch.append(row)
        if len(self._batch) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        names, positions, lengths, streams = zip(*self._batch, strict=True)
        self._batch.clear()
        self._names.extend(names)
        self._positions.extend(positions)
        self._lengths.extend(lengths)
        self._streams.extend(streams)

    def build(self) -> "_Table":
        """All that was added."""
        if self._batch:
            self._flush()
        return _Table(self)


class _Table:
    """Rows as columns."""

    def __init__(self, rows: _Rows) -> None:
        self.names = rows._names.finished()
        self.positions = rows._positions.finished()
        self.lengths = rows._lengths.finished()
        self.streams = rows._streams.finished()

    def rows(self, start: int, end: int, step: int) -> Iterator[_Row]:
        """Rows in order, `step` of them read at a time."""
        for first in range(start, end, step):
            part = slice(first, min(first + step, end))
            yield from zip(self.names[part], self.positions[part], self.lengths[part], self.streams[part], strict=True)


class _MergedFolder(ManifestFolder):
    """A folder with files of several parts. `parts`: those of each such file, then a row with their number."""

    __slots__ = ("_parts",)

    def __init__(self, streams: Streams, table: _Table, parts: _Table) -> None:
        super().__init__(streams, table, {})
        self._parts = parts

    def parts(self, index: int) -> Sequence[StreamRange]:
        """The ranges of streams that a file is made of, in order."""
        return list(self._each_part(index))

    def _each_part(self, index: int) -> Iterable[StreamRange]:
        if self._streams_of[index] != _SEVERAL:
            return super().parts(index)
        end = self._positions[index]
        rows = self._parts.rows(end - self._parts.positions[end], end, _PARTS)
        return (StreamRange(stream, position, length) for _, position, length, stream in rows)

    def _is_plain(self, length: int, stream: int, name: bytes) -> bool:
        return stream != _SEVERAL and super()._is_plain(length, stream, name)

    def glance(self, index: int) -> tuple[int, int, int]:
        """A file's size, block and offset: no block for a file of several parts."""
        if self._streams_of[index] == _SEVERAL:
            return self._lengths[index], NO_BLOCK, 0
        return super().glance(index)


def read_large_folder(
    tree: FolderTree, runs: Runs, streams: Streams, number: int, make_pages: Callable[[], Pages]
) -> ManifestFolder:
    """The folder with that number."""
    rows = _Rows(make_pages())
    bounds, last, several = [0], b"", False
    for columns in _sorted_pieces(tree, runs, number):
        if columns.names[0] <= last:
            bounds.append(len(rows))
        several = several or any(map(eq, columns.names, islice(columns.names, 1, None)))
        rows.add(columns)
        last = columns.names[-1]
    bounds.append(len(rows))
    table = rows.build()
    if len(bounds) == 2 and not several:
        return ManifestFolder(streams, table, {})
    return _merged(streams, table, bounds, make_pages())


def _sorted_pieces(tree: FolderTree, runs: Runs, number: int) -> Iterator[FolderColumns]:
    """Files and folders, each piece sorted; folders are put where they belong as far as the files are in order."""
    below = sorted(tree.below(number))
    columns = FolderColumns()
    for run in tree.runs(number):
        for piece in runs.pieces(run):
            columns.add_piece(piece, runs.stream(run))
            if len(columns.names) >= _AT_ONCE:
                before = bisect_left(below, max(columns.names))
                columns.add_folders(below[:before])
                del below[:before]
                yield columns.ordered()
                columns = FolderColumns()
    columns.add_folders(below)
    if columns.names:
        yield columns.ordered()


def _merged(streams: Streams, table: _Table, bounds: Sequence[int], pages: Pages) -> ManifestFolder:
    """The folder of the sorted runs of `table`."""
    step = max(16, _ROWS // len(bounds))
    sources = [table.rows(start, end, step) for start, end in pairwise(bounds)]
    rows, parts = _Rows(pages), _Rows(pages)
    for name, found in groupby(merge(*sources, key=itemgetter(0)), itemgetter(0)):
        (*firsts,) = islice(found, 2)
        if len(firsts) == 1:
            rows.append(firsts[0])
            continue
        begin, size = len(parts), 0
        for _, position, length, stream in chain(firsts, found):  # `found` continues after islice
            parts.append((b"", position, length, stream))
            size += length
        rows.append((name, len(parts), size, _SEVERAL))
        parts.append((b"", len(parts) - begin, 0, 0))
    return _MergedFolder(streams, rows.build(), parts.build())
