"""The 7z archives of one dataset: opened once, and again when the file was replaced.

An archive is recognised by the identity of its file. Readers of members keep the file they opened: ``7z u`` writes a
new file and renames it over the old one, so an open descriptor stays valid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from riafs.archive.archive import Archive, ArchiveTools
from riafs.cache.verified import Evidence
from riafs.content.verifying import Opened
from riafs.counters import Counters
from riafs.storage.extents import Extent
from riafs.storage.files import Identity
from riafs.storage.protocol import Storage

PLACES = (b"archives/archive.7z", b"annex/archives/archive.7z", b"archive.7z")
"""Where an archive may lie below a dataset: today's place, the one of early documentation, and the one before 2019."""


@dataclass(frozen=True, slots=True)
class _OnShelf:
    identity: Identity
    archive: Archive


class ArchiveShelf:
    """The archives of the dataset at the store's path `dataset`."""

    def __init__(self, storage: Storage, dataset: bytes, tools: ArchiveTools, counters: Counters) -> None:
        self._storage = storage
        self._dataset = dataset
        self._tools = tools
        self._counters = counters
        self._opened: dict[bytes, _OnShelf] = {}
        self._opening = trio.Lock()

    async def open(self, place: bytes, names: Sequence[bytes]) -> Opened | None:
        """The first member of the archive at `place` that has one of `names`; None if it has none of them.

        Raises NotInStore where there is no archive, ArchiveError and its kinds, DecodeFailed, StoreError, …
        """
        shelved = await self._archive(place)
        for name in names:
            member = shelved.archive.find(name)
            if member is not None and not member.is_directory:
                source = await shelved.archive.open_member(member)
                evidence = None
                if isinstance(source, Extent):
                    evidence = Evidence(shelved.identity, source.offset, source.size)
                else:
                    self._counters.members_decoded += 1
                return Opened(source, place.decode(), evidence)
        return None

    async def _archive(self, place: bytes) -> _OnShelf:
        path = self._dataset + b"/" + place
        source = await self._storage.open(path)
        assert source.identity is not None
        async with self._opening:
            known = self._opened.get(place)
            if known is not None and known.identity == source.identity:
                source.close()
                return known
            folder, _, file = path.rpartition(b"/")
            local = await self._storage.local_path(folder) + b"/" + file
            try:
                archive = await Archive.open(source, self._tools, local)
            except BaseException:
                source.close()
                raise
            self._opened[place] = _OnShelf(source.identity, archive)
        return self._opened[place]
