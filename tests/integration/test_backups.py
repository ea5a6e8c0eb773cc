"""Incremental backups of a mount read only what changed: restic, borg and GNU tar, over remounts and new commits."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from riafs.vfs.kernel_cache import PROBE
from tests.fuse.mounting import Mounted, mounted
from tests.small import EPOCH, Files, Locked, SmallDataset, SmallStore, key_of, noise

pytestmark = pytest.mark.usefixtures("fuse")

DAY = 86_400
CONTENTS = {b"data/%02d.dat" % number: noise(4000, str(number)) for number in range(30)}
FILES: Files = {
    **{path: Locked(key_of(content)) for path, content in CONTENTS.items()},
    b"code/run.sh": b"run",
    b"code/deep/x": b"x",
    b"README": b"read",
}
MORE: Files = {**FILES, b"README": b"other", b"code/added": b"added", b"0": b"before all others"}
CHANGED = {b"README", b"code/added", b"0"}


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    made = SmallStore.make(tmp_path / "store").dataset("one", FILES)
    for content in CONTENTS.values():
        made.put(key_of(content), content)
    return made


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


@contextmanager
def shown(dataset: SmallDataset, tmp_path: Path) -> Iterator[Mounted]:
    """A new mount in the same place."""
    shutil.rmtree(tmp_path / "m", ignore_errors=True)
    with mounted(
        f"{dataset.path.parents[1]}", tmp_path / "m", "--times=changed", "--cache-dir", str(tmp_path / "c")
    ) as it:
        yield it


def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(dataset: SmallDataset) -> None:
    """What others did meanwhile: a changed file, and added ones, one of them before all others."""
    dataset.commit(MORE, time=EPOCH + DAY)


def identities(top: Path) -> dict[bytes, tuple[int, int, int]]:
    """What backups recognise a file by."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        found[os.fsencode(path.relative_to(top))] = status.st_ino, status.st_ctime_ns, status.st_mtime_ns
    return found


def test_unchanged_entries_keep_inode_and_times(dataset: SmallDataset, tmp_path: Path) -> None:
    with shown(dataset, tmp_path) as mount:
        first = identities(mount.path / "one")
    with shown(dataset, tmp_path) as mount:
        (mount.path / "one" / "code" / "deep" / "x").stat()  # another order of entering
        assert identities(mount.path / "one") == first
        commit(dataset)
        mount.refresh()
        newer = identities(mount.path / "one")
    with shown(dataset, tmp_path) as mount:
        assert identities(mount.path / "one") == newer
    assert {path for path in newer if newer[path] != first.get(path)} == CHANGED | {b"code"}
    assert newer[b"code"][0] == first[b"code"][0]
    assert newer[b"README"][0] != first[b"README"][0]


def test_restic_reads_only_what_changed(dataset: SmallDataset, tmp_path: Path) -> None:
    needs("restic")
    environment = {
        "RESTIC_PASSWORD": "x",
        "RESTIC_REPOSITORY": str(tmp_path / "r"),
        "XDG_CACHE_HOME": str(tmp_path / "x"),
    }
    run("restic", "init", environment=environment)

    def backup(top: Path) -> dict[str, int]:
        lines = run("restic", "backup", "--json", top, environment=environment).splitlines()
        summary = json.loads(lines[-1])
        return {name: summary[f"files_{name}"] for name in ("new", "changed", "unmodified")}

    total = len(FILES)
    with shown(dataset, tmp_path) as mount:
        assert backup(mount.path / "one") == {"new": total, "changed": 0, "unmodified": 0}
    with shown(dataset, tmp_path) as mount:
        assert backup(mount.path / "one") == {"new": 0, "changed": 0, "unmodified": total}
        assert mount.counter("opens") == 0
    commit(dataset)
    with shown(dataset, tmp_path) as mount:
        assert backup(mount.path / "one") == {"new": 2, "changed": 1, "unmodified": total - 1}


def test_borg_reads_only_what_changed(dataset: SmallDataset, tmp_path: Path) -> None:
    needs("borg")
    environment = {
        "BORG_BASE_DIR": str(tmp_path / "borg"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
    }  # fmt: skip
    run("borg", "init", "--encryption=none", tmp_path / "r", environment=environment)

    def backup(name: str, top: Path) -> set[str]:
        """Paths that borg takes for new or changed."""
        words = ("borg", "create", "--list", "--filter=AM", "--log-json", f"{tmp_path / 'r'}::{name}", top)
        done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        return {Path(line["path"]).name for line in lines if line["type"] == "file_status"}

    dataset.commit({**FILES, b"newest": b"1"}, time=EPOCH + 9)
    with shown(dataset, tmp_path) as mount:
        assert len(backup("1", mount.path / "one")) == len(FILES) + 1
    with shown(dataset, tmp_path) as mount:
        assert backup("2", mount.path / "one") == {"newest"}  # borg never trusts the newest time it has seen
        assert mount.counter("opens") >= 2 * len(FILES)  # one of them to ask for flags
        assert mount.counter("keys_verified") < PROBE
    dataset.commit({**MORE, b"newest": b"1"}, time=EPOCH + DAY)
    with shown(dataset, tmp_path) as mount:
        assert backup("3", mount.path / "one") == {"README", "added", "0", "newest"}


def test_tar_takes_only_what_changed(dataset: SmallDataset, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"

    def backup(top: Path) -> set[str]:
        archive = tmp_path / "a.tar"
        run("tar", "--no-check-device", "-g", snapshot, "-C", top, "-cf", archive, ".")
        return {name for name in run("tar", "-tf", archive).split() if not name.endswith("/")}

    with shown(dataset, tmp_path) as mount:
        assert len(backup(mount.path / "one")) == len(FILES)
    with shown(dataset, tmp_path) as mount:
        assert backup(mount.path / "one") == set()
    dataset.commit(MORE, time=snapshot.stat().st_mtime.__ceil__() + 5)
    with shown(dataset, tmp_path) as mount:
        assert backup(mount.path / "one") == {"./README", "./code/added", "./0"}
