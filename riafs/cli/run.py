"""``riafs run``: run a command in a mount, and push the files that it changed with a record of the run.

The mount's process records the files that the command's processes open; this process starts the command and writes the
record. Signals are passed on to the command; those of the terminal reach it directly, as it is in the same process
group. Processes that it leaves in the background become children of this process, and are left alone.
"""

import argparse
import ctypes
import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riafs.children import run_again
from riafs.cli.main import complain
from riafs.cli.push import push_mounted, pushed_lines, tell_conflict
from riafs.cli.render import print_json, printable
from riafs.cli.targets import Mounted, locate
from riafs.daemon.ask import asked
from riafs.daemon.pushing import Order
from riafs.errors import Busy, GitError, MissingProgram, OverlayFailed, PushConflict, RiafsError, UsageError
from riafs.formats.gitobjects import Stamp
from riafs.formats.runrecord import RunRecord, command_line, run_message
from riafs.git.user import author, committer
from riafs.push.protocol import PushRequest
from riafs.settings import complete_environment
from riafs.storage.temporary import private_opener

_SECONDS = 120.0
_GIT_SECONDS = 30.0
_MESSAGE_FILE = "run-message"
_MADE = ("added", "renamed", "copied")
_NONE_IGNORED = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """Files that a command read and changed. Paths are from the dataset's top, those of `elsewhere` from the root."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    """Files that exist at the end."""
    elsewhere: Sequence[str]
    """Files of other datasets that were read, which a record cannot name."""
    others: Sequence[str]
    """Files that other processes wrote meanwhile."""
    removed: Sequence[str]
    ignored: Sequence[str]
    """New files that ``.gitignore`` excludes: they stay local, as with git and DataLad."""
    moved: bool
    """Whether others pushed to the dataset meanwhile."""

    @property
    def changed(self) -> bool:
        """Whether there is anything to push."""
        return bool(self.outputs or self.removed)


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Its exit status is the command's, unless that is 0 and something else fails."""
    environment = complete_environment()
    target = _target(arguments.directory)
    _names(arguments, environment)  # a missing author is an error now, not after the command
    begun = asked(target.mount, "record", {"place": os.fsdecode(_only(target))}, _SECONDS)
    here = os.path.join(target.mount.mountpoint, os.fsdecode(_only(target)))
    top = os.path.join(target.mount.mountpoint, begun["path"])
    try:
        status = run_command(arguments.words, here.rstrip("/"), environment)
    finally:
        reply = asked(target.mount, "recorded", {"recording": begun["recording"]}, _SECONDS)
    made = [each["path"] for each in reply["changes"] if each["kind"] in _MADE]
    seen = _seen(reply, _ignored(top, made, environment))
    directory = os.path.relpath(here, top)
    record = RunRecord(
        command_line(arguments.words),
        "" if directory == "." else directory,
        seen.inputs,
        seen.outputs,
        _datalad_id(top, environment),
        status,
    )
    message = run_message(record, arguments.message)
    outcomes: list[dict[str, Any]] = []
    if not status and not arguments.dry_run and seen.changed:
        request = PushRequest(os.fsencode(message), *_names(arguments, environment), environment["PATH"])
        outcomes = _push(target, begun, seen, request, arguments)
    _tell(arguments, status, seen, message, outcomes)
    _tell_of_newer(begun, outcomes)
    return status


