"""What nobody uses is looked at rarely, and at once when it is used again."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.storage.protocol import FileStatus
from riafs.tree.dataset import RefWatch
from riafs.tree.directories import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.nodes import PATIENT_ROUNDS, ROOT
from riafs.vfs.refreshing import Invalidation
from tests.behaviour.drivers import ObjectDriver, opened
from tests.small import SmallStore

LONG = PATIENT_ROUNDS + 4
"""Rounds after which nothing counts as used."""
FEW = 8
"""Unused directories that a round looks at."""


class Asked(FixedDirectory):
    """A directory that may be renewed, but never is."""

    renewable = True

    def __init__(self, entries: Sequence[Entry] = (), below: Sequence[Directory] = ()) -> None:
        super().__init__(entries, 0, {})
        self._below = below
        self.times = 0

    async def directory(self, entry: Entry) -> Directory:
        return self._below[int(entry.name)]

    async def renewed(self, turn: int) -> Directory | None:
        self.times += 1
        return None


def _entry(number: int) -> Entry:
    return Entry(b"%d" % number, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=b"")


async def _tell(changes: Sequence[Invalidation]) -> None:
    raise AssertionError(f"nothing has changed, but the kernel is told of {changes}")


async def _rounds(filesystem: FileSystem, count: int, unused: int = FEW) -> None:
    for _ in range(count):
        await filesystem.refresh(_tell, unused)


async def _entered(count: int) -> tuple[FileSystem, list[Asked]]:
    below = [Asked() for _ in range(count)]
    filesystem = FileSystem(Asked([_entry(number) for number in range(count)], below), Counters())
    for number in range(count):
        await filesystem.node((await filesystem.lookup(ROOT, b"%d" % number)).inode)
    return filesystem, below


@pytest.mark.parametrize("count", [100, 400, 1600])
async def test_a_round_costs_the_same_however_many_were_entered(count: int) -> None:
    filesystem, below = await _entered(count)
    await _rounds(filesystem, LONG)
    before = sum(each.times for each in below)
    await _rounds(filesystem, 10)
    assert sum(each.times for each in below) - before == 10 * FEW


async def test_all_that_nobody_uses_has_its_turn() -> None:
    filesystem, below = await _entered(40)
    await _rounds(filesystem, LONG)
    before = [each.times for each in below]
    await _rounds(filesystem, 40 // FEW)
    assert [each.times for each in below] == [times + 1 for times in before]


async def test_what_is_used_is_looked_at_in_each_round() -> None:
    filesystem, below = await _entered(100)
    opened_directory = await filesystem.opendir((await filesystem.lookup(ROOT, b"3")).inode)
    await _rounds(filesystem, LONG)
    before = below[3].times
    await _rounds(filesystem, 10)
    assert below[3].times == before + 10
    filesystem.releasedir(opened_directory)
    await _rounds(filesystem, LONG)
    before = below[3].times
    await _rounds(filesystem, 10)
    assert below[3].times <= before + 2


async def test_refresh_by_hand_looks_at_all() -> None:
    filesystem, below = await _entered(100)
    await _rounds(filesystem, LONG)
    before = [each.times for each in below]
    await filesystem.refresh(_tell)
    assert [each.times for each in below] == [times + 1 for times in before]


# -- used again -------------------------------------------------------------------------------------------------------


async def _one_round(shown: ObjectDriver, unused: int = 0) -> None:
    async def tell(changes: Sequence[Invalidation]) -> None:
        shown.changes += changes

    await shown.filesystem.refresh(tell, unused)


async def _rested(shown: ObjectDriver) -> None:
    for _ in range(LONG):
        await _one_round(shown)
    shown.changes.clear()


async def test_new_commit_is_shown_at_once_and_the_kernel_is_told(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path).dataset("one", {b"file": b"old", b"sub/file": b"old"})
    async with opened(tmp_path) as shown:
        assert await shown.read(b"one/sub/file") == b"old"
        inode = await shown.inode(b"one")
        for content in (b"new", b"newer"):
            await _rested(shown)
            dataset.commit({b"file": content, b"sub/file": content})
            assert (await shown.filesystem.lookup(ROOT, b"one")).inode == inode
            assert {change.inode for change in shown.changes} >= {inode}, "before the look-up is answered"
            assert await shown.read(b"one/file") == content
            assert await shown.read(b"one/sub/file") == content


async def test_who_has_stayed_in_a_dataset_sees_the_new_commit_too(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path).dataset("one", {b"file": b"old", b"sub/file": b"old"})
    async with opened(tmp_path) as shown:
        below = await shown.inode(b"one/sub")
        await shown.ls(b"one/sub")
        await _rested(shown)
        dataset.commit({b"file": b"new", b"sub/file": b"new!"})
        assert (await shown.filesystem.lookup(below, b"file")).size == len(b"new!")
        assert shown.changes == [], "the kernel may hold the directory until the answer"
        await _one_round(shown)
        assert below in {change.inode for change in shown.changes}


async def test_commit_right_after_a_dataset_was_looked_at_is_not_missed(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path).dataset("one", {b"file": b"old"})
    async with opened(tmp_path) as shown:
        await shown.read(b"one/file")
        for content in (b"new", b"newer", b"newest"):
            await _rested(shown)
            await _one_round(shown, unused=1)
            await _one_round(shown)
            dataset.commit({b"file": content})
            assert await shown.read(b"one/file") == content


# -- looking at refs --------------------------------------------------------------------------------------------------


class CountedStorage:
    """How often it was asked for the status of paths, and of how many."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        self.calls.append(len(paths))
        return [None] * len(paths)


async def test_refs_of_what_is_asked_for_regularly_are_looked_at_together() -> None:
    storage = CountedStorage()
    watch = RefWatch(storage)  # type: ignore[arg-type]  # the one call that it makes
    paths = [b"%d" % number for number in range(50)]
    for path in paths:
        await watch.look(path, ())
    for turn in range(1, 4):
        storage.calls.clear()
        for path in paths:
            await watch.seen(path, (), turn)
        assert storage.calls == [150]
    storage.calls.clear()
    await watch.seen(paths[0], (), 4)
    await watch.seen(paths[0], (), 5)
    assert storage.calls == [150, 3], "what is not asked for any more is not looked at any more"
    storage.calls.clear()
    await watch.seen(paths[0], (), -1)
    assert storage.calls == [3], "and what is asked for by itself is looked at anew"
