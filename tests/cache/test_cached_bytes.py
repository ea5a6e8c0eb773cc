"""A slow source behind the block cache: what is read from it, how often, and what is read ahead."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache import cached_bytes
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.cached_bytes import CachedBytes
from riafs.counters import Counters
from riafs.errors import ChangedContent, StoreError
from riafs.storage.bytesource import Buffer, MemoryBytes
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.tasks import Background
from tests.small import noise

BLOCK = 1000
CONTENT = noise(20 * BLOCK + 10, "slow")


class Slow(MemoryBytes):
    """Bytes that come when `answering` is set. `asked`: the blocks that were read, in order."""

    def __init__(self, content: bytes = CONTENT) -> None:
        super().__init__(content)
        self.asked: list[int] = []
        self.answering = trio.Event()
        self.answering.set()
        self.closed = 0
        self.failing = False

    async def read(self, offset: int, length: int) -> Buffer:
        self.asked.append(offset // BLOCK)
        await self.answering.wait()
        if self.failing:
            raise StoreError("the line is broken")
        return await super().read(offset, length)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def cache() -> BlockCache:
    return BlockCache(None, BlockLimits(block_size=BLOCK), Counters())


@pytest.fixture
def few_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers are in order after two blocks; two blocks are read ahead."""
    for name, size in {"_OUT_OF_ORDER": 2, "_IN_ORDER": 2, "_WINDOW": 2, "_AGAIN": 1}.items():
        monkeypatch.setattr(cached_bytes, name, size * BLOCK)


@asynccontextmanager
async def reading_ahead(source: Slow, cache: BlockCache) -> AsyncIterator[CachedBytes]:
    async with trio.open_nursery() as nursery:
        yield CachedBytes(source, cache, b"slow", Background(nursery))


async def test_blocks_are_read_once_and_not_again_by_those_who_come_later(cache: BlockCache) -> None:
    source = Slow()
    first = CachedBytes(source, cache, b"slow")
    assert await first.read(500, 2000) == CONTENT[500:2500]
    assert source.asked == [0, 1, 2]
    other = Slow()
    second = CachedBytes(other, cache, b"slow")
    assert await second.read(1000, 1500) == CONTENT[1000:2500]
    assert await second.read(20_000, 100) == CONTENT[20_000:]
    assert other.asked == [20]


async def test_readers_of_one_block_wait_for_one_read(cache: BlockCache) -> None:
    source = Slow()
    source.answering = trio.Event()
    shared = CachedBytes(source, cache, b"slow")

    async def read(offset: int) -> None:
        assert await shared.read(offset, 10) == CONTENT[offset : offset + 10]

    async with trio.open_nursery() as nursery:
        for offset in range(0, BLOCK, 100):
            nursery.start_soon(read, offset)
        await trio.testing.wait_all_tasks_blocked()
        source.answering.set()
    assert source.asked == [0]


async def test_a_failure_is_not_kept(cache: BlockCache) -> None:
    source = Slow()
    source.failing = True
    shared = CachedBytes(source, cache, b"slow")
    with pytest.raises(StoreError):
        await shared.read(0, 10)
    source.failing = False
    assert await shared.read(0, 10) == CONTENT[:10]


@pytest.mark.usefixtures("few_bytes")
async def test_the_next_blocks_of_a_reader_in_order_are_on_their_way(cache: BlockCache) -> None:
    source = Slow()
    async with reading_ahead(source, cache) as shared:
        for offset in range(0, 3 * BLOCK, 500):
            assert await shared.read(offset, 500) == CONTENT[offset : offset + 500]
            await trio.testing.wait_all_tasks_blocked()
        assert sorted(source.asked) == [0, 1, 2, 3, 4]
        shared.close()
    assert source.closed == 1


@pytest.mark.usefixtures("few_bytes")
async def test_nothing_is_read_ahead_for_a_look_here_and_there(cache: BlockCache) -> None:
    source = Slow()
    async with reading_ahead(source, cache) as shared:
        for block in (9, 2, 14, 0, 11, 5):
            await shared.read(block * BLOCK, 100)
        await trio.testing.wait_all_tasks_blocked()
        assert source.asked == [9, 2, 14, 0, 11, 5]


@pytest.mark.usefixtures("few_bytes")
async def test_what_fails_ahead_of_a_reader_is_told_when_it_gets_there(cache: BlockCache) -> None:
    source = Slow()
    async with reading_ahead(source, cache) as shared:
        await shared.read(0, 2 * BLOCK)
        source.failing = True
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(source.asked) == [0, 1, 2, 3]
        with pytest.raises(StoreError):
            await shared.read(2 * BLOCK, 10)


@pytest.mark.usefixtures("few_bytes")
async def test_the_source_is_closed_once_nothing_is_read_from_it(cache: BlockCache) -> None:
    source = Slow()
    async with reading_ahead(source, cache) as shared:
        await shared.read(0, BLOCK)
        await shared.read(BLOCK, BLOCK)
        source.answering = trio.Event()
        await trio.testing.wait_all_tasks_blocked()
        shared.close()
        assert source.closed == 0
    assert source.closed == 1


async def test_bytes_of_another_version_are_not_kept(tmp_path: Path, cache: BlockCache) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    storage = await LocalStorage.open_root(os.fsencode(tmp_path), Deadline("a store", 10, Counters()))
    file = await storage.open(b"file")
    assert file.version is not None
    content = b"file:" + file.version.token
    shared = CachedBytes(file, cache, content)
    assert await shared.read(0, 10) == CONTENT[:10]
    with (tmp_path / "file").open("r+b") as other:
        other.write(bytes(len(CONTENT)))
    with pytest.raises(ChangedContent):
        await shared.read(5 * BLOCK, 10)
    assert await cache.get(content, 5, BLOCK) is None
    assert await shared.read(0, 10) == CONTENT[:10]
    shared.close()
    storage.close()
