"""The block cache of a mount: each block made once however many wait, and no trouble of the disk reaches a reader."""

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache import blocks as blocks_module
from riafs.cache.block_files import BlockName
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.disk import DiskBlocks
from riafs.cache.eviction import DiskLimits
from riafs.counters import Counters
from riafs.errors import ShortRead, StoreError
from tests.cache.blocks import SIZE, block_files, bytes_of

LIMITS = BlockLimits(block_size=SIZE, memory=10 * (SIZE + 1000))
NO_MEMORY = BlockLimits(block_size=SIZE, memory=0)


@asynccontextmanager
async def opened(cache: str | None, limits: BlockLimits = LIMITS) -> AsyncIterator[tuple[BlockCache, Counters]]:
    """A block cache that writes to the disk, everything written at the end."""
    counters = Counters()
    blocks = BlockCache(cache, limits, counters)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocks.keep)
        await trio.testing.wait_all_tasks_blocked()
        yield blocks, counters
        nursery.cancel_scope.cancel()


class Maker:
    """Makes block 0 of a content and counts; `gate` holds it back."""

    def __init__(self, data: bytes = b"", problem: Exception | None = None) -> None:
        self.calls = 0
        self.gate = trio.Event()
        self._data = data or bytes_of(0)
        self._problem = problem

    async def __call__(self) -> bytes:
        self.calls += 1
        await self.gate.wait()
        if self._problem is not None:
            raise self._problem
        return self._data


# -- one maker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [True, False])
async def test_a_hundred_readers_of_a_block_have_it_made_once(cache: str, on_disk: bool) -> None:
    maker, results = Maker(), []
    async with opened(cache if on_disk else None) as (blocks, counters):

        async def read() -> None:
            results.append(await blocks.fetch(b"c", 0, SIZE, maker))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.05)
            maker.gate.set()
    assert results == [bytes_of(0)] * 100
    assert (maker.calls, counters.blocks_made) == (1, 1)


async def test_different_blocks_are_made_at_the_same_time(cache: str) -> None:
    one, other = Maker(), Maker(bytes_of(1))
    one.gate.set()
    async with opened(cache) as (blocks, _), trio.open_nursery() as nursery:
        nursery.start_soon(blocks.fetch, b"c", 1, SIZE, other)
        assert await blocks.fetch(b"c", 0, SIZE, one) == bytes_of(0)
        assert await blocks.fetch(b"other", 0, SIZE, one) == bytes_of(0)
        assert one.calls == 2
        other.gate.set()


async def test_the_failure_of_the_maker_is_everybodys_and_the_next_reader_tries_again() -> None:
    failing, failures = Maker(problem=StoreError("gone")), []
    async with opened(None) as (blocks, _):

        async def read() -> None:
            try:
                await blocks.fetch(b"c", 0, SIZE, failing)
            except StoreError as problem:
                failures.append(problem)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            failing.gate.set()
        assert [str(problem) for problem in failures] == ["gone"] * 10
        assert len(set(map(id, failures))) == 10
        assert failing.calls == 1
        good = Maker()
        good.gate.set()
        assert await blocks.fetch(b"c", 0, SIZE, good) == bytes_of(0)


@pytest.mark.parametrize("readers", [2, 20])
async def test_where_the_maker_is_cancelled_the_next_reader_makes_the_block(readers: int) -> None:
    maker, results = Maker(), []
    async with opened(None) as (blocks, _), trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def leader() -> None:
            with first:
                await blocks.fetch(b"c", 0, SIZE, maker)

        async def follower() -> None:
            results.append(await blocks.fetch(b"c", 0, SIZE, maker))

        nursery.start_soon(leader)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(readers - 1):
            nursery.start_soon(follower)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        maker.gate.set()
    assert results == [bytes_of(0)] * (readers - 1)
    assert maker.calls == 2


async def test_a_bug_in_a_maker_hangs_nobody() -> None:
    broken = Maker(problem=ZeroDivisionError())
    seen = []
    async with opened(None) as (blocks, _):

        async def read() -> None:
            with pytest.raises(ZeroDivisionError):
                await blocks.fetch(b"c", 0, SIZE, broken)
            seen.append(1)

        broken.gate.set()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
    assert len(seen) == 3


