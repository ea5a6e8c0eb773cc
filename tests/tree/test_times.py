"""``--times=changed``: each file has the time of the commit that changed it last, in this mount and in later ones."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from riafs.cache.last_changes import LastChanges, UnknownParent
from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.errors import CacheFailed, MalformedObject
from riafs.formats.gitrepository import ChangedCommit, parse_history
from riafs.formats.sources import parse_ria_source
from riafs.git.repository import Repository
from riafs.tasks import Background
from riafs.tree import commit_directory
from riafs.tree.times import LastChanges as LastChangesOfMount
from riafs.tree.times import Walk
from riafs.vfs import assembly
from tests.behaviour.drivers import ObjectDriver
from tests.plugins.log_hygiene import Announce
from tests.small import EPOCH, Files, Locked, SmallDataset, SmallStore, key_of

FIRST: Files = {
    b"same": b"same",
    b"changed": b"old",
    b"annexed": Locked(key_of(b"annexed")),
    b"sub/same": b"same",
    b"sub/deep/changed": b"old",
    b"other/file": b"x",
    b"comes back": b"1",
}
SECOND: Files = {**FIRST, b"changed": b"new", b"sub/deep/changed": b"new", b"comes back": b"2"}
THIRD: Files = {**SECOND, b"sub/added": b"added", b"comes back": b"1"}
TIMES = {
    b"same": 0, b"changed": 1, b"annexed": 0, b"sub": 2, b"sub/same": 0, b"sub/deep": 1, b"sub/deep/changed": 1,
    b"other": 0, b"other/file": 0, b"comes back": 2, b"sub/added": 2,
}  # fmt: skip
"""Path → days after EPOCH, at the third commit."""
DAY = 86_400


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    made = SmallStore.make(tmp_path / "store").dataset("one")
    made.put(key_of(b"annexed"), b"annexed")
    for number, files in enumerate((FIRST, SECOND, THIRD)):
        made.commit(files, time=EPOCH + number * DAY)
    return made


@asynccontextmanager
async def opened(dataset: SmallDataset, version: str = "", deadline: float = 30) -> AsyncIterator[ObjectDriver]:
    source = parse_ria_source(f"{dataset.path.parents[1]}#~one{version}")
    search_path = str(Path(shutil.which("git") or "").parent)
    cache = str(dataset.path.parents[2] / "cache")
    plan = assembly.Plan(source, deadline, Verify.AUTO, cache, search_path, dated_by_change=True)
    async with assembly.open_filesystem(plan, Counters()) as filesystem:
        yield ObjectDriver(filesystem)


async def days(shown: ObjectDriver, paths: Sequence[bytes] = tuple(TIMES)) -> dict[bytes, float]:
    return {path: ((await shown.stat(path)).mtime_ns / 10**9 - EPOCH) / DAY for path in paths}


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commits were left out of each walk."""
    calls: list[int] = []
    original = Repository.write_history

    async def counted(self: Repository, commit: bytes, without: Sequence[bytes], output: int) -> bool:
        calls.append(len(without))
        return await original(self, commit, without, output)

    monkeypatch.setattr(Repository, "write_history", counted)
    return calls


async def test_a_file_has_the_time_of_its_last_change(dataset: SmallDataset) -> None:
    async with opened(dataset) as shown:
        assert await days(shown) == TIMES


async def test_the_history_is_walked_once_for_all_mounts(dataset: SmallDataset, walked: list[int]) -> None:
    for _ in range(2):
        async with opened(dataset) as shown:
            assert await days(shown) == TIMES
    assert walked == [0]


