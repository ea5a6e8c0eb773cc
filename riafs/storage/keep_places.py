"""The places that may have a block of Keep (servers and volumes), and the order in which to try them.

A block from a server is received whole and hashed while it arrives (`WholeBlock`). A block in a volume on this machine
is a file, which is read in place and has to be hashed first (`FileBlock`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from riafs.errors import ChangedContent, CorruptContent
from riafs.formats.locators import Locator, service_weight
from riafs.storage.bytesource import Buffer
from riafs.storage.deadline import Deadline
from riafs.storage.http import PIECE
from riafs.storage.local import LocalStorage
from riafs.storage.local_file import FileBytes

if TYPE_CHECKING:
    from riafs.storage.deadline import ProgressQueue

_REFRESH_SECONDS = 5.0


class WholeBlock:
    """A verified block in memory, as RangedBytes. All `parts` but the last have `PIECE` bytes."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[bytes], size: int) -> None:
        self.parts = parts
        self.size = size

    async def read(self, offset: int, length: int) -> Buffer:
        return self.read_now(offset, length)

    def read_now(self, offset: int, length: int) -> Buffer:
        """As `read`, without being awaited."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // PIECE, (end - 1) // PIECE
        if first == last:
            part = self.parts[first]
            within = offset - first * PIECE
            return part if end - offset == len(part) else memoryview(part)[within : within + end - offset]
        pieces = [memoryview(part) for part in self.parts[first : last + 1]]
        pieces[-1] = pieces[-1][: end - last * PIECE]
        pieces[0] = pieces[0][offset - first * PIECE :]
        return b"".join(pieces)

    def close(self) -> None:
        pass


class FileBlock:
    """A block's file in a volume, of the right size but not hashed yet."""

    __slots__ = ("digest", "file")

    def __init__(self, file: FileBytes, digest: Callable[[], Awaitable[bytes]]) -> None:
        self.file = file
        self.digest = digest
        """The MD5 of the file's bytes, 32 hexadecimal digits; raises ShortRead, StoreError, StoreTimeout."""


class BlockInVolume:
    """A block's file in a volume, as RangedBytes, as long as it is the version that was hashed."""

    __slots__ = ("_file", "_version")

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._version = file.version

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._file.size

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises ChangedContent where the file was written to or replaced since it was hashed."""
        data = await self._file.read(offset, length)
        if self._file.version is not self._version:
            raise ChangedContent(f"{self._file.name} was changed since it was verified")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Attempt:
    """One request for a block to one place, and its progress. Times are trio's.

    `seconds`: the deadline for the answer to begin. `on_progress` is called when it begins, and about once a second
    while more of it arrives.
    """

    __slots__ = ("_last_progress", "_on_progress", "answered_at", "queue", "request_id", "seconds", "sent_at")

    def __init__(self, request_id: str, seconds: float, on_progress: Callable[[], None] = lambda: None) -> None:
        self._on_progress = on_progress
        self.request_id = request_id
        """The same for all requests of one reader, so that a cluster's logs can be searched for it."""
        self.seconds = seconds
        self.sent_at: float | None = None
        """When the request was sent; None while it waits in `queue`."""
        self.answered_at: float | None = None
        """When the answer began."""
        self.queue: ProgressQueue | None = None
        """The queue for the place's connections, where it has one."""
        self._last_progress = trio.current_time()

    @property
    def idle_since(self) -> float:
        """Since when there has been no progress of the answer, or in the queue. Now, where nothing is waited for."""
        if self.answered_at is not None:
            return self._last_progress
        if self.sent_at is not None:
            return self.sent_at
        return trio.current_time() if self.queue is None else max(self._last_progress, self.queue.last_progress)

    def sent(self) -> None:
        """Note that the request is sent now."""
        self.sent_at = trio.current_time()

    def progressed(self) -> None:
        """Note that the answer begins now, or that more of it arrived."""
        self._on_progress()
        self._last_progress = trio.current_time()
        if self.answered_at is None:
            self.answered_at = trio.current_time()


