"""Directories in directories, more than a path can have names and a stack has room: changed, pushed, shown again."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounting import mounted, run_riafs
from tests.push.conftest import dataset as dataset
from tests.small import SmallDataset

pytestmark = pytest.mark.usefixtures("fuse")

DEPTH = 1200
"""More than Python's stack has room for; 5,000 is tried by hand, and takes minutes."""
_SECONDS = 600.0


@contextmanager
def below(top: Path, enter: Callable[[int], None]) -> Iterator[int]:
    """A descriptor of the directory DEPTH levels below `top`; `enter` is called with that of each on the way."""
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEPTH):
        enter(directory)
        inner = os.open("x", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = inner
    try:
        yield directory
    finally:
        os.close(directory)


def make(top: Path, content: bytes) -> None:
    def enter(directory: int) -> None:
        os.mkdir("x", dir_fd=directory)

    with below(top, enter) as bottom:
        write(bottom, content)


def write(directory: int, content: bytes) -> None:
    leaf = os.open("leaf", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=directory)
    os.write(leaf, content)
    os.close(leaf)


def leaf_of(top: Path) -> bytes:
    with below(top, lambda _: None) as bottom:
        leaf = os.open("leaf", os.O_RDONLY, dir_fd=bottom)
        try:
            return os.read(leaf, 100)
        finally:
            os.close(leaf)


def riafs(*words: str | Path) -> str:
    done = run_riafs(*words, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.mark.timeout(2 * _SECONDS)
def test_deep_directories_are_changed_told_dropped_pushed_and_shown_again(
    dataset: SmallDataset, tmp_path: Path
) -> None:
    store, over = dataset.path.parent.parent, tmp_path / "over"
    path = "one/" + "x/" * DEPTH + "leaf"
    with mounted(store, tmp_path / "first", "--overlay", str(over)) as mount:
        top = mount.path / "one"
        make(top, b"dropped")
        assert "changes" in riafs("status", mount.path)
        assert path in riafs("diff", mount.path)
        riafs("restore", mount.path / "one" / "x")
        assert not (top / "x").exists()
        make(top, b"pushed")
        riafs("push", mount.path, "-m", "deep")
        assert leaf_of(top) == b"pushed"
        assert riafs("diff", mount.path) == ""
        with below(top, lambda _: None) as bottom:
            write(bottom, b"changed")
    assert path in riafs("diff", "--overlay", over)
    with mounted(store, tmp_path / "second", "--overlay", str(over)) as mount:
        assert leaf_of(mount.path / "one") == b"changed"
        assert path in riafs("diff", mount.path)
        riafs("push", mount.path, "-m", "deep again")
        os.rename(mount.path / "one" / "x", mount.path / "one" / "y")
        os.rename(mount.path / "one" / "y", mount.path / "one" / "x")
        assert leaf_of(mount.path / "one") == b"changed"
        assert mount.counter("handler_errors") == mount.counter("task_failures") == 0
