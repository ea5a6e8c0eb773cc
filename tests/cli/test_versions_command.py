"""``riafs versions``: a dataset's, a store's, and those of a path in a mount."""

import json
import os
from pathlib import Path

import pytest

from riafs.cli import main
from tests.daemon.conftest import Run, mountpoint, riafs
from tests.plugins.log_hygiene import Announce
from tests.small import EPOCH, SmallDataset, SmallStore

__all__ = ["mountpoint", "riafs"]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def study(store: SmallStore) -> SmallDataset:
    made = store.dataset("study", {b"raw/a": b"1", b"b": b"1"})
    made.git("tag", "v1.0", "main")
    made.commit({b"raw/a": b"2", b"b": b"1"}, time=EPOCH + 60)
    made.commit({b"raw/a": b"2", b"b": b"2"}, time=EPOCH + 120)
    made.git("update-ref", "refs/heads/git-annex", "main")
    return made


def listed(said: str) -> list[tuple[str, str]]:
    [found] = json.loads(said)
    return [(each["kind"], each["name"]) for each in found["versions"]]


def test_a_dataset_has_branches_tags_and_newest_commits(
    study: SmallDataset, store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run("riafs", ["versions", f"{store.path}#~study", "--json", "-n", "2"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    commits = study.git("log", "--format=%H", "main").split()
    assert (found["name"], found["dataset"], found["shown"]) == ("study", study.id, commits[0])
    assert [(each["kind"], each["name"], each["commit"]) for each in found["versions"]] == [
        ("branch", "main", commits[0]),
        ("tag", "v1.0", commits[2]),
        ("commit", commits[0], commits[0]),
        ("commit", commits[1], commits[1]),
    ]
    assert {"date", "author", "subject"} <= found["versions"][0].keys()
    assert main.run("riafs", ["versions", f"{store.path}#{study.id}@v1.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["KIND", "NAME", "COMMIT", "DATE", "AUTHOR", "SUBJECT"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["branch", "main"],
        ["tag", "v1.0"],
        ["commit", commits[2][:10]],
    ]
    assert main.run("riafs", ["versions", f"{store.path}#~study", "--all", "--json", "-n", "0"]) == 0
    assert listed(capsys.readouterr().out) == [("branch", "git-annex"), ("branch", "main"), ("tag", "v1.0")]


def test_a_store_has_those_of_each_of_its_datasets(
    study: SmallDataset, store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = store.dataset("gone", {b"x": b"x"})
    os.unlink(store.path / "alias" / "gone")
    store.dataset("new")
    assert main.run("riafs", ["versions", str(store.path)]) == 0
    said = capsys.readouterr()
    assert [line.split()[:3] for line in said.out.splitlines()[1:]] == [
        ["study", "branch", "main"],
        ["study", "tag", "v1.0"],
        [f"by-id/{nameless.id}", "branch", "main"],
    ]
    assert "new has no version yet" in said.err


def test_a_dataset_that_cannot_be_read_is_named_and_the_others_are_listed(
    study: SmallDataset, store: SmallStore, capsys: pytest.CaptureFixture[str], expected_warnings: Announce
) -> None:
    expected_warnings("cannot be shown: not a reference")
    bad = store.dataset("bad", {b"x": b"x"})
    (bad.path / "HEAD").write_text("not what git writes\n")
    assert main.run("riafs", ["versions", str(store.path)]) != 0
    said = capsys.readouterr()
    assert "riafs: bad: " in said.err
    assert {line.split()[0] for line in said.out.splitlines()[1:]} == {"study"}


def test_what_has_no_versions_is_refused_in_one_line(
    study: SmallDataset, store: SmallStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run("riafs", ["versions", f"{store.path}#study"]) == 32
    assert f"did you mean {store.path}#~study?" in capsys.readouterr().err
    assert main.run("riafs", ["versions", "keep+file:///volume?manifests=/m"]) == 1
    assert "only datasets have versions" in capsys.readouterr().err


@pytest.mark.usefixtures("fuse")
def test_a_path_in_a_mount_has_the_commits_that_changed_it(
    study: SmallDataset, store: SmallStore, riafs: Run, mountpoint: Path
) -> None:
    commits = study.git("log", "--format=%H", "main").split()
    assert riafs("mount", store.path, mountpoint).returncode == 0
    named = [("branch", "main"), ("tag", "v1.0")]
    for path, changing in {
        "": commits,
        "raw": commits[1:],
        "raw/a": commits[1:],
        "b": [commits[0], commits[2]],
    }.items():
        done = riafs("versions", mountpoint / "study" / path, "--json")
        assert listed(done.stdout) == named + [("commit", each) for each in changing]
    done = riafs("versions", mountpoint / "study@v1.0" / "b", "--json")
    assert listed(done.stdout) == [*named, ("commit", commits[2])]
    assert [each["name"] for each in json.loads(riafs("versions", mountpoint, "--json").stdout)] == ["study"]
    assert os.listdir(mountpoint / ".riafs" / "versions" / "study" / "tags") == ["v1.0"]
    assert riafs("umount", mountpoint).returncode == 0
