"""Reading ahead: only for readers that go on, in the manifest's order, across files, within memory."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from riafs.cache.cached_bytes import ReadAhead
from riafs.content.keep_files import CollectionReader
from riafs.formats.locators import MAX_BLOCK
from riafs.formats.manifests.blocks import Segment
from tests.keep import blockserver
from tests.keep.blocks import Setting, keep_blocks, locator_of
from tests.keep.blockserver import BlockServer
from tests.keep.test_segments import manifest_of, segments_of
from tests.plugins.log_hygiene import Announce

MIB = 1 << 20
BLOCKS = [random.Random(number).randbytes(3 * MIB) for number in range(8)]


class Recorder:
    """Which blocks were fetched ahead, of 20 of `size` bytes."""

    def __init__(self, size: int = MAX_BLOCK) -> None:
        self.asked: list[int] = []
        self._size = size
        self.ahead = ReadAhead(lambda block: range(block + 1, 20), self._fetch)

    def _fetch(self, block: int) -> int:
        if block not in self.asked:
            self.asked.append(block)
        return self._size


def test_a_reader_in_order_has_the_next_blocks_fetched() -> None:
    recorder = Recorder()
    for offset in range(0, 3 * MIB, MIB):
        recorder.ahead.has_read(4, offset, MIB)
    assert recorder.asked == [5, 6]


def test_one_who_goes_far_has_more_fetched() -> None:
    recorder = Recorder()
    for position in range(0, 200 * MIB, MIB):
        recorder.ahead.has_read(position // MAX_BLOCK, position % MAX_BLOCK, MIB)
    assert recorder.asked == [1, 2, 3, 4, 5, 6]


def test_small_blocks_are_fetched_ahead_by_number() -> None:
    recorder = Recorder(1000)
    for block in range(4):
        recorder.ahead.has_read(block, 0, 1000)
    assert recorder.asked == list(range(3, 3 + 8 + 1))


@pytest.mark.parametrize("length", [1, 4096, MIB])
def test_one_small_range_fetches_nothing_ahead(length: int) -> None:
    recorder = Recorder()
    recorder.ahead.has_read(3, 5000, length)
    assert not recorder.asked


def test_reading_the_same_again_and_again_fetches_nothing_ahead() -> None:
    recorder = Recorder()
    for _ in range(100):
        recorder.ahead.has_read(3, 5000, MIB)
    assert not recorder.asked


def test_reading_here_and_there_fetches_nothing_ahead() -> None:
    recorder = Recorder()
    chance = random.Random(3)
    for _ in range(300):
        recorder.ahead.has_read(chance.randrange(0, 20, 2), chance.randrange(0, MAX_BLOCK, 16 * MIB), 4096)
    assert not recorder.asked


def test_slightly_out_of_order_is_in_order() -> None:
    recorder = Recorder()
    for offset in (1, 0, 3, 2, 5, 4):
        recorder.ahead.has_read(0, offset * MIB, MIB)
    assert recorder.asked == [1, 2]


def test_two_readers_in_order_do_not_disturb_each_other() -> None:
    recorder = Recorder()
    for offset in range(0, 4 * MIB, MIB):
        recorder.ahead.has_read(0, offset, MIB)
        recorder.ahead.has_read(10, offset, MIB)
    assert sorted(recorder.asked) == [1, 2, 11, 12]


@asynccontextmanager
async def collection(
    blocks: Sequence[bytes] = BLOCKS, **more: object
) -> AsyncIterator[tuple[CollectionReader, BlockServer]]:
    with BlockServer(blocks) as server:
        async with keep_blocks(Setting([server], **more)) as keep:
            yield CollectionReader(keep, manifest_of([locator_of(block) for block in blocks])), server


async def until_asked(server: BlockServer, count: int) -> None:
    with trio.fail_after(5):
        while len(server.requests) < count:  # noqa: ASYNC110  # the server is in threads
            await trio.sleep(0.01)


async def test_blocks_are_fetched_in_the_manifests_order_across_files() -> None:
    async with collection() as (reader, server):
        for number in range(3):  # each block is two files
            for offset in (0, 1_500_000):
                source = reader.open([Segment(number, offset, 1_500_000)], 1_500_000)
                assert await source.read(0, 1_500_000) == BLOCKS[number][offset : offset + 1_500_000]
                source.close()
        await until_asked(server, len(BLOCKS))
    assert {asked.path[:32].encode() for asked in server.requests} == {locator_of(block).digest for block in BLOCKS}
    assert len(server.requests) == len(BLOCKS)


async def test_a_whole_file_is_fetched_block_by_block_once() -> None:
    async with collection() as (reader, server):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        read = [await source.read(offset, 100_000) for offset in range(0, source.size, 100_000)]
        assert b"".join(read) == b"".join(BLOCKS)
    assert len(server.requests) == len(BLOCKS)


async def test_who_reads_ahead_does_not_take_more_memory_than_there_is() -> None:
    async with collection(memory=7 * MIB) as (reader, server):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        memory = reader.blocks._memory
        for offset in range(0, source.size, 500_000):
            length = min(500_000, source.size - offset)
            assert len(await source.read(offset, length)) == length
            assert memory._used <= 7 * MIB
    assert len(server.requests) == len(BLOCKS)


async def test_one_small_read_makes_one_request() -> None:
    async with collection() as (reader, server):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        await source.read(0, 128 << 10)
        await trio.sleep(0.2)
    assert len(server.requests) == 1


async def test_a_failure_ahead_comes_up_only_when_it_is_read(expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    async with collection() as (reader, server):
        del server.blocks[locator_of(BLOCKS[1]).digest.decode()]
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        assert await source.read(0, 3 * MIB) == BLOCKS[0]
        await until_asked(server, 3)
        with pytest.raises(Exception, match="is not there"):
            await source.read(3 * MIB, 10)
        assert await source.read(6 * MIB, 10) == BLOCKS[2][:10]


async def test_what_is_in_the_cache_is_not_fetched_ahead(tmp_path: Path) -> None:
    async with collection(cache=tmp_path / "cache") as (reader, _):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        await source.read(0, source.size)
        with trio.fail_after(10):
            while reader.blocks.counters.blocks_written < 3 * len(BLOCKS):  # noqa: ASYNC110  # by threads
                await trio.sleep(0.02)
    async with collection(cache=tmp_path / "cache") as (reader, server):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        for offset in range(0, source.size, 200_000):
            await source.read(offset, 200_000)
    assert not server.requests


async def test_a_cancelled_reader_does_not_stop_what_is_ahead() -> None:
    async with collection() as (reader, server):
        source = reader.open(segments_of(BLOCKS), sum(map(len, BLOCKS)))
        await source.read(0, 3 * MIB)
        server.always = blockserver.after(0.3)
        with trio.move_on_after(0.1):
            await source.read(3 * MIB, 10)
        server.always = None
        await trio.sleep(0.5)
        assert await source.read(3 * MIB, 10) == BLOCKS[1][:10]
    assert len(server.requests) == len({asked.path for asked in server.requests})