async def test_a_block_of_the_wrong_length_is_neither_served_nor_kept(cache: str) -> None:
    short = Maker(b"short")
    short.gate.set()
    async with opened(cache) as (blocks, _):
        with pytest.raises(ShortRead):
            await blocks.fetch(b"c", 0, SIZE, short)
        assert await blocks.get(b"c", 0, SIZE) is None
        assert await blocks.get(b"c", 0, 5) is None


# -- memory and disk --------------------------------------------------------------------------------------------------


async def test_what_was_put_is_found_at_once_and_by_the_next_mount(cache: str) -> None:
    async with opened(cache) as (blocks, counters):
        for index in range(20):
            await blocks.put(b"c", index, bytes_of(index))
            assert await blocks.get(b"c", index, SIZE) == bytes_of(index)
        assert counters.blocks_from_memory == 20
    async with opened(cache) as (blocks, counters):
        for _ in range(2):
            assert await blocks.get(b"c", 3, SIZE) == bytes_of(3)
        assert await blocks.get(b"c", 3, SIZE - 1) is None
        assert await blocks.get(b"other", 3, SIZE) is None
        assert (counters.blocks_from_disk, counters.blocks_from_memory) == (1, 1)
    assert len(block_files(cache)) == 20


async def test_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    async with opened(None) as (blocks, _):
        for index in range(100):
            await blocks.put(b"c", index, bytes_of(index))
            assert await blocks.get(b"c", 0, SIZE) == bytes_of(0)
        found = [index for index in range(100) if await blocks.get(b"c", index, SIZE) is not None]
    assert 8 <= len(found) <= 11
    assert found[0] == 0
    assert found[1:] == list(range(101 - len(found), 100))


