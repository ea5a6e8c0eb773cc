"""A store that changes under a mount: what programs see, through the kernel and what it remembers."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.fuse.mounting import Mounted, mounted
from tests.small import EPOCH, Locked, SmallDataset, SmallStore, key_of, noise


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store to which tests add datasets of their own."""
    return SmallStore.make(tmp_path_factory.mktemp("changing") / "store")


@pytest.fixture(scope="module")
def mount(fuse: None, changing: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """Its mount."""
    with mounted(changing.path, tmp_path_factory.mktemp("changing-mount")) as made:
        yield made


@pytest.fixture
def dataset(changing: SmallStore, mount: Mounted, request: pytest.FixtureRequest) -> SmallDataset:
    """A new dataset, named after the test, that the mount already shows."""
    files = {b"same": b"same", b"changed": b"old", b"removed": b"removed", b"d/changed": b"old", b"d/removed": b""}
    made = changing.dataset(request.node.name, files)
    mount.refresh()
    return made


NEW = {b"same": b"same", b"changed": b"new content", b"added": b"added", b"d/changed": b"newer", b"d/added": b""}


@pytest.fixture
def top(mount: Mounted, dataset: SmallDataset) -> Path:
    """The dataset's directory in the mount."""
    return mount.path / dataset.alias


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_new_commit_is_seen_after_a_refresh(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    assert names(top) == ["changed", "d", "removed", "same"]
    assert not (top / "added").exists()
    assert [read_file(top / name) for name in ("changed", "d/changed")] == [b"old", b"old"]
    inodes = [os.stat(top / name).st_ino for name in ("same", "d", ".")]
    dataset.commit(NEW, time=EPOCH + 10)
    mount.refresh()
    assert names(top) == ["added", "changed", "d", "same"]
    assert names(top / "d") == ["added", "changed"]
    assert [read_file(top / name) for name in ("changed", "d/changed", "added")] == [b"new content", b"newer", b"added"]
    assert os.stat(top / "changed").st_size == len(b"new content")
    assert not (top / "removed").exists()
    assert [os.stat(top / name).st_ino for name in ("same", "d", ".")] == inodes


def test_open_file_and_map_keep_their_content(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    with (top / "changed").open("rb") as changed, (top / "removed").open("rb") as removed:
        dataset.commit(NEW)
        mount.refresh()
        assert (changed.read(), removed.read()) == (b"old", b"removed")
        assert os.fstat(changed.fileno()).st_size == 3


def test_program_in_a_changed_directory_sees_the_new_one(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    with subprocess.Popen(
        ["sh", "-c", "ls; echo; read x; ls; cat changed"],
        cwd=top / "d",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert [shell.stdout.readline() for _ in range(3)] == ["changed\n", "removed\n", "\n"]
        dataset.commit(NEW)
        mount.refresh()
        shell.stdin.write("\n")
        shell.stdin.close()
        assert shell.stdout.read() == "added\nchanged\nnewer"


def test_pinned_commit_stays(mount: Mounted, dataset: SmallDataset) -> None:
    pinned = mount.path / f"{dataset.alias}@{dataset.git('rev-parse', 'main')}"
    assert read_file(pinned / "changed") == b"old"
    dataset.commit(NEW)
    mount.refresh()
    assert read_file(pinned / "changed") == b"old"
    assert names(pinned) == ["changed", "d", "removed", "same"]


def test_tag_that_moves_is_followed(mount: Mounted, dataset: SmallDataset) -> None:
    dataset.git("tag", "t")
    tagged = mount.path / f"{dataset.alias}@t"
    assert read_file(tagged / "changed") == b"old"
    dataset.commit(NEW)
    dataset.git("tag", "-f", "t")
    mount.refresh()
    assert read_file(tagged / "changed") == b"new content"


def test_new_dataset_is_seen_and_a_removed_alias_is_gone(
    mount: Mounted, changing: SmallStore, dataset: SmallDataset
) -> None:
    assert not (mount.path / "newcomer").exists()
    changing.dataset("newcomer", {b"file": b"file"})
    (changing.path / "alias" / dataset.alias).unlink()
    mount.refresh()
    assert read_file(mount.path / "newcomer" / "file") == b"file"
    assert dataset.alias not in os.listdir(mount.path)
    assert not (mount.path / dataset.alias).exists()
    assert read_file(mount.path / "by-id" / dataset.id / "same") == b"same"


def test_many_moves_in_a_row(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    for number in range(20):
        dataset.commit({b"file": b"%d" % number, b"n%d" % number: b""})
        mount.refresh()
        assert read_file(top / "file") == b"%d" % number
        assert names(top) == ["file", f"n{number}"]


def test_object_deleted_after_it_was_read_is_an_error_when_opened_again(
    mount: Mounted, dataset: SmallDataset, top: Path
) -> None:
    content = noise(200_000)
    path = dataset.put(key_of(content), content)
    dataset.commit({b"file": Locked(key_of(content))})
    mount.refresh()
    with (top / "file").open("rb") as file:
        path.unlink()
        assert file.read() == content
    assert errno_of(lambda: read_file(top / "file")) == errno.EIO
    assert os.stat(top / "file").st_size == len(content)


def test_pruned_commit_is_an_error_and_the_mount_lives(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    commit = dataset.commit({b"d/doomed": noise(5000, "doomed"), b"e/doomed": noise(5000, "too")}, "refs/heads/doomed")
    pinned = mount.path / f"{dataset.alias}@{commit}"
    assert names(pinned) == ["d", "e"]
    dataset.git("update-ref", "-d", "refs/heads/doomed")
    dataset.git("gc", "--quiet", "--prune=now")
    assert errno_of(lambda: read_file(pinned / "e" / "doomed")) == errno.EIO
    assert read_file(top / "same") == b"same"


def test_repacked_repository_is_read_on(mount: Mounted, dataset: SmallDataset, top: Path) -> None:
    assert read_file(top / "same") == b"same"
    dataset.git("repack", "-adq")
    dataset.git("pack-refs", "--all")
    dataset.commit(NEW)
    mount.refresh()
    assert read_file(top / "changed") == b"new content"
    assert read_file(top / "d" / "changed") == b"newer"
