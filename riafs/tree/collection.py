"""A collection of Keep as directories: immutable, made from its manifest alone.

Every file and directory shows the time of the collection. Keep knows no permissions, so that every file may be
executed, as in Arvados' own mounts. Listing never touches a block.

Folders are kept as shown while there is room, and made again from the manifest: see tree/shown_folder.
"""

import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from cachetools import LRUCache

from riafs import memory
from riafs.content.copies import Part
from riafs.content.keep_copies import BlockPart
from riafs.content.keep_files import CollectionReader
from riafs.counters import Counters
from riafs.errors import IsADirectoryHere, NoSuchName, NotADirectoryHere, RiafsError
from riafs.formats.columns import PagedNames
from riafs.formats.manifests.blocks import NO_BLOCK, Segment
from riafs.formats.manifests.folder import FOLDER, ManifestFolder
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.names import joined
from riafs.formats.text import shown
from riafs.storage.bytesource import ErrorReporting, MemoryBytes, RangedBytes
from riafs.tree.directories import PlainDirectory
from riafs.tree.listing import PIECE
from riafs.tree.protocol import Directory, Entry, Found, Kind, Versions
from riafs.tree.shown_folder import ShownFolder, shown_folder
from riafs.tree.slots import Slots, slots_of_entries

log = logging.getLogger(__name__)

_FEW = 16
"""Entries that are made when one is asked for: the next ones may be wanted too."""
_SHOWN_LOCATORS = 100
_PER_VERSION = 600
"""Bytes of memory for a name while versions are compared."""
MAX_CACHED_NAMES = 500_000
"""Names kept in memory in all, `_PER_NAME` bytes each; fewer where the control group has not so much."""
_PER_NAME = 100
_OF_A_LARGE_ONE = 20_000
"""What a folder in pages counts as."""
MANY = 4096
"""Names from which on other readers would notice how long it takes to go through all."""
_MANY_BYTES = 64 << 10
"""The same as bytes of their tokens."""
_PIECES = 64
_MAX_SLOTS = 100_000
"""Entries whose slots are kept in memory in all, of folders of fewer than MANY."""
_MEMORY_SHARE = 8


class FolderCache:
    """The folders that were looked into last, in all collections of a mount. `counters`: those of the mount."""

    def __init__(self, counters: Counters | None = None, limit: int | None = None) -> None:
        self.pieces: LRUCache[Hashable, tuple[int, tuple[Entry, ...]]] = LRUCache(_PIECES)
        """The entries that were listed last: position of the first, and entries."""
        self.slots: LRUCache[Hashable, tuple[int, Slots | None]] = LRUCache(
            _MAX_SLOTS, getsizeof=lambda known: 1 + known[0]
        )
        """Of the folders that were looked into last: how many slots are kept of each, and which."""
        self._counters = counters or Counters()
        self._limit = limit = limit or memory.share(MAX_CACHED_NAMES * _PER_NAME, _MEMORY_SHARE) // _PER_NAME
        self._cache: LRUCache[tuple[bytes, bytes], ShownFolder] = LRUCache(limit, getsizeof=self._weight)
        self._one_at_a_time = trio.Lock()

    async def get(self, manifest: Manifest, path: bytes) -> ShownFolder:
        """The folder of a manifest that is at `path`, which must be there."""
        key = manifest.portable_data_hash, path
        known = self._known(key)
        if known is not None:
            return known
        if manifest.folder_weight(path) < _MANY_BYTES:
            return self._keep(key, _read(manifest, path))
        async with self._one_at_a_time:
            return self._known(key) or self._keep(key, await trio.to_thread.run_sync(_read, manifest, path))

    def _known(self, key: tuple[bytes, bytes]) -> ShownFolder | None:
        known: ShownFolder | None = self._cache.get(key)
        return known

    def _keep(self, key: tuple[bytes, bytes], folder: ShownFolder) -> ShownFolder:
        dropped = len(folder.folder) - len(folder)
        if dropped:
            self._counters.names_dropped += dropped
            where = f"/{key[1].decode(errors='replace')} of collection {key[0].decode()}"
            log.warning("%d impossible names left out in %s, among them %s", dropped, where, shown(folder.left_out()))
        self._cache[key] = folder
        return folder

    def _weight(self, folder: ShownFolder) -> int:
        count = len(folder.folder)
        if isinstance(folder.folder.names, PagedNames):
            count = min(count, _OF_A_LARGE_ONE + folder.odd_count)
        return min(1 + count, self._limit)


