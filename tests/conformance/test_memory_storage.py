"""A storage without any optional capability passes the suites, and a store in it is shown and read."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from riafs.errors import NoSuchName, ReadOnly, StoreError
from riafs.storage.bytesource import shown_version_of
from riafs.storage.protocol import Storage, listing_of, local_store
from riafs.tree import source as source_module
from tests.behaviour.drivers import ObjectDriver, opened
from tests.conformance.directory import CHECKS as DIRECTORY_CHECKS
from tests.conformance.directory import Check as DirectoryCheck
from tests.conformance.ranged import CHECKS, CONTENT, Check
from tests.fuse.mounting import mounted
from tests.memory_storage import MemoryStorage, read_stores_into_memory
from tests.small import Locked, SmallStore, key_of, noise

LOOSE, STORED, DECODED = b"loose" * 40_000, noise(300_000, "stored"), b"decoded" * 50_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Three datasets: loose objects, an archive of stored members, and one of decoded members."""
    made = SmallStore.make(tmp_path_factory.mktemp("memory") / "store")
    for alias, content in ((b"loose", LOOSE), (b"stored", STORED), (b"decoded", DECODED)):
        key = key_of(content)
        one = made.dataset(os.fsdecode(alias), {b"annexed": Locked(key), b"git": CONTENT, b"below/text": alias})
        if alias == b"loose":
            one.put(key, content)
        else:
            one.archive({key: content}, *(["-mx9"] if alias == b"decoded" else []))
    return made


@asynccontextmanager
async def in_memory(store: SmallStore, scratch: Path, fragment: str = "") -> AsyncIterator[ObjectDriver]:
    """The file system of the store in memory, with private copies of its repositories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "open_store", source_module.open_store)  # put back at the end
        read_stores_into_memory(scratch)
        async with opened(store.path, fragment) as shown:
            yield shown


@pytest.mark.parametrize("check", CHECKS)
async def test_file_in_memory(check: Check, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    await check(await MemoryStorage(tmp_path).open(b"file"))


async def test_what_a_storage_cannot_do_is_said_where_it_is_needed(tmp_path: Path) -> None:
    storage: Storage = MemoryStorage(tmp_path)
    with pytest.raises(ReadOnly, match="not a directory of this machine"):
        local_store(storage)
    with pytest.raises(StoreError, match="cannot list"):
        listing_of(storage)


@pytest.mark.parametrize("check", DIRECTORY_CHECKS)
@pytest.mark.parametrize("path", [b"", b"by-id", b"loose", b"loose/below"])
async def test_directories(check: DirectoryCheck, path: bytes, store: SmallStore, tmp_path: Path) -> None:
    async with in_memory(store, tmp_path) as shown:
        await shown.stat(b"loose")
        await check((await shown.filesystem.node(await shown.inode(path))).directory)


@pytest.mark.parametrize(("alias", "content"), [(b"loose", LOOSE), (b"stored", STORED), (b"decoded", DECODED)])
async def test_dataset_by_its_alias_is_read(alias: bytes, content: bytes, store: SmallStore, tmp_path: Path) -> None:
    async with in_memory(store, tmp_path, f"#~{alias.decode()}") as shown:
        assert sorted(await shown.ls(b"")) == [b"annexed", b"below", b"git"]
        assert await shown.read(b"below/text") == alias
        assert await shown.read(b"annexed") == content
        assert await shown.read(b"git") == CONTENT


async def test_names_of_a_store_that_cannot_list_are_found_when_asked_for_and_listed_then(
    store: SmallStore, tmp_path: Path
) -> None:
    [first] = [path for path in store.path.iterdir() if len(path.name) == 3][:1]
    identifier = os.fsencode(first.name + next(first.iterdir()).name)
    async with in_memory(store, tmp_path) as shown:
        assert list(await shown.ls(b"")) == [b"by-id"]
        with pytest.raises(NoSuchName):
            await shown.stat(b"absent")
        inode = await shown.inode(b"loose")
        assert await shown.read(b"loose/annexed") == LOOSE
        assert await shown.read(b"stored@main/annexed") == STORED
        await shown.refresh()
        assert list(await shown.ls(b"")) == [b"by-id", b"loose", b"stored"]
        assert await shown.inode(b"loose") == inode
        assert await shown.read(b"by-id/" + identifier + b"/git") == CONTENT
        assert list(await shown.ls(b"by-id")) == [identifier]


async def test_content_has_the_version_that_the_transport_made(store: SmallStore) -> None:
    storage = MemoryStorage(store.path)
    [path] = [path for path in storage.files if path.endswith(key_of(LOOSE)) and not path.startswith(b"alias")]
    first, second = await storage.open(path), await storage.open(path)
    assert first.version == second.version
    assert first.version is not None
    assert first.version.token.startswith(b"memory ")
    assert shown_version_of(first) is shown_version_of(second)


async def test_mount_of_a_store_in_memory(store: SmallStore, tmp_path: Path) -> None:
    command = ("-m", "tests.memory_storage", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    with mounted(store.path, tmp_path / "mounted", "--cache-dir", str(tmp_path / "cache"), command=command) as mount:
        shown = mount.driver
        assert await shown.ls(b"") == [b"by-id"]
        assert await shown.read(b"loose/annexed") == LOOSE
        assert await shown.read(b"stored/annexed") == STORED
        assert await shown.read(b"decoded/annexed") == DECODED
        assert {b"loose", b"stored", b"decoded"} < set(await shown.ls(b""))
