"""Runs leave each other alone: they take down only what killed ones left, and take turns where times are measured."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from tests.plugins import mounts
from tests.plugins.workers import Turns


def test_mountinfo_paths_are_unescaped() -> None:
    assert mounts.unescape(rb"/a\040b\011c\134d") == b"/a b\tc\\d"


def test_the_type_is_the_field_after_the_hyphen() -> None:
    line = b"36 35 98:0 / /mnt rw,nosuid shared:1 - fuse.riafs riafs rw"
    assert mounts.kind(line.split(b" ")) == b"fuse.riafs"


def test_nothing_is_mounted_below_a_new_directory(tmp_path: Path) -> None:
    assert mounts.below(tmp_path) == []


@pytest.mark.parametrize(("lock", "ended"), [(None, True), (b"own", False), (b"", False), (b"0", True)])
def test_a_run_has_ended_when_the_process_in_its_lock_has(tmp_path: Path, lock: bytes | None, ended: bool) -> None:
    if lock is not None:
        (tmp_path / ".lock").write_bytes(b"%d" % os.getpid() if lock == b"own" else lock)
    assert mounts.has_ended(tmp_path) == ended


def test_homes_of_dead_processes_are_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (f"{os.getpid()}-abc", "0-abc", "older"):
        (tmp_path / f"{mounts.PREFIX}{name}").mkdir()
    assert mounts.abandoned_homes() == [tmp_path / f"{mounts.PREFIX}0-abc"]


def test_beside_a_test_that_is_alone_there_is_none(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    with open(tmp_path / "tests", "rb") as other:
        with turns.turn(alone=True), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with turns.turn(alone=False):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    turns.close()
