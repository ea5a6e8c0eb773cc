"""To git, git-annex and DataLad a pushed commit is one like any other: the same as they make, and usable by all."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.push.changes import Below
from tests.push.conftest import content, push, run, sound, tree
from tests.small import SmallDataset, noise

NEW: dict[bytes, bytes] = {
    b"README.md": "# Über\n".encode(),
    b"code/script.py": b"print(1)\n",
    b"data/a.nii.gz": noise(3000),
    b"data/deep/er/text.txt": b"text\n" * 100,
    b"data/latin.txt": "für\n".encode("latin-1"),
    b"data/empty": b"",
    b"data/.hidden.txt": b"hidden\n",
    b"data/.gitignore": b"*.tmp\n",
    b"data/b c-ommon.name.tar.gz": noise(10),
    "data/grün.ä".encode(): noise(20),
    b"data/mixed.txt": b"text \0 and not\n",
    b"notes/utf16.txt": b"\xff\xfe" + "text".encode("utf-16-le"),
}


@dataclass(frozen=True)
class Lab:
    """A dataset that DataLad made and put into a store, and a place for clones."""

    path: Path
    dataset: SmallDataset

    @property
    def url(self) -> str:
        """As DataLad clones it."""
        return f"ria+file://{self.path / 'store'}#{self.dataset.id}"

    def clone(self, name: str) -> Path:
        """A clone whose storage may be written."""
        run(self.path, "datalad", "clone", self.url, name)
        run(self.path / name, "git", "config", "remote.store-storage.annex-verified", "verified")
        return self.path / name

    def below(self) -> Below:
        """Changes over the branch as it is now."""
        area = self.path / "overlay"
        area.mkdir(exist_ok=True)
        return Below(self.dataset.path, area, self.dataset.git("rev-parse", "HEAD"))

    @property
    def ref(self) -> bytes:
        """The branch."""
        return os.fsencode(self.dataset.git("symbolic-ref", "HEAD"))


def made(path: Path, *procedures: str, tuning: str | None = None) -> Lab:
    """A dataset with some files, by DataLad alone, after git-annex was set up with `tuning` if there is one."""
    work = path / "work"
    if tuning is not None:
        run(path, "git", "init", work)
        run(work, "git", "-c", tuning, "annex", "init")
    run(path, "datalad", "create", "--force", *(word for each in procedures for word in ("-c", each)), str(work))
    for name, data in ((b"known.dat", b"known\n"), (b"old/unlocked.dat", b"unlocked\n"), (b"old/gone.dat", b"gone\n")):
        os.makedirs(os.path.dirname(os.fsencode(work) + b"/" + name), exist_ok=True)
        (work / os.fsdecode(name)).write_bytes(data)
    run(work, "git", "annex", "add", "--force-large", ".")
    run(work, "git", "annex", "unlock", "old/unlocked.dat")
    run(work, "datalad", "save", "-m", "files")
    store = f"ria+file://{path}/store"
    run(work, "datalad", "create-sibling-ria", "-s", "store", "--alias", "al", "--new-store-ok", store)
    run(work, "datalad", "push", "--to", "store")
    identifier = run(work, "git", "config", "-f", ".datalad/config", "datalad.dataset.id").strip()
    return Lab(path, SmallDataset(path / "store" / identifier[:3] / identifier[3:], identifier, "al"))


@pytest.mark.timeout(280)
@pytest.mark.parametrize("procedures", [(), ("text2git",), ("yoda",)], ids=str)
async def test_the_same_tree_as_a_save(tmp_path: Path, procedures: tuple[str, ...]) -> None:
    lab = made(tmp_path, *procedures)
    saved = lab.clone("saved")
    for name, data in NEW.items():
        path = os.path.join(os.fsencode(saved), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(data)
    run(saved, "datalad", "save", "-m", "by datalad")
    below = lab.below()
    await push(lab.dataset, below, [below.write(name, data) for name, data in NEW.items()], ref=lab.ref)
    expected = run(saved, "git", "ls-tree", "-r", "HEAD")
    assert lab.dataset.git("ls-tree", "-r", "HEAD") == expected.rstrip("\n")


@pytest.mark.timeout(280)
async def test_everybody_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    lab = made(tmp_path)
    older = lab.clone("older")
    below = lab.below()
    changes = [
        below.write(b"new/a.dat", noise(2_000_000)),
        below.write(b"known.dat", b"changed\n"),
        below.put(b"old/unlocked.dat", below.patched({0: b"UN"}, len(b"unlocked\n"))),
        below.remove(b"old/gone.dat"),
        below.write(b"run.sh", b"#!/bin/sh\n", executable=True),
        below.link(b"link", b"new/a.dat"),
    ]
    await push(lab.dataset, below, changes, ref=lab.ref)
    sound(lab.dataset)
    assert content(lab.dataset, b"old/unlocked.dat", "HEAD") == b"UNlocked\n"
    fresh = lab.clone("fresh")
    check_clone(fresh)
    assert (fresh / "new" / "a.dat").read_bytes() == noise(2_000_000)
    assert (fresh / "old" / "unlocked.dat").read_bytes() == b"UNlocked\n"
    older_clone_goes_on(lab, older, fresh)


def check_clone(clone: Path) -> None:
    """All content can be got and is right, what the logs say is so, and nothing is to be saved."""
    run(clone, "datalad", "get", "-r", ".")
    run(clone, "git", "annex", "fsck")
    told = run(clone, "git", "annex", "fsck", "--from", "store-storage")
    assert "fixing location log" not in told
    assert run(clone, "git", "annex", "find", "--not", "--in", "store-storage") == ""
    assert run(clone, "git", "status", "--porcelain") == ""
    assert "nothing to save" in run(clone, "datalad", "status")


def older_clone_goes_on(lab: Lab, older: Path, fresh: Path) -> None:
    """A clone from before is refused its own push of the branch, merges, and pushes."""
    (older / "theirs.dat").write_bytes(b"theirs\n")
    run(older, "datalad", "save", "-m", "theirs")
    refused = subprocess.run(["datalad", "push", "--to", "origin"], cwd=older, capture_output=True, text=True)
    assert re.search("fetch first|non-fast-forward", refused.stdout + refused.stderr)
    run(older, "datalad", "update", "--how", "merge")
    run(older, "datalad", "push", "--to", "origin")
    run(fresh, "datalad", "update", "--how", "merge")
    check_clone(fresh)
    assert {b"theirs.dat", b"run.sh"} < tree(lab.dataset, "HEAD").keys()


@pytest.mark.timeout(280)
async def test_logs_in_one_level_of_directories(tmp_path: Path) -> None:
    lab = made(tmp_path, tuning="annex.tune.branchhash1=true")
    below = lab.below()
    await push(lab.dataset, below, [below.write(b"new.dat", noise(2000))], ref=lab.ref)
    names = lab.dataset.git("ls-tree", "-r", "--name-only", "git-annex").splitlines()
    assert {name.count("/") for name in names if name.endswith(".dat.log")} == {1}
    check_clone(lab.clone("fresh"))


@pytest.mark.timeout(280)
async def test_git_annex_tests_the_store_without_complaint(tmp_path: Path) -> None:
    lab = made(tmp_path)
    below = lab.below()
    await push(lab.dataset, below, [below.write(b"n.dat", b"n\n")], ref=lab.ref)
    clone = lab.clone("clone")
    run(clone, "git", "annex", "testremote", "--fast", "store-storage")
    run(clone, "datalad", "get", "n.dat")
