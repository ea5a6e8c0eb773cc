"""The simple directories that others are made from.

`FixedDirectory` has entries that are given; `DelegatingDirectory` shows what another directory has, and `LiveDirectory`
what a collection that may be replaced has now. `BrokenDirectory` is shown where a collection cannot be: all in it
fails, with the reason. `VirtualDirectory` is ``.riafs`` at a mount's root: small files that tell about the mount, which
are looked up and never listed; their text is made when they are opened, so that stat shows size 0, as in /proc.
"""

import errno
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from riafs.content.parts import Part
from riafs.errors import BrokenCollection, IsADirectoryHere, NoSuchName, RiafsError
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Divisible, Entry, Found, Holding, Kind, Versions
from riafs.tree.slots import Slots, own_slots, slots_by_versions

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


class DelegatingDirectory:
    """All of the Directory protocol but whether and how it is renewed, from the directory `shown`."""

    def __init__(self, shown: Directory) -> None:
        self._shown = shown

    @property
    def mtime_ns(self) -> int:
        """See Directory."""
        return self._shown.mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        return await self._shown.entries(start)

    async def prepare(self, start: int) -> None:
        """See Directory."""
        await self._shown.prepare(start)

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        return await self._shown.find(name)

    async def versions(self) -> Versions:
        """See Directory."""
        return await self._shown.versions()

    async def slots(self) -> Slots | None:
        """See Numbered."""
        return await own_slots(self._shown)

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        return await self._shown.directory(entry)

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        return await self._shown.open(entry)

    async def parts(self, entry: Entry) -> Sequence[Part]:
        """See Divisible."""
        return await self._shown.parts(entry) if isinstance(self._shown, Divisible) else ()

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        return await self._shown.target(entry)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        return await self._shown.attributes(entry, name)

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return await self._shown.own_attributes()


class LiveCollection(Protocol):
    """Where a directory stands."""

    current: Directory
    """The one that stood there when somebody last looked."""

    async def now(self, turn: int) -> Directory:
        """The one that stands there now; the same object as `current` while nothing changes. `turn`: see Directory."""


class LiveDirectory(DelegatingDirectory):
    """The directory that stood in `place` when this was made: see the Directory protocol."""

    renewable = True

    def __init__(self, place: LiveCollection) -> None:
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
        return None if newer is self._shown else LiveDirectory(self._place)


_ABOUT_CONTENT = (errno.EIO, errno.EACCES, errno.ETIMEDOUT, errno.ENOENT, errno.ENOMEM)


class BrokenDirectory:
    """Looking into it raises `reason`, or BrokenCollection where that is a text or would deny the directory.
    ``user.riafs.error`` has the reason too.
    """

    renewable = False

    def __init__(self, reason: str | RiafsError, mtime_ns: int = 0, **attributes: bytes) -> None:
        self._kind: type[RiafsError] = BrokenCollection
        if isinstance(reason, RiafsError) and reason.errno in _ABOUT_CONTENT:
            self._kind = type(reason)
        self._reason = str(reason)
        self._attributes = attributes
        self.mtime_ns = mtime_ns

    def _failure(self) -> RiafsError:
        # A new one each time: an exception that is raised again grows by the places where it was raised.
        return self._kind(self._reason)

    async def entries(self, start: int) -> Sequence[Entry]:
        """Raises the reason, as all that follows."""
        raise self._failure()

    async def prepare(self, start: int) -> None:
        """See Directory: nothing can be read before."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        raise self._failure()

    async def versions(self) -> Versions:
        """Nothing, so that it can be told from what comes to stand in its place."""
        return Versions({}, frozenset())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        raise self._failure()

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        raise self._failure()

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise self._failure()

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        raise self._failure()

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {**self._attributes, "error": self._reason.encode(errors="surrogateescape")}

    async def renewed(self, turn: int) -> Directory | None:
        """It stays broken; what has its name may be replaced."""
        return None


VIRTUAL = b".riafs"


class VirtualDirectory:
    """``.riafs``: files, name → what makes the text; and directories. See the Directory protocol."""

    renewable = False

    def __init__(
        self, files: Mapping[bytes, Callable[[], str]], directories: Mapping[bytes, Directory], mtime_ns: int
    ) -> None:
        self._files = files
        self._directories = directories
        shown = [
            Entry(name, Kind.FILE, UNKNOWN_SIZE, executable=False, mtime_ns=mtime_ns, version=b"") for name in files
        ]
        shown += [
            Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=mtime_ns, version=b"") for name in directories
        ]
        self._entries = tuple(sorted(shown, key=lambda entry: entry.name))
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        return self._entries[start:]

    async def prepare(self, start: int) -> None:
        """See Directory."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        for position, entry in enumerate(self._entries):
            if entry.name == name:
                return Found(position, entry)
        raise NoSuchName(f"no {name!r} in .riafs")

    async def versions(self) -> Versions:
        """See Directory."""
        versions = {entry.name: entry.version for entry in self._entries}
        return Versions(versions, self._directories.keys())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        return self._directories[entry.name]

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        if entry.name not in self._files:
            raise IsADirectoryHere(f"{entry.name!r} is a directory")
        return MemoryBytes(self._files[entry.name]().encode(errors="surrogateescape"))

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise NoSuchName(f"{entry.name!r} is no link")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:  # part of the protocol
        """See Directory."""
        return {}

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        return None
