"""One parsed folder of a manifest: its names in order, and for each file its size and the positions of its bytes."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import lt
from typing import NamedTuple, Protocol

from riafs import memory
from riafs.formats.columns import Column
from riafs.formats.manifests.blocks import NO_BLOCK, Segment, Streams
from riafs.formats.manifests.text import columns_of
from riafs.formats.manifests.tree import FolderTree, Runs

_MANY_SEGMENTS = 100_000
_PER_SEGMENT = 300
FOLDER = -1
"""In place of the size of a folder."""


class StreamRange(NamedTuple):
    """One token of a file: a range of a stream."""

    stream: int
    position: int
    length: int


class FolderTable(Protocol):
    """A row for each name of a folder: a file's position, length and stream; a folder has the length FOLDER."""

    @property
    def names(self) -> Sequence[bytes]:
        """Sorted as bytes, each once."""

    @property
    def positions(self) -> Column:
        """In the stream."""

    @property
    def lengths(self) -> Column:
        """In bytes."""

    @property
    def streams(self) -> Column:
        """Their numbers."""


class ManifestFolder:
    """A folder: `names` of files and folders, sorted as bytes, each once."""

    __slots__ = ("_lengths", "_more", "_positions", "_streams", "_streams_of", "names")

    def __init__(self, streams: Streams, columns: "FolderTable", more: Mapping[bytes, Sequence[StreamRange]]) -> None:
        self.names: Sequence[bytes] = columns.names
        self._streams = streams
        self._positions = columns.positions
        self._lengths = columns.lengths
        self._streams_of = columns.streams
        self._more = more

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: bytes) -> int | None:
        """The index of a name, None if there is no such name."""
        index = bisect_left(self.names, name)
        return index if index < len(self.names) and self.names[index] == name else None

    def is_folder(self, index: int) -> bool:
        """Whether that name is a folder."""
        return self._lengths[index] == FOLDER

    def size(self, index: int) -> int:
        """Bytes in a file; 0 for a folder."""
        return max(self._lengths[index], 0)

    def parts(self, index: int) -> Sequence[StreamRange]:
        """The ranges of streams that a file is made of, in order; those without bytes too. A folder has none."""
        if self.is_folder(index):
            return ()
        several = self._more.get(self.names[index])
        return several or (StreamRange(self._streams_of[index], self._positions[index], self._lengths[index]),)

    def _each_part(self, index: int) -> Iterable[StreamRange]:
        return self.parts(index)

    def segments(self, index: int) -> Sequence[Segment]:
        """The parts of blocks that a file is made of, in order, none of them empty. Raises OutOfMemory."""
        found: list[Segment] = []
        for segment in self.all_segments(index):
            if segment.length:
                found.append(segment)
                if len(found) % _MANY_SEGMENTS == 0:
                    memory.ensure(_MANY_SEGMENTS * _PER_SEGMENT, f"a file of more than {len(found)} segments")
        return found

    def glance(self, index: int) -> tuple[int, int, int]:
        """A fast path for most files: a file's size, the block that has all of it, and its offset there.

        The size of a folder is FOLDER; the block is NO_BLOCK for folders, empty files and those of several segments.
        """
        length = self._lengths[index]
        if length <= 0 or (self._more and self.names[index] in self._more):
            return length, NO_BLOCK, 0
        return length, *self._streams.within_one(self._streams_of[index], self._positions[index], length)

    def glances(self, start: int, stop: int) -> Iterator[tuple[bytes, tuple[int, int, int]]]:
        """Names from `start` to before `stop` with their `glance`: cheaper than one by one."""
        names, part = self.names[start:stop], slice(start, stop)
        rows = zip(self._lengths[part], self._streams_of[part], self._positions[part], strict=True)
        for index, (name, (length, stream, position)) in enumerate(zip(names, rows, strict=True), start):
            if self._is_plain(length, stream, name):
                yield name, (length, *self._streams.within_one(stream, position, length))
            else:
                yield name, self.glance(index)

    def _is_plain(self, length: int, _stream: int, name: bytes) -> bool:
        """Whether it is a file of one part that has bytes."""
        return length > 0 and not (self._more and name in self._more)

    def all_segments(self, index: int) -> Iterator[Segment]:
        """All parts, with empty ones, which only the normal form needs."""
        return (segment for part in self._each_part(index) for segment in self._streams.segments(*part))


class FolderColumns:
    """Columns of tokens, while a folder is parsed."""

    __slots__ = ("lengths", "names", "positions", "streams")

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.positions = array("Q")
        self.lengths = array("q")
        self.streams = array("I")

    def add_run(self, runs: Runs, run: int) -> None:
        """The files of a run."""
        for piece in runs.pieces(run):
            self.add_piece(piece, runs.stream(run))

    def add_piece(self, piece: bytes, stream: int) -> None:
        """The files of some tokens of a run."""
        found = columns_of(piece)
        self.names += found.names
        self.positions.extend(found.positions)
        self.lengths.extend(found.lengths)
        self.streams.extend(array("I", (stream,)) * (len(self.names) - len(self.streams)))

    def add_folders(self, names: Iterable[bytes]) -> None:
        """Folders, which have no bytes."""
        self.names += names
        count = len(self.names) - len(self.streams)
        self.positions.extend(array("Q", (0,)) * count)
        self.lengths.extend(array("q", (FOLDER,)) * count)
        self.streams.extend(array("I", (0,)) * count)

    def sorted(self) -> bool:
        """Whether the names are in order already, each once."""
        return all(map(lt, self.names, islice(self.names, 1, None)))

    def ordered(self) -> "FolderColumns":
        """The tokens sorted by name; several parts of a file stay in their order."""
        if not self.sorted():
            self._take(sorted(range(len(self.names)), key=self.names.__getitem__))
        return self

    def sort(self) -> dict[bytes, list[StreamRange]]:
        """Put the names in order, each once. Returns the parts of files that have several."""
        self.ordered()
        again = [index for index in range(1, len(self.names)) if self.names[index] == self.names[index - 1]]
        return self._fold(again) if again else {}

    def _take(self, order: Sequence[int]) -> None:
        self.names = [self.names[index] for index in order]
        self.positions = array("Q", map(self.positions.__getitem__, order))
        self.lengths = array("q", map(self.lengths.__getitem__, order))
        self.streams = array("I", map(self.streams.__getitem__, order))

    def _fold(self, again: Sequence[int]) -> dict[bytes, list[StreamRange]]:
        """Leave out the places in `again`: they go on with the file before them."""
        more: dict[bytes, list[StreamRange]] = {}
        for index in again:
            parts = more.setdefault(self.names[index], [])
            parts += [self._part(index)] if parts else [self._part(index - 1), self._part(index)]
        dropped = set(again)
        self._take([index for index in range(len(self.names)) if index not in dropped])
        for name, parts in more.items():
            self.lengths[bisect_left(self.names, name)] = sum(part.length for part in parts)
        return more

    def _part(self, index: int) -> StreamRange:
        return StreamRange(self.streams[index], self.positions[index], self.lengths[index])


def read_folder(tree: FolderTree, runs: Runs, streams: Streams, number: int) -> ManifestFolder:
    """The folder with that number."""
    columns = FolderColumns()
    for run in tree.runs(number):
        columns.add_run(runs, run)
    columns.add_folders(tree.below(number))
    return ManifestFolder(streams, columns, {} if columns.sorted() else columns.sort())


def file_names(runs: Runs, run: int) -> Iterator[Sequence[bytes]]:
    """The names of a run's files, many at a time."""
    return (columns_of(piece).names for piece in runs.pieces(run))
