"""Starting in the background: the starter hears of readiness or of the reason, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from riafs.daemon import daemonize
from riafs.daemon.daemonize import Announce
from riafs.errors import MountFailed, SourceNotFound, StoreTimeout
from tests.waiting import eventually, pass_time, until_killed


def alive(process: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_starter_returns_when_the_work_announces_itself_and_the_work_goes_on() -> None:
    def work(announce: Announce) -> None:
        announce()
        until_killed()

    child = daemonize.start(work)
    assert alive(child)
    assert os.getsid(child) == child
    outputs = {os.readlink(f"/proc/{child}/fd/{number}") for number in (0, 1, 2)}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert outputs == {os.devnull}


def test_a_failure_before_readiness_is_raised_in_the_starter_as_it_was() -> None:
    def work(_announce: Announce) -> None:
        raise SourceNotFound("no store at /x")

    with pytest.raises(SourceNotFound, match=r"^no store at /x$"):
        daemonize.start(work)


def test_what_was_written_to_standard_error_explains_a_failed_mount() -> None:
    def work(_announce: Announce) -> None:
        os.write(2, b"fusermount3: not allowed\n")
        raise MountFailed("cannot mount")

    with pytest.raises(MountFailed, match=r"^cannot mount \(fusermount3: not allowed\)$"):
        daemonize.start(work)


def test_a_bug_before_readiness_is_a_failure() -> None:
    def work(_announce: Announce) -> None:
        raise ValueError("oops")

    with pytest.raises(MountFailed, match="internal error"):
        daemonize.start(work)


def test_a_process_that_dies_without_a_word_is_a_failure() -> None:
    def work(_announce: Announce) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MountFailed, match="signal 9"):
        daemonize.start(work)


def test_a_process_that_is_never_ready_is_ended_in_time(tmp_path: Path) -> None:
    def work(_announce: Announce) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / "process").write_text(str(os.getpid()))
        until_killed()

    began = time.monotonic()
    with pytest.raises(StoreTimeout):
        daemonize.start(work, seconds=0.3)
    assert time.monotonic() - began < 5
    eventually(lambda: not alive(int((tmp_path / "process").read_text())))


def test_a_process_that_tells_of_what_it_is_doing_has_longer() -> None:
    def work(announce: Announce) -> None:
        for _ in range(4):
            pass_time(0.2)
            announce.doing("the overlay is being opened")
        announce()
        until_killed()

    child = daemonize.start(work, seconds=0.7)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_who_was_not_ready_says_what_was_waited_for() -> None:
    def work(announce: Announce) -> None:
        announce.doing("the overlay is being opened")
        until_killed()

    with pytest.raises(
        StoreTimeout, match=r"^the mount was not ready: .* for 0\.3 s while the overlay is being opened$"
    ):
        daemonize.start(work, seconds=0.3)


STARTER = """
import os, sys
from riafs.daemon import daemonize
from tests.waiting import eventually, until_killed
def work(announce):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    eventually(lambda: os.getppid() != starter)
    announce()
    until_killed()
starter = os.getpid()
daemonize.start(work)
"""


def test_when_the_starter_is_killed_the_work_ends(tmp_path: Path) -> None:
    note = tmp_path / "process"
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(note)], cwd=Path(__file__).parents[2])
    eventually(lambda: note.exists() and note.read_text())
    starter.kill()
    starter.wait()
    eventually(lambda: not alive(int(note.read_text())))


def test_nothing_of_the_starters_is_held_open() -> None:
    reader, writer = os.pipe()

    def work(announce: Announce) -> None:
        announce()
        until_killed()

    child = daemonize.start(work)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