async def test_an_entry_costs_what_it_costs_in_a_small_directory(
    dataset: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    original = commit_directory._changed

    def counted(*values: Any) -> int:
        nonlocal asked
        asked += 1
        return original(*values)

    monkeypatch.setattr(commit_directory, "_changed", counted)
    files = {b"many/%03d" % number: b"x" for number in range(200)}
    dataset.commit({**THIRD, **files}, time=EPOCH + 9 * DAY)
    async with opened(dataset) as shown:
        names = await shown.ls(b"many")
        assert asked < 300
        asked = 0
        for name in names:
            assert await shown.read(b"many/" + name) == b"x"
        assert asked < 6 * len(names)


async def test_a_new_commit_costs_only_itself_and_leaves_other_times(dataset: SmallDataset, walked: list[int]) -> None:
    async with opened(dataset) as shown:
        assert await days(shown) == TIMES
        dataset.commit({**THIRD, b"other/file": b"y"}, time=EPOCH + 9 * DAY)
        await shown.refresh()
        assert await days(shown) == {**TIMES, b"other": 9, b"other/file": 9}
    assert walked == [0, 1]


async def test_earlier_versions_have_the_times_they_had(dataset: SmallDataset, walked: list[int]) -> None:
    async with opened(dataset) as shown:
        await days(shown)
    async with opened(dataset, f"@{dataset.git('rev-parse', 'main~1')}") as shown:
        was = {path: min(day, 1) for path, day in TIMES.items() if path != b"sub/added"}
        assert await days(shown, tuple(was)) == {**was, b"sub": 1}
    assert walked == [0]


async def test_a_branch_shares_what_came_before_it(dataset: SmallDataset, walked: list[int]) -> None:
    async with opened(dataset) as shown:
        await days(shown)
    dataset.git("branch", "side", "main~1")
    dataset.commit({**SECOND, b"same": b"other"}, "refs/heads/side", EPOCH + 5 * DAY)
    async with opened(dataset, "@side") as shown:
        expected = {path: min(day, 1) for path, day in TIMES.items() if path != b"sub/added"}
        assert await days(shown, tuple(expected)) == {**expected, b"same": 5}
    assert walked == [0, 1]


async def test_what_is_merged_has_the_time_of_the_merge(dataset: SmallDataset) -> None:
    dataset.git("branch", "side", "main")
    dataset.commit({**THIRD, b"same": b"side"}, "refs/heads/side", EPOCH + 5 * DAY)
    dataset.commit({**THIRD, b"changed": b"main"}, time=EPOCH + 6 * DAY)
    async with opened(dataset, "@side") as shown:  # so that the cache knows of the branch first
        assert (await days(shown, [b"same"])) == {b"same": 5}
    stream = (
        f"commit refs/heads/main\ncommitter x <x> {EPOCH + 7 * DAY} +0000\ndata 1\nm\nfrom refs/heads/main^0\n"
        "merge refs/heads/side^0\nM 100644 inline same\ndata 4\nside\n"
    )
    dataset.git("fast-import", "--quiet", stdin=stream.encode())
    async with opened(dataset) as shown:
        assert await days(shown) == {**TIMES, b"same": 7, b"changed": 6}


async def test_commits_that_change_nothing_and_removed_files(dataset: SmallDataset) -> None:
    dataset.commit({path: node for path, node in THIRD.items() if path != b"other/file"}, time=EPOCH + 3 * DAY)
    dataset.commit(THIRD, time=EPOCH + 4 * DAY)
    dataset.commit(THIRD, time=EPOCH + 5 * DAY)
    async with opened(dataset) as shown:
        assert await days(shown) == {**TIMES, b"other": 4, b"other/file": 4}


async def test_until_a_long_walk_ends_the_times_are_the_commits(
    dataset: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, going_on = Repository.write_history, trio.Event()

    async def slow(self: Repository, commit: bytes, without: Sequence[bytes], output: int) -> bool:
        await going_on.wait()
        return await original(self, commit, without, output)

    monkeypatch.setattr(Repository, "write_history", slow)
    monkeypatch.setattr(LastChangesOfMount, "wait_for", _impatient)
    async with opened(dataset) as shown:
        for _ in range(2):
            assert set((await days(shown)).values()) == {2}
            await shown.refresh()
        assert not shown.changes
        going_on.set()
        with trio.fail_after(30):
            while not shown.changes:
                await trio.lowlevel.checkpoint()
                await shown.refresh()
        assert await days(shown) == TIMES
        forgotten = {name for change in shown.changes for name in change.names}
        assert {b"same", b"changed", b"file", b"added"} <= forgotten


async def _impatient(self: LastChangesOfMount, walk: Walk) -> bool:
    await trio.lowlevel.checkpoint()
    return walk.ended.is_set()


async def test_a_reader_waits_no_longer_than_for_the_store(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        changes = LastChangesOfMount("", "", Background(nursery), seconds=30)
        began = trio.current_time()
        assert not await changes.wait_for(Walk())
        assert trio.current_time() - began == pytest.approx(30)


async def test_a_history_that_is_not_whole_leaves_the_commits_times(
    dataset: SmallDataset, expected_warnings: Announce
) -> None:
    expected_warnings("has the time of commit .* cannot be read whole")
    first = dataset.git("rev-parse", "main~2")
    os.unlink(dataset.path / "objects" / first[:2] / first[2:])
    async with opened(dataset) as shown:
        assert set((await days(shown)).values()) == {2}


async def test_a_damaged_cache_is_made_anew(dataset: SmallDataset, tmp_path: Path) -> None:
    async with opened(dataset) as shown:
        await days(shown)
    [file] = (tmp_path / "cache" / "times-1").iterdir()
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(CacheFailed):
        LastChanges(str(file.parent), dataset.id.encode()).has(b"00" * 20)
    async with opened(dataset) as shown:
        assert await days(shown) == TIMES


def test_two_mounts_that_walk_at_once_agree(tmp_path: Path) -> None:
    commits = [ChangedCommit(b"%040d" % n, b"%040d" % (n - 1) if n else None, n, [b"a", b"d/%d" % n]) for n in range(4)]
    kept = LastChanges(str(tmp_path / "times"), b"id")
    kept.add(commits[:3])
    kept.add(commits)
    kept.add(commits[3:])
    assert kept.times(commits[3].oid, b"") == {
        b"": {b"a": 3 * 10**9},
        b"d": {b"%d" % n: n * 10**9 for n in range(4)},
    }
    assert kept.times(commits[1].oid, b"d") == {b"d": {b"0": 0, b"1": 10**9}}
    assert kept.times(commits[1].oid, b"none") == {b"none": {}}
    assert kept.tips() == [commits[3].oid]
    with pytest.raises(UnknownParent):
        kept.add([ChangedCommit(b"f" * 40, b"e" * 40, 1, [])])
    assert kept.times(b"f" * 40, b"") is None
    kept.close()


HISTORY = b"%040d 17 \0\nA\0a\nb\0A\0D\0%040d 18 %040d %040d\0%040d -5 %040d\0\nD\0A\0M\0x" % (1, 2, 1, 9, 3, 2)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_git_writes_is_read_in_any_pieces(size: int) -> None:
    text = HISTORY + b"\0"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = [(each.oid, each.parent, each.time, each.paths) for each in parse_history(pieces)]
    one, two, three = (b"%040d" % number for number in (1, 2, 3))
    assert found == [(one, None, 17, [b"a\nb", b"D"]), (two, one, 18, []), (three, two, 0, [b"x"])]


@pytest.mark.parametrize("text", [HISTORY, HISTORY[:-1], b"fatal: no\0"])
def test_what_git_did_not_finish_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedObject):
        list(parse_history([text]))
