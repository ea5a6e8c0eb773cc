"""Times after a push: of what was written here, and of what nobody changed, they stay, also in later mounts."""

import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.push.conftest import FILES
from tests.push.conftest import dataset as dataset
from tests.small import EPOCH, SmallDataset

pytestmark = pytest.mark.usefixtures("fuse")

LATER = EPOCH + 1_000_000
"""Of a commit that others make."""


def mount(dataset: SmallDataset, tmp_path: Path, name: str = "first") -> AbstractContextManager[Mounted]:
    return mounted(dataset.path.parents[1], tmp_path / name, "--overlay", str(tmp_path / "overlay"))


def push(place: Path) -> None:
    done = run_riafs("push", place)
    assert done.returncode == 0, done.stderr


def times(mounted: Mounted) -> dict[str, int]:
    """Path in the dataset → nanoseconds."""
    top = mounted.path / "one"
    return {str(path.relative_to(top)): path.lstat().st_mtime_ns for path in sorted(top.rglob("*"))}


def write(top: Path) -> None:
    """Something of each kind, at times that no commit has."""
    (top / "new" / "deep").mkdir(parents=True)
    written = {"new/deep/a.dat": 11, "new/b.dat": 12, "code/run.sh": 13, "data/locked.dat": 14, "data/unlocked.dat": 15}
    for path, seconds in written.items():
        (top / path).write_text(f"{path} as it is here")
        os.utime(top / path, ns=(0, (EPOCH + seconds) * 10**9 + 123_456_789))
    (top / "to-it").symlink_to("tool")
    os.rename(top / "tool", top / "code" / "tool")
    os.utime(top / "link", ns=(0, 77), follow_symlinks=False)


def test_a_push_leaves_all_times_as_they_are(dataset: SmallDataset, tmp_path: Path) -> None:
    with mount(dataset, tmp_path) as first:
        top = first.path / "one"
        write(top)
        before = times(first)
        push(first.path)
        assert times(first) == before
        (top / "code" / "more").write_text("more")
        os.utime(top / "code" / "more", ns=(0, 88))
        before = times(first)
        push(first.path)
        assert times(first) == before
    with mount(dataset, tmp_path, "second") as second:
        assert times(second) == before
        (second.path / "one" / "again").write_text("x")
        push(second.path)
        after = times(second)
        del after["again"]
        assert after == before


def test_what_others_change_gets_the_time_of_their_commit(dataset: SmallDataset, tmp_path: Path) -> None:
    with mount(dataset, tmp_path) as first:
        write(first.path / "one")
        push(first.path)
        before = times(first)
        code = dataset.git("rev-parse", "main:code/run.sh")
        lines = dataset.git("ls-tree", "-r", "main").replace(
            code, dataset.git("hash-object", "-w", "--stdin", stdin=b"?")
        )
        index = {"GIT_INDEX_FILE": str(tmp_path / "index"), "GIT_COMMITTER_DATE": f"{LATER} +0000"}
        git = ["git", "--git-dir", dataset.path]
        environment = {**os.environ, **index, "GIT_AUTHOR_DATE": f"{LATER} +0000"}
        subprocess.run([*git, "update-index", "--index-info"], input=lines, text=True, env=environment, check=True)
        tree = subprocess.run([*git, "write-tree"], env=environment, check=True, capture_output=True, text=True).stdout
        commit = [*git, "commit-tree", "-p", "main", "-m", "theirs", tree.strip()]
        made = subprocess.run(commit, env=environment, check=True, capture_output=True, text=True).stdout
        dataset.git("update-ref", "refs/heads/main", made.strip())
        first.refresh()
        assert (first.path / "one" / "code" / "run.sh").read_bytes() == b"?"
        changed = {path: when for path, when in times(first).items() if when != before[path]}
        assert changed == {"code/run.sh": LATER * 10**9, "code": LATER * 10**9}


def test_files_of_a_renamed_directory_keep_what_they_were_written_at(dataset: SmallDataset, tmp_path: Path) -> None:
    with mount(dataset, tmp_path) as first:
        write(first.path / "one")
        push(first.path)
        before = times(first)
        os.rename(first.path / "one" / "new", first.path / "one" / "moved")
        push(first.path)
        after = times(first)
        for path in ("deep/a.dat", "b.dat"):
            assert after[f"moved/{path}"] == before[f"new/{path}"]


def test_make_has_nothing_to_do_and_rsync_nothing_to_send(dataset: SmallDataset, tmp_path: Path) -> None:
    with mount(dataset, tmp_path) as first:
        top = first.path / "one"
        (top / "Makefile").write_text("out: tool data/locked.dat\n\tcat $^ > $@\n")
        assert subprocess.run(["make", "-C", top], capture_output=True).returncode == 0
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", top, copy], check=True)
        push(first.path)
        assert subprocess.run(["make", "-q", "-C", top]).returncode == 0
        for path in sorted(copy.rglob("*")):
            shown = top / path.relative_to(copy)
            assert shown.lstat().st_mtime_ns == path.lstat().st_mtime_ns
            assert shown.is_dir() or shown.lstat().st_size == path.lstat().st_size
        (top / "tool").write_text("newer")
        os.utime(top / "tool", ns=(0, (top / "out").stat().st_mtime_ns + 1))
        push(first.path)
        assert subprocess.run(["make", "-q", "-C", top]).returncode == 1


def test_a_commit_that_was_asked_for_has_its_own_time(dataset: SmallDataset, tmp_path: Path) -> None:
    old = dataset.git("rev-parse", "main")
    dataset.commit({**FILES, b"more": b"x"}, time=LATER)
    with mount(dataset, tmp_path) as first:
        write(first.path / "one")
        push(first.path)
    with mounted(f"{dataset.path.parents[1]}#{dataset.id}@{old}", tmp_path / "old") as shown:
        assert {path.lstat().st_mtime_ns for path in shown.path.rglob("data/*")} == {EPOCH * 10**9}
