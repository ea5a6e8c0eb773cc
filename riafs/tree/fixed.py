"""Directories that are given as they are: the base of those that riafs makes up, and of those that are empty."""

from collections.abc import Mapping, Sequence

from riafs.errors import IsADirectoryHere, NoSuchName
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import Directory, Entry, Found, Versions
from riafs.tree.slots import Slots, slots_by_versions

_PIECE = 256


class FixedDirectory:
    """A directory whose entries are known from the start and are all directories: see the Directory protocol."""

    renewable = False

    def __init__(self, entries: Sequence[Entry], mtime_ns: int, attributes: Mapping[str, bytes]) -> None:
        self._entries = tuple(entries)
        self._positions = {entry.name: position for position, entry in enumerate(self._entries)}
        self._attributes = attributes
        self._slots: Slots | None = None
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory. Who asks for one of many is not made a copy of all that follow."""
        return self._entries[start : start + _PIECE] if start else self._entries

    async def prepare(self, start: int) -> None:
        """See Directory."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        position = self._positions.get(name)
        if position is None:
            raise NoSuchName(f"no {name!r}")
        return Found(position, self._entries[position])

    async def versions(self) -> Versions:
        """See Directory."""
        versions = {entry.name: entry.version for entry in self._entries}
        return Versions(versions, versions.keys())

    async def slots(self) -> Slots | None:
        """See Numbered."""
        if self._slots is None:
            self._slots = slots_by_versions(await self.versions())
        return self._slots

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        raise NoSuchName(f"no {entry.name!r}")

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        raise IsADirectoryHere(f"{entry.name!r} is a directory")

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise IsADirectoryHere(f"{entry.name!r} is a directory")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:  # part of the protocol
        """See Directory."""
        return {}

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return self._attributes

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        return None
