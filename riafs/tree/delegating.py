"""A directory that shows what another one has, and adds to that: the top of a dataset or of a collection."""

from collections.abc import Mapping, Sequence

from riafs.content.parts import Part
from riafs.storage.bytesource import RangedBytes
from riafs.tree.divisible import Divisible
from riafs.tree.protocol import Directory, Entry, Found, Versions
from riafs.tree.slots import Slots, own_slots


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
