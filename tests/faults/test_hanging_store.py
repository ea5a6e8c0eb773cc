"""A store that does not answer: ETIMEDOUT when the deadline has passed, and its neighbours are served meanwhile."""

import errno
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.faults.conftest import MountWith
from tests.small import Locked, SmallDataset, SmallStore, noise
from tests.waiting import eventually

DEADLINE = 1.0
CONTENT = noise(300_000)
BAD_KEY = b"WORM-s300000-m1--bad"
GOOD_KEY = b"WORM-s300000-m1--good"


@pytest.fixture
def dataset(store: SmallStore) -> SmallDataset:
    """A dataset with one file that hangs."""
    dataset = store.dataset("one", {b"hangs": Locked(BAD_KEY), b"good": Locked(GOOD_KEY), b"git": b"git"})
    for key in (BAD_KEY, GOOD_KEY):
        dataset.put(key, CONTENT)
    return dataset


@pytest.mark.parametrize("sabotage", ["hanging_store", "hanging_reads"])
def test_reader_gets_a_timeout_and_others_their_content(
    dataset: SmallDataset, mount_with: MountWith, sabotage: str
) -> None:
    with mount_with(sabotage, "--deadline", str(DEADLINE)) as mount:
        one = mount.path / "one"
        os.stat(one / "hangs")
        waiting = threading.Thread(target=fails_in_time, args=(one / "hangs",))
        waiting.start()
        began = time.monotonic()
        assert read_file(one / "good") == CONTENT
        assert read_file(one / "git") == b"git"
        assert sorted(os.listdir(one)) == ["git", "good", "hangs"]
        assert time.monotonic() - began < DEADLINE
        waiting.join()
        assert mount.counter("store_timeouts") >= 1
        assert "did not answer within 1 s" in mount.logged()
        assert read_file(one / "good") == CONTENT


def fails_in_time(path: Path) -> None:
    """The kernel asks twice, once for the page and its read-ahead, once for the page alone: that is one request."""
    began = time.monotonic()
    assert errno_of(lambda: read_file(path)) in {errno.ETIMEDOUT, errno.EIO}
    assert DEADLINE / 2 < time.monotonic() - began < 2 * DEADLINE


@pytest.mark.parametrize("access", ["open", "attribute", "read"])
def test_one_request_has_one_deadline_whatever_is_tried(store: SmallStore, mount_with: MountWith, access: str) -> None:
    """Four directories, three archives, the git-annex branch and a special remote would each take one."""
    dataset = store.dataset("one", {b"file": Locked(GOOD_KEY), b"more": Locked(BAD_KEY)})
    dataset.archive({GOOD_KEY: CONTENT}, "-mx1")
    dataset.annex_branch({b"remote.log": b"x archive-id=%b name=s chunk=1000\n" % dataset.id.encode()})
    sabotage = "hanging_reads" if access == "read" else "hanging_objects"
    if access == "read":
        dataset.put(BAD_KEY, CONTENT)
    with mount_with(sabotage, "--deadline", str(2 * DEADLINE)) as mount:
        file = mount.path / "one" / ("more" if access == "read" else "file")
        os.stat(file)
        began = time.monotonic()
        calls = {
            "open": lambda: os.close(os.open(file, os.O_RDONLY)),
            "attribute": lambda: os.getxattr(file, "user.riafs.where"),
            "read": lambda: read_file(file),
        }
        if access == "attribute":
            calls[access]()
        else:
            assert errno_of(calls[access]) in {errno.ETIMEDOUT, errno.EIO}
        assert DEADLINE < time.monotonic() - began < 4 * DEADLINE


@pytest.mark.parametrize("access", ["look-up", "listing", "attribute"])
def test_names_have_one_deadline_too(store: SmallStore, mount_with: MountWith, access: str) -> None:
    """A walk reads what comes next as well, and a look-up first a tree and then what its entries are."""
    files = {b"%d/file" % number: b"%d" % number for number in range(4)}
    dataset = store.dataset("one", files | {b"4/%d" % number: b"%d" % number for number in range(300)})
    with mount_with("hanging_git", "--deadline", str(2 * DEADLINE)) as mount:
        top = mount.path / "one"
        assert len(os.listdir(top)) == 5
        assert len(os.listdir(top / "4")) == 300  # git is started for so many
        (dataset.path / "hang").touch()
        calls = {
            "look-up": lambda: os.stat(top / "2" / "file"),
            "listing": lambda: os.listdir(top / "1"),
            "attribute": lambda: os.getxattr(f"{top}@next", "user.riafs.commit"),
        }
        began = time.monotonic()
        if access == "attribute":
            dataset.git("branch", "next")
        assert errno_of(calls[access]) == errno.ETIMEDOUT
        assert DEADLINE < time.monotonic() - began < 4 * DEADLINE


def test_killed_reader_is_gone_when_the_deadline_has_passed(dataset: SmallDataset, mount_with: MountWith) -> None:
    with mount_with("hanging_reads", "--deadline", str(DEADLINE)) as mount:
        reader = subprocess.Popen(["cat", mount.path / "one" / "hangs"], stdout=subprocess.DEVNULL)
        os.stat(mount.path / "one" / "good")
        reader.send_signal(signal.SIGKILL)
        assert reader.wait(timeout=4 * DEADLINE + 2) == -signal.SIGKILL


def test_hundred_stuck_readers_leave_the_rest_of_the_mount_quick(
    dataset: SmallDataset, store: SmallStore, mount_with: MountWith
) -> None:
    files = {b"%d" % number: Locked(BAD_KEY + b"%d" % number) for number in range(100)}
    stuck = store.dataset("stuck", files)
    for number in range(100):
        stuck.put(BAD_KEY + b"%d" % number, CONTENT)
    with mount_with("hanging_reads", "--deadline", "1.5") as mount:
        assert len(os.listdir(mount.path / "stuck")) == 100
        assert read_file(mount.path / "one" / "git") == b"git"
        nothing = subprocess.DEVNULL
        stuck_files = [mount.path / "stuck" / str(number) for number in range(100)]
        readers = [subprocess.Popen(["cat", path], stdout=nothing, stderr=nothing) for path in stuck_files]
        wait_for_opens(mount.path, 100)
        began = time.monotonic()
        os.stat(mount.path / "stuck" / "5")
        assert read_file(mount.path / "one" / "git") == b"git"
        assert time.monotonic() - began < 1
        assert all(reader.wait(timeout=15) == 1 for reader in readers)


def wait_for_opens(mountpoint: Path, count: int) -> None:
    """Until so many files have been opened."""

    def opens() -> int:
        text = read_file(mountpoint / ".riafs" / "stats").decode()
        return int(dict(line.split() for line in text.splitlines())["opens"])

    eventually(lambda: opens() >= count)
