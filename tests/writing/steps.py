"""Kills at every call that changes a file: ``python -m tests.writing.steps [overlay] [push] [--every N]``.

`overlay`: a process makes changes of every kind, which copy up, commit, checkpoint and cut. `push`: ``riafs push`` of
an overlay that is not mounted. Before each call by which it or a program that it has started would change a file (see
``tests/preload/dying.c``), somebody is killed: all of them, riafs alone while git goes on, or who makes the call.
"""

import argparse
import contextlib
import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import trio

from riafs.cli import main as cli
from riafs.overlay.overlay import opened
from tests.conftest import private_environment
from tests.overlay import test_crashes
from tests.preload import compiled
from tests.push.conftest import FILES, LOCKED, STORAGE, UNLOCKED, annex_log, content, tree, with_annex
from tests.small import SmallStore, key_of, noise
from tests.writing.drivers import writable

ALL, LEADER, CALLER = range(3)
_PAGE = "=4q"
_MOST = 100_000
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
LARGE = noise(17 << 20)
"""Too much to be collected in memory with others."""


class Dying:
    """The page that the library looks at."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), struct.calcsize(_PAGE))

    @property
    def calls(self) -> int:
        """How many calls were counted in the last attempt."""
        return int(struct.unpack(_PAGE, self._page)[1])

    def attempt(self, work: Callable[[], object], last: int, whom: int) -> bool:
        """Do `work` in a process group of its own, in which somebody is killed at the `last` call. Returns whether the
        call was reached, when all of the group have ended.
        """
        child = os.fork()
        if child == 0:
            os.setsid()
            self._page[:] = struct.pack(_PAGE, os.getpid(), 0, last, whom)
            os._exit(_told(work))
        with contextlib.suppress(ChildProcessError):  # also those whose parents were killed
            while True:
                os.wait()
        reached = 0 < last <= self.calls
        self._page[:] = struct.pack(_PAGE, 0, self.calls, 0, 0)
        return reached


def _told(work: Callable[[], object]) -> int:
    status = 1
    with contextlib.suppress(SystemExit):
        status = int(bool(work()))
    return status


# -- the overlay ------------------------------------------------------------------------------------------------------


def overlay(dying: Dying, calls: range, base: Path) -> int:
    """Returns how many kills there were."""
    kills = 0
    for point in calls:
        place = base / str(point)
        test_crashes.plant(place / "lower")
        reading, writing = os.pipe()

        def work(place: Path = place, writing: int = writing) -> None:
            trio.run(test_crashes.work, place, lambda _: None, lambda what: os.write(writing, what.encode() + b" "))

        reached = dying.attempt(work, point, ALL)
        os.close(writing)
        with open(reading) as told:
            done = told.read().split()
        trio.run(test_crashes.looked_at, place, done)
        shutil.rmtree(place)
        if not reached:
            break
        kills += 1
    return kills


# -- a push -----------------------------------------------------------------------------------------------------------


class Pushing:
    """A store and an overlay, which are made anew for each attempt."""

    def __init__(self, base: Path) -> None:
        self._now, self._made = base / "now", base / "made"
        self._store, self._overlay = self._now / "store", self._now / "over"
        self.dataset = with_annex(SmallStore.make(self._store).dataset("one", FILES))
        for data in (LOCKED, UNLOCKED):
            self.dataset.put(key_of(data), data).chmod(0o444)
        trio.run(self._change)
        self.before = self.dataset.git("for-each-ref")
        os.rename(self._now, self._made)
        self.renew()
        assert self.push() == 0
        self._expected = tree(self.dataset)

    def renew(self) -> None:
        """As before any push."""
        shutil.rmtree(self._now, ignore_errors=True)
        subprocess.run(["cp", "-a", self._made, self._now], check=True)

    async def _change(self) -> None:
        async with writable(self._store, self._overlay, "#~one") as driver:
            for path, data in ((b"a.dat", b"small\n"), (b"large.dat", LARGE), (b"code/x", b"x\n"), (b"tool", b"new\n")):
                await driver.write(path, data, flags=os.O_CREAT)
            await driver.unlink(b"link")
            await driver.write(b"data/unlocked.dat", b"UN")
            await driver.rename(b"data", b"moved")

    def push(self) -> int:
        """The command; its exit status."""
        return cli.run("riafs", ["push", "--overlay", str(self._overlay), "-m", "message"])

    def check(self) -> bool:
        """Whether the push is complete; asserts that otherwise the store is as it was, and the overlay whole."""
        self.dataset.git("fsck", "--full", "--strict", "--no-dangling")
        for path in (self.dataset.path / "annex" / "objects").rglob("*"):
            if path.is_file():
                assert key_of(path.read_bytes()).decode() == path.name, f"{path} is not what its name says"
        if self.dataset.git("rev-parse", "main") in self.before:
            return False
        assert tree(self.dataset) == self._expected, "an incomplete commit"
        for data in (b"small\n", LARGE):
            assert b" 1 " + STORAGE in annex_log(self.dataset, key_of(data)), "no line in the location log"
        assert content(self.dataset, b"large.dat") == LARGE
        return True

    def finish(self) -> None:
        """The same command again, which has to complete the work; a lock that git left is removed as it asks."""
        locks = list((self.dataset.path / "refs").rglob("*.lock"))
        status = self.push()
        if locks and status:
            for lock in locks:
                lock.unlink()
            status = self.push()
        assert status == 0, "the same command fails"
        assert self.check(), "the same command does not complete the work"
        assert self.dataset.git("rev-list", "--count", "main") == "2", "not one commit"
        assert not (self.dataset.path / "annex" / ".riafs-push").exists(), "a workspace is left"
        with opened(str(self._overlay)) as kept:
            assert [change for base in kept.datasets() for change in kept.changes(base.dataset)] == []


def push(dying: Dying, calls: range, base: Path) -> int:
    """Returns how many kills there were."""
    pushing, kills = Pushing(base), 0
    for whom in (ALL, LEADER, CALLER):
        outcomes = []
        for point in calls:
            pushing.renew()
            if not dying.attempt(pushing.push, point, whom):
                break
            try:
                outcomes.append(pushing.check())
                pushing.finish()
            except (AssertionError, subprocess.CalledProcessError) as error:
                error.add_note(f"kill at call {point} of {('all', 'the leader', 'the caller')[whom]}")
                raise
        assert outcomes == sorted(outcomes) or whom != ALL
        kills += len(outcomes)
    return kills


# -- running it -------------------------------------------------------------------------------------------------------

SCENARIOS = {"overlay": overlay, "push": push}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the commands print, unless something fails."""
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception as error:
            file.seek(max(file.tell() - 2000, 0))
            error.add_note(f"last words: {file.read().decode(errors='replace')}")
            raise
        finally:
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
                os.close(copy)


