"""Children of a mount that somebody else may end: when one that was killed is started again.

A child ended by a signal that damaged data does not raise (the kernel short of memory, an administrator, a batch
system) says nothing about what it was reading. It is started again, a few times; only what repeats is an answer.
"""

import signal
import subprocess
from collections.abc import Mapping, Sequence

ATTEMPTS = 5
"""How often a child is started for one request, when others keep ending it."""
_BY_ITSELF = frozenset((signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT))


def ended_by_others(status: int) -> bool:
    """Whether the return code of a child tells of a signal that no damaged input causes."""
    return status < 0 and -status not in _BY_ITSELF


def cause(status: int) -> str:
    """A return code in words."""
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def run_again(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    seconds: float,
    given: bytes = b"",
    cwd: str | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that only answers to its end, with `given` on standard input; once more when others end it.

    Raises OSError where it cannot be started, subprocess.TimeoutExpired.
    """
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            list(command),
            input=given,
            env=dict(environment),
            cwd=cwd,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        if not ended_by_others(done.returncode):
            break
    return done
