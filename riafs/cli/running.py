"""Running a command whose processes all stay below this one, until it has ended.

Signals are handed on to the command; those of the terminal it gets by itself, being in the same process group. What it
leaves running in the background becomes a child of this process, and is left alone.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from riafs.errors import MissingProgram, UsageError

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_KERNEL = 0x80  # SI_KERNEL of sigaction(2): the terminal's


def run_command(words: Sequence[str], directory: str, environment: Mapping[str, str]) -> int:
    """Run `words` (one word: by a shell) in `directory`; its exit status, 128 and the signal's number if one ended it.

    This process is in the root directory then. Raises MissingProgram, UsageError where it cannot be started.
    """
    command = ["sh", "-c", words[0]] if len(words) == 1 else list(words)
    _adopt_orphans()
    try:
        os.chdir(directory)
    except OSError as error:
        raise UsageError(f"{directory} cannot be entered: {error.strerror}") from error
    with _blocked(_HANDED_ON) as before:
        process = _start(command, {**environment, "PWD": directory}, before)
        os.chdir("/")
        status = os.waitstatus_to_exitcode(_wait(process))
    return status if status >= 0 else 128 - status


def _adopt_orphans() -> None:
    """Have processes below this one stay below it, whoever of their parents ends."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the processes of a command cannot be kept together")


@contextmanager
def _blocked(signals: Sequence[signal.Signals]) -> Iterator[set[signal.Signals | int]]:
    """With `signals`, and those of children, held back to be waited for; gives those held back before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGCHLD})
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(command: list[str], environment: Mapping[str, str], mask: set[signal.Signals | int]) -> int:
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # which Python ignores
    try:
        return os.posix_spawnp(command[0], command, environment, setsigmask=mask, setsigdef=defaults)
    except PermissionError as error:
        raise UsageError(f"{command[0]} cannot be run: {error.strerror}") from error
    except OSError as error:
        what = "there is no such program" if error.errno == errno.ENOENT else error.strerror
        raise MissingProgram(f"{command[0]} cannot be run: {what}") from error


def _wait(process: int) -> int:
    """The wait status of `process`. Signals that come meanwhile are handed on; adopted children are reaped."""
    waited = {*_HANDED_ON, signal.SIGCHLD}
    while True:
        came = signal.sigwaitinfo(waited)
        if came.si_signo != signal.SIGCHLD:
            if came.si_code != _FROM_KERNEL:
                os.kill(process, came.si_signo)
            continue
        while True:
            ended, status = _reaped()
            if ended == process:
                return status
            if not ended:
                break


def _reaped() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0
