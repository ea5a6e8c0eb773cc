"""The streams of a 7z archive: which bytes are packed where, folders, and the files' bytes inside folders.

Kept as columns (arrays) because archives of whole keystores have a folder and a stream per key: 36 bytes a folder and
25 a stream. Invariants of `StreamsInfo`: all columns of a kind are equally long; every folder's packed streams and
sizes exist; a stream is within its folder's bytes. Property numbers are those of ``7zFormat.txt`` in 7-Zip's sources.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from riafs.errors import MalformedArchive
from riafs.formats.columns import Column, NamedColumns
from riafs.formats.sevenzip.cursor import MAX_SIZE, SIGNATURE_HEADER_SIZE, Cursor, Digests, Limits, Record
from riafs.formats.sevenzip.folder import Folder, Shape, parse_shape

_MOST_DESCRIPTIONS = 1 << 20
"""Different descriptions of folders, which take time and memory; encrypted folders have one each, others few."""


ELEMENTS: Mapping[str, str] = {
    "names": "B",
    "name_starts": "I",
    "name_order": "Q",
    "kinds": "B",
    "attributes": "I",
    "first_streams": "I",
    "pack_offsets": "Q",
    "descriptions": "B",
    "description_starts": "I",
    "description_of": "I",
    "first_packs": "I",
    "first_sizes": "I",
    "sizes": "Q",
    "main_sizes": "Q",
    "folder_crcs": "I",
    "folder_has_crc": "B",
    "stream_folders": "I",
    "stream_offsets": "Q",
    "stream_sizes": "Q",
    "stream_crcs": "I",
    "stream_has_crc": "B",
}
"""Name of each column → its element's type as in the module `array`: B one byte, I four, Q eight."""


@dataclass(frozen=True, slots=True)
class _Descriptions:
    """The distinct descriptions of folders one after the other; `starts` has one element more than there are."""

    block: Column
    starts: Column

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> bytes:
        if number >= len(self):
            raise IndexError(number)
        return bytes(self.block[self.starts[number] : self.starts[number + 1]])

    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))


@dataclass(frozen=True, slots=True)
class _Folders:
    """Columns of all folders. `first_pack` and `first_size` have one element more, so that differences are counts."""

    descriptions: "_Descriptions"
    description_of: Column
    first_pack: Column
    first_size: Column
    sizes: Column
    main_sizes: Column
    digests: Digests

    def __len__(self) -> int:
        return len(self.description_of)


