"""The locations where a dataset's own directory may keep the content of a key: loose objects and 7z archives.

A location's `open` gives the bytes that lie there, unverified, or raises NotInStore; the caller checks sizes and
digests in the same way for all locations.

Archives are opened once, and again when the file was replaced or too many others were used since. An archive is
recognised by the version of its file. Readers of members keep the file they opened: ``7z u`` writes a new file and
renames it over the old one, so an open descriptor stays valid.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from riafs.archive.archive import Archive, ArchiveTools, Known
from riafs.archive.member import DecodedMember
from riafs.cache.verified import Evidence
from riafs.content.verifying import UnverifiedContent
from riafs.errors import ArchiveError, DamagedIndex, MalformedKey, NotInStore
from riafs.formats.keys import Key, parse_file_name
from riafs.storage.bytesource import Extent, RangedBytes, StoredFile, Version
from riafs.storage.deadline import DeadlineLock
from riafs.storage.protocol import ItemKind, Storage, listing_of


class Location(Protocol):
    """A location that one key may have."""

    @property
    def name(self) -> str:
        """For messages: a path below the dataset, or a description."""

    async def open(self) -> UnverifiedContent:
        """The bytes there. Raises NotInStore, and other kinds of RiafsError where they cannot be read."""


@dataclass(frozen=True, slots=True)
class LooseObject:
    """A file of its own, at `path` below `objects`, the ``annex/objects`` of the dataset in the store."""

    storage: Storage
    objects: bytes
    path: bytes

    @property
    def name(self) -> str:
        return "annex/objects/" + os.fsdecode(self.path)

    async def open(self) -> UnverifiedContent:
        source = await self.storage.open(self.objects + b"/" + self.path)
        assert source.version is not None
        return UnverifiedContent(source, self.name, Evidence(source.version, 0, source.size))

    def forget(self) -> bool:
        """Ask the store at the next `open`; False if it was asked anyway."""
        return self.storage.ahead is not None and self.storage.ahead.forget(self.objects + b"/" + self.path)


_log = logging.getLogger(__name__)

ARCHIVE_PATHS = (b"archives/archive.7z", b"annex/archives/archive.7z", b"archive.7z")
"""Where an archive may lie below a dataset: today's path, that of early documentation, and that before 2019."""


class DatasetArchives:
    """The archives of the dataset at the store's path `dataset`."""

    def __init__(self, storage: Storage, dataset: bytes, tools: ArchiveTools) -> None:
        self._storage = storage
        self._dataset = dataset
        self._tools = tools
        self._opening = DeadlineLock()

    async def open(self, location: bytes, names: Sequence[bytes]) -> UnverifiedContent | None:
        """The first member of the archive at `location` that has one of `names`; None if it has none of them.

        Raises NotInStore where there is no archive, ArchiveError and its kinds, CorruptContent, DecodeFailed, …
        """
        for last in (False, True):
            version, archive = await self._archive(location)
            try:
                return await _open_member(archive, location, names, version)
            except DamagedIndex as problem:
                if last:
                    raise
                _log.warning("%s; it is made again", problem)
                known = self._known(location, version)
                if known is not None and known.archive is archive:
                    del self._tools.open_archives[self, location]
                await archive.forget()
        raise AssertionError("the second round returns or raises")

    async def names(self, location: bytes) -> Iterator[bytes]:
        """The names of the files in the archive at `location`, none where there is no archive. Raises as `open`."""
        try:
            _, archive = await self._archive(location)
        except NotInStore:
            return iter(())
        return archive.listing.file_names()

    async def _archive(self, location: bytes) -> tuple[Version, Archive]:
        path = self._dataset + b"/" + location
        source = await self._storage.open(path)
        version = source.version
        assert version is not None
        async with self._opening.held():
            known = self._known(location, version)
            if known is None:
                known = await self._open(source, version, path)
                self._tools.open_archives.pop((self, location), None)
                self._tools.open_archives[self, location] = known
            else:
                source.close()
        if known.archive is None:
            assert known.problem is not None
            raise type(known.problem)(*known.problem.args)
        return known.version, known.archive

    def _known(self, location: bytes, version: Version) -> Known | None:
        """The open archive at `location`, or its problem, if the file has not changed."""
        known: Known | None = self._tools.open_archives.get((self, location))
        return known if known is not None and known.version.token == version.token else None

    async def _open(self, source: StoredFile, version: Version, path: bytes) -> Known:
        """The archive in `source`, or a problem that it has until the file changes."""
        try:
            return Known(version, await Archive.open(source, self._tools, path))
        except BaseException as problem:
            source.close()
            if isinstance(problem, ArchiveError) and not problem.retryable:
                return Known(version, None, problem)
            raise


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """A member of one of the dataset's archives, under any of `members`."""

    archives: DatasetArchives
    archive: bytes
    members: Sequence[bytes]

    @property
    def name(self) -> str:
        return os.fsdecode(self.archive)

    async def open(self) -> UnverifiedContent:
        opened = await self.archives.open(self.archive, self.members)
        if opened is None:
            raise NotInStore(f"{self.name} has no such member")
        return opened


