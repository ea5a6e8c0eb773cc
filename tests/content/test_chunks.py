"""Chunks read as one: the protocol, and few of them open whoever reads where."""

import random

import pytest
import trio
import trio.testing

from riafs.content import chunks
from riafs.content.chunks import Chunks
from riafs.errors import NotInStore, ShortRead
from riafs.storage.bytesource import Buffer, MemoryBytes
from tests.conformance.ranged import CHECKS, CONTENT, Check


class Store:
    """Chunks of CONTENT; counts those that are open."""

    def __init__(self, size: int) -> None:
        self.parts = [CONTENT[start : start + size] for start in range(0, len(CONTENT), size)]
        self.open, self.most, self.gone = 0, 0, False

    async def open_chunk(self, number: int) -> "Counted":
        await trio.lowlevel.checkpoint()
        if self.gone:
            raise NotInStore("gone")
        return Counted(self.parts[number], self)


class Counted(MemoryBytes):
    """One of them."""

    def __init__(self, data: bytes, store: Store) -> None:
        super().__init__(data)
        self.store, self.closed = store, False
        store.open += 1
        store.most = max(store.most, store.open)

    async def read(self, offset: int, length: int) -> Buffer:
        await trio.lowlevel.checkpoint()
        assert not self.closed
        return await super().read(offset, length)

    def close(self) -> None:
        self.store.open -= not self.closed
        self.closed = True


async def opened(store: Store) -> Chunks:
    return await Chunks.open(store.open_chunk, len(store.parts))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_chunks_follow_the_protocol(check: Check, size: int) -> None:
    store = Store(size)
    source = await opened(store)
    await check(source)
    source.close()
    assert store.open == 0


async def test_few_are_open_however_many_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MOST_OPEN", 5)
    store, chance = Store(3), random.Random(1)
    source = await opened(store)

    async def read(offset: int) -> None:
        assert bytes(await source.read(offset, 20)) == CONTENT[offset : offset + 20]

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(read, chance.randrange(len(CONTENT)))
            if chance.random() < 0.2:
                await trio.lowlevel.checkpoint()
    assert store.open <= 5
    source.close()
    assert store.open == 0


async def test_a_chunk_that_is_read_while_all_are_closed_is_closed_after_it() -> None:
    store = Store(100)
    source = await opened(store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.read, 0, 10)
        await trio.testing.wait_all_tasks_blocked(0)
        source.close()
    assert store.open == 0


async def test_a_chunk_that_went_or_changed_is_a_short_read() -> None:
    store = Store(100)
    source = await opened(store)
    store.gone = True
    with pytest.raises(ShortRead, match="is gone"):
        await source.read(0, 10)
    store.gone = False
    store.parts[1] = b"other"
    assert await source.read(0, 10) == CONTENT[:10]
    with pytest.raises(ShortRead, match="chunk 2 has 5 bytes"):
        await source.read(90, 20)
    source.close()
    assert store.open == 0
