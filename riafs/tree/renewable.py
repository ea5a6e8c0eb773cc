"""Places whose directory may be replaced: a collection by its uuid, a manifest file.

The directory itself never changes; the place knows the one that stands there now, and is asked once a round.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from riafs.content.parts import Part
from riafs.storage.ranged import RangedBytes
from riafs.tree.divisible import Divisible, Holding
from riafs.tree.protocol import Directory, Entry, Found, Versions


class Place(Protocol):
    """Where a directory stands."""

    current: Directory
    """The one that stood there when somebody last looked."""

    async def now(self, turn: int) -> Directory:
        """The one that stands there now; the same object as `current` while nothing changes. `turn`: see Directory."""


class PlacedDirectory:
    """The directory that stood in `place` when this was made: see the Directory protocol."""

    renewable = True

    def __init__(self, place: Place) -> None:
        self._place = place
        self._directory = place.current

    @property
    def mtime_ns(self) -> int:
        """See Directory: time of the last change that is known."""
        return self._place.current.mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        return await self._directory.entries(start)

    async def prepare(self, start: int) -> None:
        """See Directory."""
        await self._directory.prepare(start)

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        return await self._directory.find(name)

    async def versions(self) -> Versions:
        """See Directory."""
        return await self._directory.versions()

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        return await self._directory.directory(entry)

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        return await self._directory.open(entry)

    async def parts(self, entry: Entry) -> Sequence[Part]:
        """See Divisible."""
        return await self._directory.parts(entry) if isinstance(self._directory, Divisible) else ()

    @property
    def holding(self) -> bool:
        """See Holding."""
        return isinstance(self._directory, Holding) and self._directory.holding

    async def held(self) -> AsyncIterator[Part]:
        """See Holding."""
        if isinstance(self._directory, Holding):
            async for part in self._directory.held():
                yield part

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        return await self._directory.target(entry)

    async def attributes(self, entry: Entry) -> Mapping[str, bytes]:
        """See Directory."""
        return await self._directory.attributes(entry)

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return await self._directory.own_attributes()

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        newer = await self._place.now(turn)
        return None if newer is self._directory else PlacedDirectory(self._place)
