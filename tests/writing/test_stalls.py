"""Nobody waits for somebody else's many changes: slices, snapshots, and moves to another commit."""

import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from riafs import slices
from riafs.errors import StaleHandle
from riafs.formats.gitobjects import DIRECTORY
from riafs.formats.sources import parse_ria_source
from riafs.overlay.changes import BaseEntry, Change, ChangeKind
from riafs.overlay.database import Statements
from riafs.overlay.rebasing import Rebasing
from riafs.overlay.restoring import Restoring
from riafs.overlay.rows import Rows
from riafs.push.planning import Planner
from riafs.push.trees import TreeEditor
from riafs.slices import Sliced, at_once, in_slices, sorting
from riafs.tree.protocol import Origin
from tests.push.conftest import means, with_annex
from tests.push.destinations import open_for_pushing
from tests.small import SmallStore
from tests.writing.drivers import WritableObject, writable
from tests.writing.stalls import measure

PLAIN = {b".gitattributes": b"* annex.largefiles=nothing\n"}


def _work(steps: int) -> Sliced[str]:
    for _ in range(steps):
        yield
    return "done"


async def test_others_have_turns_while_something_is_done_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_SECONDS", 0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert await in_slices(_work(20)) == "done"
        nursery.cancel_scope.cancel()
    assert turns >= 15


def test_what_is_sorted_in_slices_is_sorted_and_equals_stay_in_order() -> None:
    items = [(number * 7919 % 1000, number) for number in range(20_000)]
    assert at_once(sorting(items, key=lambda each: each[0])) == sorted(items, key=lambda each: each[0])
    assert at_once(sorting([], key=bytes)) == []


async def _changed(driver: WritableObject) -> None:
    await driver.rename(b"one/d", b"one/e")
    await driver.rename(b"one/e/x", b"one/x")
    await driver.write(b"one/e/y", b"new", flags=os.O_CREAT | os.O_TRUNC)
    await driver.write(b"one/new", b"n", flags=os.O_CREAT | os.O_TRUNC)
    await driver.unlink(b"one/gone")


