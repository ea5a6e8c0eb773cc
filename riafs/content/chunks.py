"""Chunks of a key that lie in the store as they are, read as one, with a bounded number of descriptors.

Invariant: a chunk that is being read is not closed; others are, the one unused for longest first, and opened again when
they are wanted.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from riafs.archive.member import DecodedMember
from riafs.errors import NotInStore, ShortRead
from riafs.storage.bytesource import Buffer, Extent, RangedBytes, Version, read_across, stored_file

MOST_OPEN = 64

OpenChunk = Callable[[int], Awaitable[RangedBytes]]
"""Opens the chunk of that number, from 0 on. Raises NotInStore."""


@dataclass(frozen=True, slots=True)
class ChunkVersions:
    """The versions of all chunks together."""

    files: int
    modification: int
    """As `Version.modification`."""

    @classmethod
    def of(cls, origins: list[object]) -> "ChunkVersions":
        """For chunks with these origins."""
        files = [(each.version.modification, each.offset) if isinstance(each, _InFile) else each for each in origins]
        return cls(hash(tuple(origins)), hash(tuple(files)))


class _InFile(NamedTuple):
    """The origin of a chunk that lies in a file as it is."""

    version: Version
    offset: int


@dataclass(slots=True)
class _Open:
    source: RangedBytes
    users: int = 0


class Chunks:
    """RangedBytes over chunks of known `sizes`."""

    def __init__(self, open_chunk: OpenChunk, sizes: list[int], origins: list[object]) -> None:
        self._open_chunk = open_chunk
        self._sizes = sizes
        self._origins = origins
        self.version = ChunkVersions.of(origins)
        """Another object once a chunk has changed."""
        self._ends = list(accumulate(sizes))
        self._opened: OrderedDict[int, _Open] = OrderedDict()
        self._closed = False

    @classmethod
    async def open(cls, open_chunk: OpenChunk, count: int) -> "Chunks":
        """All of `count` chunks; each is opened once to get its size. Raises what opening them raises."""
        sizes: list[int] = []
        origins: list[object] = []
        for number in range(count):
            source = await open_chunk(number)
            sizes.append(source.size)
            origins.append(_origin(source))
            source.close()
        return cls(open_chunk, sizes, origins)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._ends[-1] if self._ends else 0

    async def read(self, offset: int, length: int) -> Buffer:
        return await read_across(self._ends, offset, length, self._read_chunk)

    async def _read_chunk(self, number: int, offset: int, length: int) -> Buffer:
        async with self._chunk(number) as source:
            data = await source.read(offset, length)
            self._look(number, source)
            return data

    def _look(self, number: int, source: RangedBytes) -> None:
        """Note it if a chunk is not the version any more that was opened first."""
        origin = _origin(source)
        if origin != self._origins[number]:
            self._origins[number] = origin
            self.version = ChunkVersions.of(self._origins)

    @asynccontextmanager
    async def _chunk(self, number: int) -> AsyncIterator[RangedBytes]:
        """A chunk, which stays open in the context."""
        if number not in self._opened:
            source = await self._open_again(number)
            if number in self._opened:  # another reader was faster
                source.close()
            else:
                self._opened[number] = _Open(source)
        chunk = self._opened[number]
        self._opened.move_to_end(number)
        chunk.users += 1
        try:
            yield chunk.source
        finally:
            chunk.users -= 1
            self._trim(0 if self._closed else MOST_OPEN)

    async def _open_again(self, number: int) -> RangedBytes:
        try:
            source = await self._open_chunk(number)
        except NotInStore as error:
            raise ShortRead(f"a chunk is gone that was there when the file was opened: {error}") from error
        if source.size != self._sizes[number]:
            source.close()
            raise ShortRead(f"chunk {number + 1} has {source.size} bytes, it had {self._sizes[number]}")
        return source

    def _trim(self, most: int) -> None:
        for number, chunk in list(self._opened.items()):
            if len(self._opened) <= most:
                return
            if not chunk.users:
                del self._opened[number]
                chunk.source.close()

    def close(self) -> None:
        """Close the chunks."""
        self._closed = True
        self._trim(0)


def _origin(source: RangedBytes) -> object:
    """Equal as long as `source` is the same bytes of the same version of a file; None if nobody can change it."""
    file = stored_file(source)
    if file is not None and file.version is not None:
        return _InFile(file.version, source.offset if isinstance(source, Extent) else 0)
    return source.origin if isinstance(source, DecodedMember) else None
