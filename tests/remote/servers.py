"""Real servers on 127.0.0.1, each with a configuration, keys and logs of its own below a directory of the test.

Every server is a context manager that yields it ready to answer, or skips the test where its program is missing. It is
ended by its process number with all processes that it started, and can be stopped and started again at the same port.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fuse.mounting import PROJECT
from tests.waiting import eventually

HOST = "127.0.0.1"
_ATTEMPTS = 3
"""A port that was free a moment ago may be another program's."""


def program(name: str) -> str:
    """The path of a program, also of those that only root has in PATH. Skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/lib/openssh")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether connections to the port are accepted."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=5):
        return True
    return False


def descendants(process: int) -> list[int]:
    """The processes that `process` started and that they started, as far as they live."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
            found += [number for child in map(int, children) for number in (child, *descendants(child))]
    return found


class Server:
    """A program that listens on a port of 127.0.0.1. `command` gives its command line for a port."""

    def __init__(self, directory: Path, command: Callable[[int], Sequence[str | Path]]) -> None:
        self.directory = directory
        self.output = directory / "output"
        """What the program writes to its standard output and error."""
        self.port = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, the first time at a free port and then at the same one, and wait until it answers.

        Raises AssertionError with its output where it does not.
        """
        assert self._process is None
        for attempt in range(_ATTEMPTS):
            port = self.port or free_port()
            with open(self.output, "ab") as output:
                self._process = process = subprocess.Popen(
                    [os.fspath(word) for word in self._command(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.directory,
                    env={**os.environ, "PYTHONPATH": str(PROJECT)},
                )
            eventually(lambda port=port, process=process: process.poll() is not None or answers(port))
            if process.poll() is None:
                self.port = port
                return
            self._process = None
            assert not self.port, self.logged()
            assert attempt < _ATTEMPTS - 1, self.logged()

    def stop(self) -> None:
        """End it and what it started: connections are closed, and new ones refused."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGSTOP)  # it would start others for those that are gone
        everything = [*descendants(process.pid), process.pid]
        ends = [end for number in everything if (end := _pidfd(number)) is not None]
        for end in ends:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, signal.SIGKILL)
        for end in ends:
            select.select([end], [], [])  # each may have the listening socket
            os.close(end)
        process.wait()

    def pause(self) -> None:
        """Let it and what it started hang: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for process in (self._process.pid, *descendants(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def logged(self) -> str:
        """All that it wrote so far."""
        return self.output.read_text(errors="replace")


def _pidfd(process: int) -> int | None:
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return None


@contextmanager
def running(server: Server) -> Iterator[None]:
    """The server while the block lasts."""
    try:
        server.start()
        yield
    finally:
        server.stop()