def _preloaded(words: Sequence[str]) -> int:
    """Start this again, with the library."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "page").write_bytes(bytes(struct.calcsize(_PAGE)))
        (directory / "home").mkdir()
        preload = {"DYING": str(directory / "page"), "LD_PRELOAD": str(compiled("dying", directory))}
        environment = {**os.environ, **private_environment(directory / "home"), **preload}
        environment |= {"PATH": f"{_wrapped_git(directory, preload)}:{environment['PATH']}"}
        return subprocess.run([sys.executable, "-m", "tests.writing.steps", *words], env=environment).returncode


def _wrapped_git(directory: Path, preload: Mapping[str, str]) -> Path:
    """A directory with a git that has the library in it, though riafs gives it an environment of its own."""
    program = directory / "bin" / "git"
    program.parent.mkdir()
    variables = "".join(f"export {name}={value}\n" for name, value in preload.items())
    program.write_text(f'#!/bin/sh\n{variables}exec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    return program.parent


def main(words: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.writing.steps", description=__doc__)
    parser.add_argument("scenario", nargs="*", choices=[*SCENARIOS, []], default=[])
    parser.add_argument("--first", type=int, default=1, help="the first call to be killed at (1)")
    parser.add_argument("--every", type=int, default=1, help="from there on only every such call (1)")
    chosen = parser.parse_args(words)
    if "DYING" not in os.environ:
        return _preloaded(words)
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    dying = Dying(os.environ["DYING"])
    for name in chosen.scenario or SCENARIOS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as base, _quietly():
            kills = SCENARIOS[name](dying, range(chosen.first, _MOST, chosen.every), Path(base))
        print(f"{name}: {kills} kills in {time.monotonic() - began:.0f} s, nothing lost, all completed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