def _read(manifest: Manifest, path: bytes) -> ShownFolder:
    folder = manifest.folder(path)
    assert folder is not None
    return shown_folder(folder)


def file_version(manifest: Manifest, folder: ManifestFolder, index: int) -> bytes:
    """What the content of a file depends on that is not in one block: its segments, by the digests of their blocks."""
    digest, between = hashlib.md5(usedforsecurity=False), b""
    for block, offset, length in folder.all_segments(index):
        if length:
            named = b"" if block == NO_BLOCK else manifest.digest(block)
            digest.update(b"%b%b+%d+%d" % (between, named, offset, length))
            between = b" "
    return digest.digest() if between else b""


@dataclass(frozen=True, slots=True)
class Collection:
    """What the directories of a collection share."""

    manifest: Manifest
    reader: CollectionReader
    mtime_ns: int
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    """``user.riafs.`` attributes of the collection, besides those that are made here."""
    records: Mapping[bytes, bytes] = field(default_factory=dict)
    """Hidden files of the top directory: name → content. They are looked up, not listed."""
    replication: int | None = None
    """How many copies of each block there should be; None where no number is set."""
    folders: FolderCache = field(default_factory=FolderCache)
    """Shared by the collections of a mount."""


class CollectionDirectory(PlainDirectory):
    """A directory of a collection. `path` is ``b""`` at the top of the collection."""

    __slots__ = ("collection", "path")

    def __init__(self, collection: Collection, path: bytes) -> None:
        self.collection = collection
        self.path = path

    @property
    def mtime_ns(self) -> int:
        """Time of the collection."""
        return self.collection.mtime_ns

    # -- listing ------------------------------------------------------------------------------------------------------

    async def _folder(self) -> ShownFolder:
        return await self.collection.folders.get(self.collection.manifest, self.path)

    async def entries(self, start: int) -> Sequence[Entry]:
        """Many where the last entries ended, as a listing continues there; elsewhere few."""
        first, piece = self._piece()
        if not first <= start < first + len(piece):
            many = PIECE if start in (0, first + len(piece)) else _FEW
            piece = self._entries(await self._folder(), range(start, start + many))
            first = start
            self.collection.folders.pieces[self._shown_as] = first, piece
        return piece[start - first :] if start > first else piece

    @property
    def _shown_as(self) -> Hashable:
        return self._version, self.path, self.mtime_ns

    def _piece(self) -> tuple[int, tuple[Entry, ...]]:
        """The entries that were listed last, and the position of the first."""
        return self.collection.folders.pieces.get(self._shown_as, (0, ()))

    def _entries(self, folder: ShownFolder, positions: range) -> tuple[Entry, ...]:
        if folder.odd_count:
            shown = range(len(folder))[positions.start : positions.stop]
            return tuple([self._entry(folder, position) for position in shown])
        glances = folder.folder.glances(positions.start, positions.stop)
        made = [self._made(folder, index, *each) for index, each in enumerate(glances, positions.start)]
        return tuple(made)

    def _entry(self, folder: ShownFolder, position: int) -> Entry:
        name, index = folder.at(position)
        return self._made(folder, index, name, folder.folder.glance(index))

    def _made(self, folder: ShownFolder, index: int, name: bytes, glance: tuple[int, int, int]) -> Entry:
        """The entry of the name that has this index in the folder."""
        collection = self.collection
        size, block, offset = glance
        if block != NO_BLOCK:
            version = b"%b+%d+%d" % (collection.manifest.digest(block), offset, size)
        elif size == FOLDER:
            return Entry(name, Kind.DIRECTORY, 0, True, collection.mtime_ns, self._version)
        else:
            version = file_version(collection.manifest, folder.folder, index)
        return Entry(name, Kind.FILE, size, True, collection.mtime_ns, version)

    @property
    def _version(self) -> bytes:
        """That of all directories of the collection."""
        return self.collection.manifest.portable_data_hash

    async def find(self, name: bytes) -> Found:
        folder = await self._folder()
        position = folder.find(name)
        if position is not None:
            return Found(position, self._entry(folder, position))
        record = self.collection.records.get(name) if not self.path else None
        if record is None:
            raise NoSuchName(f"no {os.fsdecode(name)} in {self._described(b'')}")
        version = b"%b %d" % (self._version, self.mtime_ns)
        return Found(
            None, Entry(name, Kind.FILE, len(record), executable=False, mtime_ns=self.mtime_ns, version=version)
        )

    async def slots(self) -> Slots | None:
        """None, for positions, in a folder of MANY entries: a look-up at its end would need the versions of all."""
        kept, key = self.collection.folders.slots, (self._version, self.path)
        known = kept.get(key)
        if known is None:
            folder = await self._folder()
            count = len(folder)
            known = 0, None
            if count < MANY:
                known = count, slots_of_entries(count, partial(self._from_to, folder))
            kept[key] = known
        return known[1]

    def _from_to(self, folder: ShownFolder, start: int, end: int) -> Sequence[Entry]:
        first, listed = self._piece()  # often just made: a directory is listed before its slots are asked for
        end = min(end, len(folder))
        return listed if (first, len(listed)) == (start, end - start) else self._entries(folder, range(start, end))

    async def versions(self) -> Versions:
        folder = await self._folder()
        if len(folder) < MANY:
            return self._versions(folder)
        return await trio.to_thread.run_sync(self._versions, folder)

    def _versions(self, folder: ShownFolder) -> Versions:
        memory.ensure(_PER_VERSION * len(folder), "comparing two versions of a large folder")
        entries = self._entries(folder, range(len(folder)))
        directories = {entry.name for entry in entries if entry.kind is Kind.DIRECTORY}
        return Versions({entry.name: entry.version for entry in entries}, directories)

    # -- entries ------------------------------------------------------------------------------------------------------

    async def _index(self, entry: Entry) -> tuple[ShownFolder, int | None]:
        """Where a listed entry is in its folder; None for a record."""
        folder = await self._folder()
        position = folder.find(entry.name)
        return folder, None if position is None else folder.at(position).source

    def _below(self, name: bytes) -> bytes:
        return joined(self.path, name)

    async def directory(self, entry: Entry) -> Directory:
        folder, index = await self._index(entry)
        if index is None or not folder.folder.is_folder(index):
            raise NotADirectoryHere(f"{self._described(entry.name)} is not a directory")
        return CollectionDirectory(self.collection, self._below(folder.folder.names[index]))

    async def open(self, entry: Entry) -> RangedBytes:
        folder, index = await self._index(entry)
        if index is None:
            return MemoryBytes(self.collection.records[entry.name])
        if folder.folder.is_folder(index):
            raise IsADirectoryHere(f"{self._described(entry.name)} is a directory")
        content = self.collection.reader.open(folder.folder.segments(index), folder.folder.size(index))
        return (
            content if isinstance(content, MemoryBytes) else ErrorReporting(content, partial(self._failed, entry.name))
        )

    def _failed(self, name: bytes, problem: RiafsError) -> RiafsError:
        """`problem`, with the file that it befell."""
        return type(problem)(f"{self._described(name)}: {problem}")

    def _described(self, name: bytes) -> str:
        path = os.fsdecode(self._below(name) if name else self.path)
        where = f"collection {self._version.decode()}"
        return f"{path!r} in {where}" if path else where

    async def parts(self, entry: Entry) -> Sequence[Part]:
        """Records are no part of the collection's content."""
        folder, index = await self._index(entry)
        if index is None or folder.folder.is_folder(index):
            return ()
        return [self._part(segment.block) for segment in folder.folder.segments(index)]

    @property
    def holds_parts(self) -> bool:
        return not self.path

    async def stored_parts(self) -> AsyncGenerator[Part, None]:
        """The blocks of the manifest."""
        for block in range(self.collection.manifest.block_count):
            yield self._part(block)

    def _part(self, block: int) -> BlockPart:
        return BlockPart(self.collection.reader, block, self.collection.replication)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """`locators` are those of a file's first blocks, without hints; `blocks` counts all."""
        folder, index = await self._index(entry)
        known = {**self._attributes(), "path": self._below(entry.name)}
        if index is None or name in known or folder.folder.is_folder(index):
            return known
        segments = folder.folder.segments(index)
        known["blocks"] = b"%d" % len({segment.block for segment in segments})
        known["locators"] = b" ".join(self._locators(segments[:_SHOWN_LOCATORS]))
        problem = self.collection.reader.problem(segments)
        return known if problem is None else {**known, "error": os.fsencode(problem)}

    def _locators(self, segments: Sequence[Segment]) -> Iterator[bytes]:
        manifest = self.collection.manifest
        return (manifest.locator(segment.block).unsigned for segment in segments if segment.block != NO_BLOCK)

    def _attributes(self) -> dict[str, bytes]:
        return {"collection": self._version, **self.collection.attributes}

    async def own_attributes(self) -> Mapping[str, bytes]:
        return self._attributes()
