"""A store in a local directory: what it answers, and which failure stands for which trouble."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import NotInStore, OutsideStore, SourceNotFound, StoreDenied, StoreError, TooLarge
from riafs.storage import openat
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import ItemKind


def deadline() -> Deadline:
    return Deadline("the store", 10, Counters())


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    root = tmp_path / "root"
    (root / "directory").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "program").write_bytes(b"")
    (root / "program").chmod(0o755)
    (root / "in").symlink_to("file")
    (root / "out").symlink_to("../secret")
    (root / "out-directory").symlink_to("..")
    (root / "dangling").symlink_to("nothing")
    os.mkfifo(root / "fifo")
    (tmp_path / "secret").write_bytes(b"secret")
    opened = await LocalStorage.open_root(os.fsencode(root), deadline())
    yield opened
    opened.close()


async def test_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="does not exist"):
        await LocalStorage.open_root(os.fsencode(tmp_path / "none"), deadline())


async def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SourceNotFound, match="not a directory"):
        await LocalStorage.open_root(os.fsencode(tmp_path / "file"), deadline())


async def test_status(storage: LocalStorage) -> None:
    found = await storage.stat(b"file")
    assert (found.kind, found.size, found.executable) == (ItemKind.FILE, 7, False)
    assert (await storage.stat(b"program")).executable
    assert (await storage.stat(b"")).kind is ItemKind.DIRECTORY
    assert (await storage.stat(b"fifo")).kind is ItemKind.OTHER
    assert (await storage.stat(b"in")).path_identity == found.path_identity


async def test_listing_tells_kinds_without_following_links(storage: LocalStorage) -> None:
    items = {item.name: item.kind for item in await storage.list(b"")}
    assert items == {
        b"directory": ItemKind.DIRECTORY,
        b"file": ItemKind.FILE,
        b"program": ItemKind.FILE,
        b"in": ItemKind.LINK,
        b"out": ItemKind.LINK,
        b"out-directory": ItemKind.LINK,
        b"dangling": ItemKind.LINK,
        b"fifo": ItemKind.OTHER,
    }


async def test_many_listings_leave_out_what_cannot_be_listed(storage: LocalStorage) -> None:
    listed = await storage.list_each([b"directory", b"file", b"none", b"out-directory", b""])
    assert [len(items) for items in listed] == [0, 0, 0, 0, 8]


async def test_many_statuses_have_none_for_what_is_not_there(storage: LocalStorage) -> None:
    found = await storage.stat_objects(b"", [b"file", b"none", b"out"])
    assert [each and each.kind for each in found] == [ItemKind.FILE, None, ItemKind.LINK]
    assert await storage.stat_objects(b"none", [b"a", b"b"]) == [None, None]


async def test_small_file_is_read_whole(storage: LocalStorage) -> None:
    assert await storage.read_file(b"file", 7) == b"content"
    with pytest.raises(TooLarge, match="file is larger than 6 bytes"):
        await storage.read_file(b"file", 6)


async def test_text_of_a_link(storage: LocalStorage) -> None:
    assert await storage.read_link(b"out") == b"../secret"


async def test_paths_that_do_not_exist(storage: LocalStorage) -> None:
    for path in (b"none", b"file/below", b"dangling", b"n" * 300):
        for call in (storage.stat, storage.list, storage.open, storage.local_path):
            with pytest.raises(NotInStore):
                await call(path)
        with pytest.raises(NotInStore):
            await storage.read_file(path, 10)


async def test_paths_that_lead_out(storage: LocalStorage) -> None:
    for path in (b"out", b"../secret", b"out-directory/secret"):
        for call in (storage.stat, storage.open):
            with pytest.raises(OutsideStore, match="leads out of the store"):
                await call(path)
        with pytest.raises(OutsideStore):
            await storage.read_file(path, 10)
    with pytest.raises(OutsideStore):
        await storage.local_path(b"out-directory")


@pytest.mark.parametrize("path", [b"fifo", b"directory"])
async def test_only_regular_files_are_opened_and_none_is_waited_for(storage: LocalStorage, path: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotInStore, match="is not a regular file"):
        await storage.open(path)
    with pytest.raises(NotInStore, match="is not a regular file"):
        await storage.read_file(path, 10)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_absolute_path_of_a_directory_is_free_of_links(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "root" / "also").symlink_to("directory")
    assert await storage.local_path(b"also") == os.fsencode(tmp_path / "root" / "directory")


async def test_directories_are_resolved_one_by_one(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "root" / "also").symlink_to("directory")
    found = await storage.resolve_each([b"also", b"out-directory", b"file", b"none"])
    assert found[0] == b"directory"
    assert [type(each) for each in found[1:]] == [OutsideStore, NotInStore, NotInStore]


async def test_file_that_is_replaced_has_another_identity(storage: LocalStorage, tmp_path: Path) -> None:
    first = await storage.open(b"file")
    (tmp_path / "new").write_bytes(b"replace")
    (tmp_path / "new").rename(tmp_path / "root" / "file")
    second = await storage.open(b"file")
    assert first.version != second.version
    assert await first.read(0, 10) == b"content"
    assert await second.read(0, 10) == b"replace"
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EIO, StoreError),
        (errno.ESTALE, StoreError),
        (errno.EMFILE, StoreError),
        (errno.ELOOP, OutsideStore),
        (errno.ENOENT, NotInStore),
    ],
)
async def test_each_errno_has_its_failure(
    storage: LocalStorage, code: int, failure: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(openat, "open_beneath", fail)
    monkeypatch.setattr(openat, "open_beneath_cached", lambda *_: None)
    for call in (storage.stat, storage.list, storage.open, storage.local_path, storage.read_link):
        with pytest.raises(failure, match="root"):
            await call(b"file")


async def test_closing_twice_is_harmless(storage: LocalStorage) -> None:
    storage.close()
    storage.close()
