"""A composed tree: one tree whose files and folders come from several collections, without touching their data.

Its own folders are fixed; their entries are looked up in the collections when they are asked for. Where one of
the collections changes, the folders that show something of it are renewed.
"""

import dataclasses
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from riafs.content.copies import Part
from riafs.errors import IsADirectoryHere, NoSuchName, NotADirectoryHere, RiafsError, StoreDenied
from riafs.formats.composed import CollectionPath, ComposedFolder
from riafs.storage.bytesource import RangedBytes
from riafs.tree.directories import BrokenDirectory, PlainDirectory, directory_entry
from riafs.tree.listing import PIECE
from riafs.tree.protocol import Directory, Entry, Found, Kind, Verifiable, Versions

Resolve = Callable[[bytes], Awaitable[Directory]]
"""The top directory of a collection by its name, uuid or portable data hash. Raises NotInStore, StoreError, …"""

_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Composed:
    """An entry as it is shown, and where it comes from."""

    entry: Entry
    directory: Directory
    """The directory in which the entry was found; the entry itself where `original` is None."""
    original: Entry | None


class ComposedDirectory(PlainDirectory):
    """A folder of a composed tree.

    What cannot be found is shown as a broken directory with the reason; a store that does not answer fails the
    call.
    """

    def __init__(
        self, folder: ComposedFolder, resolve: Resolve, mtime_ns: int, tops: Mapping[bytes, Directory] | None = None
    ) -> None:
        self._folder = folder
        self._names = tuple(folder.entries)
        self._positions = {name: position for position, name in enumerate(self._names)}
        self._resolve = resolve
        self._tops: dict[bytes, Directory] = dict(tops or {})
        """Of the collections that were looked into, in the versions that are shown."""
        self._composed: dict[bytes, _Composed] = {}
        self.mtime_ns = mtime_ns

    # -- looking up ---------------------------------------------------------------------------------------------------

    async def _compose(self, name: bytes) -> _Composed:
        if name not in self._composed:
            source = self._folder.entries[name]
            if isinstance(source, CollectionPath):
                composed = await self._looked_up(name, source)
            else:
                below = ComposedDirectory(source, self._resolve, self.mtime_ns)
                composed = _Composed(directory_entry(name, self.mtime_ns, b"composed"), below, None)
            self._composed.setdefault(name, composed)  # another task may have been as quick
        return self._composed[name]

    async def _looked_up(self, name: bytes, source: CollectionPath) -> _Composed:
        try:
            return await self._find(name, source)
        except RiafsError as error:
            if error.retryable:
                raise
            reason = f"{_described(source)} cannot be shown as {os.fsdecode(name)}: {error}"
            broken = BrokenDirectory(StoreDenied(reason) if isinstance(error, StoreDenied) else reason, self.mtime_ns)
            return _Composed(directory_entry(name, self.mtime_ns, b"broken"), broken, None)

    async def _find(self, name: bytes, source: CollectionPath) -> _Composed:
        directory = await self._top(source.collection)
        if not source.path:
            version = (await directory.own_attributes()).get("collection", b"")
            return _Composed(directory_entry(name, directory.mtime_ns, version), directory, None)
        *folders, last = source.path.split(b"/")
        for folder in folders:
            found = await directory.find(folder)
            if found.entry.kind is not Kind.DIRECTORY:
                raise NotADirectoryHere(f"{os.fsdecode(folder)} is not a directory")
            directory = await directory.directory(found.entry)
        original = (await directory.find(last)).entry
        return _Composed(dataclasses.replace(original, name=name), directory, original)

    async def _top(self, collection: bytes) -> Directory:
        if collection not in self._tops:
            top = await self._resolve(collection)
            self._tops.setdefault(collection, top)
        return self._tops[collection]

    async def _compose_all(self, names: Sequence[bytes]) -> list[_Composed]:
        """Look up several, some at the same time. Raises the first failure."""
        missing = [name for name in names if name not in self._composed]
        failures: list[RiafsError] = []

        async def look_up(some: Sequence[bytes]) -> None:
            try:
                for name in some:
                    await self._compose(name)
            except RiafsError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for first in range(min(_AT_ONCE, len(missing))):
                nursery.start_soon(look_up, missing[first::_AT_ONCE])
        if failures:
            raise failures[0]
        return [self._composed[name] for name in names]

    # -- the protocol -------------------------------------------------------------------------------------------------

    async def entries(self, start: int) -> Sequence[Entry]:
        """Where the first is known, the known ones that follow: the others may not be wanted."""
        names = self._names[start : start + PIECE]
        known = [composed.entry for composed in itertools.takewhile(bool, map(self._composed.get, names)) if composed]
        return known or [composed.entry for composed in await self._compose_all(names)]

    async def find(self, name: bytes) -> Found:
        position = self._positions.get(name)
        if position is None:
            raise NoSuchName(f"no {os.fsdecode(name)} in the composed tree")
        return Found(position, (await self._compose(name)).entry)

    async def versions(self) -> Versions:
        entries = [composed.entry for composed in await self._compose_all(self._names)]
        directories = {entry.name for entry in entries if entry.kind is Kind.DIRECTORY}
        return Versions({entry.name: entry.version for entry in entries}, directories)

    async def directory(self, entry: Entry) -> Directory:
        composed = await self._compose(entry.name)
        return (
            composed.directory if composed.original is None else await composed.directory.directory(composed.original)
        )

    async def open(self, entry: Entry) -> RangedBytes:
        composed = await self._compose(entry.name)
        if composed.original is None:
            raise IsADirectoryHere(f"{os.fsdecode(entry.name)} is a directory")
        return await composed.directory.open(composed.original)

    async def parts(self, entry: Entry) -> Sequence[Part]:
        composed = await self._compose(entry.name)
        if composed.original is None or not isinstance(composed.directory, Verifiable):
            return ()
        return await composed.directory.parts(composed.original)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        composed = await self._compose(entry.name)
        if composed.original is None:
            return await composed.directory.own_attributes()
        return await composed.directory.attributes(composed.original, name)

    @property
    def renewable(self) -> bool:
        """Whether one of the collections that are shown here is, as far as they were looked into; any other may be."""
        sources = {each.collection for each in self._folder.entries.values() if isinstance(each, CollectionPath)}
        return not sources <= self._tops.keys() or any(top.renewable for top in self._tops.values())

    async def renewed(self, turn: int) -> Directory | None:
        newer = {}
        for collection, top in list(self._tops.items()):
            found = await top.renewed(turn) if top.renewable else None
            if found is not None:
                newer[collection] = found
        if not newer:
            return None
        return ComposedDirectory(self._folder, self._resolve, self.mtime_ns, {**self._tops, **newer})


def _described(source: CollectionPath) -> str:
    return f"{os.fsdecode(source.path) or 'all'} of collection {os.fsdecode(source.collection)}"
