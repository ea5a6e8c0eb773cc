"""Files of another machine through the block cache: how many requests and round trips readers cost, and that whatever
happens to the file or the machine, no bytes of two versions are mixed.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.cached_storage import PIECE, CachedFile, CachedStorage
from riafs.cache.known_versions import KnownVersion, KnownVersions
from riafs.counters import Counters
from riafs.errors import ChangedContent, NotInStore, StoreUnreachable
from riafs.storage.bytesource import Buffer, StoredFile
from riafs.storage.protocol import FileStatus, ItemKind
from riafs.tasks import Background, run_all
from tests.conformance.ranged import CHECKS, CONTENT, Check

MIB = 1 << 20
ROUND_TRIP = 0.1
OBJECT = b"abc/def/annex/objects/x/y/%b/%b"


def object_path(content: bytes) -> bytes:
    key = b"MD5E-s%d--%b.dat" % (len(content), hashlib.md5(content).hexdigest().encode())
    return OBJECT % (key, key)


class FarStorage:
    """Files in memory; each request takes a round trip. Counts requests and bytes."""

    name = "far store"
    listing = links = modes = local = ahead = None

    def __init__(self, files: dict[bytes, bytes]) -> None:
        self.files = files
        self.versions = dict.fromkeys(files, 0)
        self.opens: list[bytes] = []
        self.stats = 0
        self.reads: list[tuple[int, int]] = []
        self.open_files = 0
        self.down = False

    async def wait(self) -> None:
        if self.down:
            raise StoreUnreachable("far store cannot be reached (since 12:00:00)")
        await trio.sleep(ROUND_TRIP)

    @property
    def transferred(self) -> int:
        return sum(length for _, length in self.reads)

    def change(self, path: bytes, content: bytes) -> None:
        self.files[path] = content
        self.versions[path] += 1

    def version(self, path: bytes) -> KnownVersion:
        return KnownVersion(b"%b %d" % (path, self.versions[path]), len(self.files[path]))

    async def stat(self, path: bytes) -> FileStatus:
        await self.wait()
        return FileStatus(ItemKind.DIRECTORY, 0, 0, executable=False, path_identity=(0, 0))

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        self.stats += 1
        await self.wait()
        there = any(directory + b"/annex/objects" in path for path in self.files)
        return [await self.stat(b"") if there else None for _ in paths]

    async def read_file(self, path: bytes, limit: int) -> bytes:
        await self.wait()
        return self.files[path]

    async def open(self, path: bytes) -> "FarFile":
        self.opens.append(path)
        await self.wait()
        if path not in self.files:
            raise NotInStore(f"{path.decode()} does not exist")
        return FarFile(self, path)

    def close(self) -> None:
        pass


class FarFile(StoredFile):
    def __init__(self, storage: FarStorage, path: bytes) -> None:
        self.name = path.decode()
        self.version = storage.version(path)
        self._storage = storage
        self._path = path
        self._size = len(storage.files[path])
        storage.open_files += 1

    @property
    def size(self) -> int:
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        self._storage.reads.append((offset, length))
        await self._storage.wait()
        self.version = self._storage.version(self._path)
        return self._storage.files[self._path][offset : offset + length]

    async def look(self) -> None:
        await self._storage.wait()
        self.version = self._storage.version(self._path)

    def close(self) -> None:
        self._storage.open_files -= 1


@asynccontextmanager
async def cached(
    far: FarStorage, versions: KnownVersions | None = None, blocks: BlockCache | None = None
) -> AsyncIterator[CachedStorage]:
    blocks = blocks or BlockCache(None, BlockLimits(), Counters())
    async with trio.open_nursery() as nursery:
        yield CachedStorage(far, blocks, versions or KnownVersions(None), Background(nursery))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert far.open_files == 0


async def round_trips(work: Callable[[], Awaitable[object]]) -> float:
    began = trio.current_time()
    await work()
    return (trio.current_time() - began) / ROUND_TRIP


@pytest.mark.parametrize("check", CHECKS)
async def test_files_are_ranged_bytes(check: Check, autojump_clock: trio.testing.MockClock) -> None:
    async with cached(FarStorage({b"f": CONTENT})) as storage:
        file = await storage.open(b"f")
        await check(file)
        file.close()


async def test_a_large_read_takes_one_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(8 * MIB)
    async with cached(FarStorage({b"f": content})) as storage:
        file = await storage.open(b"f")
        assert await round_trips(lambda: file.read(0, len(content))) == pytest.approx(1)
        assert await file.read(0, len(content)) == content
        file.close()


async def test_each_block_is_fetched_once_however_many_readers(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(4 * MIB)
    far = FarStorage({b"f": content})
    async with cached(far) as storage:
        files = [await storage.open(b"f") for _ in range(20)]

        async def read(file: CachedFile) -> None:
            for start in range(0, len(content), PIECE):
                assert bytes(await file.read(start, PIECE)) == content[start : start + PIECE]

        await run_all(*(lambda file=file: read(file) for file in files))  # type: ignore[misc]
        assert far.transferred == len(content)
        for file in files:
            file.close()


async def test_a_reader_here_and_there_gets_pieces(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(64 * MIB)
    far = FarStorage({b"f": content})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        for number, offset in enumerate(range(50 * MIB + 12345, 4096, -3 * MIB)):
            assert await round_trips(lambda offset=offset: file.read(offset, 4096)) <= 2  # type: ignore[misc]
            assert far.transferred <= (number + 1) * 2 * PIECE
            assert bytes(await file.read(offset, 4096)) == content[offset : offset + 4096]
        file.close()


async def test_a_reader_in_order_fills_the_line(autojump_clock: trio.testing.MockClock) -> None:
    """It is read ahead of it, ever more: far fewer round trips than blocks; and no byte twice but those of a piece."""
    content = bytes(64 * MIB)
    far = FarStorage({b"f": content})
    async with cached(far, blocks=BlockCache(None, BlockLimits(memory=256 * MIB), Counters())) as storage:
        file = await storage.open(b"f")

        async def read() -> None:
            for start in range(0, len(content), PIECE):
                await file.read(start, PIECE)

        assert await round_trips(read) < 12
        assert far.transferred == len(content)
        file.close()


async def test_requests_slightly_out_of_order_are_read_ahead_of(autojump_clock: trio.testing.MockClock) -> None:
    """As the kernel sends them: two at a time, the second one first."""
    content = os.urandom(16 * MIB)
    far = FarStorage({b"f": content})
    async with cached(far, blocks=BlockCache(None, BlockLimits(memory=256 * MIB), Counters())) as storage:
        file = await storage.open(b"f")

        async def read(start: int) -> None:
            assert bytes(await file.read(start, PIECE)) == content[start : start + PIECE]

        async def read_all() -> None:
            await read(0)
            for start in range(PIECE, len(content) - 2 * PIECE, 2 * PIECE):
                await read(start + PIECE)
                await read(start)
            await read(len(content) - PIECE)

        assert await round_trips(read_all) < 8
        assert far.transferred <= len(content) + 4 * PIECE  # until reading ahead has begun
        file.close()


async def test_two_requests_for_one_block_at_once(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(4 * MIB)
    far = FarStorage({b"f": content})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 0, PIECE)
            await trio.testing.wait_all_tasks_blocked()
            for start in (3 * PIECE, PIECE, 2 * PIECE):
                nursery.start_soon(file.read, start, PIECE)
                await trio.testing.wait_all_tasks_blocked()
        assert far.reads == [(0, MIB)]
        file.close()


async def test_closing_ends_reading_ahead(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({b"f": bytes(64 * MIB)})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        for start in range(0, 4 * MIB, PIECE):
            await file.read(start, PIECE)
        file.close()
        before = far.transferred
        await trio.sleep(10)
        assert far.transferred == before
        assert storage.bytes_ahead == 0
        assert far.open_files == 0


async def test_the_beginning_of_a_file_fetches_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({b"f": bytes(64 * MIB)})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        await file.read(0, 4096)
        await trio.sleep(1)
        assert far.transferred <= MIB
        file.close()


async def test_versions_are_not_mixed(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({b"f": b"1" * 3 * MIB})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        assert set(bytes(await file.read(0, 100))) == {ord("1")}
        before = file.version
        far.change(b"f", b"2" * 3 * MIB)
        assert set(bytes(await file.read(0, 3 * MIB))) == {ord("2")}
        assert file.version != before
        file.close()


async def test_a_file_that_changes_with_every_read(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({b"f": b"1" * 3 * MIB})
    async with cached(far) as storage:
        file = await storage.open(b"f")
        original = far.version

        def changing(path: bytes) -> KnownVersion:
            far.versions[path] += 1
            return original(path)

        far.version = changing  # type: ignore[method-assign]
        with pytest.raises(ChangedContent):
            await file.read(0, 3 * MIB)
        far.version = original  # type: ignore[method-assign]
        file.close()


# -- objects of keys --------------------------------------------------------------------------------------------------


async def test_an_object_is_read_again_without_a_request(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    content = os.urandom(100_000)
    far = FarStorage({object_path(content): content})
    versions, blocks = KnownVersions(None), BlockCache(None, BlockLimits(), Counters())
    for _ in range(3):
        async with cached(far, versions, blocks) as storage:
            file = await storage.open(object_path(content))
            assert await file.read(0, len(content)) == content
            file.close()
    assert (len(far.opens), len(far.reads)) == (1, 1)


async def test_what_is_cached_is_read_while_the_machine_is_away(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(3 * MIB)
    far = FarStorage({object_path(content): content, b"other": b"x"})
    async with cached(far) as storage:
        file = await storage.open(object_path(content))
        await file.read(0, 1000)
        file.close()
        far.down = True
        file = await storage.open(object_path(content))
        assert bytes(await file.read(0, MIB)) == content[:MIB]
        with pytest.raises(StoreUnreachable, match="since"):
            await file.read(2 * MIB, 100)
        with pytest.raises(StoreUnreachable):
            await storage.open(b"other")
        far.down = False
        assert bytes(await file.read(2 * MIB, 100)) == content[2 * MIB : 2 * MIB + 100]
        file.close()


async def test_an_archive_is_opened_as_it_was_while_the_machine_is_away(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """And looked up again as soon as the machine is back: it may have been replaced."""
    far = FarStorage({b"a.7z": b"1" * 3 * MIB})
    async with cached(far) as storage:
        file = await storage.open(b"a.7z")
        await file.read(0, 1000)
        file.close()
        far.down = True
        far.change(b"a.7z", b"2" * 3 * MIB)
        file = await storage.open(b"a.7z")
        assert set(bytes(await file.read(0, MIB))) == {ord("1")}
        with pytest.raises(StoreUnreachable, match="since"):
            await file.read(2 * MIB, 100)
        far.down = False
        assert set(bytes(await file.read(2 * MIB, 100))) == {ord("2")}
        file.close()
        file = await storage.open(b"a.7z")
        assert set(bytes(await file.read(0, 3 * MIB))) == {ord("2")}
        file.close()


async def test_an_object_that_was_replaced_since(autojump_clock: trio.testing.MockClock) -> None:
    """Its blocks are not mixed with those of the one that was known; then the new one is known."""
    content = os.urandom(3 * MIB)
    path = object_path(content)
    far = FarStorage({path: b"0" * len(content)})
    async with cached(far) as storage:
        file = await storage.open(path)
        await file.read(0, 1000)
        file.close()
        far.change(path, content)
        file = await storage.open(path)
        before = file.version
        assert await file.read(0, len(content)) == content
        assert file.version != before
        file.close()
        again = await storage.open(path)
        assert await again.read(0, len(content)) == content
        again.close()


async def test_an_object_that_was_removed_since(autojump_clock: trio.testing.MockClock) -> None:
    content = os.urandom(3 * MIB)
    path = object_path(content)
    far = FarStorage({path: content, object_path(b""): b""})
    async with cached(far) as storage:
        file = await storage.open(path)
        await file.read(0, 100)
        file.close()
        del far.files[path]
        file = await storage.open(path)
        with pytest.raises(NotInStore):
            await file.read(2 * MIB, 100)
        file.close()
        with pytest.raises(NotInStore):
            await storage.open(path)


async def test_absent_objects_of_an_archived_dataset_cost_nothing(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({b"abc/def/archives/archive.7z": b"7z"})
    async with cached(far) as storage:
        for number in range(20):
            with pytest.raises(NotInStore):
                await storage.open(object_path(b"%d" % number))
        assert (len(far.opens), far.stats) == (1, 1)
        await trio.sleep(6)
        with pytest.raises(NotInStore):
            await storage.open(object_path(b"later"))
        assert len(far.opens) == 2


async def test_files_ahead_come_together_and_are_fetched_once(autojump_clock: trio.testing.MockClock) -> None:
    contents = [os.urandom(20_000) for _ in range(500)]
    far = FarStorage({object_path(each): each for each in contents})
    async with cached(far) as storage:
        storage.fetch_ahead([object_path(each) for each in contents])

        async def read_all() -> None:
            for each in contents:
                file = await storage.open(object_path(each))
                assert await file.read(0, len(each)) == each
                file.close()

        assert await round_trips(read_all) < 30
        assert (len(far.opens), len(far.reads)) == (500, 500)


async def test_a_failure_ahead_is_the_readers_own(autojump_clock: trio.testing.MockClock) -> None:
    far = FarStorage({object_path(b"there"): b"there"})
    async with cached(far) as storage:
        storage.fetch_ahead([object_path(b"gone"), object_path(b"there")])
        with pytest.raises(NotInStore):
            await storage.open(object_path(b"gone"))
        file = await storage.open(object_path(b"there"))
        assert await file.read(0, 5) == b"there"
        file.close()


async def test_large_objects_are_not_fetched_ahead(autojump_clock: trio.testing.MockClock) -> None:
    content = bytes(2 * MIB)
    far = FarStorage({object_path(content): content})
    async with cached(far) as storage:
        storage.fetch_ahead([object_path(content)])
        await trio.sleep(1)
        assert far.reads == []
