"""A store on another machine whose files are read through the block cache.

Content is cached under the token of its file's version. A reader in order gets blocks, and more of them ahead of it the
longer it goes on; a reader of small parts here and there gets pieces of 128 KiB, as a whole block would take longer
than the answer it waits for.

The object of an annexed key does not change: once opened, it is opened again without a request (`KnownVersions`), and
the file itself only when a block is missing. Small objects that a program is about to open are fetched together before.
"""

import os
from collections.abc import Sequence
from functools import partial

import trio
from cachetools import TTLCache

from riafs.cache.blocks import BlockCache
from riafs.cache.known_versions import KnownVersions
from riafs.errors import ChangedContent, MalformedKey, NotInStore, RiafsError, StoreUnreachable
from riafs.formats.digests import verifiable
from riafs.formats.keys import parse_file_name
from riafs.storage.bytesource import Buffer, StoredFile, Version
from riafs.storage.deadline import leave_request
from riafs.storage.protocol import FileStatus, Links, Listing, Modes, Storage
from riafs.tasks import Background, run_all

PIECE = 128 << 10
"""Bytes of what is fetched for a reader that is not in order: as much as the kernel asks for at once."""
SMALL = 1 << 20
"""Bytes of a file that may be fetched before anything asks for it."""
_TRIES = 3
_OBJECTS = b"/annex/objects/"
_ABSENT_SECONDS = 5.0
_FILES_AHEAD = 128
"""Small files that are fetched at the same time."""
_OUT_OF_ORDER = 4 * PIECE
"""The kernel sends the requests of a reader in order slightly out of order, as far as this."""
_FIRST_WINDOW, _LAST_WINDOW = 4 << 20, 32 << 20
_ALL_WINDOWS = 64 << 20


class CachedStorage:
    """The same store, with `open` through the cache. `background` runs reading ahead."""

    def __init__(self, storage: Storage, blocks: BlockCache, versions: KnownVersions, background: Background) -> None:
        self.storage = storage
        self.blocks = blocks
        self.background = background
        self.bytes_ahead = 0
        """Bytes that are being read ahead for all readers."""
        self._versions = versions
        self._identity = os.fsencode(storage.name) + b"\0"
        self._absent: TTLCache[bytes, None] = TTLCache(10_000, _ABSENT_SECONDS, timer=trio.current_time)
        """Directories of objects that the store does not have."""
        self._small = trio.CapacityLimiter(_FILES_AHEAD)
        self._coming: dict[bytes, trio.Event] = {}
        """Small files that are being fetched ahead."""

    @property
    def name(self) -> str:
        return self.storage.name

    @property
    def listing(self) -> Listing | None:
        return self.storage.listing

    @property
    def links(self) -> Links | None:
        return self.storage.links

    @property
    def modes(self) -> Modes | None:
        return self.storage.modes

    @property
    def local(self) -> None:
        return None

    @property
    def ahead(self) -> "CachedStorage":
        return self

    async def stat(self, path: bytes) -> FileStatus:
        return await self.storage.stat(path)

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        return await self.storage.stat_objects(directory, paths)

    async def read_file(self, path: bytes, limit: int) -> bytes:
        return await self.storage.read_file(path, limit)

    async def open(self, path: bytes) -> "CachedFile":
        if not _is_object(path):
            return await self._open_other(path)
        coming = self._coming.get(path)
        if coming is not None:
            await coming.wait()
        return await self._open_object(path)

    async def _open_other(self, path: bytes) -> "CachedFile":
        """A file that may change, as an archive does: looked up at each open, unless the machine is away."""
        try:
            file = await self.storage.open(path)
        except StoreUnreachable:
            known = await self._versions.get(self._identity + path)
            if known is None:
                raise
            return CachedFile(self, path, None, known, known.size)
        if file.version is not None:
            self._versions.put(self._identity + path, file.version, file.size)
        return CachedFile(self, path, file)

    async def _open_object(self, path: bytes) -> "CachedFile":
        directory = path[: path.rindex(_OBJECTS)]
        if directory in self._absent:
            raise NotInStore(f"{self.name}/{os.fsdecode(path)} does not exist")
        known = await self._versions.get(self._identity + path)
        if known is not None:
            return CachedFile(self, path, None, known, known.size)
        try:
            file = await self.storage.open(path)
        except NotInStore:
            await self._look_for(directory)
            raise
        assert file.version is not None
        self._versions.put(self._identity + path, file.version, file.size)
        return CachedFile(self, path, file, new=file.size <= SMALL)

    async def _look_for(self, directory: bytes) -> None:
        """Find out whether there are any objects: of an archived dataset, each key is looked for among them."""
        [status] = await self.storage.stat_objects(directory, [b"annex/objects"])
        if status is None:
            self._absent[directory] = None

    def forget(self, path: bytes) -> bool:
        return self._versions.forget(self._identity + path)

    # -- small files, ahead of a program that goes through a directory ------------------------------------------------

    def fetch_ahead(self, paths: Sequence[bytes]) -> None:
        """Fetch small objects that will probably be opened soon. Failures are left to the reader."""
        new = [path for path in paths if path not in self._coming]
        self._coming |= {path: trio.Event() for path in new}
        self.background.start_soon(self._fetch_all_ahead, new)

    async def _fetch_all_ahead(self, paths: Sequence[bytes]) -> None:
        try:
            await self._versions.look_up([self._identity + path for path in paths])
            async with trio.open_nursery() as nursery:
                for path in paths:
                    nursery.start_soon(self._fetch_ahead, path)
        finally:
            for path in paths:
                self._came(path)

    async def _fetch_ahead(self, path: bytes) -> None:
        leave_request()
        try:
            async with self._small:
                file = await self._open_object(path)
                try:
                    if file.size <= SMALL:
                        await file.read(0, file.size)
                finally:
                    file.close()
        except RiafsError:
            return
        finally:
            self._came(path)

    def _came(self, path: bytes) -> None:
        coming = self._coming.pop(path, None)
        if coming is not None:
            coming.set()

    def close(self) -> None:
        self.storage.close()


