"""Suites that others wrote for file systems, on a mount that can be written: pjdfstest and stress-ng.

PJDFSTEST names a checkout of github.com/pjd/pjdfstest that is built. The programs beside this file do the same by hand.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour import shown_store
from tests.fuse.mounting import mounted
from tests.writing import pjdfstest, stressing

SUITE = os.environ.get("PJDFSTEST", "")
QUICK = ("access", "chmod", "copy-file", "dentry", "dirdeep", "filename", "fstat", "mmap", "rename", "seek", "symlink")


@pytest.fixture
def directory(fuse: None, store: shown_store.ShownStore, tmp_path: Path) -> Iterator[Path]:
    """In a mount that is open to all users."""
    if os.getuid():
        pytest.skip("only root becomes other users")
    with mounted(store.path, tmp_path / "first", "--overlay", str(tmp_path / "overlay"), "-o", "allow_other") as mount:
        made = mount.path / "main" / "suite"
        made.mkdir()
        yield made
        assert mount.counter("handler_errors") == 0


@pytest.fixture
def suite() -> Path:
    if not SUITE:
        pytest.skip("PJDFSTEST does not say where pjdfstest is")
    return Path(SUITE).absolute()


@pytest.mark.timeout(1800)
def test_the_cases_of_pjdfstest_fail_that_are_listed_and_no_others(suite: Path, directory: Path) -> None:
    outcome = pjdfstest.run(suite, directory)
    assert outcome.cases >= 8798
    assert pjdfstest.differences(outcome.failed) == []


def test_the_list_is_read_as_it_is_written() -> None:
    for cases in ("1", "1,3", "2-5,9", "7-8,10-12"):
        assert pjdfstest.ranges(set(pjdfstest.numbers(cases))) == cases
    assert pjdfstest.listed() == {}


def test_stress_ng_finds_nothing(directory: Path) -> None:
    if shutil.which("stress-ng") is None:
        pytest.skip("stress-ng is not installed")
    failures = {name: stressing.failure(name, directory, seconds=1) for name in QUICK}
    assert {name: said for name, said in failures.items() if said} == {}
    assert list(directory.iterdir()) == []
