"""Blocks of Keep for readers: fetched once, kept in memory and in the cache, within bounds."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache.blocks import BlockCache
from riafs.content.copies import CopyState
from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_copies import copies
from riafs.content.keep_memory import BlockMemory
from riafs.errors import MissingContent, Overloaded, RiafsError
from riafs.formats.locators import Locator
from riafs.storage.bytesource import Buffer
from riafs.storage.http import PIECE
from riafs.storage.keep_places import Places, WholeBlock
from tests.keep import blockserver
from tests.keep.blocks import Setting, keep_blocks, locator_of, no_renewal, put
from tests.keep.blockserver import BlockServer
from tests.plugins.log_hygiene import Announce

BLOCKS = [random.Random(number).randbytes(3 * PIECE + number) for number in range(6)]
LOCATORS = [locator_of(block) for block in BLOCKS]


@pytest.fixture
def server() -> Iterator[BlockServer]:
    with BlockServer(BLOCKS) as running:
        yield running


# -- once -------------------------------------------------------------------------------------------------------------


async def test_many_readers_of_a_block_fetch_it_once(server: BlockServer) -> None:
    server.always = blockserver.after(0.2)
    async with keep_blocks(Setting([server])) as blocks, trio.open_nursery() as nursery:

        async def read(offset: int) -> None:
            assert await blocks.read(LOCATORS[0], offset, 1000, no_renewal) == BLOCKS[0][offset : offset + 1000]

        for offset in range(0, len(BLOCKS[0]), 50_001):
            nursery.start_soon(read, offset)
    assert len(server.requests) == 1


async def test_a_reader_whose_look_into_the_cache_takes_long_finds_what_came_meanwhile(server: BlockServer) -> None:
    class SlowForOne(BlockCache):
        async def read(self, content: bytes, size: int, offset: int, length: int) -> Buffer | None:
            if offset == 7:
                await landed.wait()
            return None

    landed = trio.Event()
    async with keep_blocks(Setting([server], make_cache=SlowForOne)) as blocks, trio.open_nursery() as nursery:

        async def slow() -> None:
            assert await blocks.read(LOCATORS[0], 7, 10, no_renewal) == BLOCKS[0][7:17]

        nursery.start_soon(slow)
        await trio.testing.wait_all_tasks_blocked()
        assert await blocks.read(LOCATORS[0], 0, 10, no_renewal) == BLOCKS[0][:10]
        landed.set()
    assert len(server.requests) == 1


async def test_a_failure_is_everybodys(server: BlockServer, expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    server.always = blockserver.status(404)
    failed = []
    async with keep_blocks(Setting([server])) as blocks, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(MissingContent) as caught:
                await blocks.read(LOCATORS[0], 0, 10, no_renewal)
            failed.append(caught.value.reported)

        for _ in range(5):
            nursery.start_soon(read)
    assert failed == [True] * 5
    assert len(server.requests) == 1


async def test_who_asks_at_once_for_what_was_given_up_does_not_wait_again(
    server: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings("too much to do")
    server.always = blockserver.status(503)
    async with keep_blocks(Setting([server], deadline=1.0)) as blocks:
        with pytest.raises(Overloaded):
            await blocks.read(LOCATORS[0], 0, 10, no_renewal)
        asked = len(server.requests)
        with pytest.raises(Overloaded), trio.fail_after(0.2):
            await blocks.read(LOCATORS[0], 5, 10, no_renewal)
        assert len(server.requests) == asked
        server.always = None
        assert await blocks.read(LOCATORS[1], 0, 10, no_renewal) == BLOCKS[1][:10]
        await trio.sleep(0.6)
        assert await blocks.read(LOCATORS[0], 0, 10, no_renewal) == BLOCKS[0][:10]


async def test_a_cancelled_reader_leaves_the_block_to_the_others(server: BlockServer) -> None:
    server.always = blockserver.after(0.5)
    async with keep_blocks(Setting([server])) as blocks, trio.open_nursery() as nursery:

        async def impatient() -> None:
            with trio.move_on_after(0.2):
                await blocks.read(LOCATORS[0], 0, 10, no_renewal)

        nursery.start_soon(impatient)
        assert await blocks.read(LOCATORS[0], 5, 10, no_renewal) == BLOCKS[0][5:15]
    assert len(server.requests) == 1


async def test_when_all_readers_are_cancelled_the_request_ends(server: BlockServer) -> None:
    server.faults.append(blockserver.stalling(20))
    async with keep_blocks(Setting([server], per_server=1, memory=4 * PIECE)) as blocks:
        with trio.move_on_after(0.3):
            await blocks.read(LOCATORS[0], 0, 10, no_renewal)
        with trio.fail_after(2):  # needs the memory, and the only place in the line
            assert await blocks.read(LOCATORS[1], 0, 10, no_renewal) == BLOCKS[1][:10]
            assert await blocks.read(LOCATORS[0], 0, 10, no_renewal) == BLOCKS[0][:10]


async def test_a_reader_that_comes_while_a_cancelled_one_leaves_is_served(server: BlockServer) -> None:
    server.always = blockserver.after(0.1)
    async with keep_blocks(Setting([server])) as blocks:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(blocks.read, LOCATORS[0], 0, 10, no_renewal)
                await trio.sleep(0.02)
                scope.cancel()
        assert await blocks.read(LOCATORS[0], 0, 10, no_renewal) == BLOCKS[0][:10]


async def test_no_more_requests_at_once_than_a_server_may_get(server: BlockServer) -> None:
    server.always = blockserver.after(0.1)
    async with keep_blocks(Setting([server], per_server=2)) as blocks, trio.open_nursery() as nursery:
        for locator in LOCATORS:
            nursery.start_soon(blocks.read, locator, 0, 10, no_renewal)
    assert server.most_at_once == 2


# -- memory and cache -------------------------------------------------------------------------------------------------


async def test_a_block_in_memory_is_not_fetched_again(server: BlockServer) -> None:
    async with keep_blocks(Setting([server])) as blocks:
        for offset in (0, PIECE - 3, 2 * PIECE, 3 * PIECE - 1, 7):
            end = offset + PIECE + 11
            assert await blocks.read(LOCATORS[2], offset, end - offset, no_renewal) == BLOCKS[2][offset:end]
        assert blocks.read_now(LOCATORS[2], 5, 10) == BLOCKS[2][5:15]
        assert blocks.read_now(LOCATORS[3], 5, 10) is None
    assert len(server.requests) == 1


async def test_whole_pieces_are_handed_out_without_a_copy(server: BlockServer) -> None:
    async with keep_blocks(Setting([server])) as blocks:
        one = await blocks.read(LOCATORS[0], PIECE, PIECE, no_renewal)
        assert one is await blocks.read(LOCATORS[0], PIECE, PIECE, no_renewal)


async def test_memory_is_bounded_whatever_is_read(server: BlockServer) -> None:
    async with keep_blocks(Setting([server], memory=7 * PIECE)) as blocks, trio.open_nursery() as nursery:
        most = 0

        async def read(locator: Locator) -> None:
            nonlocal most
            await blocks.read(locator, 0, 10, no_renewal)
            most = max(most, blocks._memory._used)

        for locator in LOCATORS:
            nursery.start_soon(read, locator)
    assert 0 < most <= 7 * PIECE
    assert len(server.requests) == len(LOCATORS)


async def test_memory_that_was_taken_is_given_back(server: BlockServer, expected_warnings: Announce) -> None:
    expected_warnings("")
    faults = [blockserver.corrupt, blockserver.truncated, blockserver.status(503), blockserver.stalling(0.5)]
    server.faults.extend(faults * 3)
    async with keep_blocks(Setting([server], memory=20 * PIECE, deadline=1)) as blocks:
        for locator in LOCATORS * 2:
            with trio.move_on_after(0.3):
                try:
                    await blocks.read(locator, 0, 10, no_renewal)
                except RiafsError:
                    continue
        await trio.sleep(0.6)
        memory = blocks._memory
        assert memory._used == sum(block.size for block in memory._blocks.values())


async def test_a_block_larger_than_the_memory_is_read_all_the_same(server: BlockServer) -> None:
    async with keep_blocks(Setting([server], memory=1)) as blocks:
        for block, locator in zip(BLOCKS, LOCATORS, strict=True):
            assert await blocks.read(locator, 3, PIECE, no_renewal) == block[3 : 3 + PIECE]


@pytest.mark.parametrize("block_size", [1 << 20, 100_000, 4 << 20])
async def test_what_was_fetched_is_read_from_the_cache_by_the_next_mount(
    server: BlockServer, tmp_path: Path, block_size: int
) -> None:
    setting = Setting([server], cache=tmp_path / "cache", block_size=block_size)
    async with keep_blocks(setting) as blocks:
        await blocks.read(LOCATORS[1], 0, 10, no_renewal)
        await until_written(blocks, -(-len(BLOCKS[1]) // block_size))
    async with keep_blocks(setting) as blocks:
        read = [await blocks.read(LOCATORS[1], offset, 70_000, no_renewal) for offset in range(0, 4 * PIECE, 70_000)]
        assert b"".join(read) == BLOCKS[1]
    assert len(server.requests) == 1


async def test_a_part_that_the_cache_lost_or_that_rotted_there_is_fetched_anew(
    server: BlockServer, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged: its checksum differs")
    setting = Setting([server], cache=tmp_path / "cache")
    async with keep_blocks(setting) as blocks:
        await blocks.read(LOCATORS[1], 0, 10, no_renewal)
        await until_written(blocks, 4)
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.stat().st_size > PIECE)
    files[0].unlink()
    data = bytearray(files[1].read_bytes())
    data[5000] ^= 1
    files[1].write_bytes(data)
    async with keep_blocks(setting) as blocks:
        for offset in range(0, len(BLOCKS[1]), PIECE):
            assert await blocks.read(LOCATORS[1], offset, 1000, no_renewal) == BLOCKS[1][offset : offset + 1000]
    assert len(server.requests) == 2


async def until_written(blocks: KeepBlocks, parts: int) -> None:
    with trio.fail_after(10):
        while blocks.counters.blocks_written < parts:  # noqa: ASYNC110  # written by threads of the cache
            await trio.sleep(0.02)


async def test_another_size_under_the_same_digest_is_not_served_from_the_cache(
    server: BlockServer, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("bytes come|ends early|is damaged")
    async with keep_blocks(Setting([server], cache=tmp_path / "cache")) as blocks:
        await blocks.read(LOCATORS[0], 0, 10, no_renewal)
        with pytest.raises(RiafsError):
            await blocks.read(Locator(LOCATORS[0].digest, LOCATORS[0].size + PIECE), 0, 10, no_renewal)


async def test_a_cache_that_cannot_be_written_fails_no_reader(
    server: BlockServer, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("blocks are not cached on the disk for now")
    (tmp_path / "cache").write_bytes(b"a file")
    async with keep_blocks(Setting([server], cache=tmp_path / "cache")) as blocks:
        for block, locator in zip(BLOCKS, LOCATORS, strict=True):
            assert await blocks.read(locator, 0, 10, no_renewal) == block[:10]


async def test_who_wants_room_gets_it_though_nothing_can_be_stored() -> None:
    memory = BlockMemory(10)
    (await memory.room(10)).fill(b"a", WholeBlock([b"x" * 10], 10))
    memory.pin(b"a")
    with trio.fail_after(5):
        (await memory.room(10)).give_back()
    assert b"a" not in memory
    assert not memory.is_pinned(b"a")


async def test_blocks_are_stored_when_no_others_are_on_their_way(server: BlockServer, tmp_path: Path) -> None:
    async with keep_blocks(Setting([server], cache=tmp_path / "cache")) as blocks:
        await blocks.read(LOCATORS[0], 0, 10, no_renewal)
        server.always = blockserver.stalling(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(blocks.read, LOCATORS[1], 0, 10, no_renewal)
            await trio.sleep(0.7)
            assert blocks.counters.blocks_written == 0
        await until_written(blocks, 7)


async def test_blocks_are_stored_at_once_where_memory_is_wanted(server: BlockServer, tmp_path: Path) -> None:
    async with keep_blocks(Setting([server], cache=tmp_path / "cache", memory=7 * PIECE)) as blocks:
        for locator in LOCATORS:
            await blocks.read(locator, 0, 10, no_renewal)
        await until_written(blocks, sum(-(-locator.size // blocks.tools.cache.block_size) for locator in LOCATORS))
    assert len(server.requests) == len(LOCATORS)


# -- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "order"), [(0, "3eab2d5fc9681074"), (1, "097dba52e648f1c3")])
async def test_servers_are_asked_in_the_order_of_all_clients(number: int, order: str) -> None:
    servers = {b"zzzzz-bi6l4-00000000000000%x" % digit: f"{digit:x}" for digit in range(16)}
    places = Places((), servers)  # names stand for servers
    assert "".join(places.order(locator_of(b"%064x" % number))) == order


async def test_servers_that_stay_are_kept_and_their_list_is_not_asked_for_all_the_time() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    asked = []

    async def refresh() -> None:
        asked.append(1)
        await trio.lowlevel.checkpoint()

    old = {b"a" * 27: Named("same"), b"b" * 27: Named("moves")}
    new = {b"a" * 27: Named("same"), b"b" * 27: Named("moved"), b"c" * 27: Named("new")}
    places = Places((), old, refresh)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(places.refresh)
    places.replace(new)
    assert len(asked) == 1
    assert set(places.order(LOCATORS[0])) == {old[b"a" * 27], new[b"b" * 27], new[b"c" * 27]}


async def test_each_place_is_checked_for_its_own_copy(tmp_path: Path) -> None:
    rotten_file = put(tmp_path / "rotten", BLOCKS[0])
    rotten_file.write_bytes(BLOCKS[0][:-1] + b"x")
    put(tmp_path / "good", BLOCKS[0])
    (tmp_path / "empty").mkdir()
    volumes = [tmp_path / "good", tmp_path / "rotten", tmp_path / "empty"]
    busy = [blockserver.status(503)]
    with (
        BlockServer(BLOCKS, faults=busy) as good,
        BlockServer(BLOCKS, always=blockserver.corrupt) as rotten,
        BlockServer() as empty,
        BlockServer(always=blockserver.status(405)) as odd,
        BlockServer() as gone,
    ):
        gone.__exit__(None, None, None)
        async with keep_blocks(Setting([good, rotten, empty, odd, gone], volumes)) as blocks:
            await blocks.read(LOCATORS[0], 0, 10, no_renewal)
            found = await copies(blocks, LOCATORS[0], no_renewal)
    states = [copy.state for copy in found]
    kinds = [CopyState.GOOD, CopyState.DAMAGED, CopyState.ABSENT]
    assert states == [*kinds, *kinds, CopyState.UNREACHABLE, CopyState.UNREACHABLE]
    assert found[4].place == f"127.0.0.1:{rotten.port}"
    assert "is damaged" in found[4].problem
    assert len(good.requests) == 2


async def test_checking_copies_renews_an_expired_signature_once(server: BlockServer) -> None:
    server.accepts = lambda path: "+A" in path
    renewals = []

    async def renew(used: Locator) -> Locator:
        renewals.append(used)
        return locator_of(BLOCKS[0], b"A" + b"0" * 40 + b"@7fffffff")

    async with keep_blocks(Setting([server, server])) as blocks:
        found = await copies(blocks, LOCATORS[0], renew)
    assert [copy.state for copy in found] == [CopyState.GOOD] * 2
    assert len(renewals) == 1