async def test_changes_are_counted_as_they_are_listed(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset(
        "one", PLAIN | {b"d/x": b"x", b"d/y": b"y", b"gone": b"g", b"stays": b"s"}
    )
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        await _changed(driver)
        overlay = driver.filesystem.overlay
        listed = list(overlay.changes(dataset.id.encode()))
        assert overlay.count_changes() == len(listed) == 5
        with overlay.snapshot() as snapshot:
            [area] = snapshot.areas()
            await driver.write(b"one/later", b"l", flags=os.O_CREAT | os.O_TRUNC)
            assert await snapshot.changes(area) == listed
            assert await snapshot.count(area) == 5
        assert overlay.count_changes() == 6


async def test_who_looks_into_another_dataset_does_not_wait_for_a_move(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    one, _ = store.dataset("one", PLAIN | {b"a": b"a"}), store.dataset("two", {b"b": b"b"})
    async with writable(store.path, tmp_path / "over") as driver:
        filesystem = driver.filesystem
        await driver.write(b"one/new", b"n", flags=os.O_CREAT | os.O_TRUNC)
        mine = (await driver.status(b"one")).inode
        other = (await driver.status(b"two")).inode
        lookup = filesystem.in_turn(filesystem.lookup, "lookup")
        async with filesystem._alone(one.id.encode()):
            with trio.fail_after(5):
                found = await lookup(other, b"b")
            assert found is not None
            assert filesystem.is_unaffected(found.inode)
            with trio.move_on_after(0.01) as waited:
                await lookup(mine, b"a")
            assert waited.cancelled_caught
        assert await lookup(mine, b"new") is not None


async def test_who_looks_into_another_dataset_does_not_wait_for_rows_that_are_changed_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SmallStore.make(tmp_path / "store")
    one, _ = store.dataset("one", PLAIN | {b"a": b"a"}), store.dataset("two", {b"b": b"b"})
    begun, may_end = trio.Event(), threading.Event()
    restore = Restoring.restore

    def held(self: Restoring, path: bytes) -> None:
        restore(self, path)
        trio.from_thread.run_sync(begun.set)
        assert may_end.wait(20)

    monkeypatch.setattr(Restoring, "restore", held)
    async with writable(store.path, tmp_path / "over") as driver:
        filesystem = driver.filesystem
        await driver.write(b"one/a", b"changed", flags=os.O_TRUNC)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(filesystem.restore, one.id.encode(), [b""], driver.tell)
            await begun.wait()
            try:
                with trio.fail_after(10):
                    assert await driver.read(b"two/b") == b"b"
                    await filesystem.overlay.tidy()
                assert filesystem.overlay.count_changes() == 1
                with pytest.raises(StaleHandle, match="are being moved"), filesystem.overlay.journal.step:
                    pass
            finally:
                may_end.set()
        assert filesystem.overlay.count_changes() == 0
        assert await driver.read(b"one/a") == b"a"


async def test_everybody_goes_on_while_a_move_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", PLAIN | {b"a": b"a"})
    looked_up, may_end, prepare = trio.Event(), trio.Event(), Rebasing.prepare

    async def held(self: Rebasing) -> None:
        await prepare(self)
        looked_up.set()
        await may_end.wait()

    monkeypatch.setattr(Rebasing, "prepare", held)
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        filesystem, one = driver.filesystem, dataset.id.encode()
        new = {b"changed": b"c", b"open": b"o", b"pushed": b"p"}
        for name, content in new.items():
            await driver.write(b"one/" + name, content, flags=os.O_CREAT)
        carried = filesystem.overlay.carried(one)
        commit = dataset.commit(PLAIN | {b"a": b"a"} | new).encode()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(filesystem.pushed, one, commit, carried, driver.tell)
            await looked_up.wait()
            with trio.fail_after(5):
                assert await driver.read(b"one/pushed") == b"p"
                await driver.write(b"one/changed", b"later", flags=os.O_TRUNC)
                opened = await filesystem.open((await driver.status(b"one/open")).inode, os.O_WRONLY)
            may_end.set()
        await filesystem.write(opened.handle, 0, b"O")
        filesystem.release(opened.handle)
        assert filesystem.overlay.base(one).commit == commit
        assert [change.path for change in filesystem.overlay.changes(one)] == [b"changed", b"open"]
        contents = {name: await driver.read(b"one/" + name) for name in new}
        assert contents == {b"changed": b"later", b"open": b"O", b"pushed": b"p"}


@pytest.mark.parametrize("deed", ["open", "chmod", "nothing"])
async def test_a_move_is_looked_up_again_where_something_was_changed_since(
    deed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", PLAIN | {b"a": b"a"})
    looks, look, prepare = 0, Rebasing._make_plan, Rebasing.prepare

    async def counted(self: Rebasing) -> None:
        nonlocal looks
        looks += 1
        await look(self)

    async def then(self: Rebasing) -> None:
        await prepare(self)
        if deed == "open":
            await driver.filesystem.open((await driver.status(b"one/b")).inode, os.O_WRONLY)
        elif deed == "chmod":
            await driver.chmod(b"one/b", 0o700)

    monkeypatch.setattr(Rebasing, "_make_plan", counted)
    monkeypatch.setattr(Rebasing, "prepare", then)
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        await driver.write(b"one/b", b"b", flags=os.O_CREAT)
        one = dataset.id.encode()
        carried = driver.filesystem.overlay.carried(one)
        commit = dataset.commit(PLAIN | {b"a": b"a", b"b": b"b"}).encode()
        await driver.filesystem.pushed(one, commit, carried, driver.tell)
    assert looks == (1 if deed == "nothing" else 2)


async def test_rows_are_changed_apart_all_or_not_at_all(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    one = store.dataset("one", PLAIN | {b"a": b"a", b"b": b"b"})
    async with writable(store.path, tmp_path / "over") as driver:
        overlay = driver.filesystem.overlay
        await driver.unlink(b"one/a")
        await driver.unlink(b"one/b")
        await driver.write(b"one/new", b"n", flags=os.O_CREAT)
        area = overlay.area(one.id.encode())

        def fail(rows: Rows, _: Statements, discard: Callable[[int], None]) -> None:
            Restoring(rows, discard, area).restore(b"")
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            await overlay.change_in_thread(fail)
        assert overlay.count_changes() == 3
        assert overlay.files.discarded == 0
        await driver.write(b"one/later", b"l", flags=os.O_CREAT)
        assert await driver.ls(b"one") == [b".gitattributes", b"new", b"later"]


Deed = Callable[[WritableObject, bytes], Awaitable[object]]


async def _told(driver: WritableObject, _: bytes) -> None:
    overlay = driver.filesystem.overlay
    with overlay.snapshot() as snapshot:
        for area in snapshot.areas():
            await snapshot.changes(area)


async def _counted(driver: WritableObject, _: bytes) -> None:
    overlay = driver.filesystem.overlay
    with overlay.snapshot() as snapshot:
        for area in snapshot.areas():
            await snapshot.count(area)


async def _restored(driver: WritableObject, dataset: bytes) -> None:
    await driver.filesystem.restore(dataset, [b""], driver.tell)


async def _moved(driver: WritableObject, dataset: bytes) -> None:
    overlay = driver.filesystem.overlay
    base, carried = overlay.base(dataset), overlay.carried(dataset)
    await driver.filesystem.pushed(dataset, base.commit, carried, driver.tell)


async def _renamed(driver: WritableObject, _: bytes) -> None:
    await driver.rename(b"one/new", b"one/d/new")


@pytest.mark.parametrize("deed", [_told, _counted, _restored, _moved, _renamed])
async def test_three_times_the_changes_take_three_times_the_statements(
    deed: Deed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [await _statements(deed, size, tmp_path / str(size), monkeypatch) for size in (40, 80, 160)]
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    assert second <= 2.2 * first + 20, counts


async def _statements(deed: Deed, size: int, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    directory.mkdir()
    store = SmallStore.make(directory / "store")
    dataset = store.dataset("one", PLAIN | {b"d/x": b""} | {b"old/%d" % number: b"" for number in range(size)})
    count = 0

    def counting(run: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            nonlocal count
            count += 1
            return run(*arguments)

        return counted

    async with writable(store.path, directory / "over") as driver:
        await driver.rename(b"one/old", b"one/d/old")
        await driver.mkdir(b"one/new")
        for number in range(size):
            await driver.write(b"one/new/%d" % number, b"n", flags=os.O_CREAT)
        with monkeypatch.context() as patching:
            journal = driver.filesystem.overlay.journal
            patching.setattr(journal, "_execute", counting(journal._execute))
            patching.setattr(Statements, "run", counting(Statements.run))
            await deed(driver, dataset.id.encode())
    return count


async def test_planning_is_linear_after_a_move_to_another_depth(tmp_path: Path) -> None:
    moved, made = 6000, 3000
    files = PLAIN | {b"old/%d" % number: b"" for number in range(moved)}
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("one", files))
    source = parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}")
    async with open_for_pushing(source, means()) as destination:
        trees = TreeEditor(destination.dataset.repository, 40)
        base = BaseEntry(b"old", Origin(DIRECTORY, dataset.git("rev-parse", "main:old").encode(), b""))
        changes = [Change(b"a/b", ChangeKind.RENAMED, base, None, b"old", 1)]
        changes += [Change(b"a/b/%d" % each, ChangeKind.REMOVED, None, None, None, 1) for each in range(made)]
        began = time.process_time()
        plan = await Planner(destination.dataset.repository, trees).plan(changes)
        assert time.process_time() - began < 1.0
        assert sorted(plan.edits.values(), key=str).count(None) == made + 2
        assert len(plan.edits) == moved + 2


@pytest.mark.usefixtures("fuse")
def test_every_command_ends_and_others_go_on(tmp_path: Path) -> None:
    told = measure(400, tmp_path)
    assert [each.command for each in told] == ["status", "diff", "restore", "push", "restore all"]
    assert all(each.worst < 5 for each in told), told
