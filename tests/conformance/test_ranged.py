"""Everything that reads follows the protocol of ranged bytes."""

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from riafs.archive.archive import ArchiveTools
from riafs.archive.extractor import Extractor
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.cached_bytes import CachedBytes
from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.content import verified_bytes, verifying
from riafs.content.locations import DatasetArchives
from riafs.content.verified_bytes import BytesBeingHashed
from riafs.content.verifying import Claim, UnverifiedContent, Verifier, Verify
from riafs.counters import Counters
from riafs.formats.sevenzip.cursor import Limits
from riafs.push.content import PatchedBytes
from riafs.storage.bytesource import Concatenated, Extent, MemoryBytes, RangedBytes
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.storage.local_file import FileBytes, LocalVersion
from riafs.tasks import Background
from tests.behaviour.drivers import opened
from tests.conformance.ranged import CHECKS, CONTENT, Check, Make, check_slices
from tests.small import Locked, SmallDataset, SmallStore, key_of, mixed_path


def file_of(content: bytes, deadline: Deadline | None = None) -> FileBytes:
    """An unlinked file with that content."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        descriptor = os.dup(file.fileno())
    return FileBytes(descriptor, len(content), "a file", deadline, LocalVersion.of(os.fstat(descriptor)))


@asynccontextmanager
async def memory(content: bytes) -> AsyncIterator[RangedBytes]:
    yield MemoryBytes(content)


@asynccontextmanager
async def file(content: bytes) -> AsyncIterator[RangedBytes]:
    source = file_of(content)
    yield source
    source.close()


@asynccontextmanager
async def file_with_deadline(content: bytes) -> AsyncIterator[RangedBytes]:
    source = file_of(content, Deadline("a store", 10, Counters()))
    yield source
    source.close()


@asynccontextmanager
async def extent(content: bytes) -> AsyncIterator[RangedBytes]:
    source = Extent(file_of(b"before" + content + b"after"), 6, len(content), owns_source=True)
    yield source
    source.close()


@asynccontextmanager
async def extent_at_the_end(content: bytes) -> AsyncIterator[RangedBytes]:
    source = Extent(MemoryBytes(b"before" + content), 6, len(content))
    yield source
    source.close()


@asynccontextmanager
async def concatenated(content: bytes) -> AsyncIterator[RangedBytes]:
    cuts = [0, 0, 1, 2, len(content) // 3, len(content) // 2, len(content) // 2, len(content)]
    parts = [MemoryBytes(content[start:end]) for start, end in zip(sorted(cuts), sorted(cuts)[1:], strict=False)]
    source = Concatenated([*parts, MemoryBytes(b"")])
    yield source
    source.close()


@asynccontextmanager
async def one_part(content: bytes) -> AsyncIterator[RangedBytes]:
    source = Concatenated([file_of(content)])
    yield source
    source.close()


@asynccontextmanager
async def patched(content: bytes) -> AsyncIterator[RangedBytes]:
    third, half = len(content) // 3, len(content) // 2
    ranges = [(start, end) for start, end in ((0, third // 2), (third, half), (half, half + third // 3)) if start < end]
    local, below = bytearray(len(content)), bytearray(content)
    for start, end in ranges:
        local[start:end] = content[start:end]
        below[start:end] = bytes(end - start)
    source = PatchedBytes(file_of(bytes(local)), file_of(bytes(below)), ranges, len(content))
    yield source
    source.close()


class _Sha256:
    """A Checker."""

    def __init__(self, wanted: bytes) -> None:
        self._digest, self._wanted = hashlib.sha256(), hashlib.sha256(wanted).digest()

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._digest.update(data)

    def matches(self) -> bool:
        return self._digest.digest() == self._wanted


@asynccontextmanager
async def hashed_beside(content: bytes) -> AsyncIterator[RangedBytes]:
    found = file_of(content)
    assert found.version is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifying, "IN_MEMORY", -1)
        patch.setattr(verifying, "WHOLE_BEFORE_FIRST_BYTE", -1)
        patch.setattr(verifying, "_CHUNK", 97)
        patch.setattr(verifying, "_HOP", 211)
        patch.setattr(verified_bytes, "_HOP", 211)
        patch.setattr(verified_bytes, "_AHEAD", 50)
        async with trio.open_nursery() as background:
            deadline = Deadline("the store", 10, Counters())
            verifier = Verifier(Verify.AUTO, VerifiedMemory(None), Counters(), deadline, Background(background))
            claim = Claim(b"the key", lambda: _Sha256(content))
            source = await verifier.admit(
                UnverifiedContent(found, "a place", Evidence(found.version, 0, found.size)), claim
            )
            assert isinstance(source, BytesBeingHashed)
            yield source
            source.close()


@asynccontextmanager
async def cached(content: bytes) -> AsyncIterator[RangedBytes]:
    cache = BlockCache(None, BlockLimits(block_size=97), Counters())
    async with trio.open_nursery() as background:
        source = CachedBytes(file_of(content), cache, b"a file", Background(background))
        yield source
        source.close()


QUICK: dict[str, Make] = {
    each.__name__: each
    for each in (
        memory, file, file_with_deadline, extent, extent_at_the_end, concatenated, one_part, patched, hashed_beside,
        cached,
    )
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", QUICK.values(), ids=QUICK)
async def test_source_of_bytes(make: Make, check: Check) -> None:
    async with make(CONTENT) as source:
        await check(source)


RANGES = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 4000)), max_size=8)


@pytest.mark.parametrize("make", QUICK.values(), ids=QUICK)
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=3000), ranges=RANGES)
def test_reads_are_slices_of_the_content(make: Make, content: bytes, ranges: list[tuple[int, int]]) -> None:
    trio.run(check_slices, make, content, ranges)


# -- what a store gives to a reader -----------------------------------------------------------------------------------

PLAIN_KEY = key_of(CONTENT)


def loose(dataset: SmallDataset) -> None:
    dataset.put(PLAIN_KEY, CONTENT)


def stored_member(dataset: SmallDataset) -> None:
    dataset.archive({PLAIN_KEY: CONTENT, key_of(b"other"): b"other"})


def decoded_member(dataset: SmallDataset) -> None:
    dataset.archive({PLAIN_KEY: CONTENT, key_of(b"other"): b"other"}, "-mx9")


def chunks(dataset: SmallDataset) -> None:
    uuid = b"aaaaaaaa-0000-4000-8000-000000000000"
    line = b"%b archive-id=%b encryption=none externaltype=ora name=s type=external chunk=100B timestamp=1s\n"
    dataset.annex_branch({b"remote.log": line % (uuid, dataset.id.encode())})
    for number in range(-(-len(CONTENT) // 100)):
        key = PLAIN_KEY.replace(b"--", b"-S100-C%d--" % (number + 1))
        whole = mixed_path(PLAIN_KEY).split(b"/")
        dataset.put(key, CONTENT[number * 100 :][:100], b"/".join(whole[:2]))


PLACES = (loose, stored_member, decoded_member, chunks)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("verify", [Verify.AUTO, Verify.NEVER])
@pytest.mark.parametrize("place", PLACES)
async def test_content_of_a_key(place: object, verify: Verify, check: Check, key_stores: dict[object, Path]) -> None:
    async with opened(key_stores[place], "#~one", verify=verify) as shown:
        root = shown.filesystem._root.directory  # the sources themselves, as the filesystem gets them
        source = await root.open((await root.find(b"file.dat")).entry)
        await check(source)
        source.close()


@pytest.fixture(scope="module")
def key_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[object, Path]:
    """A store for each of PLACES."""
    made: dict[object, Path] = {}
    for place in PLACES:
        store = SmallStore.make(tmp_path_factory.mktemp("stores") / place.__name__)
        place(store.dataset("one", {b"file.dat": Locked(PLAIN_KEY), b"git": CONTENT}))
        made[place] = store.path
    return made


@pytest.mark.parametrize("check", CHECKS)
async def test_file_of_a_local_store(check: Check, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    storage = await LocalStorage.open_root(os.fsencode(tmp_path), Deadline("a store", 10, Counters()))
    source = await storage.open(b"file")
    await check(source)
    source.close()
    storage.close()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("in_memory", [4 << 20, 10], ids=["small", "large"])
async def test_git_blob(
    check: Check, in_memory: int, key_stores: dict[object, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riafs.git.repository.IN_MEMORY", in_memory)
    async with opened(key_stores[loose], "#~one") as shown:
        root = shown.filesystem._root.directory
        source = await root.open((await root.find(b"git")).entry)
        await check(source)
        source.close()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("place", [stored_member, decoded_member])
async def test_member_of_an_archive_of_a_dataset(
    check: Check, place: object, key_stores: dict[object, Path], tmp_path: Path
) -> None:
    storage = await LocalStorage.open_root(os.fsencode(key_stores[place]), Deadline("a store", 10, Counters()))
    [path] = await storage.resolve_each([b"alias/one"])
    assert isinstance(path, bytes)
    extractor = Extractor([os.fsencode(each) for each in os.get_exec_path()], os.fsencode(tmp_path), 60)
    blocks = BlockCache(None, BlockLimits(), Counters())
    archives = DatasetArchives(storage, path, ArchiveTools(Limits(), extractor, blocks))
    found = await archives.open(b"archives/archive.7z", [mixed_path(PLAIN_KEY)])
    assert found is not None
    await check(found.source)
    found.source.close()
    storage.close()
