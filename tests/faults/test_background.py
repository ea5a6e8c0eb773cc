"""What goes wrong in a background task costs what it was doing: the mount lives, and the next request is right."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.daemon.ask import ask
from riafs.daemon.mounts import mount_at
from tests.faults.conftest import MountWith
from tests.fuse.mounting import Mounted, run_riafs
from tests.small import Locked, SmallStore, key_of, noise

BIG = noise((16 << 20) + 1000, "big")
MEMBERS = {b"m%d" % number: noise(300_000 + number, f"m{number}") for number in range(6)}


@pytest.fixture
def files(store: SmallStore) -> dict[str, bytes]:
    """Path in the mount → content: in git, hashed beside readers, decoded from a solid archive."""
    files = {b"in-git": b"in git", b"big": BIG, **MEMBERS}
    keys = {name: key_of(content) for name, content in files.items() if name != b"in-git"}
    dataset = store.dataset("one", {b"in-git": b"in git"} | {name: Locked(key) for name, key in keys.items()})
    dataset.put(keys[b"big"], BIG)
    dataset.archive({keys[name]: content for name, content in MEMBERS.items()}, "-mx1", "-ms=on")
    return {f"one/{name.decode()}": content for name, content in files.items()}


def attempts(read: Callable[[], bytes], content: bytes) -> int:
    """Reads until it succeeds; never wrong bytes. How often that took."""
    for attempt in range(1, 12):
        try:
            assert read() == content
        except OSError:
            continue
        return attempt
    raise AssertionError("it never succeeds")


def exercise(mount: Mounted, files: dict[str, bytes]) -> None:
    """Let every background task do something."""
    os.kill(mount.pid, signal.SIGUSR1)
    os.kill(mount.pid, signal.SIGHUP)
    place = mount_at(str(mount.path))
    assert place is not None
    for command in ("status", "changes", "refresh"):
        replies = [ask(place, command, os.environ) for _ in range(4)]
        assert "error" not in replies[-1], command
    new = mount.path / "one" / "new"
    attempts(lambda: b"new"[: new.write_bytes(b"new")], b"new")
    for _ in range(2):
        for path, content in files.items():
            attempts((mount.path / path).read_bytes, content)
    assert new.read_bytes() == b"new"


@pytest.mark.parametrize("failure", ["bug", "thread", "memory", "system"])
def test_every_background_task_may_fail_once(
    mount_with: MountWith, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setenv("RIAFS_FAILURE", failure)
    words = ("--overlay", str(tmp_path / "over"), "--cache-dir", str(tmp_path / "cache"), "--refresh", "1")
    with mount_with("each_task_fails_once", *words) as mount:
        exercise(mount, files)
        assert 0 in [run_riafs("push", mount.path, "-m", "x").returncode for _ in range(3)]
        assert (mount.path / "one" / "new").read_bytes() == b"new"
        assert mount.counter("task_failures") >= 3
        assert "everything else goes on" in mount.logged()
        for path, content in files.items():
            assert (mount.path / path).read_bytes() == content


def test_threads_that_cannot_be_started_cost_one_request_each(
    mount_with: MountWith, files: dict[str, bytes], tmp_path: Path
) -> None:
    with mount_with("no_thread_at_first", "--overlay", str(tmp_path / "over")) as mount:
        exercise(mount, files)
        assert "no more thread can be started" in mount.logged()
        for path, content in files.items():
            assert (mount.path / path).read_bytes() == content


def test_the_control_socket_answers_when_readers_have_all_descriptors(mount_with: MountWith, store: SmallStore) -> None:
    content = {b"f%d" % number: noise(200_000, f"{number}") for number in range(70)}
    keys = {name: key_of(each) for name, each in content.items()}
    dataset = store.dataset("one", {name: Locked(key) for name, key in keys.items()})
    for name, each in content.items():
        dataset.put(keys[name], each)
    with mount_with("few_descriptors", "--verify", "never") as mount:
        opened: list[int] = []
        try:
            for name in content:
                opened.append(os.open(os.fsencode(mount.path) + b"/one/" + name, os.O_RDONLY))
        except OSError:
            pass
        try:
            assert len(opened) < len(content), "there were descriptors enough"
            for _ in range(3):
                assert mount.status()["counters"]["opens"] >= len(opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)
