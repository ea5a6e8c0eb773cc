"""Somebody else pushed meanwhile: disjoint changes merge, the same path is a conflict, and no update is ever lost."""

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from riafs.errors import PushConflict, PushRefused
from riafs.push.protocol import Prefer
from riafs.watching import NoWatcher, PushStep
from tests.push.changes import Below
from tests.push.conftest import (
    FILES,
    LOCKED,
    STORAGE,
    UNLOCKED,
    annex_log,
    changes_over,
    content,
    objects,
    push,
    request,
    sound,
    state,
    tree,
)
from tests.small import Files, Locked, SmallDataset, SmallStore, key_of

OURS, THEIRS = b"ours\n", b"theirs\n"


def they_commit(dataset: SmallDataset, changed: Mapping[bytes, bytes | Locked | None]) -> str:
    """Another commit on main, in which some files are changed or gone."""
    files: Files = {**FILES, **changed}  # type: ignore[dict-item]  # the absent ones are taken out below
    return dataset.commit({path: node for path, node in files.items() if node is not None}, time=1_700_000_100)


async def test_disjoint_changes_merge(dataset: SmallDataset, below: Below) -> None:
    theirs = they_commit(dataset, {b"data/theirs.dat": b"t", b"tool": None})
    await push(dataset, below, [below.write(b"data/ours.dat", OURS), below.remove(b"data/sub/deep.dat")])
    found = tree(dataset)
    assert found[b"data/theirs.dat"] == ("100644", b"t")
    assert content(dataset, b"data/ours.dat") == OURS
    assert not {b"tool", b"data/sub/deep.dat"} & found.keys()
    assert dataset.git("rev-parse", "main^") == theirs
    sound(dataset)


async def test_the_same_change_on_both_sides_is_none(dataset: SmallDataset, below: Below) -> None:
    key = key_of(OURS)
    theirs = they_commit(dataset, {b"n.dat": Locked(key), b"tool": None})
    report = await push(dataset, below, [below.write(b"n.dat", OURS), below.remove(b"tool")])
    assert report.commit.decode() == theirs
    assert b" 1 " + STORAGE in annex_log(dataset, key)


@pytest.mark.parametrize("kind", ["both changed", "both added", "they removed", "we removed"])
async def test_the_same_path_is_a_conflict(dataset: SmallDataset, below: Below, kind: str) -> None:
    theirs: dict[str, tuple[bytes, bytes | None]] = {
        "both changed": (b"tool", THEIRS),
        "both added": (b"n", THEIRS),
        "they removed": (b"tool", None),
        "we removed": (b"tool", THEIRS),
    }
    path, node = theirs[kind]
    they_commit(dataset, {path: node})
    before = state(dataset)
    mine = below.remove(path) if kind == "we removed" else below.write(path, OURS)
    with pytest.raises(PushConflict) as caught:
        await push(dataset, below, [mine, below.write(b"other.dat", OURS)])
    assert caught.value.paths == (path,)
    assert below.commit in str(caught.value)
    assert state(dataset) == before


async def test_a_file_in_the_place_of_a_directory_is_a_conflict(dataset: SmallDataset, below: Below) -> None:
    they_commit(dataset, {b"n": THEIRS})
    with pytest.raises(PushConflict):
        await push(dataset, below, [below.write(b"n/inside", OURS)])
    they_commit(dataset, {b"m/inside": THEIRS})
    with pytest.raises(PushConflict):
        await push(dataset, below, [below.write(b"m", OURS)])


async def test_a_renamed_directory_in_which_they_changed_something(dataset: SmallDataset, below: Below) -> None:
    they_commit(dataset, {b"data/theirs.dat": b"t"})
    await push(dataset, below, [below.rename(b"data", b"moved")])
    found = tree(dataset)
    assert b"data/theirs.dat" in found
    assert {path for path in found if path.startswith(b"data/")} == {b"data/theirs.dat"}
    assert b"moved/locked.dat" in found
    again = changes_over(dataset, below.area)
    files = {path: node for path, node in FILES.items() if not path.startswith(b"data/")}
    dataset.commit({**files, b"moved/locked.dat": THEIRS, b"moved/unlocked.dat": b"x"})
    with pytest.raises(PushConflict) as caught:
        await push(dataset, again, [again.rename(b"moved", b"again")])
    assert b"moved/locked.dat" in caught.value.paths


async def test_a_renamed_directory_with_changes_in_it_is_no_conflict_with_itself(
    dataset: SmallDataset, below: Below
) -> None:
    changed = below.patched({0: b"UN"}, len(UNLOCKED))
    changes = [below.rename(b"data", b"moved"), below.rename(b"data/unlocked.dat", b"moved/unlocked.dat", changed)]
    await push(dataset, below, changes)
    pushed = dataset.git("rev-parse", "main")
    await push(dataset, below, changes)  # as after a kill
    assert dataset.git("rev-parse", "main") == pushed


