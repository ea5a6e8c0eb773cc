"""Killed at any point of its work, a command leaves every key readable, and the next run completes it."""

import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio

from riafs.watching import NoWatcher, PackingStep
from tests.packing.conftest import (
    archive,
    archive_path,
    archived,
    loose,
    nothing_unfinished,
    request,
    unarchive,
)
from tests.small import Locked, SmallDataset, SmallStore, key_of, mixed_path, noise

FEW = [b"text " * 500, b"more text " * 300, noise(300), b""]
MEMBERS = {mixed_path(key_of(content)): content for content in FEW}

Run = Callable[[SmallDataset, NoWatcher], Coroutine[Any, Any, object]]
_MOST_POINTS = 200


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    """A dataset of few objects, so that all points can be tried."""
    files = {b"file%d" % number: Locked(key_of(content)) for number, content in enumerate(FEW)}
    made = SmallStore.make(tmp_path / "store").dataset("few", files)
    for content in FEW:
        made.put(key_of(content), content)
    return made


class Killer(NoWatcher):
    """Kills its process when it is told something for the `last` time."""

    def __init__(self, last: int) -> None:
        self._left = last

    def begin(self, step: PackingStep, total: int) -> None:
        self._count()

    def advance(self, amount: int) -> None:
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(dataset: SmallDataset, run: Run, point: int) -> bool:
    """Run in a child that is killed at a point; False if it ended before."""
    child = os.fork()
    if child == 0:
        try:
            trio.run(run, dataset, Killer(point))
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def readable(dataset: SmallDataset) -> dict[bytes, bytes]:
    """Every key that a reader finds, loose before archived."""
    return {**(archived(dataset) if archive_path(dataset).exists() else {}), **loose(dataset)}


async def prune(dataset: SmallDataset, watcher: NoWatcher) -> object:
    return await archive(dataset, request(prune=True), watcher)


async def back(dataset: SmallDataset, watcher: NoWatcher) -> object:
    return await unarchive(dataset, remove=True, watcher=watcher)


def kill_everywhere(dataset: SmallDataset, run: Run, prepare: Callable[[], None]) -> int:
    """Kill `run` at every point; returns how many there were."""
    for point in range(1, _MOST_POINTS):
        prepare()
        if not killed(dataset, run, point):
            return point - 1
        assert readable(dataset) == MEMBERS
        trio.run(run, dataset, NoWatcher())
        assert readable(dataset) == MEMBERS
        assert nothing_unfinished(dataset)
    raise AssertionError("it never ended")


@pytest.mark.timeout(600)
def test_archive_can_be_killed_anywhere(dataset: SmallDataset) -> None:
    def all_loose_but_some_archived() -> None:
        if archive_path(dataset).exists():
            trio.run(back, dataset, NoWatcher())
        dataset.archive({key_of(FEW[2]): FEW[2]})
        assert loose(dataset) == MEMBERS

    points = kill_everywhere(dataset, prune, all_loose_but_some_archived)
    assert points > len(FEW)


@pytest.mark.timeout(600)
def test_unarchive_can_be_killed_anywhere(dataset: SmallDataset) -> None:
    def all_archived() -> None:
        trio.run(prune, dataset, NoWatcher())
        assert loose(dataset) == {}

    points = kill_everywhere(dataset, back, all_archived)
    assert points > len(FEW)
