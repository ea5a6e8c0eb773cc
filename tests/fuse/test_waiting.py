"""Waiting for the kernel's requests: each is read once, others have their turns, and the end reaches everybody."""

import fcntl
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.lowlevel
import trio.testing

from riafs.fuse import waiting
from riafs.fuse.waiting import MOST, Waiting, is_readable, wait_eagerly
from tests.fuse.mounting import mounted
from tests.small import SmallStore

_HIGH = 2000


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Where requests are read, without waiting, and where they come from."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_each_request_is_read_once_however_many_wait(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    wait = Waiting()
    read: list[bytes] = []
    all_read = trio.Event()

    async def worker() -> None:
        while True:
            await wait.wait_readable(ours.fileno())
            read.append(ours.recv(1))  # BlockingIOError where somebody else was faster
            if len(read) == 300:
                all_read.set()
            if len(read) % 3 == 0:
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(worker)
        for number in range(300):
            theirs.send(bytes([number % 256]))
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        with trio.fail_after(30):
            await all_read.wait()
        nursery.cancel_scope.cancel()
    assert read == [bytes([number % 256]) for number in range(300)]


async def test_others_have_their_turn_while_requests_keep_coming(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "is_readable", lambda *_: True)
    wait = Waiting()
    ends[1].send(b"x")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(MOST * 20):
            await wait.wait_readable(ends[0].fileno())
        nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_the_end_reaches_all_who_wait(ends: tuple[socket.socket, socket.socket]) -> None:
    wait = Waiting()
    told = 0

    async def worker() -> None:
        nonlocal told
        with pytest.raises(trio.ClosedResourceError):
            await wait.wait_readable(ends[0].fileno())
        told += 1

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(worker)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.notify_closing(ends[0])
    assert told == 3


async def test_who_is_cancelled_leaves_the_wait_to_the_next(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    wait = Waiting()
    first = trio.CancelScope()
    read = trio.Event()

    async def impatient() -> None:
        with first:
            await wait.wait_readable(ours.fileno())

    async def patient() -> None:
        await wait.wait_readable(ours.fileno())
        read.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(impatient)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(patient)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            theirs.send(b"x")
            await read.wait()


def test_high_descriptors_can_be_asked(ends: tuple[socket.socket, socket.socket]) -> None:
    high = fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, _HIGH)
    try:
        assert not is_readable(high, 0.0)
        ends[1].send(b"x")
        assert is_readable(high, 0.0)
    finally:
        os.close(high)


@pytest.mark.parametrize("version", ["3.6.0", "4.0", "3.50.1", "3"])
def test_an_unknown_pyfuse3_waits_by_itself(
    version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pyfuse3, "__version__", version)
    monkeypatch.setattr(pyfuse3, "trio", trio, raising=False)
    with caplog.at_level("INFO", logger="riafs.fuse.waiting"):
        assert not wait_eagerly()
    assert pyfuse3.trio is trio  # type: ignore[attr-defined]  # not declared
    assert f"pyfuse3 {version} waits for requests by itself" in caplog.text


@pytest.mark.parametrize("version", ["3.4.0", "3.5.0", "3.5.7"])
def test_a_known_pyfuse3_gets_our_waiting(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyfuse3, "__version__", version)
    monkeypatch.setattr(pyfuse3, "trio", trio, raising=False)
    assert wait_eagerly()
    assert pyfuse3.trio.Lock is not trio.Lock  # type: ignore[attr-defined]  # not declared


def test_a_mount_works_with_a_pyfuse3_that_waits_by_itself(fuse: None, tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    names = [f"{number:03}" for number in range(100)]
    store.dataset("one", {name.encode(): name.encode() for name in names})
    command = ("-m", "tests.faults.sabotage", "unknown_pyfuse3")
    with mounted(store.path, tmp_path / "mounted", "-v", command=command) as mount:
        one = mount.path / "one"
        with ThreadPoolExecutor(8) as readers:
            contents = list(readers.map(lambda name: (one / name).read_text(), names))
        assert contents == names
        assert sorted(os.listdir(one)) == names
        assert "pyfuse3 9.0.0 waits for requests by itself" in mount.logged()
