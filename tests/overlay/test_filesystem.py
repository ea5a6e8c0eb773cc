"""What the engine does, call by call."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import (
    BadChange,
    Busy,
    DirectoryNotEmpty,
    NameExists,
    NameTooLong,
    NoSuchName,
    NotPermitted,
    OverlayFailed,
)
from riafs.overlay.changes import ChangeKind
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.inode_map import OVERLAY
from riafs.overlay.namespace import EXCHANGE, NOREPLACE
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from riafs.storage.deadline import Deadline
from tests.overlay.disk import TOP, DiskLower
from tests.overlay.walking import Walker

OWN = Ownership(os.getuid(), os.getgid())


def plant(root: Path) -> None:
    """The tree of the commit."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/deep").write_bytes(b"deep")
    (root / "a/one").write_bytes(b"one")
    (root / "big").write_bytes(bytes(range(256)) * 4096)
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("a/one")
    (root / "full").mkdir()
    for number in range(10):
        (root / f"full/{number}").write_bytes(b"x" * number)


class Setup:
    """An overlay that can be closed and opened again."""

    def __init__(self, base: Path) -> None:
        (base / "lower").mkdir()
        plant(base / "lower")
        self.path = base / "overlay"
        self.root = os.fsencode(base / "lower")
        self.opened = False

    async def open(self) -> Walker:
        self.overlay = Overlay(str(self.path), Counters())
        self.opened = True
        self.lower = DiskLower(self.root)
        self.engine = OverlayFileSystem(self.overlay, self.lower, OWN)
        await self.engine.attach()
        return Walker(self.engine)

    def close(self) -> None:
        if self.opened:
            self.engine.close()
            self.overlay.close()
            self.opened = False

    async def again(self) -> Walker:
        self.close()
        return await self.open()

    def changes(self) -> list[tuple[bytes, ChangeKind]]:
        return [(change.path, change.kind) for change in self.overlay.changes(b"study")]


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


async def test_nothing_changed_shows_the_tree_below(setup: Setup) -> None:
    walker = await setup.open()
    tree = await walker.tree()
    assert tree[b"a/b/deep"] == ("file", 0o644, b"deep")
    assert tree[b"run"][1] == 0o755
    assert tree[b"link"] == ("link", 0o777, b"a/one")
    assert setup.overlay.datasets() == []