class BlockPlace(Protocol):
    """A server or a volume."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def in_place(self) -> bool:
        """Whether blocks are read from their files, so that they need neither memory nor a cache."""

    async def fetch(self, locator: Locator, attempt: Attempt) -> WholeBlock | FileBlock:
        """The block. Raises NotInStore; AccessExpired, StoreDenied; Overloaded, StoreError, StoreTimeout; ShortRead,
        CorruptContent; BadAnswer."""

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        """Read the block once more and hash it, without keeping it. Raises as `fetch` does."""


class BlockPlaces(Protocol):
    """All places of a mount."""

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        """The places to try for a block, in this order."""

    async def refresh(self) -> None:
        """Fetch the list of places again, if it can change: none of them had a block, or answered."""


async def _no_refresh() -> None:
    pass


class Places:
    """Volumes in their order, then servers (uuid → server) in the order that the block's digest gives them."""

    def __init__(
        self,
        volumes: Sequence[BlockPlace],
        servers: Mapping[bytes, BlockPlace],
        refresh: Callable[[], Awaitable[None]] = _no_refresh,
    ) -> None:
        self._volumes = tuple(volumes)
        self._servers = dict(servers)
        self._refresh = refresh
        self._refreshing = trio.Lock()
        self._refreshed_at = float("-inf")

    def replace(self, servers: Mapping[bytes, BlockPlace]) -> None:
        """Use these servers from now on. Objects of servers that stay are kept, as they limit the requests to them."""
        known = self._servers
        self._servers = {
            uuid: known[uuid] if uuid in known and known[uuid].name == server.name else server
            for uuid, server in servers.items()
        }

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        servers = sorted(self._servers, key=lambda uuid: service_weight(locator.digest, uuid), reverse=True)
        return [*self._volumes, *(self._servers[uuid] for uuid in servers)]

    async def refresh(self) -> None:
        # However many readers ask, once in a few seconds.
        async with self._refreshing:
            if trio.current_time() - self._refreshed_at > _REFRESH_SECONDS:
                self._refreshed_at = trio.current_time()
                await self._refresh()


_MARK = b"K@"
_CLUSTER = 5
"""Characters in a cluster's name; longer ones are uuids of gateways."""


class HintedPlaces:
    """`BlockPlaces` that has the places of a block's hints before `places`. `server` makes the place of a URL."""

    def __init__(
        self, places: BlockPlaces, gateways: Mapping[bytes, BlockPlace], server: Callable[[str], BlockPlace]
    ) -> None:
        self._places = places
        self._gateways = gateways
        self._server = server
        self._clusters: dict[bytes, BlockPlace] = {}

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        named = [hint.removeprefix(_MARK) for hint in locator.hints if hint.startswith(_MARK)]
        hinted = [place for place in map(self._named, dict.fromkeys(named)) if place is not None]
        return [*hinted, *self._places.order(locator)]

    def _named(self, name: bytes) -> BlockPlace | None:
        if len(name) != _CLUSTER:
            return self._gateways.get(name)
        if not name.isalnum():
            return None
        if name not in self._clusters:
            self._clusters[name] = self._server(f"https://keep.{name.decode('ascii')}.arvadosapi.com/")
        return self._clusters[name]

    async def refresh(self) -> None:
        await self._places.refresh()


_CHUNK = 4 << 20
_SLOWEST = 256 << 10  # bytes a second: at this rate, hashing a block may take longer than the deadline


class KeepVolume:
    """The volume below `storage`'s root, which was opened with the same `deadline`: its threads are those that may read
    from the volume at once.
    """

    def __init__(self, storage: LocalStorage, deadline: Deadline) -> None:
        self._storage = storage
        self._deadline = deadline

    @property
    def name(self) -> str:
        """The directory's path."""
        return self._storage.name

    @property
    def in_place(self) -> bool:
        return True

    async def fetch(self, locator: Locator, attempt: Attempt) -> FileBlock:
        attempt.sent()
        file = await self._storage.open(locator.digest[:3] + b"/" + locator.digest)
        if file.size != locator.size:
            size = file.size
            file.close()
            raise CorruptContent(f"block {locator.unsigned.decode()} has {size} bytes in volume {self.name}")
        attempt.progressed()
        return FileBlock(file, lambda: self._digest(file))

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        block = await self.fetch(locator, attempt)
        if await block.digest() != locator.digest:
            raise CorruptContent(f"block {locator.unsigned.decode()} is damaged in volume {self.name}")

    async def _digest(self, file: FileBytes) -> bytes:
        return await self._deadline.run_longer(file.size / _SLOWEST, _digest, file)


def _digest(file: FileBytes) -> bytes:
    # In large pieces, as the thread may wait for the interpreter's lock after each; with one buffer, as a new one is
    # zeroed first.
    checker = hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(min(_CHUNK, file.size)))
    for offset in range(0, file.size, _CHUNK):
        part = buffer[: file.size - offset]
        file.read_into(offset, part)
        checker.update(part)
    return checker.hexdigest().encode()
