"""Starting a mount in the background: the starter returns when the mount answers, or raises the reason why not.

The child is forked before there are threads or an event loop. One pipe leads from it to the starter: a line of JSON
that says ``ready``, or the class and message of a failure. Lines before that name a step that takes long, each time it
makes progress: the starter waits as long as these come. If the starter dies before the last line the mount ends too, so
nothing stays mounted without a report.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from riafs import errors
from riafs.errors import MountFailed, RiafsError, StoreTimeout

START_SECONDS = 10.0
_END_SECONDS = 1.5
_MAX_REPORT = 1 << 16

_HEARD_SECONDS = 0.5
_DOING = "doing"


class Announce(Protocol):
    """What tells the starter."""

    def __call__(self) -> None:
        """The mount is ready."""

    def doing(self, what: str) -> None:
        """It gets on with `what`, which takes long ("the overlay /x is being opened")."""


def start(work: Callable[[Announce], None], *, keep: Sequence[int] = (), seconds: float = START_SECONDS) -> int:
    """Run `work` in a new session; return its process id once it has called what it is given.

    `keep`: descriptors that the child needs besides its pipe. Raises the RiafsError that `work` raised, StoreTimeout
    when nothing was heard of it for `seconds`, MountFailed if the child dies without a word. The child never returns
    from here.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _Child(writer, keep).run(work)
    os.close(writer)
    try:
        report, doing = _read_report(reader, seconds)
    except BaseException:
        _end(child)
        raise
    finally:
        os.close(reader)
    return _conclude(child, report, doing, seconds)


def _read_report(reader: int, seconds: float) -> tuple[bytes | None, str]:
    """The last line, empty if the child died, None if it is silent; and what it was doing as far as it has told."""
    heard, doing, until = b"", "", time.monotonic() + seconds
    while len(heard) < _MAX_REPORT:
        line, end, rest = heard.partition(b"\n")
        if end and _DOING not in (said := json.loads(line)):
            return line, doing
        if end:
            heard, doing, until = rest, said[_DOING], time.monotonic() + seconds
            continue
        if not select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            return None, doing
        part = os.read(reader, _MAX_REPORT)
        if not part:
            return b"", doing
        heard += part
    return heard, doing


def _conclude(child: int, report: bytes | None, doing: str, seconds: float) -> int:
    if report is None:
        _end(child)
        silence = f"nothing was heard of it for {seconds:g} s while {doing}" if doing else f"in {seconds:g} s"
        raise StoreTimeout(f"the mount was not ready{': ' if doing else ' '}{silence}")
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


@dataclass(frozen=True, slots=True)
class _Announcement:
    """Writes to the pipe that leads to the starter."""

    ready: Callable[[], None]
    doing: Callable[[str], None]

    def __call__(self) -> None:
        self.ready()


class _Child:
    """The child's side. What libfuse and fusermount3 write to standard error is kept until the mount is ready."""

    def __init__(self, writer: int, keep: Sequence[int]) -> None:
        self._writer = writer
        self._quiet_until = 0.0
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
            work(_Announcement(self._ready, self._doing))
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

    def _doing(self, what: str) -> None:
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _HEARD_SECONDS
            self._report({_DOING: what})

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