class CachedFile(StoredFile):
    """A file of the store. `file` is it itself, None if it is opened only when a block is missing.

    `new`: no mount has opened it before, as far as is known. It is closed when reading ahead from it has ended.
    """

    __slots__ = ("_ahead", "_closed", "_end", "_file", "_new", "_opening", "_path", "_size", "_storage", "_until",
                 "_window", "name", "version")  # fmt: skip

    def __init__(
        self,
        storage: CachedStorage,
        path: bytes,
        file: StoredFile | None,
        version: Version | None = None,
        size: int = 0,
        *,
        new: bool = False,
    ) -> None:
        version = version if file is None else file.version
        assert version is not None
        self.name = f"{storage.name}/{os.fsdecode(path)}"
        self.version: Version = version
        self._storage = storage
        self._path = path
        self._file = file
        self._size = size if file is None else file.size
        self._new = new
        self._opening = trio.Lock()
        self._ahead = 0
        """Blocks that are being read ahead."""
        self._closed = False
        self._end = 0
        """Where the last read ended; for a reader in order, the furthest one."""
        self._window = 0
        """Bytes that are read ahead."""
        self._until = 0
        """Blocks before this one are read ahead already."""

    @property
    def size(self) -> int:
        return self._size

    async def look(self) -> None:
        file = await self._opened()
        await file.look()
        self._note(file)

    async def _opened(self) -> StoredFile:
        if self._file is None:
            async with self._opening:
                if self._file is None:
                    try:
                        self._file = await self._storage.storage.open(self._path)
                    except NotInStore:
                        self._storage.forget(self._path)
                        raise
        return self._file

    def _note(self, file: StoredFile) -> None:
        if file.version is not None and file.version.token != self.version.token:
            self._storage.forget(self._path)
            self.version = file.version

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> Buffer:
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        for _ in range(_TRIES):
            version = self.version
            try:
                data = await self._read(version.token, offset, end)
            except ChangedContent:
                if self.version is version:
                    raise
                continue
            if self.version is version:
                return data
        raise ChangedContent(f"{self.name} is being changed; try again when that has ended")

    async def _read(self, content: bytes, offset: int, end: int) -> Buffer:
        size = self._storage.blocks.block_size
        near = abs(offset - self._end) <= _OUT_OF_ORDER
        in_order = offset == self._end or end - offset >= size
        if not in_order and self._is_coming(content, offset, end):
            if not near:
                return await self._gathered(content, size, offset, end)
            in_order = True
        self._end = max(self._end, end) if near and in_order else end
        if not in_order and size > PIECE and self._size > size:
            self._window = 0
            known = await self._storage.blocks.read(content, self._size, offset, end - offset)
            return known if known is not None else await self._gathered(content + b" pieces", PIECE, offset, end)
        if self._size > size:
            self._read_ahead(content, offset // size, -(-end // size))
        return await self._gathered(content, size, offset, end)

    def _is_coming(self, content: bytes, offset: int, end: int) -> bool:
        """Whether the whole blocks are in memory or on their way, so that pieces of them would come twice."""
        blocks, size = self._storage.blocks, self._storage.blocks.block_size
        return all(
            blocks.is_coming(content, index, min(size, self._size - index * size), reader=content)
            for index in range(offset // size, -(-end // size))
        )

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
        length = min(size, self._size - start)

        async def produce() -> bytes:
            file = await self._opened()
            data = bytes(await file.read(start, length))
            self._note(file)
            if not content.startswith(self.version.token):
                raise ChangedContent(f"{self.name} was changed while it was open; open the file again")
            return data

        return await self._storage.blocks.fetch(content, index, length, produce, reader=content, new=self._new)

    # -- reading ahead ------------------------------------------------------------------------------------------------

    def _read_ahead(self, content: bytes, first: int, last: int) -> None:
        """Start to fetch blocks after those from `first` to `last`, more each time the reader goes on to others."""
        size = self._storage.blocks.block_size
        if first == 0 and self._window == 0 and self._end < size:
            return  # the beginning of a file says nothing about the rest
        if self._window == 0:
            self._window, self._until = _FIRST_WINDOW, last
        elif last + self._window // size <= self._until:
            return
        else:
            self._window = min(2 * self._window, _LAST_WINDOW)
        blocks = -(-self._size // size)
        target = min(blocks, last + max(1, self._window // size))
        for index in range(max(self._until, last), target):
            if self._storage.bytes_ahead >= _ALL_WINDOWS:
                break
            self._storage.bytes_ahead += size
            self._ahead += 1
            self._until = index + 1
            self._storage.background.start_soon(self._fetch, content, index)

    async def _fetch(self, content: bytes, index: int) -> None:
        leave_request()
        size = self._storage.blocks.block_size
        try:
            if not self._closed:
                await self._block(content, size, index)
        except RiafsError:
            return  # the reader of the block gets the failure
        finally:
            self._storage.bytes_ahead -= size
            self._ahead -= 1
            if self._closed:
                self._close_file()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._close_file()

    def _close_file(self) -> None:
        if not self._ahead and self._file is not None:
            self._file.close()


def _is_object(path: bytes) -> bool:
    """Whether `path` is that of the object of a key with a digest, which is named after its content."""
    if _OBJECTS not in path:
        return False
    try:
        return verifiable(parse_file_name(path.rpartition(b"/")[2]))
    except MalformedKey:
        return False
