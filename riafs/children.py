"""Programs that a mount runs, and when one that was killed is started again.

A child ended by a signal that damaged data does not raise (the kernel short of memory, an administrator, a batch
system) says nothing about what it was reading. It is started again, a few times; only what repeats is an answer, and
that is ProgramKilled, never what the program's own failure would mean.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from riafs.errors import ProgramKilled

ATTEMPTS = 5
"""How often a child is started for one request, when others keep ending it."""
_BY_ITSELF = frozenset((signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT))


def ended_by_others(status: int) -> bool:
    """Whether the return code of a child tells of a signal that no damaged input causes."""
    return status < 0 and -status not in _BY_ITSELF


def cause(status: int) -> str:
    """A return code in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # of the real-time ones only the first and the last have a name
        return f"signal {-status}"


def killed(what: str, status: int) -> ProgramKilled:
    """What to raise where every attempt ended with such a `status`; `what` is the program, and what it was doing."""
    return ProgramKilled(f"{what} was ended by {cause(status)} each of {ATTEMPTS} times; it can be tried again")


def remove_lock(lock: str | bytes | None) -> None:
    """Remove what a killed program left, which would keep the next one out. `lock`: in a directory of our own."""
    if lock is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)


def run_again(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    given: bytes = b"",
    cwd: str | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that only answers to its end, with `given` on standard input; once more when others end it.

    `environment`: None for that of this process. Raises OSError where it cannot be started, subprocess.TimeoutExpired,
    ProgramKilled.
    """
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            list(command),
            input=given,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        if not ended_by_others(done.returncode):
            return done
    raise killed(" ".join(command[:2]), done.returncode)


def first_line(stderr: bytes) -> str:
    """The first line that git wrote on standard error, for messages."""
    return stderr.decode(errors="replace").strip().partition("\n")[0]