@dataclass(frozen=True, slots=True)
class _Substreams:
    """Columns of all streams: a stream is the bytes of one file that is not empty."""

    folder: Column
    offset: Column
    size: Column
    digests: Digests


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of one file: `size` bytes at `offset` of folder number `folder` once that is decoded."""

    folder: int
    offset: int
    size: int
    crc: int | None


@dataclass(frozen=True, slots=True)
class StreamsInfo:
    """All packed streams, folders and file streams of one archive (or of one encoded header)."""

    pack_offsets: Column
    folders: _Folders
    substreams: _Substreams

    def __len__(self) -> int:
        """The number of streams."""
        return len(self.substreams.size)

    @property
    def folder_count(self) -> int:
        """The number of folders."""
        return len(self.folders)

    def stream(self, position: int) -> Stream:
        """The stream at `position`."""
        columns = self.substreams
        return Stream(
            columns.folder[position], columns.offset[position], columns.size[position], columns.digests.get(position)
        )

    def folder(self, position: int) -> Folder:
        """The folder at `position`."""
        columns = self.folders
        description = columns.descriptions[columns.description_of[position]]
        packs = self.pack_offsets[columns.first_pack[position] : columns.first_pack[position + 1] + 1]
        return Folder(
            parse_shape(Cursor(description)),
            pack_offset=packs[0],
            pack_sizes=tuple(end - start for start, end in pairwise(packs)),
            unpack_sizes=tuple(columns.sizes[columns.first_size[position] : columns.first_size[position + 1]]),
            crc=columns.digests.get(position),
        )

    def streams_of(self, folder: int) -> range:
        """The numbers of the streams in a folder."""
        column = self.substreams.folder
        return range(bisect_left(column, folder), bisect_right(column, folder))

    def stream_at(self, streams: range, offset: int) -> int:
        """Of the streams of a folder, the number of the one with the byte at `offset`, or of the first one after it."""
        columns = self.substreams
        found = bisect_right(columns.offset, offset, streams.start, streams.stop) - 1
        while found < streams.stop and (found < streams.start or columns.offset[found] + columns.size[found] <= offset):
            found += 1
        return found

    def columns(self) -> NamedColumns:
        """The columns, for `from_columns`."""
        folders, streams = self.folders, self.substreams
        return {
            "pack_offsets": self.pack_offsets,
            "descriptions": folders.descriptions.block,
            "description_starts": folders.descriptions.starts,
            "description_of": folders.description_of,
            "first_packs": folders.first_pack,
            "first_sizes": folders.first_size,
            "sizes": folders.sizes,
            "main_sizes": folders.main_sizes,
            "folder_crcs": folders.digests.values,
            "folder_has_crc": folders.digests.defined,
            "stream_folders": streams.folder,
            "stream_offsets": streams.offset,
            "stream_sizes": streams.size,
            "stream_crcs": streams.digests.values,
            "stream_has_crc": streams.digests.defined,
        }

    @classmethod
    def from_columns(cls, columns: NamedColumns) -> "StreamsInfo":
        """The streams that `columns` hold."""
        folders = _Folders(
            _Descriptions(columns["descriptions"], columns["description_starts"]),
            columns["description_of"],
            columns["first_packs"],
            columns["first_sizes"],
            columns["sizes"],
            columns["main_sizes"],
            Digests(columns["folder_crcs"], columns["folder_has_crc"]),
        )
        streams = _Substreams(
            columns["stream_folders"],
            columns["stream_offsets"],
            columns["stream_sizes"],
            Digests(columns["stream_crcs"], columns["stream_has_crc"]),
        )
        return cls(columns["pack_offsets"], folders, streams)


def no_streams() -> StreamsInfo:
    """The streams of an archive with empty files and directories only."""
    empty, digests = array("Q"), Digests.none(0)
    folders = _Folders(
        _Descriptions(b"", array("I", [0])), array("I"), array("I", [0]), array("I", [0]), empty, empty, digests
    )
    return StreamsInfo(array("Q", [SIGNATURE_HEADER_SIZE]), folders, _Substreams(array("I"), empty, empty, digests))


def parse_streams(cursor: Cursor, limits: Limits) -> StreamsInfo:
    """The streams record at `cursor`, up to its end mark. Raises MalformedArchive, UnsupportedArchive."""
    found = no_streams()
    pack_offsets, folders, substreams = found.pack_offsets, found.folders, found.substreams
    record = cursor.record()
    if record == Record.PACK_INFO:
        pack_offsets = _parse_pack_info(cursor, limits)
        record = cursor.record()
    if record == Record.UNPACK_INFO:
        folders = _parse_unpack_info(cursor, limits)
        substreams = _one_stream_each(folders)
        record = cursor.record()
    if record == Record.SUBSTREAMS_INFO:
        substreams = _parse_substreams_info(cursor, folders, limits)
        record = cursor.record()
    if record != Record.END:
        raise MalformedArchive(f"7z streams record has a part {record:#x} where its end should be")
    if folders.first_pack[-1] > len(pack_offsets) - 1:
        raise MalformedArchive(f"7z folders need {folders.first_pack[-1]} packed streams of {len(pack_offsets) - 1}")
    return StreamsInfo(pack_offsets, folders, substreams)


def _parse_pack_info(cursor: Cursor, limits: Limits) -> "array[int]":
    """The start of each packed stream, and the end of the last one, from the archive's first byte."""
    start = SIGNATURE_HEADER_SIZE + cursor.number()
    count = cursor.count("packed streams", 4 * limits.entries)
    sizes = array("Q")
    while (record := cursor.record()) != Record.END:
        if record == Record.SIZE:
            sizes = cursor.sizes(count)
        elif record == Record.CRC:
            cursor.digests(count)
        else:
            cursor.skip_property()
    if len(sizes) != count:
        raise MalformedArchive(f"7z header has no sizes for {count} packed streams")
    if start + sum(sizes) > MAX_SIZE:
        raise MalformedArchive("7z header claims packed streams beyond 2**63 bytes")
    return array("Q", accumulate(sizes, initial=start))


