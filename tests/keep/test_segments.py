"""Files of collections as ranged bytes: segments, signatures, missing tails."""

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_files import CollectionReader, Refresh
from riafs.errors import ShortRead, StoreDenied, StoreError, StoreTimeout
from riafs.formats.locators import EMPTY_BLOCK, ZERO_BLOCK, Locator
from riafs.formats.manifests.blocks import NO_BLOCK, Segment
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.manifests.reader import parse_manifest
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.storage.deadline import begin_request
from tests.conformance.ranged import CHECKS, CONTENT, Check, check_slices
from tests.keep import blockserver
from tests.keep.blocks import Setting, keep_blocks, locator_of, put
from tests.keep.blockserver import BlockServer
from tests.plugins.log_hygiene import Announce


def manifest_of(locators: Sequence[Locator]) -> Manifest:
    """A manifest with these blocks, in one stream, and one file over all of them."""
    size = sum(locator.size for locator in locators)
    return parse_manifest(b". " + b" ".join(locator.text for locator in locators) + b" 0:%d:file\n" % size)


def cut(content: bytes, lengths: Sequence[int]) -> list[bytes]:
    """`content` in pieces of these lengths, and a last one with what is left."""
    pieces = []
    for length in lengths:
        pieces.append(content[:length])
        content = content[length:]
    return [*pieces, content] if content else pieces


@asynccontextmanager
async def collection(blocks: Sequence[bytes], refresh: Refresh | None = None) -> AsyncIterator[CollectionReader]:
    """The reader of a collection whose blocks are on a server."""
    with BlockServer(blocks) as server:
        async with keep_blocks(Setting([server])) as keep:
            yield CollectionReader(keep, manifest_of([locator_of(block) for block in blocks]), refresh)


def segments_of(blocks: Sequence[bytes]) -> list[Segment]:
    return [Segment(number, 0, len(block)) for number, block in enumerate(blocks) if block]


@asynccontextmanager
async def shown(content: bytes) -> AsyncIterator[RangedBytes]:
    """Content in three blocks."""
    blocks = cut(content, [len(content) // 3, len(content) // 4])
    async with collection(blocks) as reader:
        yield reader.open(segments_of(blocks), len(content))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_segments_follow_the_protocol_of_ranged_bytes(check: Check) -> None:
    async with shown(CONTENT) as source:
        await check(source)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_a_small_file_in_memory_follows_it_as_well(check: Check) -> None:
    async with collection([b"before" + CONTENT + b"behind"]) as reader:
        await reader.read(0, 0, 1)
        source = reader.open([Segment(0, 6, len(CONTENT))], len(CONTENT))
        assert isinstance(source, MemoryBytes)
        await check(source)


async def test_slices_over_the_borders_of_blocks() -> None:
    content = random.Random(5).randbytes(100_000)
    await check_slices(shown, content, [(0, 100_000), (33_332, 3), (58_332, 2), (30_000, 40_000), (99_999, 5)])


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    parts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.integers(1, 400)), max_size=8),
    reads=st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 2500)), max_size=8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_segments_read_like_the_bytes_they_stand_for(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    parts: list[tuple[int, int, int]],
    reads: list[tuple[int, int]],
) -> None:
    blocks = [random.Random(size * 7 + number).randbytes(size) for number, size in enumerate(sizes)]
    volume = tmp_path_factory.mktemp("volume")
    for block in blocks:
        put(volume, block)
    segments = []
    for number, position, length in parts:
        size = len(blocks[number % len(blocks)])
        offset = position % size
        segments.append(Segment(number % len(blocks), offset, min(length, size - offset)))
    content = b"".join(blocks[block][offset : offset + length] for block, offset, length in segments)

    async def check() -> None:
        async with keep_blocks(Setting(volumes=[volume])) as keep:
            reader = CollectionReader(keep, manifest_of([locator_of(block) for block in blocks]))
            source = reader.open(segments, len(content))
            assert source.size == len(content)
            for offset, length in reads:
                assert await source.read(offset, length) == content[offset : offset + length]

    trio.run(check)


async def test_empty_and_zero_blocks_cost_no_request() -> None:
    with BlockServer() as server:
        async with keep_blocks(Setting([server])) as keep:
            reader = CollectionReader(keep, manifest_of([EMPTY_BLOCK, ZERO_BLOCK]))
            zeros = reader.open([Segment(1, 0, ZERO_BLOCK.size), Segment(1, 5, 10)], ZERO_BLOCK.size + 10)
            assert await zeros.read(ZERO_BLOCK.size - 3, 100) == bytes(13)
            assert await reader.open([], 0).read(0, 10) == b""
        assert not server.requests


async def test_a_tail_that_the_manifest_has_no_block_for_is_an_error() -> None:
    async with collection([b"some bytes"]) as reader:
        for source in (
            reader.open([Segment(0, 0, 10), Segment(NO_BLOCK, 0, 5)], 15),
            reader.open([Segment(0, 0, 10)], 15),
            reader.open([Segment(NO_BLOCK, 0, 5)], 5),
        ):
            with pytest.raises(ShortRead):
                await source.read(0, 15)
        assert await reader.open([Segment(0, 0, 10), Segment(NO_BLOCK, 0, 5)], 15).read(0, 10) == b"some bytes"