async def _open_member(
    archive: Archive, location: bytes, names: Sequence[bytes], version: Version
) -> UnverifiedContent | None:
    for name in names:
        member = archive.find(name)
        if member is not None and not member.is_directory:
            return _opened(await archive.open_member(member), location.decode(), version)
    return None


def _opened(source: RangedBytes, location: str, version: Version) -> UnverifiedContent:
    """A member with the evidence by which it is remembered, and the key that its bytes are checked against."""
    if isinstance(source, Extent):
        return UnverifiedContent(source, location, Evidence(version, source.offset, source.size))
    if isinstance(source, DecodedMember):
        # Decoded again from the same archive, a member is the same; no stored one begins before the archive.
        return UnverifiedContent(source, location, Evidence(version, -1 - source.stream, source.size), source.key)
    return UnverifiedContent(source, location, None)


_HIDDEN = b"GPGHMAC"
_SOME = 1024


class StoredKeys:
    """Keys below the store's path `objects` and in `archives`, in any order; a key may come several times.

    Iterating, and `some`, raise what listing raises, ArchiveError and its kinds. It may be left off anywhere.
    """

    def __init__(self, storage: Storage, objects: bytes, archives: DatasetArchives) -> None:
        self._storage = storage
        self._objects = objects
        self._archives = archives
        self._directories: Iterator[bytes] | None = None
        """The outer hash directories that were not listed yet, once these are known,"""
        self._paths = iter(ARCHIVE_PATHS)
        """and the archives."""
        self._names: Iterator[bytes] = iter(())
        self._ready: Iterator[Key] = iter(())

    def __aiter__(self) -> "StoredKeys":
        return self

    async def __anext__(self) -> Key:
        key = next(self._ready, None)
        if key is None:
            self._ready = iter(await self.some())
            key = next(self._ready, None)
        if key is None:
            raise StopAsyncIteration
        return key

    async def some(self) -> Sequence[Key]:
        """The next keys, as many as need no slices; none at the end."""
        while True:
            found = list(islice(_keys(self._names), _SOME))
            if found:
                return found
            names = await self._more_names()
            if names is None:
                return found
            self._names = names

    async def _more_names(self) -> Iterator[bytes] | None:
        """Names in the place of keys; None when all were given."""
        if self._directories is None:
            self._directories = iter(await _directories(self._storage, self._objects))
        for directory in self._directories:
            return chain.from_iterable(await _listed(self._storage, await _directories(self._storage, directory)))
        for location in self._paths:
            return (name.rpartition(b"/")[2] for name in await self._archives.names(location))
        return None


async def _directories(storage: Storage, path: bytes) -> list[bytes]:
    try:
        items = await listing_of(storage).list(path)
    except NotInStore:
        return []
    return sorted(path + b"/" + item.name for item in items if item.kind is ItemKind.DIRECTORY)


async def _listed(storage: Storage, paths: list[bytes]) -> list[list[bytes]]:
    """The names of the directories in each of `paths`."""
    return [
        sorted(item.name for item in items if item.kind is ItemKind.DIRECTORY)
        for items in await listing_of(storage).list_each(paths)
    ]


def _keys(names: Iterable[bytes]) -> Iterator[Key]:
    for name in names:
        try:
            key = parse_file_name(name)
        except MalformedKey:
            continue
        if not key.backend.startswith(_HIDDEN):
            yield key.unchunked()
