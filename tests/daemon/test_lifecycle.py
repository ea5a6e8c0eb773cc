"""The life of a mount with something else in the place of the file system: readiness, signals, control, ending."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.counters import Counters
from riafs.daemon import ask, control, lifecycle
from riafs.daemon.logs import RecentErrors
from riafs.daemon.mounts import Mount
from riafs.daemon.plan import MountPlan
from riafs.errors import Busy, Interrupted, MountFailed, OutOfMemory, SourceNotFound, StoreTimeout, TaskFailed
from riafs.formats.sources import parse_ria_source
from riafs.settings import Directories, Given, load
from riafs.tasks import Background
from tests.waiting import pass_time


@dataclass(slots=True)
class Fake:
    """Serves until `over` is set; everything that is done with it is noted."""

    done: list[str] = field(default_factory=list)
    over: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        if self.failure is not None:
            raise self.failure
        task_status.started()
        try:
            await self.over.wait()
        finally:
            self.done.append("unmounted")

    async def refresh(self) -> None:
        self.done.append("refreshed")

    commands: dict[str, control.Command] = field(default_factory=dict)

    async def status(self) -> dict[str, object]:
        return {"said": "something"}

    def close(self) -> None:
        self.done.append("closed")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MountPlan:
    mountpoint = str(tmp_path / "mnt")
    os.mkdir(mountpoint)
    mount = Mount(mountpoint, "0:9999", "fuse.riafs", "s", os.getuid())
    monkeypatch.setattr(lifecycle, "mount_at", lambda path: mount if path == mountpoint else None)
    monkeypatch.setattr("riafs.daemon.ask.runtime_directory", lambda *_: str(tmp_path / "run"))
    given = [Given("log", str(tmp_path / "log"), "test"), Given("cache-dir", str(tmp_path / "c"), "test")]
    directories = Directories(str(tmp_path / "c"), str(tmp_path / "run"), str(tmp_path / "l"))
    source = parse_ria_source("ria+file:///store")
    return MountPlan(
        source=source,
        settings=load({}, given).settings,
        environment={},
        instead_of=(),
        mountpoint=mountpoint,
        directories=directories,
    )


def live(plan: MountPlan, fake: Fake, announce: Callable[[], None] = lambda: None) -> None:
    """Run `fake` as the mount of `plan`."""

    async def assemble(*_: object) -> Fake:
        return fake

    lifecycle.run(plan, assemble, announce)


def send(*numbers: int) -> Callable[[], None]:
    """Something to announce: send signals to this process, one after another."""

    def sending() -> None:
        for number in numbers:
            pass_time(0.05)  # else two become one
            os.kill(os.getpid(), number)

    return threading.Thread(target=sending, daemon=True).start


@pytest.fixture
def no_unmounting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what would have been unmounted."""
    seen: list[str] = []
    monkeypatch.setattr(lifecycle, "unmount", lambda mount, **_: seen.append(mount.mountpoint))
    return seen


def test_readiness_is_announced_once_and_an_unmount_ends_it(plan: MountPlan) -> None:
    fake, announced = Fake(), []

    def announce() -> None:
        announced.append(True)
        fake.over.set()

    live(plan, fake, announce)
    assert announced == [True]
    assert fake.done == ["unmounted", "closed"]


def test_a_source_that_is_not_there_is_never_announced(plan: MountPlan) -> None:
    async def assemble(*_: object) -> Fake:
        raise SourceNotFound("nowhere")

    with pytest.raises(SourceNotFound, match="nowhere"):
        lifecycle.run(plan, assemble, pytest.fail)


def test_a_mount_that_fails_is_closed_and_its_reason_raised(plan: MountPlan) -> None:
    fake = Fake(failure=MountFailed("refused"))
    with pytest.raises(MountFailed, match="refused"):
        live(plan, fake, pytest.fail)
    assert fake.done == ["closed"]


def test_a_source_that_does_not_answer_fails_in_time(plan: MountPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    async def assemble(*_: object) -> Fake:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(lifecycle, "OPEN_SECONDS", 0.1)
    with pytest.raises(StoreTimeout, match="did not answer"):
        lifecycle.run(plan, assemble, pytest.fail)


def test_a_starter_that_has_gone_ends_the_mount(plan: MountPlan) -> None:
    def announce() -> None:
        raise MountFailed("who started the mount has gone")

    fake = Fake()
    with pytest.raises(MountFailed, match="has gone"):
        live(plan, fake, announce)
    assert fake.done == ["unmounted", "closed"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGXCPU])
def test_a_signal_lets_readers_finish_for_a_bounded_time(
    plan: MountPlan, number: int, monkeypatch: pytest.MonkeyPatch, no_unmounting: list[str]
) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_SECONDS", 0.3)
    fake = Fake()
    began = time.monotonic()
    live(plan, fake, send(number))
    assert 0.3 <= time.monotonic() - began < 5
    assert no_unmounting == [plan.mountpoint]
    assert fake.done == ["unmounted", "closed"]


