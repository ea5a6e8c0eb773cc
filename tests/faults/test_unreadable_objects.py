"""Git objects that cannot be read: said with the reason, and asked for again after a repair, without a remount."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.faults.conftest import MountWith
from tests.small import Link, Locked, Registered, SmallDataset, SmallStore, key_of
from tests.waiting import eventually

CONTENT = b"annexed content"


@pytest.fixture
def dataset(store: SmallStore) -> SmallDataset:
    """A dataset with a subdataset and a file of each kind."""
    sub = store.dataset("sub", {b"inside": b"of the subdataset"})
    modules = f'[submodule "s"]\n\tpath = sub\n\turl = ./sub\n\tdatalad-id = {sub.id}\n'
    files = {
        b".gitmodules": modules.encode(),
        b"sub": Registered(sub.git("rev-parse", "main")),
        b"annexed": Locked(key_of(CONTENT)),
        b"link": Link(b"plain"),
        b"plain": b"content in git",
    }
    dataset = store.dataset("one", files)
    dataset.put(key_of(CONTENT), CONTENT)
    return dataset


@contextmanager
def lost(dataset: SmallDataset, *revisions: str) -> Iterator[None]:
    """Without some objects for a while."""
    away = {}
    for revision in revisions:
        oid = dataset.git("rev-parse", revision)
        path = dataset.path / "objects" / oid[:2] / oid[2:]
        away[path] = path.read_bytes()
        path.unlink()
    yield
    for path, content in away.items():
        path.write_bytes(content)


def shown_in_full(path: Path, size: int) -> bool:
    """Whether a file is shown with its size; the kernel answers EIO once where a link became a file."""
    try:
        return path.lstat().st_size == size
    except OSError:
        return False


@pytest.mark.parametrize("words", [(), ("-o", "rw")], ids=["ro", "rw"])
def test_repaired_files_are_shown_without_a_remount(
    dataset: SmallDataset, mount_with: MountWith, tmp_path: Path, words: tuple[str, ...]
) -> None:
    options = (*words, "--overlay", str(tmp_path / "overlay")) if words else ()
    with mount_with(None, "--refresh", "0.1", *options) as mount:
        one = mount.path / "one"
        with lost(dataset, "main:annexed", "main:link", "main:plain"):
            assert sorted(os.listdir(one)) == [".gitmodules", "annexed", "link", "plain", "sub"]
            assert [errno_of(lambda name=name: read_file(one / name)) for name in ("annexed", "plain")] == [
                errno.EIO, errno.EIO
            ]  # fmt: skip
            assert errno_of(lambda: os.readlink(one / "link")) == errno.EIO
        # the kernel may remember for the time of a refresh
        eventually(lambda: shown_in_full(one / "annexed", len(CONTENT)))
        assert read_file(one / "annexed") == CONTENT
        assert os.readlink(one / "link") == "plain"
        assert read_file(one / "plain") == b"content in git"
        assert mount.counter("handler_errors") == 0


def test_unreadable_gitmodules_are_the_reason_until_they_are_repaired(
    dataset: SmallDataset, mount_with: MountWith
) -> None:
    with mount_with() as mount:
        sub = mount.path / "one" / "sub"
        with lost(dataset, "main:.gitmodules"):
            assert os.listdir(sub) == []
            assert b".gitmodules of" in os.getxattr(sub, "user.riafs.error")
        for _ in range(6):  # such a place is looked at in each sixth round
            mount.refresh()
        assert read_file(sub / "inside") == b"of the subdataset"


def test_unreadable_commit_of_a_subdataset_is_not_one_that_the_store_does_not_have(
    store: SmallStore, dataset: SmallDataset, mount_with: MountWith
) -> None:
    sub = SmallDataset(store.path / os.readlink(store.path / "alias" / "sub").removeprefix("../"), "", "sub")
    (sub.path / "objects").rename(sub.path / "away")
    with mount_with() as mount:
        shown = mount.path / "one" / "sub"
        assert os.listdir(shown) == []
        assert b"cannot be read" in os.getxattr(shown, "user.riafs.error")
        (sub.path / "away").rename(sub.path / "objects")
        for _ in range(6):
            mount.refresh()
        assert read_file(shown / "inside") == b"of the subdataset"