def _parse_unpack_info(cursor: Cursor, limits: Limits) -> _Folders:
    _expect(cursor, Record.FOLDER)
    count = cursor.count("folders", limits.entries, bytes_each=2)
    cursor.refuse_external()
    shapes, shape_of = _parse_shapes(cursor, count)
    first_pack = _starts(shapes.packs, shape_of)
    first_size = _starts(shapes.coders, shape_of)
    _expect(cursor, Record.CODERS_UNPACK_SIZE)
    sizes = cursor.sizes(first_size[-1])
    main_sizes = sizes
    if len(sizes) > count:
        mains = map(shapes.mains.__getitem__, shape_of)
        main_sizes = array("Q", [sizes[first + main] for first, main in zip(first_size, mains, strict=False)])
    digests = _parse_optional_digests(cursor, count)
    starts = array("I", accumulate(map(len, shapes.descriptions), initial=0))
    descriptions = _Descriptions(b"".join(shapes.descriptions), starts)
    return _Folders(descriptions, shape_of, first_pack, first_size, sizes, main_sizes, digests)


class _Shapes:
    """The distinct folder descriptions, and what has to be counted of each."""

    def __init__(self) -> None:
        self.descriptions: list[bytes] = []
        self.packs = array("I")
        self.coders = array("I")
        self.mains = array("I")

    def append(self, description: bytes, shape: Shape) -> None:
        """Remember one more."""
        self.descriptions.append(description)
        self.packs.append(len(shape.packed))
        self.coders.append(len(shape.coders))
        self.mains.append(shape.main)


def _parse_shapes(cursor: Cursor, count: int) -> "tuple[_Shapes, array[int]]":
    """The folder descriptions, and for each folder which of them is its own."""
    shapes, shape_of, numbers = _Shapes(), array("I"), dict[bytes, int]()
    while len(shape_of) < count:
        start = cursor.position
        shape = parse_shape(cursor)
        description = cursor.span(start)
        number = numbers.setdefault(description, len(numbers))
        if number == len(shapes.descriptions):
            shapes.append(description, shape)
        if number >= _MOST_DESCRIPTIONS:
            raise MalformedArchive(f"7z header has more than {_MOST_DESCRIPTIONS} different kinds of folders")
        # A description says itself where it ends, so equal bytes are an equal description; most equal the one before.
        repeats = cursor.skip_repeats(description, count - len(shape_of) - 1)
        shape_of.extend(array("I", [number]) * (1 + repeats))
    return shapes, shape_of


def _starts(counts: "array[int]", shape_of: "array[int]") -> "array[int]":
    """Running sum of ``counts[shape]`` over all folders, beginning with 0."""
    return array("I", accumulate(map(counts.__getitem__, shape_of), initial=0))


def _one_stream_each(folders: _Folders) -> _Substreams:
    """The default for archives without this property: a folder is one file's bytes."""
    count = len(folders)
    return _Substreams(array("I", range(count)), array("Q", bytes(8 * count)), folders.main_sizes, folders.digests)