async def test_new_files_and_directories_are_there_after_opening_again(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    await walker.write(b"new/file", b"hello")
    await walker.symlink(b"file", b"new/link")
    before = await walker.tree()
    walker = await setup.again()
    assert await walker.tree() == before
    assert (await walker.tree())[b"new/file"] == ("file", 0o644, b"hello")
    assert setup.changes() == [(b"new/file", ChangeKind.ADDED), (b"new/link", ChangeKind.ADDED)]


async def test_a_change_in_place_fetches_and_copies_nothing_first(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"big", b"HERE", 500_000, os.O_WRONLY)
    assert setup.lower.opened == 0
    expected = bytearray(bytes(range(256)) * 4096)
    expected[500_000:500_004] = b"HERE"
    assert await walker.read(b"big") == expected
    walker = await setup.again()
    assert await walker.read(b"big") == expected
    [change] = setup.overlay.changes(b"study")
    assert change.kind is ChangeKind.CHANGED
    assert change.content is not None
    assert change.content.extents == ((500_000, 500_004),)
    assert os.stat(change.content.data).st_blocks * 512 < 100_000


async def test_a_truncating_open_fetches_nothing(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"big", b"small", 0, os.O_WRONLY | os.O_TRUNC)
    assert await walker.read(b"big") == b"small"
    assert (setup.lower.opened, setup.lower.bytes_read) == (0, 0)
    [change] = setup.overlay.changes(b"study")
    assert change.content is not None
    assert change.content.is_whole


async def test_what_was_cut_off_does_not_come_back(setup: Setup) -> None:
    walker = await setup.open()
    inode = (await walker.stat(b"big")).inode
    await walker.write(b"big", b"end", 1_048_576, os.O_WRONLY)
    await walker.engine.setattr(inode, size=10)
    await walker.engine.setattr(inode, size=20)
    assert await walker.read(b"big") == bytes(range(10)) + bytes(10)
    walker = await setup.again()
    assert await walker.read(b"big") == bytes(range(10)) + bytes(10)
    [change] = setup.overlay.changes(b"study")
    assert change.content is not None
    assert change.content.extents == ((10, 20),)
    assert os.stat(change.content.data).st_size == 20


async def test_a_file_keeps_its_inode_when_it_is_copied_up(setup: Setup) -> None:
    walker = await setup.open()
    before = await walker.stat(b"a/one")
    await walker.write(b"a/one", b"two", 0, os.O_WRONLY)
    await walker.rename(b"a/one", b"two")
    assert (await walker.stat(b"two")).inode == before.inode


async def test_a_reader_sees_what_another_writes(setup: Setup) -> None:
    walker = await setup.open()
    reader = await walker.open(b"a/one")
    await walker.write(b"a/one", b"ONE and more", 0, os.O_WRONLY)
    assert await walker.engine.read(reader, 0, 100) == b"ONE and more"
    walker.engine.release(reader)


@pytest.mark.parametrize("path", [b"a/one", b"new"])
async def test_what_is_removed_while_it_is_open_lives_on(setup: Setup, path: bytes) -> None:
    walker = await setup.open()
    if path == b"new":
        await walker.write(b"new", b"one")
    handle = await walker.open(path, os.O_RDWR)
    inode = (await walker.stat(path)).inode
    await walker.unlink(path)
    assert path not in await walker.tree()
    assert await walker.engine.write(handle, 3, b"!") == 1
    assert await walker.engine.read(handle, 0, 10) == b"one!"
    assert (await walker.engine.getattr(inode)).links == 0
    walker.engine.release(handle)
    await setup.overlay.tidy()
    assert os.listdir(setup.path / "data") == []


async def test_an_unmodified_directory_is_renamed_by_one_row(setup: Setup) -> None:
    walker = await setup.open()
    await walker.rename(b"full", b"a/moved")
    assert sorted(await walker.names(b"a/moved")) == sorted(b"%d" % number for number in range(10))
    walker = await setup.again()
    assert await walker.read(b"a/moved/7") == b"x" * 7
    assert b"full" not in await walker.names(b"")
    await walker.write(b"a/moved/7", b"seven", 0, os.O_WRONLY | os.O_TRUNC)
    [renamed, changed] = setup.overlay.changes(b"study")
    assert (renamed.path, renamed.kind, renamed.source) == (b"a/moved", ChangeKind.RENAMED, b"full")
    assert (changed.path, changed.kind) == (b"a/moved/7", ChangeKind.CHANGED)
    assert changed.base is not None
    assert changed.base.path == b"full/7"


async def test_moving_there_and_back_is_no_change(setup: Setup) -> None:
    walker = await setup.open()
    await walker.rename(b"full", b"elsewhere")
    await walker.rename(b"elsewhere", b"full")
    await walker.rename(b"a/one", b"two")
    await walker.rename(b"two", b"a/one")
    assert setup.changes() == []


async def test_a_directory_made_anew_hides_what_was_there(setup: Setup) -> None:
    walker = await setup.open()
    for name in await walker.names(b"full"):
        await walker.unlink(b"full/" + name)
    await walker.rmdir(b"full")
    with pytest.raises(NoSuchName):
        await walker.stat(b"full")
    await walker.mkdir(b"full")
    assert await walker.names(b"full") == []
    await walker.write(b"full/3", b"new")
    assert await walker.names(b"full") == [b"3"]
    assert setup.changes() == [(b"full", ChangeKind.REMOVED), (b"full/3", ChangeKind.ADDED)]


async def test_replacing_a_file_by_a_new_one_is_a_change_of_that_file(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"tmp", b"new content")
    await walker.rename(b"tmp", b"a/one")
    assert setup.changes() == [(b"a/one", ChangeKind.CHANGED)]
    [change] = setup.overlay.changes(b"study")
    assert change.base is not None
    assert change.base.path == b"a/one"


async def test_the_executable_bit_is_a_change_of_mode(setup: Setup) -> None:
    walker = await setup.open()
    await walker.engine.setattr((await walker.stat(b"run")).inode, mode=0o600)
    await walker.engine.setattr((await walker.stat(b"a/one")).inode, mode=0o640)
    assert setup.changes() == [(b"run", ChangeKind.MODE)]


async def test_a_listing_goes_on_while_everything_is_removed(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"full/new", b"")
    handle = walker.engine.opendir((await walker.stat(b"full")).inode)
    seen, offset = [], 0
    while page := await walker.engine.readdir(handle, offset):
        seen.append(page[0].name)
        await walker.write(b"full/" + page[0].name, b"copied up", 0, os.O_WRONLY)
        await walker.unlink(b"full/" + page[0].name)
        offset = page[0].offset
    assert sorted(seen) == [b"%d" % number for number in range(10)] + [b"new"]
    await walker.rmdir(b"full")


async def test_copied_up_files_are_listed_once(setup: Setup) -> None:
    walker = await setup.open()
    handle = walker.engine.opendir((await walker.stat(b"full")).inode)
    first = await walker.engine.readdir(handle, 0)
    await walker.write(b"full/0", b"changed", 0, os.O_WRONLY)
    rest, offset = [], first[-1].offset
    while page := await walker.engine.readdir(handle, offset):
        rest += [each.name for each in page]
        offset = page[-1].offset
    assert b"0" not in rest


async def test_exchange_and_noreplace(setup: Setup) -> None:
    walker = await setup.open()
    await walker.rename(b"a", b"run", EXCHANGE)
    assert await walker.read(b"a") == b"#!/bin/sh\n"
    assert await walker.read(b"run/b/deep") == b"deep"
    with pytest.raises(NameExists):
        await walker.rename(b"a", b"big", NOREPLACE)
    with pytest.raises(BadChange):
        await walker.rename(b"run", b"run/b/deep", EXCHANGE)
    with pytest.raises(BadChange):
        await walker.rename(b"run", b"run/b/inside")


async def test_refusals(setup: Setup) -> None:
    walker = await setup.open()
    with pytest.raises(NameTooLong):
        await walker.write(b"n" * 256, b"")
    with pytest.raises(DirectoryNotEmpty):
        await walker.rmdir(b"full")
    with pytest.raises(DirectoryNotEmpty):
        await walker.rename(b"a", b"full")
    with pytest.raises(NotPermitted):
        await walker.link(b"full", b"hard")
    with pytest.raises(NameExists):
        await walker.link(b"big", b"a")
    with pytest.raises(NameExists):
        await walker.open(b"big", os.O_CREAT | os.O_EXCL)


async def test_directories_count_their_directories(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    assert (await walker.stat(b"new")).links == 2
    await walker.mkdir(b"new/sub")
    await walker.rename(b"a", b"new/a")
    assert (await walker.stat(b"new")).links == 4


async def test_times_of_the_directory_follow_its_names(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    before = await walker.stat(b"new")
    await walker.write(b"new/file", b"x")
    after = await walker.stat(b"new")
    assert after.mtime_ns > before.mtime_ns
    file = await walker.stat(b"new/file")
    await walker.engine.setattr(file.inode, mtime_ns=5, atime_ns=6)
    changed = await walker.stat(b"new/file")
    assert (changed.mtime_ns, changed.atime_ns) == (5, 6)
    assert changed.ctime_ns >= file.ctime_ns


async def test_a_group_comes_from_the_directory_that_has_the_bit(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"team")
    await walker.engine.setattr((await walker.stat(b"team")).inode, mode=0o2775, gid=4242)
    await walker.mkdir(b"team/sub")
    await walker.write(b"team/sub/file", b"")
    sub, file = await walker.stat(b"team/sub"), await walker.stat(b"team/sub/file")
    assert (sub.gid, sub.mode & 0o2000, file.gid, file.mode & 0o2000) == (4242, 0o2000, 4242, 0)


async def test_two_never_use_one_overlay(setup: Setup) -> None:
    await setup.open()
    with pytest.raises(Busy):
        Overlay(str(setup.path), Counters())


async def test_nothing_can_be_made_in_a_directory_that_is_gone(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    inode = (await walker.stat(b"new")).inode
    await walker.rmdir(b"new")
    with pytest.raises(NoSuchName):
        await walker.engine.mkdir(inode, b"x", walker.maker(0o755))
    assert await walker.engine.lookup(inode, b"x") is None


def _undone(overlay: Overlay, change: Callable[[], object]) -> None:
    """A step that makes `change` and then fails."""

    def step() -> None:
        with overlay.journal.step:
            change()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step()


async def test_a_new_file_stays_when_a_later_step_is_undone(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    await walker.write(b"new/file", b"content")
    top = (await walker.stat(b"new")).inode ^ OVERLAY
    _undone(setup.overlay, lambda: setup.overlay.rows.children(top))
    assert await walker.read(b"new/file") == b"content"
    walker = await setup.again()
    assert await walker.read(b"new/file") == b"content"


async def test_a_name_is_there_again_after_its_removal_was_undone(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"new")
    await walker.mkdir(b"new/inner")
    await walker.write(b"new/file", b"content")
    top = (await walker.stat(b"new")).inode
    inner = setup.overlay.rows.child(top ^ OVERLAY, b"inner")
    assert inner is not None
    _undone(setup.overlay, lambda: setup.overlay.rows.delete(inner))
    assert (await walker.stat(b"new/inner")).links == 2
    assert (await walker.stat(b"new")).links == 3
    assert sorted(await walker.names(b"new")) == [b"file", b"inner"]


async def test_an_fsync_is_one_sync_of_the_data_and_one_of_the_log(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more of the directory where the data file is new; what comes at once shares syncs of the log."""
    walker = await setup.open()
    synced: list[str] = []

    def noted(sync: Callable[[int], None]) -> Callable[[int], None]:
        def noting(descriptor: int) -> None:
            synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            sync(descriptor)

        return noting

    handles = [await walker.open(b"new%d" % number, os.O_CREAT | os.O_WRONLY) for number in range(10)]
    monkeypatch.setattr(os, "fsync", noted(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
    for expected in (["1", "data", "overlay.sqlite-wal"], ["1", "overlay.sqlite-wal"]):
        await walker.engine.write(handles[0], 0, b"saved")
        await walker.engine.fsync(handles[0])
        assert sorted(synced) == expected
        synced.clear()
    async with trio.open_nursery() as nursery:
        for handle in handles:
            await walker.engine.write(handle, 0, b"again")
            nursery.start_soon(walker.engine.fsync, handle)
    assert synced.count("overlay.sqlite-wal") <= 3


async def test_a_data_file_that_cannot_be_synced_fails_its_own_fsync_only(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that are asked for at once are waited for in one thread, but each is told what became of its own."""
    walker = await setup.open()
    handles = [await walker.open(b"new%d" % number, os.O_CREAT | os.O_WRONLY) for number in range(6)]
    for handle in handles:
        await walker.engine.write(handle, 0, b"saved")
    sync, run = os.fdatasync, Deadline.run
    visits: list[Any] = []
    failed: list[int] = []

    def failing(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/data/3"):
            raise OSError(errno.EIO, "no disk")
        sync(descriptor)

    async def counted(*arguments: Any) -> Any:  # as it is typed
        visits.append(arguments)
        return await run(*arguments)

    async def fsync(number: int) -> None:
        try:
            await walker.engine.fsync(handles[number])
        except OverlayFailed:
            failed.append(number)

    monkeypatch.setattr(os, "fdatasync", failing)
    monkeypatch.setattr(Deadline, "run", counted)
    async with trio.open_nursery() as nursery:
        for number in range(len(handles)):
            nursery.start_soon(fsync, number)
    assert failed == [2]
    assert len(visits) <= 2
    await walker.engine.write(handles[0], 0, b"again")
    await walker.engine.fsync(handles[0])
    assert len(visits) <= 3


async def test_attributes_of_a_new_file_are_inserted_with_it(setup: Setup) -> None:
    """As ``cp -a`` sets them on each of many files: no statement, and no savepoint, of their own."""
    walker = await setup.open()
    stat, handle = await walker.engine.create(TOP, b"new", walker.maker(0o600))
    await walker.engine.write(handle, 0, b"new")
    await walker.engine.setattr(stat.inode, atime_ns=5, mtime_ns=7)
    await walker.engine.setattr(stat.inode, mode=0o644, uid=11, gid=12)
    assert setup.overlay.journal.one("SELECT count(*) FROM node WHERE name = ?", (b"new",)) == (0,)
    walker.engine.release(handle)
    found = await (await setup.again()).stat(b"new")
    assert (found.mode, found.uid, found.gid, found.size) == (0o644, 11, 12, 3)
    assert (found.atime_ns, found.mtime_ns) == (5, 7)
