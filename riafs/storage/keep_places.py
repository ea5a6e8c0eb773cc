"""The places that may have a block of Keep, each a server or a volume, and the order in which to ask them.

A server sends a block, which is received whole and hashed while it arrives; a volume on this machine has it as a file,
which is read in place and still has to be hashed (`FileBlock`).
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
        """See RangedBytes."""
        return self.read_now(offset, length)

    def read_now(self, offset: int, length: int) -> Buffer:
        """The same at once."""
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
        """Nothing to give back."""


class FileBlock:
    """A block's file in a volume, of the right size but not hashed yet."""

    __slots__ = ("digest", "file")

    def __init__(self, file: FileBytes, digest: Callable[[], Awaitable[bytes]]) -> None:
        self.file = file
        self.digest = digest
        """The MD5 of the file's bytes, 32 hexadecimal digits; raises ShortRead, StoreError, StoreTimeout."""


class BlockInVolume:
    """A block's file in a volume, as RangedBytes, as long as it is what was hashed."""

    __slots__ = ("_file", "_version")

    def __init__(self, file: FileBytes) -> None:
        self._file = file
        self._version = file.version

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._file.size

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises ChangedContent where the file was written to or replaced since it was hashed."""
        data = await self._file.read(offset, length)
        if self._file.version is not self._version:
            raise ChangedContent(f"{self._file.name} was changed since it was verified")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Attempt:
    """One question to one place, as whoever asks sees it. `seconds`: how long to wait for the answer to begin; `moves`
    is called when it does, and now and then while it goes on."""

    __slots__ = ("_moved", "_moves", "asked", "begun", "line", "request_id", "seconds")

    def __init__(self, request_id: str, seconds: float, moves: Callable[[], None] = lambda: None) -> None:
        self._moves = moves
        self.request_id = request_id
        """The same for all questions of one reader, so that a cluster's logs can be searched for it."""
        self.seconds = seconds
        self.asked: float | None = None
        """When it was its turn, in trio's time; None before."""
        self.begun: float | None = None
        """When the answer began."""
        self.line: ProgressQueue | None = None
        """Where it waits for its turn, if it does."""
        self._moved = trio.current_time()

    @property
    def standing_since(self) -> float:
        """Since when nothing has come: of the answer, or of those in front in the line. Now, where it is not waited
        for the place."""
        if self.begun is not None:
            return self._moved
        if self.asked is not None:
            return self.asked
        return trio.current_time() if self.line is None else max(self._moved, self.line.moved)

    def is_asked(self) -> None:
        """The question is asked now."""
        self.asked = trio.current_time()

    def comes(self) -> None:
        """The answer begins now, or goes on."""
        self._moves()
        self._moved = trio.current_time()
        if self.begun is None:
            self.begun = trio.current_time()


class BlockPlace(Protocol):
    """One place."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def in_place(self) -> bool:
        """Whether blocks are read where they are, so that they take neither memory nor a cache."""

    async def fetch(self, locator: Locator, attempt: Attempt) -> WholeBlock | FileBlock:
        """The block. Raises NotInStore; AccessExpired, StoreDenied; Overloaded, StoreError, StoreTimeout; ShortRead,
        CorruptContent; BadAnswer."""

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        """Read the block once more and hash it, without keeping it. Raises as `fetch` does."""


class BlockPlaces(Protocol):
    """All places of a mount."""

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        """Where to look for a block, in this order. None of these is asked twice while it is looked at."""

    async def refresh(self) -> None:
        """Nobody had the block or answered: find out which places there are now, if that can change."""


async def _nothing() -> None:
    pass


class Places:
    """Volumes in their order, then servers (uuid → server) in the order that the block's digest gives them."""

    def __init__(
        self,
        volumes: Sequence[BlockPlace],
        servers: Mapping[bytes, BlockPlace],
        refresh: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self._volumes = tuple(volumes)
        self._servers = dict(servers)
        self._refresh = refresh
        self._refreshing = trio.Lock()
        self._refreshed_at = float("-inf")

    def replace(self, servers: Mapping[bytes, BlockPlace]) -> None:
        """The servers that there are now. Those that stay are kept, with what they count."""
        known = self._servers
        self._servers = {
            uuid: known[uuid] if uuid in known and known[uuid].name == server.name else server
            for uuid, server in servers.items()
        }

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        """See BlockPlaces."""
        servers = sorted(self._servers, key=lambda uuid: service_weight(locator.digest, uuid), reverse=True)
        return [*self._volumes, *(self._servers[uuid] for uuid in servers)]

    async def refresh(self) -> None:
        """See BlockPlaces. However many ask, it is found out once in a few seconds."""
        async with self._refreshing:
            if trio.current_time() - self._refreshed_at > _REFRESH_SECONDS:
                self._refreshed_at = trio.current_time()
                await self._refresh()


_MARK = b"K@"
_CLUSTER = 5
"""Characters in a cluster's name; longer ones are uuids of gateways."""


class HintedPlaces:
    """`places`, after those that a block's hints name: see BlockPlaces. `server` makes the place of a URL."""

    def __init__(
        self, places: BlockPlaces, gateways: Mapping[bytes, BlockPlace], server: Callable[[str], BlockPlace]
    ) -> None:
        self._places = places
        self._gateways = gateways
        self._server = server
        self._clusters: dict[bytes, BlockPlace] = {}

    def order(self, locator: Locator) -> Sequence[BlockPlace]:
        """See BlockPlaces."""
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
        """See BlockPlaces."""
        await self._places.refresh()


_CHUNK = 4 << 20
_SLOWEST = 256 << 10  # bytes a second that a volume may take on top of the deadline


class KeepVolume:
    """The volume below `storage`'s root. `patience` has the deadline, and as many threads as may use it at once.

    `storage` has to have been opened with the same `patience`.
    """

    def __init__(self, storage: LocalStorage, patience: Deadline) -> None:
        self._storage = storage
        self._patience = patience

    @property
    def name(self) -> str:
        """The directory."""
        return self._storage.name

    @property
    def in_place(self) -> bool:
        """See BlockPlace."""
        return True

    async def fetch(self, locator: Locator, attempt: Attempt) -> FileBlock:
        """See BlockPlace."""
        attempt.is_asked()
        file = await self._storage.open(locator.digest[:3] + b"/" + locator.digest)
        if file.size != locator.size:
            size = file.size
            file.close()
            raise CorruptContent(f"block {locator.unsigned.decode()} has {size} bytes in volume {self.name}")
        attempt.comes()
        return FileBlock(file, lambda: self._digest(file))

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        """See BlockPlace."""
        block = await self.fetch(locator, attempt)
        if await block.digest() != locator.digest:
            raise CorruptContent(f"block {locator.unsigned.decode()} is damaged in volume {self.name}")

    async def _digest(self, file: FileBytes) -> bytes:
        return await self._patience.run_longer(file.size / _SLOWEST, _digest, file)


def _digest(file: FileBytes) -> bytes:
    """In large pieces, as the thread may wait for the interpreter after each; in one buffer, as new ones get zeroed."""
    checker = hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(min(_CHUNK, file.size)))
    for offset in range(0, file.size, _CHUNK):
        part = buffer[: file.size - offset]
        file.read_into(offset, part)
        checker.update(part)
    return checker.hexdigest().encode()