def _names(arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[Stamp, Stamp]:
    """Author and committer, at this moment."""
    return author(environment, arguments.author), committer(environment)


def _target(directory: str) -> Mounted:
    if not os.path.isdir(directory):
        raise UsageError(f"{directory} is no directory to run a command in")
    target = locate([directory], None)
    assert isinstance(target, Mounted)
    return target


def _only(target: Mounted) -> bytes:
    return target.places[0] if target.places else b""


def _datalad_id(top: str, environment: Mapping[str, str]) -> str | None:
    """What DataLad calls the dataset; None where it has given it no id. Raises ProgramKilled."""
    command = ["git", "config", "--file", f"{top}/.datalad/config", "--get", "datalad.dataset.id"]
    try:
        done = run_again(command, environment=environment, seconds=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout).strip() or None


def _ignored(top: str, paths: Sequence[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Those of new `paths` that git would not add: git itself decides, by what the files of the mount say, and by what
    the user's own configuration adds. Raises GitError, ProgramKilled.
    """
    if not paths:
        return frozenset()
    with tempfile.TemporaryDirectory() as directory:
        for part in ("objects", "refs"):
            os.mkdir(f"{directory}/{part}")
        Path(directory, "HEAD").write_text("ref: refs/heads/none\n")  # a repository without anything, for git to run in
        words = ["--git-dir", directory, "--work-tree", top, "check-ignore", "-z", "--stdin", "--no-index"]
        own = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
        text = b"".join(os.fsencode(path) + b"\0" for path in paths)
        try:
            done = run_again(["git", *words], environment=own, given=text, seconds=_SECONDS, cwd=top)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GitError(f"git cannot tell what {top} ignores: {error}") from error
        if done.returncode not in (0, _NONE_IGNORED):
            told = done.stderr.decode(errors="replace").strip()
            raise GitError(f"git cannot tell what {top} ignores: {told}")
    return frozenset(os.fsdecode(path) for path in done.stdout.split(b"\0") if path)


def _seen(reply: Mapping[str, Any], ignored: Set[str]) -> Seen:
    changes = [each for each in reply["changes"] if each["path"] not in ignored]
    return Seen(
        inputs=reply["inputs"],
        outputs=[each["path"] for each in changes if each["mine"] and each["kind"] != "removed"],
        elsewhere=reply["elsewhere"],
        others=[each["path"] for each in changes if not each["mine"]],
        removed=[each["path"] for each in changes if each["mine"] and each["kind"] == "removed"],
        ignored=sorted(ignored),
        moved=reply["moved"],
    )


# -- pushing ----------------------------------------------------------------------------------------------------------


def _push(
    target: Mounted, begun: Mapping[str, Any], seen: Seen, request: PushRequest, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Push what the command changed. If that fails, the message is kept with the changes, and where is said."""
    entrance = begun["path"]
    paths = [*seen.outputs, *seen.removed] if seen.others or seen.ignored else [""]
    places = [os.fsencode(os.path.join(entrance, path).rstrip("/")) for path in paths]
    try:
        if seen.moved:
            raise Busy(f"{entrance or 'the dataset'} was pushed to by others while the command ran")
        return push_mounted(target, Order(request, () if b"" in places else tuple(places)), arguments.verbosity)
    except RiafsError as failure:
        kept = _keep(begun["overlay"], request.message)
        if isinstance(failure, PushConflict):
            tell_conflict(failure, as_json=arguments.json)
        raise type(failure)(
            f"{failure}; the command has run and its changes are local, its record is in {kept}: push them with "
            f"riafs push {os.path.join(target.mount.mountpoint, entrance)} --message-file {kept}"
        ) from failure


def _keep(overlay: str, message: bytes) -> str:
    """The path of a file with the message, beside the changes."""
    path = os.path.join(overlay, _MESSAGE_FILE)
    try:
        with open(path, "wb", opener=private_opener) as file:
            file.write(message)
    except OSError as error:
        raise OverlayFailed(f"the record of the command cannot be kept in {path}: {error.strerror}") from error
    return path


# -- telling ----------------------------------------------------------------------------------------------------------


def _tell(
    arguments: argparse.Namespace, status: int, seen: Seen, message: str, outcomes: Sequence[Mapping[str, Any]]
) -> None:
    sys.stdout.flush()
    if status and seen.changed:
        complain(
            f"the command ended with exit status {status}, so nothing was pushed; its changes are local: "
            "riafs diff lists it, riafs push makes a commit of it, riafs restore drops it"
        )
    elif status:
        complain(f"the command ended with exit status {status}, and has changed nothing")
    if arguments.json:
        print_json(_described(status, seen, message, outcomes))
        return
    for path in seen.elsewhere:
        complain(f"{printable(path)} was read too; it is outside of the dataset, so the record does not name it")
    if seen.ignored:
        complain(f"{len(seen.ignored)} new files stay local, as .gitignore leaves them out")
    for path in seen.others:
        complain(f"{printable(path)} was written by another process meanwhile; it stays local")
    if arguments.dry_run and not status:
        print(message, end="")
    elif not status:
        for line in pushed_lines(outcomes, dry_run=False):
            print(printable(line))


def _tell_of_newer(begun: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]]) -> None:
    for each in outcomes:
        if each["path"] == begun["path"] and each["before"] != begun["commit"]:
            complain(f"the inputs are those of commit {begun['commit']}; the new commit comes after {each['before']}")


def _described(status: int, seen: Seen, message: str, outcomes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {
        "exit": status,
        "inputs": seen.inputs,
        "outputs": seen.outputs,
        "removed": seen.removed,
        "elsewhere": seen.elsewhere,
        "others": seen.others,
        "ignored": seen.ignored,
        "message": message,
        "pushed": list(outcomes),
    }


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
    """Make this process the parent of processes below it whose own parent ends."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process cannot adopt the processes of a command")


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