def _parse_substreams_info(cursor: Cursor, folders: _Folders, limits: Limits) -> _Substreams:
    record = cursor.record()
    counts = array("Q")
    if record == Record.NUM_UNPACK_STREAM:
        counts = cursor.numbers(len(folders))
        record = cursor.record()
    while record not in (Record.SIZE, Record.CRC, Record.END):
        cursor.skip_property()
        record = cursor.record()
    if set(counts) <= {1}:
        substreams = _one_stream_each(folders)
    else:
        substreams = _parse_shared_folders(cursor, folders, counts, limits, sizes_written=record == Record.SIZE)
    if record == Record.SIZE:
        record = cursor.record()
    digests_came = False
    while record != Record.END:
        if record == Record.CRC and digests_came:
            raise MalformedArchive("7z header has the checksums of its streams twice")
        if record == Record.CRC:
            substreams, digests_came = _with_written_digests(cursor, substreams), True
        else:
            cursor.skip_property()
        record = cursor.record()
    return substreams


def _parse_shared_folders(
    cursor: Cursor, folders: _Folders, counts: "array[int]", limits: Limits, *, sizes_written: bool
) -> _Substreams:
    """Streams where folder number i holds ``counts[i]`` of them: the last one's size is what the others leave."""
    total = sum(counts)
    written = total - (len(counts) - counts.count(0))
    if total > limits.entries or (written and not sizes_written):
        raise MalformedArchive(f"7z header claims {total} streams in {len(counts)} folders, sizes of {written}")
    sizes_left = iter(cursor.sizes(written))
    folder_of, offsets, sizes = array("I"), array("Q"), array("Q")
    for folder, (count, folder_size) in enumerate(zip(counts, folders.main_sizes, strict=True)):
        offset = 0
        for _ in range(count - 1):
            size = next(sizes_left)
            sizes.append(size)
            offsets.append(offset)
            offset += size
        if offset > folder_size:
            raise MalformedArchive(f"7z folder {folder} has {folder_size} bytes, its streams {offset}")
        if count:
            sizes.append(folder_size - offset)
            offsets.append(offset)
            folder_of.extend([folder] * count)
    return _Substreams(folder_of, offsets, sizes, _inherited_digests(folders, counts))


def _inherited_digests(folders: _Folders, counts: "array[int]") -> Digests:
    """A folder's CRC32 is also its stream's, where it holds just one."""
    values, defined = array("I"), bytearray()
    for folder, count in enumerate(counts):
        alone = count == 1 and folders.digests.defined[folder]
        values.extend([folders.digests.values[folder] if alone else 0] * count)
        defined.extend([1 if alone else 0] * count)
    return Digests(values, bytes(defined))


def _with_written_digests(cursor: Cursor, substreams: _Substreams) -> _Substreams:
    """The streams with the CRC32 values at `cursor`, which are written for those only that have none yet."""
    known = substreams.digests
    written = cursor.digests(bytes(known.defined).count(0))
    if 1 in known.defined:
        pairs = iter(zip(written.values, written.defined, strict=True))
        merged = [
            (value, 1) if defined else next(pairs) for value, defined in zip(known.values, known.defined, strict=True)
        ]
        written = Digests(array("I", [value for value, _ in merged]), bytes([defined for _, defined in merged]))
    return _Substreams(substreams.folder, substreams.offset, substreams.size, written)


def _parse_optional_digests(cursor: Cursor, count: int) -> Digests:
    """The properties up to the end mark, of which only the CRC32 values matter."""
    digests = Digests.none(count)
    while (record := cursor.record()) != Record.END:
        if record == Record.CRC:
            digests = cursor.digests(count)
        else:
            cursor.skip_property()
    return digests


def _expect(cursor: Cursor, record: Record) -> None:
    """Pass over properties up to the one that has to come."""
    while (found := cursor.record()) != record:
        if found == Record.END:
            raise MalformedArchive(f"7z header lacks record {record:#x}")
        cursor.skip_property()