def test_a_second_signal_does_not_wait(plan: MountPlan, no_unmounting: list[str]) -> None:
    began = time.monotonic()
    live(plan, Fake(), send(signal.SIGTERM, signal.SIGTERM))
    assert time.monotonic() - began < lifecycle.DRAIN_SECONDS / 2


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGVTALRM, signal.SIGIO, signal.SIGXFSZ, 64])
def test_other_signals_that_would_kill_are_not_followed(plan: MountPlan, number: int, no_unmounting: list[str]) -> None:
    fake = Fake()
    live(plan, fake, send(number, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM))
    assert fake.done == ["refreshed", "unmounted", "closed"]
    assert f"signal {int(number)} is not followed" in Path(plan.settings.log).read_text()


def test_a_signal_before_readiness_interrupts(plan: MountPlan) -> None:
    async def assemble(*_: object) -> Fake:
        send(signal.SIGTERM)()
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(Interrupted):
        lifecycle.run(plan, assemble, pytest.fail)


def test_signals_refresh_and_write_to_the_log(
    plan: MountPlan, no_unmounting: list[str], expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("stacks")
    fake = Fake()
    live(plan, fake, send(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM))
    assert "refreshed" in fake.done
    log = Path(plan.settings.log).read_text()
    assert "test_life" in log or "_heed_signals" in log
    assert "counters: lookups=0" in log


def test_the_control_socket_tells_its_user_how_the_mount_is_doing(plan: MountPlan, no_unmounting: list[str]) -> None:
    fake, replies = Fake(), []
    mount = Mount(plan.mountpoint, "0:9999", "fuse.riafs", "s", os.getuid())
    path = ask.socket_path(plan.directories.runtime, mount.device)

    def asking() -> None:
        replies.extend(ask.ask(mount, command, {}) for command in ("status", "refresh", "nonsense"))
        replies.append(oct(os.stat(path).st_mode & 0o777))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    live(replace(plan), fake, threading.Thread(target=asking, daemon=True).start)
    status, refresh, nonsense, mode = replies
    assert status["source"] == "ria+file:///store"
    assert status["settings"]["refresh"] == 5.0
    assert status["counters"] == Counters().as_dict()
    assert refresh == {"refreshed": True}
    assert "error" in nonsense
    assert mode == "0o600"
    assert not os.path.exists(path)


def test_systemd_is_told(plan: MountPlan, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        fake = Fake()
        said: list[str] = []

        def listen(until: Callable[[], bool]) -> None:
            while not until():
                said.extend(listening.recv(4096).decode().split("\n"))

        async def end_soon() -> None:
            await trio.to_thread.run_sync(listen, lambda: said.count("WATCHDOG=1") >= 3)
            fake.over.set()

        def announce() -> None:
            trio.lowlevel.spawn_system_task(end_soon)

        live(replace(plan, environment=environment), fake, announce)
        listen(lambda: "STOPPING=1" in said)
    assert "READY=1" in said


@pytest.mark.parametrize("line", [b"", b"[]", b'"status"', b'{"command": 1}', b"\xff", b"[" * 4000])
def test_what_is_no_request_is_none(line: bytes) -> None:
    assert control.parse_request(line) is None


def test_a_request_names_a_command() -> None:
    assert control.parse_request(json.dumps({"command": "status"}).encode()) == {"command": "status"}


def test_who_gets_on_may_take_longer_and_a_failure_names_what_was_waited_for(
    plan: MountPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio, "run", partial(trio.run, clock=trio.testing.MockClock(autojump_threshold=0.01)))
    heard: list[str] = []

    async def assemble(*given: object) -> Fake:
        doing = given[-1]
        assert callable(doing)
        for number in range(6):
            doing(f"file {number} is looked at")
            await trio.sleep(lifecycle.OPEN_SECONDS / 2)
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(StoreTimeout, match=r"nothing got on for \d+ s while file 5 is looked at$"):
        lifecycle.run(plan, assemble, pytest.fail, heard.append)
    assert len(heard) == 6


def test_recent_errors_are_handed_to_who_assembles(plan: MountPlan) -> None:
    seen: list[object] = []

    async def assemble(*given: object) -> Fake:
        seen.extend(given)
        raise SourceNotFound("x")

    with pytest.raises(SourceNotFound):
        lifecycle.run(plan, assemble, pytest.fail)
    assert [type(one) for one in seen[:4]] == [MountPlan, Counters, RecentErrors, Background]


async def test_a_mount_that_ends_late_leaves_the_socket_of_the_next(tmp_path: Path) -> None:
    """The kernel gives a device number to another mount as soon as one is unmounted."""
    runtime = str(tmp_path / "run")
    path = Path(ask.socket_path(runtime, "0:9999"))
    with control.bound_socket(runtime, "0:9999") as first:
        later = control.bound_socket(runtime, "0:9999")
        second = later.__enter__()
        await first.aclose()
    assert path.is_socket()
    await second.aclose()
    later.__exit__(None, None, None)
    assert not path.exists()


@pytest.mark.parametrize(
    "failure", [RecursionError(), MemoryError(), KeyError("x"), OSError(5, "x"), Busy("at work")], ids=repr
)
async def test_the_control_socket_answers_whatever_a_command_raises(
    failure: Exception, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("the mount cannot answer status")

    async def status(_: control.Request) -> dict[str, object]:
        raise failure

    reply = json.loads(await control._reply(b'{"command": "status"}', 1, {"status": status}))
    expected = {Busy: Busy, MemoryError: OutOfMemory}.get(type(failure), TaskFailed)
    assert (reply["kind"], reply["exit_code"]) == (expected.__name__, expected.exit_code)
    assert reply["error"]
