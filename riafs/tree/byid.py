"""``by_id``: collections by uuid or portable data hash. Any can be looked up; those that were are listed.

It only grows, at its end: no position, and no inode number with it, ever comes to stand for something else.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from riafs.errors import IsADirectoryHere, NoSuchName, NotInStore, NotThereYet, SourceNotFound
from riafs.formats.locators import is_identifier
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import Directory, Entry, Found, Kind, Versions

BY_ID = b"by_id"

Resolve = Callable[[bytes], Awaitable[Directory]]
"""The directory of a uuid or portable data hash, the same for the same one. Raises NotInStore."""


class ByIdDirectory:
    """What `resolve` knows: see the Directory protocol."""

    renewable = False

    def __init__(self, resolve: Resolve, mtime_ns: int) -> None:
        self._resolve = resolve
        self._seen: dict[bytes, Directory] = {}
        self._positions: dict[bytes, int] = {}
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        return [self._entry(name) for name in list(self._seen)[start:]]

    def _entry(self, name: bytes) -> Entry:
        mtime_ns = self._seen[name].mtime_ns
        return Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=mtime_ns, version=name)

    async def prepare(self, start: int) -> None:
        """See Directory."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        if name not in self._positions:
            await self._look_up(name)
        return Found(self._positions[name], self._entry(name))

    async def _look_up(self, name: bytes) -> None:
        if not is_identifier(name):
            raise NoSuchName(f"{name!r} is neither a uuid nor a portable data hash")
        try:
            directory = await self._resolve(name)
        except NotInStore as error:
            raise NotThereYet(str(error)) from error
        self._seen[name] = directory
        self._positions.setdefault(name, len(self._positions))  # another task may have been as quick

    async def versions(self) -> Versions:
        """See Directory."""
        return Versions({name: name for name in self._seen}, self._seen.keys())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        return await self._resolve(entry.name)

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        raise IsADirectoryHere(f"{entry.name!r} is a directory")

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise IsADirectoryHere(f"{entry.name!r} is a directory")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        return await self._seen[entry.name].own_attributes()

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        return None


async def open_named(resolve: Resolve, name: bytes) -> Directory:
    """What a source names. Raises SourceNotFound where there is no such thing, and as `resolve`."""
    try:
        return await resolve(name)
    except NotInStore as error:
        raise SourceNotFound(str(error)) from error