async def test_what_went_wrong_is_known_afterwards(expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    with BlockServer() as server:
        async with keep_blocks(Setting([server])) as keep:
            reader = CollectionReader(keep, manifest_of([locator_of(b"gone")]))
            assert reader.problem([Segment(0, 0, 4)]) is None
            with pytest.raises(Exception, match="is not there"):
                await reader.open([Segment(0, 0, 4)], 4).read(0, 4)
            assert "is not there" in (reader.problem([Segment(NO_BLOCK, 0, 1), Segment(0, 0, 4)]) or "")


# -- signatures -------------------------------------------------------------------------------------------------------


class Cluster:
    """A manifest whose signatures change with each fetch; the server takes the newest only."""

    def __init__(self, server: BlockServer, blocks: Sequence[bytes]) -> None:
        self.fetches = 0
        self._blocks = blocks
        self.expires = 0x7FFFFFFF
        server.accepts = lambda path: b"A%040d@" % self.fetches in path.encode()

    def manifest(self) -> Manifest:
        return manifest_of([locator_of(block, b"A%040d@%08x" % (self.fetches, self.expires)) for block in self._blocks])

    async def fetch(self) -> Manifest:
        await trio.sleep(0.05)
        self.fetches += 1
        return self.manifest()


@asynccontextmanager
async def cluster(blocks: Sequence[bytes]) -> AsyncIterator[tuple[Cluster, BlockServer, KeepBlocks]]:
    with BlockServer(blocks) as server:
        async with keep_blocks(Setting([server], memory=1)) as keep:
            yield Cluster(server, blocks), server, keep


MANY = [os.urandom(1000) for _ in range(12)]


async def test_expired_signatures_are_renewed_once_however_many_ask() -> None:
    async with cluster(MANY) as (keeper, _, keep):
        reader = CollectionReader(keep, keeper.manifest(), keeper.fetch)
        keeper.fetches = 7
        async with trio.open_nursery() as nursery:
            for block in range(len(MANY)):
                nursery.start_soon(reader.read, block, 0, 1000)
        assert keeper.fetches == 8
        assert keep.counters.signatures_renewed == 1


async def test_a_reader_lives_across_many_lifetimes_of_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riafs.content.keep_files._RENEW_SECONDS", 0.0)
    async with cluster(MANY) as (keeper, _, keep):
        reader = CollectionReader(keep, keeper.manifest(), keeper.fetch)
        for number, block in enumerate(MANY):
            assert await reader.read(number, 0, 1000) == block
            keeper.fetches += 1  # what the reader has is void


async def test_a_cluster_that_gives_no_better_signature_is_not_asked_again_and_again(
    expected_warnings: Announce,
) -> None:
    expected_warnings("check the token")
    async with cluster(MANY) as (keeper, server, keep):
        server.accepts = lambda path: False
        reader = CollectionReader(keep, keeper.manifest(), keeper.fetch)
        for block in range(5):
            with pytest.raises(StoreDenied):
                await reader.read(block, 0, 10)
        assert keeper.fetches == 1


async def test_locators_without_a_way_to_renew_them_are_denied(expected_warnings: Announce) -> None:
    expected_warnings("check the token")
    async with cluster(MANY) as (keeper, _, keep):
        reader = CollectionReader(keep, keeper.manifest())
        keeper.fetches += 1
        with pytest.raises(StoreDenied, match="whether it is the one the manifest came with"):
            await reader.read(0, 0, 10)


async def test_an_api_server_that_is_away_gives_an_error_at_the_deadline(expected_warnings: Announce) -> None:
    expected_warnings("cannot be read")

    async def away() -> Manifest:
        raise StoreError("the API server is away")

    with BlockServer(MANY, always=blockserver.status(401)) as server:
        async with keep_blocks(Setting([server], deadline=0.6)) as keep:
            reader = CollectionReader(keep, manifest_of([locator_of(block) for block in MANY]), away)
            with trio.fail_after(3), pytest.raises(StoreError, match="the API server is away"):
                await reader.read(0, 0, 10)


async def test_an_api_server_that_hangs_costs_one_deadline_with_everything_else(expected_warnings: Announce) -> None:
    expected_warnings("cannot be read")

    async def away() -> Manifest:
        await trio.sleep(60)
        raise AssertionError

    with BlockServer(MANY, always=blockserver.status(401)) as server:
        async with keep_blocks(Setting([server], deadline=0.6)) as keep:
            reader = CollectionReader(keep, manifest_of([locator_of(block) for block in MANY]), away)
            begin_request()
            began = trio.current_time()
            for block in (0, 1):  # as a read across both does
                with pytest.raises(StoreTimeout):
                    await reader.read(block, 0, 10)
            assert 0.5 < trio.current_time() - began < 1.1
