"""Mounts that are killed while somebody works in them and pushes: ``python -m tests.writing.killing ROUNDS [SEED]``.

In each round a mount is killed at a random moment, and mounted again. All that was synced must be there, and of what
was not, each file must be as it was before or after some of what was done to it. Some pushes run meanwhile, asked of
the mount or of the overlay while it is not mounted; those are killed too. git must find nothing wrong with the store,
and when a push is let run to its end, the commit has what the mount showed and nothing is changed any more.
"""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from riafs.daemon.ask import ask
from riafs.daemon.mounts import mount_at
from riafs.errors import RiafsError
from riafs.overlay.changes import ChangeKind
from riafs.overlay.overlay import opened
from tests.conftest import private_environment
from tests.fuse.mounting import COMMAND, PROJECT, run_riafs
from tests.plugins import mounts
from tests.push.conftest import FILES, LOCKED, UNLOCKED, content, sound, tree, with_annex
from tests.small import SmallDataset, SmallStore, key_of
from tests.waiting import eventually, random_moment
from tests.writing import working

DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
_LATE_SECONDS = _LOCK_SECONDS = 60.0

History = list[bytes | None]
"""What a path may be: what it is for sure, then what it became since; None: it does not exist."""


class Expected:
    """What there has to be below a directory, by the record of who works there."""

    def __init__(self) -> None:
        self._paths: dict[str, History] = {}
        self._moves: list[tuple[str, str]] = []

    def _history(self, path: str) -> History:
        return self._paths.setdefault(path, [None])

    def follow(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Read more of the record."""
        for line in lines:
            {
                "write": self._write, "patch": self._patch, "unlink": self._unlink, "rename": self._rename,
                "move": self._move, "synced": self._synced,
            }[line["op"]](line)  # fmt: skip

    def _write(self, line: Mapping[str, Any]) -> None:
        self._history(line["path"]).extend((b"", working.content(line["number"], line["size"])))

    def _patch(self, line: Mapping[str, Any]) -> None:
        before = self._history(line["path"])[-1]
        assert before is not None
        data, offset = working.content(line["number"], line["size"]), line["offset"]
        self._history(line["path"]).append(before[:offset] + data + before[offset + len(data) :])

    def _unlink(self, line: Mapping[str, Any]) -> None:
        self._history(line["path"]).append(None)

    def _rename(self, line: Mapping[str, Any]) -> None:
        self._history(line["to"]).append(self._history(line["path"])[-1])
        self._history(line["path"]).append(None)

    def _move(self, line: Mapping[str, Any]) -> None:
        self._moves.append((line["path"], line["to"]))
        for path in [path for path in self._paths if path.startswith(line["path"] + "/")]:
            self._rename({"path": path, "to": line["to"] + path.removeprefix(line["path"])})

    def _synced(self, _: Mapping[str, Any]) -> None:
        self._paths = {path: history[-1:] for path, history in self._paths.items()}
        self._moves = []

    def check(self, found: Mapping[str, bytes]) -> None:
        """Raises AssertionError where what was found cannot be; from here on it is what is known."""
        for path, history in self._paths.items():
            assert fits(found.get(path), history), (
                f"{path} has {described(found.get(path))}, expected one of {[described(each) for each in history]}"
            )
        assert found.keys() <= self._paths.keys(), sorted(found.keys() - self._paths.keys())
        self._paths = {path: [data] for path, data in found.items()}
        self._moves = []

    @property
    def settled(self) -> dict[bytes, bytes]:
        """Path → content, after `check`."""
        return {path.encode(): data for path, [data] in self._paths.items() if data is not None}


def fits(found: bytes | None, history: History) -> bool:
    """Whether `found` is one of them, or what a write that was killed half-way makes of two that follow each other."""
    return found in history or any(
        found is not None and before is not None and after is not None and torn(found, before, after)
        for before, after in itertools.pairwise(history)
    )


def torn(found: bytes, before: bytes, after: bytes) -> bool:
    """Whether each byte is from one of them."""
    if len(found) not in (len(before), len(after)):
        return False
    return all(byte in (*before[at : at + 1], *after[at : at + 1]) for at, byte in enumerate(found))


def described(data: bytes | None) -> str:
    """For people."""
    return "nothing" if data is None else f"{len(data)} bytes {data[:4].hex()}…{data[-4:].hex()}"


class Killing:
    """`base`: an empty directory for the store, the overlay and the mounts."""

    def __init__(self, base: Path, seed: int) -> None:
        self._base = base
        self._random = random.Random(seed)
        self._expected = Expected()
        self.dataset = store_in(base / "store")
        self._mountpoint, self._overlay = base / "mnt", base / "over"
        self._record, self._log = base / "record", base / "log"
        self._mountpoint.mkdir()
        self.told: Counter[str] = Counter()
        """What happened how often."""

    @property
    def _top(self) -> Path:
        return self._mountpoint / "one" / "work"

    def run(self, rounds: int) -> None:
        """Raises AssertionError with the number of the round."""
        for number in range(rounds):
            try:
                self._round(number)
            except (AssertionError, subprocess.SubprocessError, RiafsError) as error:
                error.add_note(f"round {number}; last words of the mounts:\n{self._log.read_text()[-3000:]}")
                raise
        self._finish()
        assert not list(self.dataset.path.rglob("*.lock")), "a lock is left"
        sound(self.dataset)

    # -- one round ----------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> None:
        daemon = self._mount()
        self._look()
        self._top.mkdir(exist_ok=True)
        self._record.write_bytes(b"")
        worker = subprocess.Popen(
            [sys.executable, working.__file__, self._top, self._record, str(self._random.getrandbits(32))],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        random_moment(self._random, 0, 0.6)
        pushing = started("push", self._mountpoint) if self._random.random() < 0.6 else None
        random_moment(self._random, 0, 1.2)
        self._kill(daemon, worker)
        if pushing is not None:
            self.told[f"push {'ended before' if pushing.wait(60) == 0 else 'killed with'} the mount"] += 1
        self.dataset.git("fsck", "--full", "--strict", "--no-dangling")
        if self._random.random() < 0.4:
            self._kill_unmounted_push()
        if number % 8 == 7:
            self._finish()

    def _mount(self) -> int:
        source = self.dataset.path.parent.parent
        words = "mount", source, self._mountpoint, "--overlay", self._overlay, "--refresh", "86400", "--log", self._log

        def is_mounted() -> bool:
            done = run_riafs(*words)
            assert done.returncode == 0 or "was not ready" in done.stderr, done.stderr  # others may need the processors
            return done.returncode == 0

        eventually(is_mounted, _LATE_SECONDS)
        mount = mount_at(str(self._mountpoint))
        assert mount is not None
        return int(ask(mount, "status", os.environ)["pid"])

    def _kill(self, daemon: int, worker: "subprocess.Popen[str]") -> None:
        os.kill(daemon, signal.SIGKILL)
        said, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0, "the worker ended otherwise"
        assert int(said or 0) in DEAD, f"the worker met errno {said.strip()}"
        mounts.sweep(mounts.below(self._base))
        lines = self._record.read_text().splitlines()
        self.told["operations"] += sum(1 for line in lines if "synced" not in line)
        self.told["syncs"] += sum(1 for line in lines if "synced" in line)
        self._expected.follow([json.loads(line) for line in lines])

    def _look(self) -> None:
        files = [path for path in self._top.rglob("*") if path.is_file()]
        self._expected.check({str(path.relative_to(self._top)): path.read_bytes() for path in files})

    # -- pushes -------------------------------------------------------------------------------------------------------

    def _kill_unmounted_push(self) -> None:
        pushing = started("push", "--overlay", self._overlay)
        random_moment(self._random, 0.1, 1.5)
        pushing.kill()
        self.told[f"unmounted push {'ended' if pushing.wait(60) == 0 else 'killed'}"] += 1
        self.dataset.git("fsck", "--full", "--strict", "--no-dangling")

    def _finish(self) -> None:
        """A push that nobody kills: what it makes is what a mount shows."""

        def is_pushed() -> bool:
            done = run_riafs("push", "--overlay", self._overlay)
            assert done.returncode == 0 or "another git is at work" in done.stderr, done.stderr
            return done.returncode == 0

        eventually(is_pushed, _LOCK_SECONDS)
        with opened(str(self._overlay)) as kept:
            changes = [change for base in kept.datasets() for change in kept.changes(base.dataset)]
        left = [each for each in changes if each.content or each.kind is not ChangeKind.ADDED]  # git has no empty ones
        assert left == [], left
        daemon = self._mount()
        self._look()
        os.kill(daemon, signal.SIGKILL)
        mounts.sweep(mounts.below(self._base))
        committed = [path for path in tree(self.dataset) if path.startswith(b"work/")]
        found = {path.removeprefix(b"work/"): content(self.dataset, path) for path in committed}
        assert found == self._expected.settled
        self.told["pushes completed"] += 1


def store_in(path: Path) -> SmallDataset:
    """A store with a small dataset."""
    dataset = with_annex(SmallStore.make(path).dataset("one", FILES))
    for data in (LOCKED, UNLOCKED):
        dataset.put(key_of(data), data).chmod(0o444)
    return dataset


def started(*words: str | Path) -> "subprocess.Popen[bytes]":
    """A command in the background, whose output nobody reads."""
    return subprocess.Popen(
        [sys.executable, *COMMAND, *words], cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip


def main(rounds: str, seed: str = "1") -> None:
    """The command line."""
    began = time.monotonic()
    base = Path(tempfile.mkdtemp())
    (base / "home").mkdir()
    os.environ.update(private_environment(base / "home"))
    killing = Killing(base, int(seed))
    try:
        killing.run(int(rounds))
    finally:
        mounts.sweep(mounts.below(base))
        print(f"{dict(killing.told)}, {time.monotonic() - began:.0f} s; {base}", flush=True)
    shutil.rmtree(base)
    print(f"{rounds} rounds, nothing lost")


if __name__ == "__main__":
    main(*sys.argv[1:])
