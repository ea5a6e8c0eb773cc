"""Directories of any depth are made and removed without a stack or a descriptor for each level."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.storage.permissions import parse_sharing
from riafs.storage.posix import make_directories, remove_tree

LEVELS = 1_500
IN_A_PATH = 1_100
SHARING = parse_sharing(())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def deep(root: int, name: bytes, levels: int) -> None:
    """A directory in a directory, … with a file and a link in each."""
    directory = os.dup(root)
    for _ in range(levels):
        os.mkdir(name, dir_fd=directory)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = inner
        os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=directory))
        os.symlink("/", b"link", dir_fd=directory)
        name = b".1"
    os.close(directory)


def test_a_tree_of_any_depth_is_removed_and_nothing_behind_its_links(root: int, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    deep(root, b"tree", LEVELS)
    os.symlink(tmp_path / "kept", tmp_path / "tree" / "out")
    remove_tree(root, b"tree")
    assert os.listdir(tmp_path) == ["kept"]


def test_a_link_is_no_tree(root: int, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    os.symlink("kept", tmp_path / "link")
    with pytest.raises(OSError, match="Not a directory"):
        remove_tree(root, b"link")
    assert (tmp_path / "kept" / "file").exists()


def test_directories_of_a_long_path_are_made(root: int) -> None:
    make_directories(root, b"/".join([b"a"] * IN_A_PATH), SHARING, set())
    known = {b""}
    make_directories(root, b"/".join([b"b"] * IN_A_PATH), SHARING, known)
    assert len(known) == IN_A_PATH + 1
    for name in (b"a", b"b"):
        remove_tree(root, name)
