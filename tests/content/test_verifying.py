"""When bytes are served, and when they are known to be right. Thresholds are made small, so that tests are quick."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.content import verified_bytes, verifying
from riafs.content.verified_bytes import BytesBeingHashed, ComparedBytes, PartDigests
from riafs.content.verifying import Claim, UnverifiedContent, Verifier, Verify
from riafs.counters import Counters
from riafs.errors import ChangedContent, CorruptContent, StoreTimeout
from riafs.formats.digests import checker
from riafs.formats.keys import parse_key
from riafs.storage.bytesource import PROVEN, Buffer, MemoryBytes, shown_version_of
from riafs.storage.deadline import Deadline
from riafs.storage.local_file import FileBytes, LocalVersion
from riafs.tasks import Background
from tests.behaviour.drivers import opened
from tests.small import Locked, SmallStore, key_of, noise

Announce = Callable[..., None]

IN_MEMORY, WHOLE, CHUNK, AHEAD, OUT_OF_ORDER = 100, 1000, 200, 400, 300
GOOD = noise(5000)
BAD = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
KEY = key_of(GOOD)


@pytest.fixture(autouse=True)
def _small_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "IN_MEMORY": IN_MEMORY,
        "WHOLE_BEFORE_FIRST_BYTE": WHOLE,
        "_CHUNK": CHUNK,
        "_HOP": 2 * CHUNK,
        "_AHEAD": AHEAD,
        "_OUT_OF_ORDER": OUT_OF_ORDER,
    }.items():
        for module in (verifying, verified_bytes):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


class Source:
    """RangedBytes that keeps account: what was read, and whether it was closed."""

    def __init__(self, content: bytes) -> None:
        self._inner = MemoryBytes(content)
        self.size = len(content)
        self.reads = 0
        self.closed = False
        self.failure: Exception | None = None

    async def read(self, offset: int, length: int) -> Buffer:
        assert not self.closed
        self.reads += 1
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return await self._inner.read(offset, length)

    def close(self) -> None:
        self.closed = True


class Bench:
    """A verifier and its parts."""

    def __init__(self, policy: Verify, background: trio.Nursery) -> None:
        self.counters, self.memory = Counters(), VerifiedMemory(None)
        deadline = Deadline("the store", 10, self.counters)
        self.verifier = Verifier(policy, self.memory, self.counters, deadline, Background(background))

    async def admit(self, source: Source, *, content: bytes = GOOD, evidence: Evidence | None = None) -> object:
        """Admit a source that is said to be `content`."""
        key = key_of(content)
        return await self.verifier.admit(
            UnverifiedContent(source, "a place", evidence), Claim(key, lambda: checker(parse_key(key)))
        )

    async def beside(self, source: Source, content: bytes = GOOD) -> BytesBeingHashed:
        """Admit large content."""
        admitted = await self.admit(source, content=content, evidence=EVIDENCE)
        assert isinstance(admitted, BytesBeingHashed)
        return admitted


EVIDENCE = Evidence(LocalVersion(1, 2, 5000, 4, 5), 0, 5000)


@pytest.fixture
async def bench(nursery: trio.Nursery) -> Bench:
    return Bench(Verify.AUTO, nursery)


@pytest.fixture
def damage_reported(expected_warnings: Announce) -> None:
    expected_warnings("content of key .* in a place is damaged: its digest does not match")


async def read_in_order(source: BytesBeingHashed, step: int = 100) -> bytes:
    """All bytes, as a reader that goes through in order gets them."""
    return b"".join([bytes(await source.read(offset, step)) for offset in range(0, source.size, step)])


# -- small and middle-sized content -----------------------------------------------------------------------------------


async def test_small_content_is_verified_and_kept_in_memory(bench: Bench) -> None:
    source = Source(GOOD[:IN_MEMORY])
    admitted = await bench.admit(source, content=GOOD[:IN_MEMORY])
    assert isinstance(admitted, MemoryBytes)
    assert source.closed
    assert bench.counters.keys_verified == 1


@pytest.mark.parametrize("size", [1, IN_MEMORY, IN_MEMORY + 1, WHOLE])
async def test_damaged_content_is_refused_before_its_first_byte(bench: Bench, size: int, damage_reported: None) -> None:
    source = Source(bytes(size))
    with pytest.raises(CorruptContent, match="in a place is damaged"):
        await bench.admit(source, content=GOOD[:size], evidence=EVIDENCE)
    assert source.closed
    assert bench.counters.keys_corrupt == 1
    assert bench.memory.is_bad(EVIDENCE, key_of(GOOD[:size]))


async def test_middle_sized_content_is_read_whole_once_and_remembered(bench: Bench) -> None:
    content = GOOD[:WHOLE]
    first = Source(content)
    assert await bench.admit(first, content=content, evidence=EVIDENCE) is first
    assert first.reads == WHOLE // CHUNK
    second = Source(content)
    assert await bench.admit(second, content=content, evidence=EVIDENCE) is second
    assert second.reads == 0


async def test_decoded_content_of_any_size_is_verified_before_its_first_byte(
    bench: Bench, damage_reported: None
) -> None:
    with pytest.raises(CorruptContent):
        await bench.admit(Source(BAD), evidence=None)


async def test_failing_source_is_closed(bench: Bench) -> None:
    source = Source(GOOD[:WHOLE])
    source.failure = StoreTimeout("too slow")
    with pytest.raises(StoreTimeout):
        await bench.admit(source, content=GOOD[:WHOLE], evidence=EVIDENCE)
    assert source.closed


async def test_always_verifies_large_content_before_its_first_byte(
    nursery: trio.Nursery, damage_reported: None
) -> None:
    bench = Bench(Verify.ALWAYS, nursery)
    with pytest.raises(CorruptContent):
        await bench.admit(Source(BAD), evidence=EVIDENCE)
    good = Source(GOOD)
    other = Evidence(LocalVersion(1, 3, 5000, 4, 5), 0, 5000)
    assert await bench.admit(good, evidence=other) is good


async def test_never_reads_nothing_before_the_reader_does(nursery: trio.Nursery) -> None:
    bench = Bench(Verify.NEVER, nursery)
    source = Source(BAD)
    assert await bench.admit(source, evidence=EVIDENCE) is source
    assert (source.reads, bench.counters.keys_unverifiable) == (0, 1)


# -- large content, hashed beside the reader --------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, 100, 999, 5000, 9000])
async def test_good_content_passes_and_is_remembered(bench: Bench, step: int) -> None:
    source = Source(GOOD)
    admitted = await bench.beside(source)
    assert await read_in_order(admitted, step) == GOOD
    assert await bench.memory.is_good(EVIDENCE, KEY)
    admitted.close()
    assert source.closed


async def test_last_read_of_damaged_content_fails(bench: Bench, damage_reported: None) -> None:
    admitted = await bench.beside(Source(BAD))
    for offset in range(0, 4900, 100):
        assert await admitted.read(offset, 100) == BAD[offset : offset + 100]
    with pytest.raises(CorruptContent):
        await admitted.read(4900, 100)
    with pytest.raises(CorruptContent):
        await admitted.read(0, 100)
    assert bench.memory.is_bad(EVIDENCE, KEY)
    admitted.close()


async def test_reads_slightly_out_of_order_count_as_in_order(bench: Bench, damage_reported: None) -> None:
    admitted = await bench.beside(Source(BAD))
    offsets = list(range(0, 5000, 100))
    for index in range(0, 48, 2):
        offsets[index], offsets[index + 1] = offsets[index + 1], offsets[index]
    for offset in offsets[:-1]:
        await admitted.read(offset, 100)
    with pytest.raises(CorruptContent):
        await admitted.read(offsets[-1], 100)
    admitted.close()


async def test_reads_here_and_there_are_not_held_back(bench: Bench) -> None:
    source = Source(BAD)
    admitted = await bench.beside(source)
    assert await admitted.read(4900, 100) == BAD[4900:]
    assert await admitted.read(2000, 100) == BAD[2000:2100]
    await trio.testing.wait_all_tasks_blocked()
    assert source.reads == 2
    admitted.close()


async def test_hashing_keeps_close_to_the_reader(bench: Bench) -> None:
    source = Source(GOOD)
    admitted = await bench.beside(source)
    await trio.testing.wait_all_tasks_blocked()
    assert source.reads == 0
    await admitted.read(0, 1000)
    await trio.testing.wait_all_tasks_blocked()
    assert 1 < source.reads <= 1 + (1000 + AHEAD) // CHUNK + 2
    admitted.close()


async def test_reader_that_leaves_ends_the_hashing(bench: Bench) -> None:
    source = Source(GOOD)
    admitted = await bench.beside(source)
    await admitted.read(0, 1000)
    admitted.close()
    await trio.testing.wait_all_tasks_blocked()
    assert source.closed
    assert not await bench.memory.is_good(EVIDENCE, KEY)
    assert bench.counters.keys_verified == 0


async def test_readers_of_the_same_bytes_share_one_hashing(bench: Bench) -> None:
    sources = [Source(GOOD) for _ in range(10)]
    admitted = [await bench.beside(source) for source in sources]
    assert [source.closed for source in sources] == [False] + [True] * 9

    async def read(reader: BytesBeingHashed) -> None:
        assert await read_in_order(reader, 300) == GOOD
        reader.close()

    async with trio.open_nursery() as readers:
        for reader in admitted:
            readers.start_soon(read, reader)
    assert bench.counters.keys_verified == 1
    assert sources[0].closed


async def test_reader_that_stays_is_served_when_another_leaves(bench: Bench) -> None:
    first, second = await bench.beside(Source(GOOD)), await bench.beside(Source(GOOD))
    await first.read(0, 1000)
    first.close()
    first.close()
    assert await read_in_order(second) == GOOD
    second.close()


async def test_reader_after_the_last_one_left_begins_anew(bench: Bench) -> None:
    first = await bench.beside(Source(GOOD))
    first.close()
    await trio.testing.wait_all_tasks_blocked()
    second = await bench.beside(Source(GOOD))
    assert await read_in_order(second) == GOOD
    second.close()


async def test_store_that_fails_while_hashing_fails_the_reader(bench: Bench) -> None:
    source = Source(GOOD)
    admitted = await bench.beside(source)
    await admitted.read(0, 1000)
    source.failure = StoreTimeout("gone")
    with pytest.raises(StoreTimeout):
        await read_in_order(admitted)
    admitted.close()
    assert not await bench.memory.is_good(EVIDENCE, KEY)
    assert not bench.memory.is_bad(EVIDENCE, KEY)


async def test_hashing_that_ended_with_a_failure_is_not_shared(bench: Bench) -> None:
    source = Source(GOOD)
    first = await bench.beside(source)
    await first.read(0, 1000)
    source.failure = StoreTimeout("gone")
    await trio.testing.wait_all_tasks_blocked()
    second = await bench.beside(Source(GOOD))
    assert await read_in_order(second) == GOOD
    first.close()
    second.close()


async def test_hashing_goes_on_after_a_failure_of_the_store(bench: Bench) -> None:
    """Whoever read meanwhile is told; whoever goes on gets verified bytes, and not the last ones before the digest."""
    source = Source(GOOD)
    first, second = await bench.beside(source), await bench.beside(Source(GOOD))
    assert await first.read(0, 1000) == GOOD[:1000]
    source.failure = StoreTimeout("gone")
    with pytest.raises(StoreTimeout):
        await first.read(1000, 1000)
    await trio.testing.wait_all_tasks_blocked()
    source.failure = None
    assert await read_in_order(first) == GOOD
    assert await read_in_order(second) == GOOD
    assert not first.provisional
    for each in (first, second):
        each.close()
    await trio.testing.wait_all_tasks_blocked()
    assert source.closed


async def test_damage_is_found_after_a_failure_of_the_store(bench: Bench, expected_warnings: Announce) -> None:
    expected_warnings("is damaged")
    source = Source(BAD)
    reader = await bench.beside(source)
    await reader.read(0, 1000)
    source.failure = StoreTimeout("gone")
    with pytest.raises(StoreTimeout):
        await reader.read(1000, 1000)
    await trio.testing.wait_all_tasks_blocked()
    source.failure = None
    with pytest.raises(CorruptContent):
        await read_in_order(reader)
    reader.close()


# -- files that change ------------------------------------------------------------------------------------------------


class Meddler:
    """A checker that lets something happen to the file when it has taken in the first bytes."""

    def __init__(self, key: bytes, meddle: Callable[[], object]) -> None:
        inner = checker(parse_key(key))
        assert inner is not None
        self._inner, self._meddle = inner, meddle

    def update(self, data: Buffer) -> None:
        self._inner.update(data)
        self._meddle()

    def matches(self) -> bool:
        return self._inner.matches()


class Stored:
    """A file of a store, and what the claim's checkers do to it when they begin, one after the other."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
        self.path, self.key = path, key_of(content)
        self.meddling: list[Callable[[], object]] = []

    def opened(self) -> UnverifiedContent:
        status = self.path.stat()
        file = FileBytes(os.open(self.path, os.O_RDONLY), status.st_size, "it", None, LocalVersion.of(status))
        assert file.version is not None
        return UnverifiedContent(file, "a place", Evidence(file.version, 0, status.st_size))

    def claim(self) -> Claim:
        return Claim(self.key, lambda: Meddler(self.key, self.meddling.pop(0) if self.meddling else lambda: None))

    def write(self, content: bytes) -> None:
        with self.path.open("r+b") as file:
            file.write(content)