async def test_what_was_taken_out_of_a_renamed_directory_stays_out(dataset: SmallDataset, below: Below) -> None:
    they_commit(dataset, {b"theirs": THEIRS})
    await push(dataset, below, [below.rename(b"data", b"moved"), below.remove(b"moved/locked.dat")])
    assert {path for path in tree(dataset) if path.startswith((b"data/", b"moved/"))} == {
        b"moved/sub/deep.dat",
        b"moved/unlocked.dat",
    }


@pytest.mark.parametrize(("prefer", "kept"), [(Prefer.OURS, OURS), (Prefer.THEIRS, THEIRS)])
async def test_one_side_can_be_preferred(dataset: SmallDataset, below: Below, prefer: Prefer, kept: bytes) -> None:
    they_commit(dataset, {b"code/x": THEIRS})
    changes = [below.write(b"code/x", OURS), below.write(b"code/y", OURS)]
    report = await push(dataset, below, changes, request(prefer=prefer))
    assert tree(dataset)[b"code/x"] == ("100644", kept)
    assert tree(dataset)[b"code/y"] == ("100644", OURS)
    assert report.overruled == (b"code/x",)


async def test_a_new_branch_avoids_the_conflict(dataset: SmallDataset, below: Below) -> None:
    theirs = they_commit(dataset, {b"tool": THEIRS})
    changes = [below.write(b"tool", OURS)]
    wanted = request(as_branch=b"refs/heads/mine/new")
    await push(dataset, below, changes, wanted)
    assert tree(dataset, "mine/new")[b"tool"] == ("100644", OURS)
    assert dataset.git("rev-parse", "mine/new^") == below.commit
    assert dataset.git("rev-parse", "main") == theirs
    await push(dataset, below, changes, wanted)  # once more, as after a kill
    with pytest.raises(PushRefused, match="exists already"):
        await push(dataset, below, changes, request(as_branch=b"refs/heads/main"))


async def test_the_branch_can_be_named(dataset: SmallDataset, below: Below) -> None:
    dataset.git("branch", "other", "main")
    await push(dataset, below, [below.write(b"tool", OURS)], request(branch=b"refs/heads/other"), ref=None)
    assert tree(dataset, "other")[b"tool"] == ("100644", OURS)
    assert tree(dataset)[b"tool"] == ("100755", b"tool\n")


async def test_a_branch_that_stands_for_another_stays_so(dataset: SmallDataset, below: Below) -> None:
    dataset.git("symbolic-ref", "refs/heads/also", "refs/heads/main")
    await push(dataset, below, [below.write(b"code/x", OURS)], request(branch=b"refs/heads/also"))
    assert dataset.git("symbolic-ref", "refs/heads/also") == "refs/heads/main"
    assert tree(dataset)[b"code/x"] == ("100644", OURS)


# -- others at the same time ------------------------------------------------------------------------------------------


class Meddler(NoWatcher):
    """Does something just before refs move for the first time."""

    def __init__(self, meddle: object) -> None:
        self._meddle = meddle

    def begin(self, step: PushStep, total: int) -> None:
        meddle, self._meddle = self._meddle, None if step is PushStep.REFS else self._meddle
        if step is PushStep.REFS and callable(meddle):
            meddle()


async def test_a_branch_that_moves_at_the_last_moment_is_merged(dataset: SmallDataset, below: Below) -> None:
    meddler = Meddler(lambda: they_commit(dataset, {b"theirs": THEIRS}))
    await push(dataset, below, [below.write(b"ours.dat", OURS)], watcher=meddler)
    assert tree(dataset)[b"theirs"] == ("100644", THEIRS)
    assert content(dataset, b"ours.dat") == OURS
    sound(dataset)


async def test_a_conflict_at_the_last_moment_leaves_the_refs(dataset: SmallDataset, below: Below) -> None:
    meddler = Meddler(lambda: they_commit(dataset, {b"tool": THEIRS}))
    annex = dataset.git("rev-parse", "git-annex")
    with pytest.raises(PushConflict):
        await push(dataset, below, [below.write(b"tool", OURS), below.write(b"n.dat", OURS)], watcher=meddler)
    assert tree(dataset)[b"tool"] == ("100644", THEIRS)
    assert dataset.git("rev-parse", "git-annex") == annex
    sound(dataset)


