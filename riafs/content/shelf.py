"""The 7z archives of one dataset: opened once, and again when the file was replaced, or others were used more.

An archive is recognised by the version of its file. Readers of members keep the file they opened: ``7z u`` writes a
new file and renames it over the old one, so an open descriptor stays valid.
"""

import logging
from collections.abc import Iterator, Sequence

from riafs.archive.archive import Archive, ArchiveTools, Known
from riafs.archive.member import DecodedMember
from riafs.cache.verified import Evidence
from riafs.content.verifying import Opened
from riafs.errors import ArchiveError, DamagedIndex, NotInStore
from riafs.storage.bytesource import Extent, RangedBytes, StoredFile, Version
from riafs.storage.deadline import DeadlineLock
from riafs.storage.protocol import Storage

_log = logging.getLogger(__name__)

PLACES = (b"archives/archive.7z", b"annex/archives/archive.7z", b"archive.7z")
"""Where an archive may lie below a dataset: today's place, the one of early documentation, and the one before 2019."""


class ArchiveShelf:
    """The archives of the dataset at the store's path `dataset`."""

    def __init__(self, storage: Storage, dataset: bytes, tools: ArchiveTools) -> None:
        self._storage = storage
        self._dataset = dataset
        self._tools = tools
        self._opening = DeadlineLock()

    async def open(self, place: bytes, names: Sequence[bytes]) -> Opened | None:
        """The first member of the archive at `place` that has one of `names`; None if it has none of them.

        Raises NotInStore where there is no archive, ArchiveError and its kinds, CorruptContent, DecodeFailed, …
        """
        for last in (False, True):
            version, archive = await self._archive(place)
            try:
                return await _open_member(archive, place, names, version)
            except DamagedIndex as problem:
                if last:
                    raise
                _log.warning("%s; it is made again", problem)
                known = self._known(place, version)
                if known is not None and known.archive is archive:
                    del self._tools.open_archives[self, place]
                await archive.forget()
        raise AssertionError("the second round returns or raises")

    async def names(self, place: bytes) -> Iterator[bytes]:
        """The names of the files in the archive at `place`, none where there is no archive. Raises as `open`."""
        try:
            _, archive = await self._archive(place)
        except NotInStore:
            return iter(())
        return (member.name for member in archive.listing if not member.is_directory)

    async def _archive(self, place: bytes) -> tuple[Version, Archive]:
        path = self._dataset + b"/" + place
        source = await self._storage.open(path)
        version = source.version
        assert version is not None
        async with self._opening.held():
            known = self._known(place, version)
            if known is None:
                known = await self._open(source, version, path)
                self._tools.open_archives.pop((self, place), None)
                self._tools.open_archives[self, place] = known
            else:
                source.close()
        if known.archive is None:
            assert known.problem is not None
            raise type(known.problem)(*known.problem.args)
        return version, known.archive

    def _known(self, place: bytes, version: Version) -> Known | None:
        """What is known of the archive at `place`, if that is still the same file."""
        known: Known | None = self._tools.open_archives.get((self, place))
        return known if known is not None and known.version == version else None

    async def _open(self, source: StoredFile, version: Version, path: bytes) -> Known:
        """The archive in `source`, or what will be wrong with it as long as nobody changes it."""
        try:
            return Known(version, await Archive.open(source, self._tools, path))
        except BaseException as problem:
            source.close()
            if isinstance(problem, ArchiveError) and not problem.retryable:
                return Known(version, None, problem)
            raise


async def _open_member(archive: Archive, place: bytes, names: Sequence[bytes], version: Version) -> Opened | None:
    for name in names:
        member = archive.find(name)
        if member is not None and not member.is_directory:
            return _opened(await archive.open_member(member), place.decode(), version)
    return None


def _opened(source: RangedBytes, place: str, version: Version) -> Opened:
    """A member with what its readers need to know: where its bytes lie, or which key they were checked against."""
    if isinstance(source, Extent):
        return Opened(source, place, Evidence(version, source.offset, source.size))
    if isinstance(source, DecodedMember):
        # Decoded again from the same archive, a member is the same; no stored one begins before the archive.
        return Opened(source, place, Evidence(version, -1 - source.stream, source.size), source.key)
    return Opened(source, place, None)
