"""Starting a mount in the background: the starter returns when the mount answers, or raises why it does not.

The child is forked before there are threads or an event loop. One pipe leads from it to the starter: a line of JSON
that says ``ready``, or the class and message of a failure. A starter that dies before that line takes the mount with
it, so nothing is mounted that nobody was told of.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from riafs import errors
from riafs.errors import MountFailed, RiafsError, StoreTimeout

START_SECONDS = 10.0
_END_SECONDS = 1.5
_MAX_REPORT = 1 << 16

Announce = Callable[[], None]


def start(work: Callable[[Announce], None], *, keep: Sequence[int] = (), seconds: float = START_SECONDS) -> int:
    """Run `work` in a new session; return its process id once it has called what it is given.

    `keep`: descriptors that the child needs besides its pipe. Raises the RiafsError that `work` raised, StoreTimeout
    after `seconds`, MountFailed if the child dies without a word. The child never returns from here.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _Child(writer, keep).run(work)
    os.close(writer)
    try:
        report = _read_report(reader, time.monotonic() + seconds)
    except BaseException:
        _end(child)
        raise
    finally:
        os.close(reader)
    return _conclude(child, report, seconds)


def _read_report(reader: int, until: float) -> bytes | None:
    """The line, without its end; empty if the child died; None if it is silent."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _MAX_REPORT:
        if not select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        part = os.read(reader, _MAX_REPORT)
        if not part:
            return b""
        line += part
    return line


def _conclude(child: int, report: bytes | None, seconds: float) -> int:
    if report is None:
        _end(child)
        raise StoreTimeout(f"the mount was not ready in {seconds:g} s")
    if not report:
        raise MountFailed(f"the mount's process ended before it was ready ({_fate(child)})")
    said = json.loads(report)
    if "ready" in said:
        return child
    _fate(child)
    raise _failure(said["failure"], said["message"])


def _failure(name: str, message: str) -> RiafsError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, RiafsError):
        return kind(message)
    return MountFailed(message)


def _fate(child: int) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _end(child: int) -> None:
    """Let the child unmount and end; if it does not, kill it."""
    os.kill(child, signal.SIGTERM)
    until = time.monotonic() + _END_SECONDS
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)


class _Child:
    """The child's side. What libfuse and fusermount3 write to standard error is kept until the mount is ready."""

    def __init__(self, writer: int, keep: Sequence[int]) -> None:
        self._writer = writer
        os.setsid()
        self._null = os.open(os.devnull, os.O_RDWR)
        self._said = os.memfd_create("stderr")
        for number, target in ((0, self._null), (1, self._null), (2, self._said)):
            os.dup2(target, number)
        _close_all_but({0, 1, 2, writer, self._null, self._said, *keep})

    def run(self, work: Callable[[Announce], None]) -> NoReturn:
        """Run `work` to its end, report, and exit without the starter's clean-ups."""
        failure, message, code = MountFailed.__name__, "internal error; the mount's log tells more", 4
        try:
            work(self._ready)
            failure, message, code = MountFailed.__name__, "it ended before it was ready", 0
        except RiafsError as error:
            failure, message, code = type(error).__name__, str(error), error.exit_code
        finally:
            self._report({"failure": failure, "message": message + self._heard(failure)})
            os._exit(code)

    def _ready(self) -> None:
        os.dup2(self._null, 2)
        if not self._report({"ready": True}):
            raise MountFailed("who started the mount has gone")
        os.close(self._writer)
        self._writer = -1

    def _report(self, what: dict[str, object]) -> bool:
        if self._writer < 0:
            return True
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, json.dumps(what).encode() + b"\n")
            return True
        return False

    def _heard(self, failure: str) -> str:
        """The last line that was written to standard error, where that may be the kernel's or fusermount3's reason."""
        if failure != MountFailed.__name__:
            return ""
        lines = os.pread(self._said, 1 << 14, 0).decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" ({last})" if last else ""


def _close_all_but(kept: set[int]) -> None:
    """Close what the starter had open, so that no pipe of its caller waits for the mount's end."""
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in kept:
            with contextlib.suppress(OSError):
                os.close(number)