async def test_a_git_annex_branch_that_moves_keeps_all_lines(dataset: SmallDataset, below: Below) -> None:
    logs = {path: text for path, (_, text) in tree(dataset, "git-annex").items()}
    meddler = Meddler(lambda: dataset.annex_branch({**logs, b"abc/def/other.log": b"1s 1 them\n"}))
    await push(dataset, below, [below.write(b"n.dat", OURS)], watcher=meddler)
    assert tree(dataset, "git-annex")[b"abc/def/other.log"] == ("100644", b"1s 1 them\n")
    assert b" 1 " + STORAGE in annex_log(dataset, key_of(OURS))


PUSHER = """
import sys, trio
from pathlib import Path
from tests.push.changes import Below
from tests.push.conftest import push
from tests.small import SmallDataset
from riafs.errors import PushConflict
path, identifier, area, who, rounds = sys.argv[1:]
dataset = SmallDataset(Path(path), identifier, "one")
for turn in range(int(rounds)):
    below = Below(dataset.path, Path(area), dataset.git("rev-parse", "main"))
    mine = f"by {who} in {turn}\\n".encode()
    changes = [below.write(f"own/{who}/{turn}.dat".encode(), mine), below.write(b"code/shared", mine)]
    try:
        trio.run(push, dataset, below, changes)
        print("pushed", turn)
    except PushConflict as conflict:
        assert conflict.paths == (b"code/shared",), conflict.paths
        trio.run(push, dataset, below, changes[:1])
        print("conflict", turn)
"""


@pytest.mark.timeout(280)
def test_pushers_at_the_same_time_lose_nothing(dataset: SmallDataset, tmp_path: Path) -> None:
    pushers, rounds = 3, 4
    running = []
    for who in range(pushers):
        area = tmp_path / f"area{who}"
        area.mkdir()
        command = [sys.executable, "-c", PUSHER, dataset.path, dataset.id, area, str(who), str(rounds)]
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment))
    outcomes = []
    for process in running:
        said, wrong = process.communicate()
        assert process.returncode == 0, wrong.decode()
        outcomes.append(said.decode().split("\n")[:-1])
    found = tree(dataset)
    for who, turn in itertools.product(range(pushers), range(rounds)):
        path, text = f"own/{who}/{turn}.dat".encode(), f"by {who} in {turn}\n".encode()
        assert content(dataset, path) == text
        assert b" 1 " + STORAGE in annex_log(dataset, key_of(text))
    pushed = {
        f"by {who} in {line.split()[1]}" for who, lines in enumerate(outcomes) for line in lines if "pushed" in line
    }
    history = dataset.git("log", "--format=", "-p", "main", "--", "code/shared")
    assert {line[1:] for line in history.splitlines() if line.startswith("+by")} == pushed
    assert found[b"code/shared"][1].decode().strip() in pushed
    assert dataset.git("rev-list", "--merges", "--count", "main") == "0"
    sound(dataset)


# -- all that can happen to a few paths -------------------------------------------------------------------------------

_NAMES = [b"a", b"b", b"d/x", b"d/y", b"d/e/z"]
_versions = st.dictionaries(st.sampled_from(_NAMES), st.sampled_from([b"1", b"2", b"3"]), min_size=1)


@settings(max_examples=15, deadline=None)
@given(base=_versions, ours=_versions, theirs=_versions)
def test_a_merge_takes_each_path_from_the_side_that_changed_it(
    tmp_path_factory: pytest.TempPathFactory,
    base: dict[bytes, bytes],
    ours: dict[bytes, bytes],
    theirs: dict[bytes, bytes],
) -> None:
    tmp_path = tmp_path_factory.mktemp("merge")
    dataset = SmallStore.make(tmp_path / "store").dataset("one", base)
    below = changes_over(dataset, tmp_path / "overlay")
    dataset.commit(theirs)
    changes = [below.write(path, data) for path, data in ours.items() if base.get(path) != data]
    changes += [below.remove(path) for path in base.keys() - ours.keys()]
    conflicts, expected = set(), {}
    for path in _NAMES:
        one, two, three = base.get(path), ours.get(path), theirs.get(path)
        if two not in (one, three) and three != one:
            conflicts.add(path)
        expected[path] = three if two == one else two
    if conflicts:
        with pytest.raises(PushConflict) as caught:
            trio.run(push, dataset, below, changes)
        assert set(caught.value.paths) == conflicts
    else:
        trio.run(push, dataset, below, changes)
        assert {path: data for path, (_, data) in tree(dataset).items()} == {
            path: data for path, data in expected.items() if data is not None
        }


async def test_objects_of_a_conflict_are_not_even_sent(dataset: SmallDataset, below: Below) -> None:
    they_commit(dataset, {b"data/locked.dat": Locked(key_of(THEIRS))})
    before = objects(dataset)
    with pytest.raises(PushConflict):
        await push(dataset, below, [below.write(b"data/locked.dat", OURS), below.write(b"n.dat", LOCKED * 2)])
    assert objects(dataset) == before
