"""The 7z archives of one dataset: opened once, and again when the file was replaced.

An archive is recognised by the identity of its file. Readers of members keep the file they opened: ``7z u`` writes a
new file and renames it over the old one, so an open descriptor stays valid.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import trio

from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.member import DecodedMember
from riafs.cache.verified import Evidence
from riafs.content.verifying import Opened
from riafs.errors import DamagedIndex, NotInStore
from riafs.storage.extents import Extent
from riafs.storage.files import Identity
from riafs.storage.protocol import Storage
from riafs.storage.ranged import RangedBytes

_log = logging.getLogger(__name__)

PLACES = (b"archives/archive.7z", b"annex/archives/archive.7z", b"archive.7z")
"""Where an archive may lie below a dataset: today's place, the one of early documentation, and the one before 2019."""


@dataclass(frozen=True, slots=True)
class _OnShelf:
    identity: Identity
    archive: Archive


class ArchiveShelf:
    """The archives of the dataset at the store's path `dataset`."""

    def __init__(self, storage: Storage, dataset: bytes, tools: ArchiveTools) -> None:
        self._storage = storage
        self._dataset = dataset
        self._tools = tools
        self._opened: dict[bytes, _OnShelf] = {}
        self._opening = trio.Lock()

    async def open(self, place: bytes, names: Sequence[bytes]) -> Opened | None:
        """The first member of the archive at `place` that has one of `names`; None if it has none of them.

        Raises NotInStore where there is no archive, ArchiveError and its kinds, CorruptContent, DecodeFailed, …
        """
        try:
            return await self._open(place, names)
        except DamagedIndex as problem:
            _log.warning("%s; it is made again", problem)
            self._opened.pop(place).archive.forget()
            return await self._open(place, names)

    async def names(self, place: bytes) -> Iterator[bytes]:
        """The names of the files in the archive at `place`, none where there is no archive. Raises as `open`."""
        try:
            listing = (await self._archive(place)).archive.listing
        except NotInStore:
            return iter(())
        return (member.name for member in listing if not member.is_directory)

    async def _open(self, place: bytes, names: Sequence[bytes]) -> Opened | None:
        shelved = await self._archive(place)
        for name in names:
            member = shelved.archive.find(name)
            if member is not None and not member.is_directory:
                source = await shelved.archive.open_member(member)
                return _opened(source, place.decode(), shelved.identity)
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
            try:
                archive = await Archive.open(source, self._tools, path)
            except BaseException:
                source.close()
                raise
            self._opened[place] = _OnShelf(source.identity, archive)
            if known is not None:
                known.archive.close()
        return self._opened[place]


def _opened(source: RangedBytes, place: str, identity: Identity) -> Opened:
    """A member with what its readers need to know: where its bytes lie, or which key they were checked against."""
    if isinstance(source, Extent):
        return Opened(source, place, Evidence(identity, source.offset, source.size))
    if isinstance(source, DecodedMember):
        # Decoded again from the same archive, a member is the same; no stored one begins before the archive.
        return Opened(source, place, Evidence(identity, -1 - source.stream, source.size), source.key)
    return Opened(source, place, None)
