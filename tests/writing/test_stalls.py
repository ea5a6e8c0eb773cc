"""Nobody waits for somebody else's many changes: slices, snapshots, and moves to another commit."""

import os
import time
from pathlib import Path

import pytest
import trio

from riafs import slices
from riafs.formats.gitobjects import DIRECTORY
from riafs.formats.sources import parse_ria_source
from riafs.overlay.changes import BaseEntry, Change, ChangeKind
from riafs.push.opening import open_for_pushing
from riafs.push.planning import Planner
from riafs.push.trees import TreeEditor
from riafs.slices import Sliced, at_once, in_slices, sorting
from tests.push.conftest import means, with_annex
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
        lookup = filesystem.in_turn(filesystem.lookup, lambda inode, _: filesystem.is_apart(inode))
        async with filesystem._alone(one.id.encode()):
            with trio.fail_after(5):
                found = await lookup(other, b"b")
            assert found is not None
            assert filesystem.is_apart(found.inode)
            with trio.move_on_after(0.01) as waited:
                await lookup(mine, b"a")
            assert waited.cancelled_caught
        assert await lookup(mine, b"new") is not None


async def test_planning_is_linear_after_a_move_to_another_depth(tmp_path: Path) -> None:
    moved, made = 6000, 3000
    files = PLAIN | {b"old/%d" % number: b"" for number in range(moved)}
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("one", files))
    source = parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}")
    async with open_for_pushing(source, means()) as destination:
        trees = TreeEditor(destination.dataset.repository, 40)
        base = BaseEntry(b"old", DIRECTORY, dataset.git("rev-parse", "main:old").encode(), None)
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
