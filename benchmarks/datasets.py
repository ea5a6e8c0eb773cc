"""A mount of a store of thousands of datasets: what it costs to enter them all once, and what they cost then."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import memory, mounts, starting, stores
from benchmarks.bench import Bench
from benchmarks.report import Row, Target
from tests.growth import processor

_REFRESH = 5
"""Seconds, as riafs has it unless told otherwise."""
_GRACE_ROUNDS = 9
"""After so many nothing that was entered counts as in use, see riafs/vfs/nodes."""
_COUNT = 4500
_STATS = ("stat", "lstat", "newfstatat", "statx", "openat", "openat2")
"""The kernel's calls by which riafs looks at paths."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What so many datasets cost, all listed once by ``ls``."""

    count: int
    entering: float
    """Seconds of processor time of the daemon and its children for all of them, the kernel's part of it included."""
    resident: float
    """The daemon's memory then, in MB (10**6 bytes)."""
    idle: float
    """Share of one core while nobody uses any of them,"""
    calls: float | None
    """and calls a second that the store's file system has to answer then; None without strace."""
    again: float
    """Seconds for the ``ls`` of one that has got a new commit meanwhile, which shows it."""


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements for a store of `starting.DATASETS` datasets, of which some are entered."""
    found = measured(bench, _COUNT, bench.sized(60, 20))
    kind = f"{_COUNT} datasets entered once"
    yield Row(f"{kind}, processor time", "s", [found.entering], Target(at_most=15, of_ratio=False))
    yield Row(f"{kind}, memory", "MB", [found.resident])
    yield Row(f"{kind}, idle, of a core", "%", [found.idle * 100], Target(at_most=1, of_ratio=False))
    if found.calls is not None:
        yield Row(f"{kind}, idle, stats", "1/s", [found.calls], Target(at_most=50, of_ratio=False))
    yield Row(f"{kind}, ls of a new commit", "s", [found.again], Target(at_most=1, of_ratio=False))


def measured(bench: Bench, count: int, seconds: float, refresh: int = _REFRESH) -> Measured:
    """One mount; what it costs idle is measured for so many seconds, and once more for the calls. It looks for changes
    every `refresh` seconds.

    Raises AssertionError where a new commit is not shown at once, or something else walks through the mount.
    """
    store = starting.store(bench)
    with mounts.riafs_mount(bench.data, str(store), "--refresh", str(refresh)) as mount:
        process = mounts.daemon(mount)
        before = processor(process, children=True)
        _list(mount, range(count))
        entering, taken = processor(process, children=True) - before, memory.resident(process)
        time.sleep(_GRACE_ROUNDS * refresh)
        lookups, before = _lookups(mount), processor(process, children=True)
        time.sleep(seconds)
        share = (processor(process, children=True) - before) / seconds
        counted = calls(process, seconds)
        if _lookups(mount) != lookups:
            raise AssertionError("the mount was used by another program meanwhile")
        with moved(store, count // 2) as name:
            began = time.perf_counter()
            listed = _list(mount, [count // 2])
            again = time.perf_counter() - began
        if listed != [name]:
            raise AssertionError(f"{listed} is shown instead of the new commit")
    return Measured(count, entering, taken, share, counted, again)


def _list(mount: Path, numbers: Iterable[int]) -> list[str]:
    """``ls`` of datasets, a process each."""
    names = b"".join(b"%b/ds%05d\0" % (os.fsencode(mount), number) for number in numbers)
    done = subprocess.run(["xargs", "-0", "-n", "1", "ls"], input=names, stdout=subprocess.PIPE, check=True)
    return os.fsdecode(done.stdout).split()


def _lookups(mount: Path) -> int:
    return int(mounts.status(mount)["counters"]["lookups"])


def calls(process: int, seconds: float) -> float | None:
    """How often a second `process` asks for what is at a path; None where strace is missing."""
    if shutil.which("strace") is None:
        return None
    with tempfile.NamedTemporaryFile() as counted:
        command = [
            "strace",
            "-c",
            "-f",
            "-q",
            "-o",
            counted.name,
            "-e",
            f"trace={','.join(_STATS)}",
            "-p",
            str(process),
        ]
        with subprocess.Popen(command) as counting:
            time.sleep(seconds)
            counting.terminate()
        lines = [line.split() for line in Path(counted.name).read_text().splitlines()]
    return sum(int(words[3]) for words in lines if words and words[-1] in _STATS) / seconds


@contextmanager
def moved(store: Path, number: int) -> Iterator[str]:
    """A dataset of `starting.store` with a commit more, while the block lasts; the name of the file in it."""
    place, name = store / stores.dataset_path(number), "another.dat"
    before = _git(place, "rev-parse", "refs/heads/main")
    blob = _git(place, "hash-object", "-w", "--stdin", given="another file\n")
    tree = _git(place, "mktree", given=f"100644 blob {blob}\t{name}\n")
    commit = _git(place, "commit-tree", "-p", before, "-m", "another file", tree)
    try:
        _git(place, "update-ref", "refs/heads/main", commit)
        yield name
    finally:
        _git(place, "update-ref", "refs/heads/main", before)


def _git(place: Path, *words: str, given: str = "") -> str:
    """Always the same commit, so that nothing piles up in a store that is used again."""
    known = {f"GIT_{whose}_{what}": "b@b" for whose in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    known |= {"GIT_AUTHOR_DATE": "1700000001 +0000", "GIT_COMMITTER_DATE": "1700000001 +0000"}
    command = ["git", "--git-dir", str(place), *words]
    return subprocess.run(
        command, input=given, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **known}
    ).stdout.strip()