async def test_content_that_is_changed_while_it_is_hashed_is_hashed_again(
    bench: Bench, tmp_path: Path, damage_reported: None
) -> None:
    stored = Stored(tmp_path / "file", GOOD[:WHOLE])
    stored.meddling = [lambda: None, lambda: stored.write(bytes(10))]
    opened = stored.opened()
    with pytest.raises(CorruptContent):
        await bench.verifier.admit(opened, stored.claim())
    assert opened.evidence is not None
    assert not await bench.memory.is_good(opened.evidence, stored.key)


async def test_content_that_is_changed_all_the_time_is_nobody_s_fault(bench: Bench, tmp_path: Path) -> None:
    stored = Stored(tmp_path / "file", GOOD[:WHOLE])
    stored.meddling = [lambda: None, *[lambda: os.utime(stored.path)] * 9]
    with pytest.raises(ChangedContent, match="is being changed; try again"):
        await bench.verifier.admit(stored.opened(), stored.claim())


@pytest.mark.parametrize("policy", list(Verify))
async def test_reader_of_changed_content_gets_an_error_and_the_right_bytes_once_it_is_restored(
    nursery: trio.Nursery, policy: Verify, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged")
    bench = Bench(policy, nursery)
    stored = Stored(tmp_path / "file", GOOD[:WHOLE])
    content = await bench.verifier.admit(stored.opened(), stored.claim())
    assert await content.read(0, 10) == GOOD[:10]
    stored.write(bytes(10))
    for _ in range(2):
        with pytest.raises(CorruptContent if policy is Verify.AUTO else ChangedContent):
            await content.read(0, 10)
    stored.write(GOOD[:10])
    if policy is not Verify.NEVER:
        assert await content.read(0, 10) == GOOD[:10]
        assert shown_version_of(content) is PROVEN
    content.close()


async def test_large_content_that_changes_beside_its_reader_fails_him(bench: Bench, tmp_path: Path) -> None:
    stored = Stored(tmp_path / "file", GOOD)
    content = await bench.verifier.admit(stored.opened(), stored.claim())
    await content.read(0, 100)
    stored.write(bytes(10))
    with pytest.raises(ChangedContent):
        await content.read(100, 100)
    content.close()


async def test_large_content_that_is_unlinked_beside_its_reader_is_read_on_and_not_remembered(
    bench: Bench, tmp_path: Path
) -> None:
    stored = Stored(tmp_path / "file", GOOD)
    opened = stored.opened()
    content = await bench.verifier.admit(opened, stored.claim())
    assert isinstance(content, BytesBeingHashed)
    await content.read(0, 100)
    stored.path.unlink()
    assert await read_in_order(content) == GOOD
    assert content.provisional
    assert opened.evidence is not None
    assert not await bench.memory.is_good(opened.evidence, stored.key)
    content.close()


@pytest.mark.parametrize(
    "size", [0, 1, PartDigests.PART - 1, PartDigests.PART, PartDigests.PART + 1, 3 * PartDigests.PART + 7]
)
async def test_sealed_content_gives_what_was_sealed_and_nothing_else(size: int) -> None:
    content, seal = noise(size), PartDigests()
    for start in range(0, size, 100_000):
        seal.update(content[start : start + 100_000])
    digests, deadline = seal.end(), Deadline("the store", 10, Counters())
    sealed = ComparedBytes(MemoryBytes(content), digests, deadline, "a place")
    for offset in {0, 1, size // 2, max(size - 1, 0), size}:
        for length in (0, 1, PartDigests.PART, size + 1):
            assert await sealed.read(offset, length) == content[offset : offset + length]
    for place in {0, size // 2, size - 1} if size else ():
        other = bytearray(content)
        other[place] ^= 1
        with pytest.raises(ChangedContent):
            await ComparedBytes(MemoryBytes(bytes(other)), digests, deadline, "a place").read(place, 1)


# -- in a store -------------------------------------------------------------------------------------------------------


def store_with(tmp_path: Path, loose: bytes, archived: bytes | None = None) -> Path:
    """A store whose dataset ``one`` has the large file ``file``."""
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.put(KEY, loose)
    if archived is not None:
        dataset.archive({KEY: archived})
    return store.path


async def test_large_damaged_copy_fails_once_and_the_archive_stands_in_then(
    tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged: its digest does not match", "'file' in dataset .* cannot be read: .* is damaged")
    async with opened(store_with(tmp_path, BAD, GOOD)) as shown:
        with pytest.raises(CorruptContent):
            await shown.read(b"one/file")
        assert await shown.read(b"one/file") == GOOD
        assert shown.counters.keys_healed == 1


async def test_verified_content_is_remembered_across_mounts(tmp_path: Path) -> None:
    store, cache = store_with(tmp_path, GOOD), tmp_path / "cache"
    verified = []
    for _ in range(2):
        async with opened(store, cache=cache) as shown:
            assert await shown.read(b"one/file") == GOOD
            verified.append(shown.counters.keys_verified)
            assert await shown.getxattr(b"one/file", "user.riafs.verified") == b"yes"
    assert verified == [1, 0]


async def test_content_that_changed_between_mounts_is_verified_again(
    tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    store, cache = store_with(tmp_path, GOOD), tmp_path / "cache"
    async with opened(store, cache=cache) as shown:
        await shown.read(b"one/file")
    [path] = [each for each in store.rglob("MD5E*") if each.is_file()]
    path.write_bytes(BAD)
    async with opened(store, cache=cache) as shown:
        with pytest.raises(CorruptContent):
            await shown.read(b"one/file")


async def test_damage_is_forgotten_with_the_mount(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    store, cache = store_with(tmp_path, BAD), tmp_path / "cache"
    for _ in range(2):
        async with opened(store, cache=cache) as shown:
            with pytest.raises(CorruptContent):
                await shown.read(b"one/file")
            assert shown.counters.keys_corrupt == 1


@pytest.mark.parametrize("policy", list(Verify))
async def test_policy_decides_what_a_damaged_store_gives(
    tmp_path: Path, policy: Verify, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    async with opened(store_with(tmp_path, BAD), verify=policy) as shown:
        if policy is Verify.NEVER:
            assert await shown.read(b"one/file") == BAD
            return
        with pytest.raises(CorruptContent):
            await shown.read(b"one/file")
