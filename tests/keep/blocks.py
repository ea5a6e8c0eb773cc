"""Blocks of Keep put together for tests: servers and volumes, with what stands behind them in a mount."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import trio

from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.verified import VerifiedMemory
from riafs.content.keep_blocks import KeepBlocks, KeepTools
from riafs.counters import Counters
from riafs.formats.locators import Locator
from riafs.storage.deadline import Deadline
from riafs.storage.http import Http, HttpOptions
from riafs.storage.keep_places import BlockPlace, KeepVolume, Places
from riafs.storage.keep_servers import KeepServer, ServerTools
from riafs.storage.local import LocalStorage
from riafs.tasks import Background


def locator_of(block: bytes, *hints: bytes) -> Locator:
    """The locator of a block."""
    return Locator(hashlib.md5(block).hexdigest().encode(), len(block), hints)


async def no_renewal(locator: Locator) -> None:
    """There are no new signatures."""


class Served(Protocol):
    """A server, ours or a real one."""

    @property
    def url(self) -> str:
        """Its root."""


@dataclass(slots=True)
class Setting:
    """What a test wants. Servers are asked in the order given."""

    servers: Sequence[Served] = ()
    volumes: Sequence[Path] = ()
    cache: Path | None = None
    memory: int = 256 << 20
    cached: int = 0
    """Bytes of the block cache's memory."""
    block_size: int = 1 << 20
    deadline: float = 5.0
    per_server: int = 4
    per_volume: int = 24
    token: str | None = None
    verified: VerifiedMemory = field(default_factory=lambda: VerifiedMemory(None))
    refresh: Callable[[], Awaitable[None]] | None = None
    make_cache: Callable[..., BlockCache] = BlockCache


class InOrder(Places):
    """Places that are asked in the order given, whatever the block."""

    def __init__(self, places: Sequence[BlockPlace], refresh: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(places, {}, *([refresh] if refresh else []))


@asynccontextmanager
async def keep_blocks(setting: Setting) -> AsyncIterator[KeepBlocks]:
    """`KeepBlocks` over the servers and volumes, until the block is left; then all that it began is cancelled."""
    counters = Counters()
    tools = ServerTools(
        Http(HttpOptions(deadline=setting.deadline), counters), counters, setting.token, setting.per_server
    )
    places: list[BlockPlace] = [await volume(path, setting, counters) for path in setting.volumes]
    places += [KeepServer(server.url, tools) for server in setting.servers]
    limits = BlockLimits(block_size=setting.block_size, memory=setting.cached)
    cache = setting.make_cache(str(setting.cache) if setting.cache else None, limits, counters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.keep)
        yield KeepBlocks(
            KeepTools(
                places=InOrder(places, setting.refresh),
                cache=cache,
                verified=setting.verified,
                counters=counters,
                background=Background(nursery),
                deadline=setting.deadline,
                memory=setting.memory,
            )
        )
        nursery.cancel_scope.cancel()
    tools.http.close()


async def volume(path: Path, setting: Setting, counters: Counters) -> KeepVolume:
    """The volume in a directory."""
    deadline = Deadline(str(path), setting.deadline, counters, setting.per_volume)
    return KeepVolume(await LocalStorage.open_root(str(path).encode(), deadline), deadline)


def put(directory: Path, block: bytes) -> Path:
    """Write a block into a volume; its file."""
    digest = hashlib.md5(block).hexdigest()
    path = directory / digest[:3] / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(block)
    return path
