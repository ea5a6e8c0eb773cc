"""Where nothing can be changed, and tasks that are at the same names."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from riafs.errors import NameExists, NoSuchName, OverlayFull, ReadOnly, RiafsError
from riafs.overlay.lower import Home, LowerEntry
from tests.overlay.disk import BASE, TOP, DiskLower
from tests.overlay.test_filesystem import Setup
from tests.plugins.log_hygiene import Announce


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


async def test_outside_of_datasets_nothing_can_be_changed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(_: DiskLower, inode: int) -> Home | None:
        return None

    monkeypatch.setattr(DiskLower, "home", nowhere)
    walker = await setup.open()
    for call in (
        walker.mkdir(b"new"),
        walker.unlink(b"big"),
        walker.rename(b"big", b"large"),
        walker.write(b"big", b"x", 0, os.O_WRONLY),
        walker.engine.setattr((await walker.stat(b"run")).inode, mode=0o600),
    ):
        with pytest.raises(ReadOnly):
            await call
    assert await walker.read(b"a/one") == b"one"


async def test_a_dataset_is_changed_in_one_place_only(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    walker = await setup.open()
    await walker.write(b"new", b"")
    assert setup.lower.pinned == [TOP]

    async def elsewhere(_: DiskLower, inode: int) -> Home | None:
        return Home(BASE, b"by-id/study", b"a", TOP)

    monkeypatch.setattr(DiskLower, "home", elsewhere)
    with pytest.raises(ReadOnly, match=r"is being changed in study, so that it can only be read in .*riafs push"):
        await walker.engine.setattr((await walker.stat(b"a")).inode, mode=0o700)


async def test_failed_changes_do_not_hold_a_dataset_at_its_commit(setup: Setup) -> None:
    walker = await setup.open()
    with pytest.raises(NoSuchName):
        await walker.unlink(b"a/b/nothing")
    assert len(setup.overlay.datasets()) == 1
    await setup.again()
    assert setup.overlay.datasets() == []


async def test_an_attribute_alone_is_kept(setup: Setup) -> None:
    walker = await setup.open()
    await walker.engine.setattr((await walker.stat(b"a")).inode, mode=0o700)
    walker = await setup.again()
    assert (await walker.stat(b"a")).mode == 0o700
    assert setup.changes() == []


async def test_of_tasks_that_make_the_same_name_one_succeeds(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    find = DiskLower.find

    async def slowly(self: DiskLower, parent: int, name: bytes) -> LowerEntry | None:
        await trio.testing.wait_all_tasks_blocked()
        return await find(self, parent, name)

    monkeypatch.setattr(DiskLower, "find", slowly)
    walker = await setup.open()
    outcomes: list[str] = []

    async def attempt() -> None:
        try:
            await walker.mkdir(b"a/b/new")
        except NameExists:
            outcomes.append("exists")
        else:
            outcomes.append("made")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attempt)
    assert sorted(outcomes) == ["exists"] * 4 + ["made"]


async def test_tasks_that_remove_move_and_make_leave_a_tree(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    find = DiskLower.find

    async def yielding(self: DiskLower, parent: int, name: bytes) -> LowerEntry | None:
        await trio.lowlevel.checkpoint()
        return await find(self, parent, name)

    monkeypatch.setattr(DiskLower, "find", yielding)
    walker = await setup.open()

    async def work(number: int) -> None:
        for turn in range(20):
            there, back = (b"a", b"full/a") if turn % 2 else (b"full/a", b"a")
            for call in (
                partial(walker.rename, there, back),
                partial(walker.write, b"a/one", b"%d" % number),
                partial(walker.unlink, b"a/one"),
                partial(walker.rmdir, b"a/b"),
                partial(walker.mkdir, b"a/b"),
            ):
                try:
                    await call()
                except RiafsError as error:
                    assert error.errno  # noqa: PT017  # any answer will do, but no other exception

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(work, number)
    before = await walker.tree()
    assert await (await setup.again()).tree() == before
    list(setup.overlay.changes(b"study"))


async def test_large_writes_of_tasks_do_not_mix(setup: Setup) -> None:
    walker = await setup.open()
    handle = await walker.open(b"big", os.O_RDWR)
    pieces = [bytes([65 + number]) * 300_000 for number in range(8)]
    async with trio.open_nursery() as nursery:
        for piece in pieces:
            nursery.start_soon(walker.engine.write, handle, 1000, piece)
        nursery.start_soon(walker.engine.write, handle, 0, b"small")
    assert bytes(await walker.engine.read(handle, 1000, 300_000)) in pieces
    assert bytes(await walker.engine.read(handle, 0, 5)) == b"small"
    walker.engine.release(handle)


async def test_commits_go_on_after_one_that_found_no_room(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("changes are not safe: no room left for x")
    await setup.open()
    calls, enough = [], trio.Event()

    async def full() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OverlayFull("no room left for x")
        enough.set()

    monkeypatch.setattr(setup.overlay, "tidy", full)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setup.overlay.keep)
            await enough.wait()
            nursery.cancel_scope.cancel()
