"""Killed at any step, a push leaves the store as before or complete, and the same push finishes the work."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from riafs.errors import Busy
from riafs.git.writing import RefUpdate, RefWriter
from riafs.overlay.changes import Change
from riafs.watching import NoWatcher, PushStep, Watcher
from tests.push.changes import Below
from tests.push.conftest import STORAGE, annex_log, content, push, sound, tree
from tests.small import SmallDataset, key_of, noise
from tests.waiting import eventually, random_moment

LARGE = noise(5_000_000)
_MOST_POINTS = 100


class Killer(NoWatcher):
    """Kills its process when it is told something for the `last` time."""

    def __init__(self, last: int) -> None:
        self._left = last

    def begin(self, step: PushStep, total: int) -> None:
        self._count()

    def advance(self, amount: int) -> None:
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def changes(below: Below) -> list[Change]:
    return [
        below.write(b"a/small.dat", b"small\n"),
        below.write(b"a/large.dat", LARGE),
        below.write(b"code/x", b"x\n"),
        below.remove(b"tool"),
        below.rename(b"data", b"moved"),
    ]


def in_child(dataset: SmallDataset, below: Below, made: Sequence[Change], watcher: Watcher) -> int:
    """Push in a child; returns its process id."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            trio.run(push, dataset, below, made, None, watcher)
        finally:
            os._exit(0)
    return child


def is_gone(group: int) -> bool:
    """Whether no process of a group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def was_killed(child: int) -> bool:
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def consistent(dataset: SmallDataset, before: str) -> bool:
    """Whether the push is complete; asserts that otherwise nothing of it is visible."""
    dataset.git("fsck", "--full", "--strict")
    for path in (dataset.path / "annex" / "objects").rglob("*"):
        if path.is_file():
            assert key_of(path.read_bytes()).decode() == path.name
    if dataset.git("for-each-ref") == before:
        return False
    assert content(dataset, b"a/large.dat") == LARGE
    assert b" 1 " + STORAGE in annex_log(dataset, key_of(LARGE))
    return True


def reset(dataset: SmallDataset, refs: str) -> None:
    """Refs as they were, and none of the new objects."""
    for line in refs.splitlines():
        oid, _, name = line.split()
        dataset.git("update-ref", name, oid)
    subprocess.run(["find", dataset.path / "annex", "-name", "MD5E-s[56]*", "-type", "f", "-delete"], check=True)


@pytest.mark.timeout(280)
def test_killed_at_any_step(dataset: SmallDataset, below: Below) -> None:
    before = dataset.git("for-each-ref")
    made = changes(below)
    outcomes = []
    for point in range(1, _MOST_POINTS):
        if not was_killed(in_child(dataset, below, made, Killer(point))):
            break
        outcomes.append(consistent(dataset, before))
        trio.run(push, dataset, below, made)
        assert consistent(dataset, before)
        assert tree(dataset)[b"code/x"] == ("100644", b"x\n")
        sound(dataset)
        reset(dataset, before)
    assert len(outcomes) > 8
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False
    assert outcomes[-1] is True


@pytest.mark.timeout(280)
def test_killed_at_any_time(dataset: SmallDataset, below: Below) -> None:
    before = dataset.git("for-each-ref")
    made = changes(below)
    started = time.monotonic()
    was_killed(in_child(dataset, below, made, NoWatcher()))
    usual = time.monotonic() - started
    reset(dataset, before)
    moments = random.Random(7)
    for _ in range(12):
        child = in_child(dataset, below, made, NoWatcher())
        random_moment(moments, 0, usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        eventually(partial(is_gone, child))  # its git may still be at work
        consistent(dataset, before)
        remove_locks_of_the_dead(dataset.path)
        trio.run(push, dataset, below, made)
        assert consistent(dataset, before)
        sound(dataset)
        reset(dataset, before)


def remove_locks_of_the_dead(repository: Path) -> None:
    """git's children outlive their parent, and end by themselves: they leave no locks."""
    assert not list((repository / "refs").rglob("*.lock"))


async def test_content_is_on_record_before_the_commit_is_there(
    dataset: SmallDataset, below: Below, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[bytes] = []
    move = RefWriter.move

    async def recorded(writer: RefWriter, updates: Sequence[RefUpdate]) -> None:
        order.extend(update.name for update in updates)  # git moves them in this order, and may be killed in between
        await move(writer, updates)

    monkeypatch.setattr(RefWriter, "move", recorded)
    await push(dataset, below, changes(below))
    assert order == [b"refs/heads/git-annex", b"refs/heads/main"]


async def test_a_lock_that_was_left_is_named_where_it_lies(dataset: SmallDataset, below: Below) -> None:
    lock = dataset.path / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(Busy, match=re.escape(str(lock))):
        await push(dataset, below, changes(below))
    lock.unlink()
    await push(dataset, below, changes(below))
    assert consistent(dataset, "")
