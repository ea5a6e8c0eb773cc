"""Traps in a store: nothing outside is touched, the trap stays, and no ref moves alone. All of them: traps.py."""

import os
import shutil
from pathlib import Path

import pytest

from tests.faults.traps import template, traced, tried
from tests.plugins.log_hygiene import Announce

STAGING = [
    ("push", "annex/.riafs-push"),
    ("archive", "archives/.riafs-packing"),
    ("unarchive", "archives/.riafs-packing"),
]
PLACES = [
    *STAGING,
    ("archive", "archives/.riafs-packing/lock"),
    ("archive", "archives/archive.7z"),
    ("push", "objects/info/alternates"),
    ("push", "objects/pack"),
    ("push", "info/refs"),
    ("push", "refs/heads/git-annex.lock"),
    ("push", "logs/refs/heads/main"),
]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_links_everywhere_lead_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str], long: bool) -> None:
    wrong = traced(tmp_path, ["link"], 1 if long else 5)
    if "PTRACE" in (said := capfd.readouterr()).err:
        pytest.skip("this machine does not let processes be traced")
    assert wrong == 0, said.out


@pytest.mark.parametrize("kind", ["fifo", "file"])
def test_what_is_no_directory_or_file_is_not_waited_for(tmp_path: Path, kind: str, expected_warnings: Announce) -> None:
    if kind == "fifo":
        expected_warnings("is no file")
    made = template(tmp_path / "template")
    for number, (job, place) in enumerate(PLACES):
        result = tried(tmp_path / str(number), made, job, place, kind)
        assert not result.wrong, (job, place, result)
        if place.rpartition("/")[2].startswith(".riafs"):
            assert f"{place} is no directory" in result.said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    made = template(tmp_path / "template")
    for number, (job, place) in enumerate(STAGING):
        result = tried(tmp_path / str(number), made, job, place, "foreign")
        assert not result.wrong
        assert ("belongs to user 1234" in result.said) == (job != "push")
