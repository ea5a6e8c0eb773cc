"""The simple directories that others are made from.

`PlainDirectory` has what is the same in most directories. `FixedDirectory` has entries that are given; `LiveDirectory`
shows what a collection that may be replaced has now. `BrokenDirectory` is shown where a collection cannot be: all in it
fails, with the reason. `VirtualDirectory` is ``.riafs`` at a mount's root: small files that tell about the mount, which
are looked up and never listed; their text is made when they are opened, so that stat shows size 0, as in /proc.
"""

import errno
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

from riafs.content.copies import Part
from riafs.errors import BrokenCollection, IsADirectoryHere, NoSuchName, RiafsError
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Found, Kind, Verifiable, VerifiableTop, Versions
from riafs.tree.slots import Slots, own_slots, slots_by_versions

_PIECE = 256
VIRTUAL = b".riafs"
_ABOUT_CONTENT = (errno.EIO, errno.EACCES, errno.ETIMEDOUT, errno.ENOENT, errno.ENOMEM)


def directory_entry(name: bytes, mtime_ns: int, version: bytes) -> Entry:
    """The entry of a directory."""
    return Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=mtime_ns, version=version)


class PlainDirectory:
    """What is the same in most directories: nothing to prepare, no links, no attributes, never replaced."""

    __slots__ = ()

    @property
    def renewable(self) -> bool:
        return False

    async def prepare(self, start: int) -> None:
        pass

    async def open(self, entry: Entry) -> RangedBytes:
        raise IsADirectoryHere(f"{os.fsdecode(entry.name)} is a directory")

    async def target(self, entry: Entry) -> bytes:
        raise NoSuchName(f"{os.fsdecode(entry.name)} is no link")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        return {}

    async def own_attributes(self) -> Mapping[str, bytes]:
        return {}

    async def renewed(self, turn: int) -> Directory | None:
        return None


class FixedDirectory(PlainDirectory):
    """A directory whose entries are known from the start and are all directories."""

    def __init__(self, entries: Sequence[Entry], mtime_ns: int, attributes: Mapping[str, bytes]) -> None:
        self._entries = tuple(entries)
        self._positions = {entry.name: position for position, entry in enumerate(self._entries)}
        self._attributes = attributes
        self._slots: Slots | None = None
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        # A caller that asks for one of many does not get a copy of all that follow.
        return self._entries[start : start + _PIECE] if start else self._entries

    async def find(self, name: bytes) -> Found:
        position = self._positions.get(name)
        if position is None:
            raise NoSuchName(f"no {os.fsdecode(name)}")
        return Found(position, self._entries[position])

    async def versions(self) -> Versions:
        versions = {entry.name: entry.version for entry in self._entries}
        return Versions(versions, versions.keys())

    async def slots(self) -> Slots | None:
        if self._slots is None:
            self._slots = slots_by_versions(await self.versions())
        return self._slots

    async def directory(self, entry: Entry) -> Directory:
        raise NoSuchName(f"no {os.fsdecode(entry.name)}")

    async def own_attributes(self) -> Mapping[str, bytes]:
        return self._attributes


class VirtualDirectory(PlainDirectory):
    """``.riafs``: files, name → function that makes the text; and directories."""

    def __init__(
        self, files: Mapping[bytes, Callable[[], str]], directories: Mapping[bytes, Directory], mtime_ns: int
    ) -> None:
        self._files = files
        self._directories = directories
        shown = [directory_entry(name, mtime_ns, b"") for name in directories]
        shown += [
            Entry(name, Kind.FILE, UNKNOWN_SIZE, executable=False, mtime_ns=mtime_ns, version=b"") for name in files
        ]
        self._entries = tuple(sorted(shown, key=lambda entry: entry.name))
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        return self._entries[start:]

    async def find(self, name: bytes) -> Found:
        for position, entry in enumerate(self._entries):
            if entry.name == name:
                return Found(position, entry)
        raise NoSuchName(f"no {os.fsdecode(name)} in .riafs")

    async def versions(self) -> Versions:
        return Versions({entry.name: entry.version for entry in self._entries}, self._directories.keys())

    async def directory(self, entry: Entry) -> Directory:
        return self._directories[entry.name]

    async def open(self, entry: Entry) -> RangedBytes:
        if entry.name not in self._files:
            return await super().open(entry)
        return MemoryBytes(self._files[entry.name]().encode(errors="surrogateescape"))


class BrokenDirectory:
    """All in it raises `reason`, or BrokenCollection where that is a text or would deny the directory itself.
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
        # A new one each time: the traceback of an exception that is raised again grows.
        return self._kind(self._reason)

    async def entries(self, start: int) -> Sequence[Entry]:
        raise self._failure()

    async def prepare(self, start: int) -> None:
        pass

    async def find(self, name: bytes) -> Found:
        raise self._failure()

    async def versions(self) -> Versions:
        """Nothing, so that a readable version that replaces it differs."""
        return Versions({}, frozenset())

    async def directory(self, entry: Entry) -> Directory:
        raise self._failure()

    async def open(self, entry: Entry) -> RangedBytes:
        raise self._failure()

    async def target(self, entry: Entry) -> bytes:
        raise self._failure()

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        raise self._failure()

    async def own_attributes(self) -> Mapping[str, bytes]:
        return {**self._attributes, "error": self._reason.encode(errors="surrogateescape")}

    async def renewed(self, turn: int) -> Directory | None:
        return None


class LiveCollection(Protocol):
    """A collection that may be replaced: one with a uuid, or whose manifest is a file. Asked once a round."""

    current: Directory
    """Its top directory as of the last look."""

    async def now(self, turn: int) -> Directory:
        """Its top directory now; the same object as `current` while nothing changes. `turn` as in Directory.renewed."""


class LiveDirectory:
    """The top directory of a live collection as it was when this was made; `renewed` gives the next one."""

    renewable = True

    def __init__(self, collection: LiveCollection) -> None:
        self._collection = collection
        self._shown = collection.current

    @property
    def mtime_ns(self) -> int:
        """Time of the last change that is known."""
        return self._collection.current.mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        return await self._shown.entries(start)

    async def prepare(self, start: int) -> None:
        await self._shown.prepare(start)

    async def find(self, name: bytes) -> Found:
        return await self._shown.find(name)

    async def versions(self) -> Versions:
        return await self._shown.versions()

    async def slots(self) -> Slots | None:
        return await own_slots(self._shown)

    async def directory(self, entry: Entry) -> Directory:
        return await self._shown.directory(entry)

    async def open(self, entry: Entry) -> RangedBytes:
        return await self._shown.open(entry)

    async def parts(self, entry: Entry) -> Sequence[Part]:
        return await self._shown.parts(entry) if isinstance(self._shown, Verifiable) else ()

    @property
    def holds_parts(self) -> bool:
        return isinstance(self._shown, VerifiableTop) and self._shown.holds_parts

    async def stored_parts(self) -> AsyncGenerator[Part, None]:
        if isinstance(self._shown, VerifiableTop):
            async for part in self._shown.stored_parts():
                yield part

    async def target(self, entry: Entry) -> bytes:
        return await self._shown.target(entry)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        return await self._shown.attributes(entry, name)

    async def own_attributes(self) -> Mapping[str, bytes]:
        return await self._shown.own_attributes()

    async def renewed(self, turn: int) -> Directory | None:
        newer = await self._collection.now(turn)
        return None if newer is self._shown else LiveDirectory(self._collection)
