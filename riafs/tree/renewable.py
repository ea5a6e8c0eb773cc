"""Places whose directory may be replaced: a collection by its uuid, a manifest file.

The directory itself never changes; the place knows the one that stands there now, and is asked once a round.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from riafs.content.parts import Part
from riafs.tree.delegating import DelegatingDirectory
from riafs.tree.divisible import Holding
from riafs.tree.protocol import Directory


class Place(Protocol):
    """Where a directory stands."""

    current: Directory
    """The one that stood there when somebody last looked."""

    async def now(self, turn: int) -> Directory:
        """The one that stands there now; the same object as `current` while nothing changes. `turn`: see Directory."""


class PlacedDirectory(DelegatingDirectory):
    """The directory that stood in `place` when this was made: see the Directory protocol."""

    renewable = True

    def __init__(self, place: Place) -> None:
        super().__init__(place.current)
        self._place = place

    @property
    def mtime_ns(self) -> int:
        """See Directory: time of the last change that is known."""
        return self._place.current.mtime_ns

    @property
    def holding(self) -> bool:
        """See Holding."""
        return isinstance(self._shown, Holding) and self._shown.holding

    async def held(self) -> AsyncGenerator[Part, None]:
        """See Holding."""
        if isinstance(self._shown, Holding):
            async for part in self._shown.held():
                yield part

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        newer = await self._place.now(turn)
        return None if newer is self._shown else PlacedDirectory(self._place)
