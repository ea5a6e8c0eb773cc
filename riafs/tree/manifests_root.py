"""What a mount of Keep with manifests shows: ``/NAME/`` for each manifest, and ``/by_id/<portable data hash>/``.

Manifests are read and parsed when they are entered: a directory of thousands costs one listing. A
manifest file that changes is a new version of its collection; one that may still be written to is shown as it was, and
looked at again in the next round.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import aclosing

import trio

from riafs.errors import ChangedContent, NotInStore, RiafsError
from riafs.formats.locators import PortableHash, is_portable_data_hash
from riafs.formats.text import listed, nearest
from riafs.storage.manifests import QUIET_NS, ManifestFile, Manifests
from riafs.tree.collection_opening import (
    BY_ID,
    ByIdDirectory,
    CollectionInfo,
    CollectionTools,
    broken_directory,
    collection_directory,
    open_named,
)
from riafs.tree.directories import BrokenDirectory, FixedDirectory, LiveDirectory, directory_entry
from riafs.tree.protocol import Directory, Entry

log = logging.getLogger(__name__)

_NEAR = 3
_TRIES = 3
_SECOND = 10**9


class ManifestCollections:
    """The collections whose manifests are in `manifests`, by name and by portable data hash."""

    def __init__(self, manifests: Manifests, tools: CollectionTools) -> None:
        self.manifests = manifests
        self._tools = tools
        self._files: Mapping[bytes, ManifestFile] = {}
        self._turn = -1
        self._places: dict[bytes, LiveManifestCollection] = {}
        self._hashes: dict[ManifestFile, bytes] = {}
        self._by_hash: dict[bytes, Directory] = {}

    async def files(self, turn: int) -> Mapping[bytes, ManifestFile]:
        """The manifests as of round `turn`; the same object while nothing changes. Raises as Manifests.files."""
        if turn != self._turn:
            await self._look()
            self._turn = turn
        return self._files

    async def _look(self) -> None:
        self._files = await self.manifests.files()

    # -- by name ------------------------------------------------------------------------------------------------------

    async def by_name(self, name: bytes) -> Directory:
        """The collection of that name. Raises NotInStore, and as Manifests.files."""
        if name not in self._places:
            file = self._files.get(name)
            if file is None:
                raise NotInStore(f"{self.manifests.name} has no manifest of {os.fsdecode(name)}")
            place = await self._first(name, file)
            self._places.setdefault(name, place)
        place = self._places[name]
        return LiveDirectory(place) if self.manifests.changing else place.current

    async def _first(self, name: bytes, file: ManifestFile) -> "LiveManifestCollection":
        """The first version of a collection that is shown: waits until the file is complete."""
        for _ in range(_TRIES):
            if self.manifests.changing and not file.is_quiet:
                await trio.sleep(QUIET_NS / _SECOND)
                await self._look()
                file = self._files.get(name, file)
            directory = await self.load(name, file)
            if directory is not None:
                return LiveManifestCollection(self, name, file, directory)
        problem = RiafsError("its manifest changes all the time")
        return LiveManifestCollection(
            self, name, file, broken_directory(CollectionInfo(os.fsdecode(name), file.mtime_ns), problem)
        )

    async def load(self, name: bytes, file: ManifestFile) -> Directory | None:
        """The collection as `file` has it, None where the file has changed. Raises what may pass: StoreTimeout,
        StoreError, OutOfMemory."""
        info = CollectionInfo(os.fsdecode(name), file.mtime_ns)
        try:
            async with aclosing(self.manifests.read(file)) as text:
                directory = await collection_directory(self._tools, text, info)
        except ChangedContent:
            return None
        except RiafsError as error:
            if error.retryable:
                raise type(error)(f"collection {info.name}: {error}") from error
            return broken_directory(info, error)
        broken = isinstance(directory, BrokenDirectory)
        return None if broken and not await self.manifests.is_current(file) else directory

    # -- by content ---------------------------------------------------------------------------------------------------

    async def by_hash(self, data_hash: bytes) -> Directory:
        """The collection with that content. Raises NotInStore, and as Manifests.files."""
        if data_hash not in self._by_hash:
            directory = await self._find(data_hash)
            self._by_hash.setdefault(data_hash, directory)
        return self._by_hash[data_hash]

    async def _find(self, data_hash: bytes) -> Directory:
        if not is_portable_data_hash(data_hash):
            raise NotInStore(f"{os.fsdecode(data_hash)} is no portable data hash")
        size = int(data_hash.partition(b"+")[2])
        for name, file in (await self.manifests.files()).items():
            if file.size >= size and await self._hash(file) == data_hash:
                directory = await self.load(name, file)
                if directory is not None:
                    return directory
        raise NotInStore(f"no manifest in {self.manifests.name} has the portable data hash {data_hash.decode()}")

    async def _hash(self, file: ManifestFile) -> bytes | None:
        if file not in self._hashes:
            try:
                whole = PortableHash()
                async with aclosing(self.manifests.read(file)) as text:
                    async for piece in text:
                        await trio.to_thread.run_sync(whole.feed, piece)
                self._hashes[file] = whole.value()
            except ChangedContent:
                return None
            except RiafsError as error:
                log.info("the manifest %s is passed over: %s", os.fsdecode(file.path), error)
                return None
        return self._hashes[file]

    async def resolve(self, name: bytes) -> Directory:
        """By name or portable data hash. Raises NotInStore, and as Manifests.files."""
        if name in await self.files(self._turn):
            return await self.by_name(name)
        if not is_portable_data_hash(name):
            near = nearest(os.fsdecode(name), map(os.fsdecode, self._files), _NEAR)
            hint = f"; the nearest are {listed(near)}" if near else ""
            raise NotInStore(f"{self.manifests.name} has no manifest of {os.fsdecode(name)}{hint}")
        return await self.by_hash(name)


class LiveManifestCollection:
    """The collection of a manifest file, which may be replaced."""

    def __init__(self, kept: ManifestCollections, name: bytes, file: ManifestFile, directory: Directory) -> None:
        self.current = directory
        self._kept = kept
        self._name = name
        self._file = file

    async def now(self, turn: int) -> Directory:
        file = (await self._kept.files(turn)).get(self._name)
        if file is not None and file != self._file and file.is_quiet:
            newer = await self._kept.load(self._name, file)
            if newer is not None:
                self.current, self._file = newer, file
        return self.current


class ManifestsRoot(FixedDirectory):
    """The names of all manifests, and ``by_id``."""

    def __init__(self, kept: ManifestCollections, files: Mapping[bytes, ManifestFile], by_id: ByIdDirectory) -> None:
        newest = max((file.mtime_ns for file in files.values()), default=by_id.mtime_ns)
        entries = [directory_entry(name, file.mtime_ns, file.version) for name, file in files.items() if name != BY_ID]
        super().__init__(
            [directory_entry(BY_ID, newest, b""), *entries], newest, {"store": os.fsencode(kept.manifests.name)}
        )
        self._kept = kept
        self._files = files
        self._by_id = by_id

    @property
    def renewable(self) -> bool:
        return self._kept.manifests.changing

    async def directory(self, entry: Entry) -> Directory:
        return self._by_id if entry.name == BY_ID else await self._kept.by_name(entry.name)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        return await (await self.directory(entry)).own_attributes()

    async def renewed(self, turn: int) -> Directory | None:
        files = await self._kept.files(turn)
        return None if files is self._files else ManifestsRoot(self._kept, files, self._by_id)


async def open_manifests(kept: ManifestCollections, collection: bytes | None) -> Directory:
    """The names of all collections, or the one that is named. Raises SourceNotFound, StoreDenied, StoreError, …"""
    files = await kept.files(0)
    if BY_ID in files:
        log.warning("the manifest of %s is hidden by the directory of that name", BY_ID.decode())
    if collection is not None:
        return await open_named(kept.resolve, collection)
    newest = max((file.mtime_ns for file in files.values()), default=0)
    return ManifestsRoot(kept, files, ByIdDirectory(kept.by_hash, newest))
