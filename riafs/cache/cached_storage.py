"""A store on another machine whose files are read through the block cache.

Content is cached under the token of its file's version. A reader in order gets blocks, and others ahead of it; a reader
of small parts here and there gets pieces of 128 KiB, as a whole block would take longer than the answer it waits for.
"""

from collections.abc import Sequence
from functools import partial

from riafs.cache.blocks import BlockCache
from riafs.cache.cached_bytes import ReadAhead
from riafs.errors import ChangedContent, RiafsError
from riafs.storage.bytesource import Buffer, StoredFile, Version
from riafs.storage.deadline import leave_request
from riafs.storage.protocol import FileStatus, Links, Listing, Modes, Storage
from riafs.tasks import Background, run_all

PIECE = 128 << 10
"""Bytes of what is fetched for a reader that is not in order: as much as the kernel asks for at once."""
_TRIES = 3


class CachedStorage:
    """The same store, with `open` through the cache. `background` runs reading ahead."""

    def __init__(self, storage: Storage, blocks: BlockCache, background: Background) -> None:
        self._storage = storage
        self._blocks = blocks
        self._background = background

    @property
    def name(self) -> str:
        return self._storage.name

    @property
    def listing(self) -> Listing | None:
        return self._storage.listing

    @property
    def links(self) -> Links | None:
        return self._storage.links

    @property
    def modes(self) -> Modes | None:
        return self._storage.modes

    @property
    def local(self) -> None:
        return None

    async def stat(self, path: bytes) -> FileStatus:
        return await self._storage.stat(path)

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        return await self._storage.stat_objects(directory, paths)

    async def read_file(self, path: bytes, limit: int) -> bytes:
        return await self._storage.read_file(path, limit)

    async def open(self, path: bytes) -> "CachedFile":
        return CachedFile(await self._storage.open(path), self._blocks, self._background)

    def close(self) -> None:
        self._storage.close()


class CachedFile(StoredFile):
    """A file of the store. It is closed when reading ahead from it has ended."""

    __slots__ = ("_ahead", "_background", "_blocks", "_closed", "_end", "_fetching", "_file", "name", "version")

    def __init__(self, file: StoredFile, blocks: BlockCache, background: Background) -> None:
        assert file.version is not None
        self.name = file.name
        self.version: Version = file.version
        self._file = file
        self._blocks = blocks
        self._background = background
        self._ahead = ReadAhead(self._following, self._fetch_ahead)
        self._fetching: set[int] = set()
        self._closed = False
        self._end = 0
        """Where the last read ended."""

    @property
    def size(self) -> int:
        return self._file.size

    async def look(self) -> None:
        await self._file.look()
        self._note()

    def _note(self) -> None:
        if self._file.version is not None and self._file.version != self.version:
            self.version = self._file.version

    async def read(self, offset: int, length: int) -> Buffer:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        for _ in range(_TRIES):
            version = self.version
            data = await self._read(version.token, offset, end)
            self._note()
            if self.version is version:
                return data
        raise ChangedContent(f"{self.name} is being changed; try again when that has ended")

    async def _read(self, content: bytes, offset: int, end: int) -> Buffer:
        size = self._blocks.block_size
        in_order = offset == self._end or end - offset >= size
        self._end = end
        if not in_order and size > PIECE and self.size > size:
            known = await self._blocks.read(content, self.size, offset, end - offset)
            return known if known is not None else await self._gathered(content + b" pieces", PIECE, offset, end)
        data = await self._gathered(content, size, offset, end)
        for index in range(offset // size, -(-end // size)):
            start = max(offset - index * size, 0)
            self._ahead.has_read(index, start, min(end - index * size, size) - start)
        return data

    async def _gathered(self, content: bytes, size: int, offset: int, end: int) -> Buffer:
        """The bytes from `offset` to `end`, of blocks of `size` bytes, all of which are fetched at once."""
        first, last = offset // size, -(-end // size)
        found: dict[int, memoryview] = {}

        async def fetch(index: int) -> None:
            found[index] = memoryview(await self._block(content, size, index))

        if last - first == 1:
            await fetch(first)
        else:
            await run_all(*(partial(fetch, index) for index in range(first, last)))
        pieces = [found[index][max(offset - index * size, 0) : end - index * size] for index in range(first, last)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _block(self, content: bytes, size: int, index: int) -> bytes:
        start = index * size
        length = min(size, self.size - start)

        async def produce() -> bytes:
            data = bytes(await self._file.read(start, length))
            if self._file.version is None or not content.startswith(self._file.version.token):
                raise ChangedContent(f"{self.name} was changed while it was open; open the file again")
            return data

        return await self._blocks.fetch(content, index, length, produce, reader=content)

    # -- reading ahead ------------------------------------------------------------------------------------------------

    def _following(self, index: int) -> range:
        return range(index + 1, -(-self.size // self._blocks.block_size))

    def _fetch_ahead(self, index: int) -> int:
        if not self._closed and index not in self._fetching:
            self._fetching.add(index)
            self._background.start_soon(self._fetch, self.version.token, index)
        return self._blocks.block_size

    async def _fetch(self, content: bytes, index: int) -> None:
        leave_request()
        try:
            if not self._closed:
                await self._block(content, self._blocks.block_size, index)
        except RiafsError:
            return  # the reader of the block gets the failure
        finally:
            self._fetching.discard(index)
            if self._closed and not self._fetching:
                self._file.close()

    def close(self) -> None:
        self._closed = True
        if not self._fetching:
            self._file.close()
