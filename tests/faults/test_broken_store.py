"""A store that breaks under a mount: errors where it is broken, service everywhere else."""

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.faults.conftest import MountWith
from tests.fuse.mounting import Mounted, run_riafs
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

CONTENT = noise(200_000)
KEY = key_of(CONTENT)


@pytest.fixture
def one(store: SmallStore) -> SmallDataset:
    """A dataset with packed objects, and a neighbour."""
    store.dataset("neighbour", {b"file": b"neighbour"})
    files = {b"d%d/f%d" % (number, number): noise(3000, str(number)) for number in range(50)}
    dataset = store.dataset("one", {**files, b"annexed": Locked(KEY)})
    dataset.put(KEY, CONTENT)
    dataset.git("repack", "-adq")
    return dataset


def read_errno(path: Path) -> int | None:
    return errno_of(lambda: read_file(path))


def test_truncated_pack(store: SmallStore, one: SmallDataset, mount_with: MountWith) -> None:
    with mount_with() as mount:
        assert len(os.listdir(mount.path / "one")) == 51
        [pack] = (one.path / "objects" / "pack").glob("*.pack")
        pack.chmod(0o644)
        os.truncate(pack, 200)
        failed = [read_errno(mount.path / "one" / f"d{number}" / f"f{number}") for number in range(30, 33)]
        assert failed == [errno.EIO] * 3
        assert read_file(mount.path / "neighbour" / "file") == b"neighbour"
        assert read_file(mount.path / "one" / "annexed") == CONTENT
        assert mount.counter("handler_errors") == 0
        assert one.id in mount.logged()


def test_pack_that_was_truncated_before(store: SmallStore, one: SmallDataset, mount_with: MountWith) -> None:
    [pack] = (one.path / "objects" / "pack").glob("*.pack")
    pack.chmod(0o644)
    os.truncate(pack, pack.stat().st_size // 2)
    with mount_with() as mount:
        subprocess.run(["find", mount.path, "-ls"], capture_output=True)
        assert read_file(mount.path / "neighbour" / "file") == b"neighbour"
        assert mount.counter("handler_errors") == 0


def test_killed_git_child(store: SmallStore, one: SmallDataset, mount_with: MountWith) -> None:
    few = {b"d%d/f%d" % (number, number): noise(3000, str(number)) for number in range(5)}
    one.commit(few | {b"many/%d" % number: b"%d" % number for number in range(300)})
    with mount_with() as mount:
        assert len(os.listdir(mount.path / "one/many")) == 300  # for so many git is started
        for number in range(5):
            expected = noise(3000, str(number))
            kill_git_children(mount)
            path = mount.path / "one" / f"d{number}" / f"f{number}"
            assert read_or_errno(path) == expected
        assert mount.counter("git_restarts") >= 1


def read_or_errno(path: Path) -> bytes | int | None:
    try:
        return read_file(path)
    except OSError as error:
        return error.errno


def kill_git_children(mount: Mounted) -> None:
    """Kill the children of this daemon, each by its process id."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(mount.pid)], capture_output=True, text=True)
    for pid, _, command in (line.strip().partition(" ") for line in listed.stdout.splitlines()):
        if "cat-file" in command:
            os.kill(int(pid), signal.SIGKILL)


def test_vanished_store(store: SmallStore, one: SmallDataset, mount_with: MountWith, tmp_path: Path) -> None:
    with mount_with() as mount:
        assert os.listdir(mount.path / "one")
        with (mount.path / "one" / "annexed").open("rb", buffering=0) as opened:
            shutil.move(store.path, tmp_path / "away")
            shutil.rmtree(tmp_path / "away" / one.id[:3])
            assert read_errno(mount.path / "one" / "annexed") == errno.EIO
            assert opened.read(1000) == CONTENT[:1000]
        # git may have the pack open still
        assert read_or_errno(mount.path / "one" / "d3" / "f3") in (errno.EIO, noise(3000, "3"))
        mount.refresh()
        assert os.statvfs(mount.path).f_namemax == 255
        assert mount.counter("handler_errors") == 0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are made private by each session that begins."""
    with tempfile.TemporaryDirectory(prefix="riafs-public-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_object_that_another_user_may_not_read(public: Path) -> None:
    store = SmallStore.make(public / "store")
    store.dataset("neighbour", {b"file": b"neighbour"})
    store.dataset("one", {b"annexed": Locked(KEY)}).put(KEY, CONTENT).chmod(0o600)
    program = f"import tests.faults.unprivileged as it; it.main({str(store.path)!r})"
    done = run_riafs(program, command=("-c",))
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["StoreDenied EACCES", "neighbour"]


def test_more_open_files_than_descriptors(store: SmallStore, mount_with: MountWith) -> None:
    contents = [noise(200_000, str(number)) for number in range(100)]
    dataset = store.dataset("one", {b"%03d" % number: Locked(key_of(each)) for number, each in enumerate(contents)})
    for each in contents:
        dataset.put(key_of(each), each)
    with mount_with("few_descriptors") as mount:
        opened = []
        refused: set[int | None] = set()
        for number in range(100):
            try:
                opened.append((mount.path / "one" / f"{number:03}").open("rb"))
            except OSError as error:
                refused.add(error.errno)
        assert opened
        assert refused <= {errno.EIO}
        for file in opened:
            file.close()
        assert read_file(mount.path / "one" / "099") == contents[99]
        assert mount.counter("handler_errors") == 0


def test_readers_and_a_busy_store(store: SmallStore, one: SmallDataset, mount_with: MountWith) -> None:
    """Many programs list and read while the store is written to and looked at again and again."""
    with mount_with() as mount:
        failures: list[object] = []

        def read_all() -> None:
            for _ in range(3):
                for directory, _, files in os.walk(mount.path / "one"):
                    for name in files:
                        found = read_or_errno(Path(directory, name))
                        if not isinstance(found, bytes):
                            failures.append((directory, name, found))

        readers = [threading.Thread(target=read_all) for _ in range(4)]
        for reader in readers:
            reader.start()
        for number in range(10):
            one.commit({b"d%d/f%d" % (each, each): noise(3000, f"{each}-{number}") for each in range(50)})
            mount.refresh()
        for reader in readers:
            reader.join()
        assert [each for each in failures if not _removed(each)] == []
        assert mount.counter("handler_errors") == 0


def _removed(failure: object) -> bool:
    """The annexed file is not in the newer commits."""
    return re.search(r"'annexed', 2\)$", repr(failure)) is not None
