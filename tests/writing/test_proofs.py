"""Short runs of what takes long: ``tests.writing.steps``, ``killing`` and ``pushers`` say what they prove."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.mounting import PROJECT
from tests.plugins import mounts
from tests.writing.killing import Expected, Killing
from tests.writing.pushers import work


def kills(scenario: str, *words: str) -> str:
    """What a run of `steps` says, which has to succeed."""
    command = [sys.executable, "-m", "tests.writing.steps", scenario, *words]
    done = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_overlay_survives_kills_at_calls_that_change_files(long: bool) -> None:
    assert "nothing lost" in kills("overlay", *(() if long else ("--first", "7", "--every", "29")))


def test_a_push_survives_kills_at_calls_that_change_files(long: bool) -> None:
    assert "all completed" in kills("push", *(("--every", "3") if long else ("--first", "53", "--every", "197")))


def test_a_mount_that_is_killed_again_and_again_loses_nothing(fuse: None, tmp_path: Path, long: bool) -> None:
    killing = Killing(tmp_path, 1)
    try:
        killing.run(50 if long else 3)
    finally:
        mounts.sweep(mounts.below(tmp_path))
    assert killing.told["operations"]


def test_the_history_explains_what_came_of_pushes_at_the_same_time(fuse: None, tmp_path: Path, long: bool) -> None:
    rounds = 50 if long else 2
    told = work(tmp_path, 2, rounds, 1)
    assert sum(told.values()) >= 3 * rounds


def test_what_is_expected_of_a_file_is_what_was_synced_or_came_later() -> None:
    expected = Expected()
    first = {"op": "write", "path": "a", "number": 1, "size": 10}
    second = {"op": "patch", "path": "a", "number": 2, "size": 4, "offset": 2}
    expected.follow([first, {"op": "synced"}, second, {"op": "rename", "path": "a", "to": "b"}])
    history = expected._paths["a"]
    assert len(history) == 3
    before, after, gone = history
    assert before is not None
    assert after is not None
    assert gone is None
    with pytest.raises(AssertionError):
        expected.check({"a": before[:5]})
    expected.check({"b": after})
    assert expected.settled == {b"b": after}