async def test_blocks_on_their_way_to_the_disk_are_found_without_memory(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    write = DiskBlocks.write

    def slowly(self: DiskBlocks, name: BlockName, data: bytes) -> bool:
        gate.wait(10)
        return write(self, name, data)

    monkeypatch.setattr(DiskBlocks, "write", slowly)
    async with opened(cache, NO_MEMORY) as (blocks, _):
        for index in range(10):
            await blocks.put(b"c", index, bytes_of(index))
        await trio.testing.wait_all_tasks_blocked()
        for index in range(10):
            assert await blocks.get(b"c", index, SIZE) == bytes_of(index)
        gate.set()
    assert len(block_files(cache)) == 10


async def test_who_puts_waits_for_a_slow_disk_but_not_for_ever(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(DiskBlocks, "write", lambda *_: gate.wait(20))
    monkeypatch.setattr(blocks_module, "_UNWRITTEN", 4 * SIZE)
    monkeypatch.setattr(blocks_module, "_PUT_SECONDS", 0.2)
    async with opened(cache) as (blocks, _):
        began = trio.current_time()
        for index in range(6):
            await blocks.put(b"c", index, bytes_of(index))
        assert 0.3 < trio.current_time() - began < 5
        assert await blocks.get(b"c", 5, SIZE) == bytes_of(5)
        gate.set()


async def test_blocks_of_two_sizes_do_not_mix(cache: str) -> None:
    async with opened(cache) as (blocks, _):
        await blocks.put(b"c", 1, bytes_of(1, 2048))
    async with opened(cache, BlockLimits(block_size=2048)) as (blocks, _):
        assert await blocks.get(b"c", 1, 2048) is None
        assert await blocks.get(b"c", 2, 2048) == bytes_of(1, 2048)


async def test_without_a_size_nothing_goes_to_the_disk(cache: str) -> None:
    async with opened(cache, BlockLimits(disk=DiskLimits(size=0))) as (blocks, _):
        await blocks.put(b"c", 0, bytes_of(0))
        assert await blocks.get(b"c", 0, SIZE) == bytes_of(0)
    assert not Path(cache).exists()


# -- trouble ----------------------------------------------------------------------------------------------------------


async def make_and_read(blocks: BlockCache, count: int = 50, size: int = SIZE) -> None:
    """Readers get the right bytes, twice."""

    async def read(index: int) -> None:
        async def make() -> bytes:
            return bytes_of(index, size)

        assert await blocks.fetch(b"c", index, size, make) == bytes_of(index, size)

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(read, index)


async def test_a_damaged_block_is_noticed_and_made_again_with_one_warning(
    cache: str, expected_warnings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("block .* of the cache is damaged: its checksum differs; it was removed and is made again")
    async with opened(cache) as (blocks, _):
        await make_and_read(blocks, 3)
    for file in block_files(cache):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    async with opened(cache) as (blocks, counters):
        await make_and_read(blocks, 3)
        assert (counters.blocks_damaged, counters.blocks_made) == (3, 3)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    async with opened(cache) as (blocks, counters):
        await make_and_read(blocks, 3)
        assert (counters.blocks_from_disk, counters.blocks_made) == (3, 0)


async def test_reads_go_on_with_one_warning_where_the_directory_cannot_be_made(
    tmp_path: Path, expected_warnings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("blocks are not cached on the disk")
    (tmp_path / "file").touch()
    async with opened(f"{tmp_path}/file/cache", NO_MEMORY) as (blocks, _):
        await make_and_read(blocks)
    assert len(caplog.records) == 1


async def test_reads_go_on_with_one_warning_where_others_can_enter(
    cache: str, expected_warnings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("nobody else can enter")
    Path(cache, "blocks-1").mkdir(parents=True, mode=0o755)
    async with opened(cache, NO_MEMORY) as (blocks, _):
        await make_and_read(blocks)
    assert len(caplog.records) == 1
    assert not block_files(cache)


async def test_reads_go_on_where_the_directory_vanishes(cache: str) -> None:
    async with opened(cache, NO_MEMORY) as (blocks, _):
        await make_and_read(blocks, 10)
        await trio.testing.wait_all_tasks_blocked(0.1)
        await trio.to_thread.run_sync(_remove, cache)
        await make_and_read(blocks, 20)
    assert len(block_files(cache)) == 20


def _remove(cache: str) -> None:
    import shutil

    shutil.rmtree(cache)


@pytest.mark.parametrize("size", [SIZE, 1 << 20])
async def test_reads_go_on_in_a_cache_of_64_kib(
    tiny: str, size: int, expected_warnings: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("blocks are not cached on the disk for now \\(write\\): .*no room")
    async with opened(tiny, BlockLimits(block_size=size, memory=0)) as (blocks, _):
        await make_and_read(blocks, 40, size)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == (size > SIZE)
    for file in block_files(tiny):
        assert file.stat().st_size == SIZE + 64


async def test_a_disk_that_does_not_answer_is_left_alone(
    cache: str,
    monkeypatch: pytest.MonkeyPatch,
    expected_warnings: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected_warnings("did not answer within 0.2 s")
    gate = threading.Event()
    monkeypatch.setattr(blocks_module, "_DISK_SECONDS", 0.2)
    monkeypatch.setattr(DiskBlocks, "read", lambda *_: gate.wait(20) and None)
    monkeypatch.setattr(DiskBlocks, "write", lambda *_: gate.wait(20))
    async with opened(cache, NO_MEMORY) as (blocks, _):
        began = trio.current_time()
        await make_and_read(blocks)
        assert trio.current_time() - began < 2
    gate.set()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_failing_disk_is_not_asked_again_at_once(
    cache: str, monkeypatch: pytest.MonkeyPatch, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("Input/output error")
    asked: list[str] = []

    def fail(use: str) -> None:
        asked.append(use)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(DiskBlocks, "write", lambda *_: fail("write"))
    monkeypatch.setattr(DiskBlocks, "read", lambda *_: fail("read"))
    async with opened(cache, NO_MEMORY) as (blocks, _):
        for index in range(20):
            await blocks.put(b"c", index, bytes_of(index))
            assert await blocks.get(b"other", index, SIZE) is None
    assert asked.count("read") == 1
    assert asked.count("write") <= 2  # both writers may have begun


async def test_a_pause_ends(
    cache: str, expected_warnings: Callable[..., None], mock_clock: trio.testing.MockClock
) -> None:
    expected_warnings("blocks are not cached")
    Path(cache).touch()
    async with opened(cache, NO_MEMORY) as (blocks, _):
        await make_and_read(blocks, 3)
        await trio.testing.wait_all_tasks_blocked(0.05)
        Path(cache).unlink()
        mock_clock.jump(blocks_module._PAUSE_SECONDS + 1)
        await make_and_read(blocks, 3)
    assert len(block_files(cache)) == 3
