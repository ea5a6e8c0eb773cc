"""What ``riafs archive`` and ``unarchive`` make of a store is an ordinary one to DataLad and git-annex."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from riafs.cli import main
from tests.stores.manifest import Expect, Row, Stores, Type, place

PACKED = ("basic", "layout1", pytest.param("arc-many", marks=pytest.mark.long))


def run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def annexed(stores: Stores, name: str) -> list[Row]:
    """Files that DataLad can get from this dataset."""
    kinds = (Type.LOCKED, Type.UNLOCKED)
    return [row for row in stores.rows_of(name) if row.type in kinds and row.expect is Expect.OK]


def clone_has_everything(stores: Stores, name: str, target: Path) -> None:
    """Clone, get, compare every file, and let git-annex look at what the store holds."""
    run(target.parent, "datalad", "clone", f"ria+file://{stores.path}#{stores.dataset(name).id}", str(target))
    subprocess.run(["git", "annex", "get", "--quiet", "."], cwd=target, stdin=subprocess.DEVNULL, capture_output=True)
    rows = annexed(stores, name)
    assert rows
    for row in rows:
        with open(os.fsencode(target) + b"/" + row.path, "rb") as file:
            assert hashlib.sha256(file.read()).hexdigest() == row.sha256, row.path


@pytest.mark.parametrize("name", PACKED)
def test_a_clone_gets_every_file_from_the_archive_and_after_the_way_back(
    stores: Stores, tmp_path: Path, name: str
) -> None:
    mine = stores.copy(tmp_path, name)
    path = place(mine.path, mine.dataset(name).id)
    source = f"{mine.path}#{mine.dataset(name).id}"
    assert main.run("riafs", ["archive", source, "--prune"]) in (0, 64)
    run(path, "7z", "t", "archives/archive.7z")
    clone_has_everything(mine, name, tmp_path / "from-archive")
    assert main.run("riafs", ["unarchive", source]) in (0, 64)
    (path / "archives" / "archive.7z").unlink()
    clone_has_everything(mine, name, tmp_path / "from-loose")


def test_git_annex_finds_every_key_where_it_was(stores: Stores, tmp_path: Path) -> None:
    mine = stores.copy(tmp_path, "datalad-only")
    dataset = mine.dataset("datalad-only")
    assert main.run("riafs", ["archive", f"{mine.path}#{dataset.id}", "--prune"]) == 0
    assert list((place(mine.path, dataset.id) / "annex" / "objects").iterdir()) == []
    clone = tmp_path / "clone"
    run(tmp_path, "datalad", "clone", f"ria+file://{mine.path}#{dataset.id}", str(clone))
    remote = run(clone, "git", "config", "--get-regexp", r"remote\..*\.annex-externaltype").split(".")[1]
    run(clone, "git", "config", f"remote.{remote}.annex-verified", "verified")
    told = run(clone, "git", "annex", "fsck", "--from", remote)
    assert "fixing location log" not in told
    assert run(clone, "git", "annex", "find", "--not", "--in", remote) == ""
