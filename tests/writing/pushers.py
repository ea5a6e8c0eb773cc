"""Several who push to one dataset at the same time: ``python -m tests.writing.pushers PUSHERS ROUNDS [SEED]``.

Half of them work in mounts, the others in overlays that are not mounted, and one more has an ordinary clone. In each
round everybody changes files of their own and sometimes one that all share, and then all push at once. Whoever is told
of a conflict decides it, in one of the ways that there are. In the end the history must explain what everybody was
told: each push is one commit with all of its changes and nothing else, no change of somebody else was replaced by one
who had not seen it, and who was told of a conflict had one.
"""

import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from riafs.daemon.ask import ask
from riafs.daemon.mounts import mount_at
from riafs.overlay.overlay import opened
from tests.conftest import private_environment
from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.push.conftest import blob, run, sound
from tests.small import SmallDataset
from tests.writing.drivers import writable
from tests.writing.killing import store_in

CONFLICT, BUSY = 16, 2
SHARED = 2
_SECONDS = 240.0
Files = Mapping[str, bytes | None]
"""Path → content, None for what is removed."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push that was told to be done. `decided`: how a conflict was, "" if there was none."""

    name: str
    base: str
    files: Files
    decided: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A push that was told to be a conflict of these paths."""

    name: str
    base: str
    files: Files
    paths: frozenset[str]


class Place(Protocol):
    """Where somebody works."""

    def write(self, files: Files) -> None:
        """Change files."""

    def base(self) -> str:
        """The commit that the changes lie over."""

    def push(self, name: str, decided: str) -> frozenset[str]:
        """Push with a message; the paths of a conflict."""

    def restore(self, path: str) -> None:
        """Drop a change."""


class Locally:
    """riafs, with what a mount and an overlay that is not mounted have in common."""

    def __init__(self, *words: str) -> None:
        self._words = words
        """What names the place to a command."""

    def push(self, name: str, decided: str) -> frozenset[str]:
        """See Place."""
        while True:
            decision = [f"--{decided}"] if decided else []
            done = run_riafs("push", *self._words, "-m", name, *decision, timeout=_SECONDS)
            if done.returncode == CONFLICT:
                return frozenset(line.removeprefix("conflict").strip() for line in done.stdout.splitlines())
            if done.returncode == 0:
                return frozenset()
            assert done.returncode == BUSY, done.stderr
            assert "another git is at work" in done.stderr, done.stderr


class InMount(Locally):
    """A mount."""

    def __init__(self, mount: Mounted) -> None:
        super().__init__(str(mount.path))
        self._top = mount.path / "one"

    def write(self, files: Files) -> None:
        """See Place."""
        for path, data in files.items():
            if data is None:
                (self._top / path).unlink()
            else:
                (self._top / path).parent.mkdir(parents=True, exist_ok=True)
                (self._top / path).write_bytes(data)

    def base(self) -> str:
        """See Place."""
        mount = mount_at(str(self._top.parent))
        assert mount is not None
        [dataset] = ask(mount, "changes", os.environ)["datasets"]
        return str(dataset["commit"])

    def restore(self, path: str) -> None:
        """See Place."""
        assert run_riafs("restore", self._top / path).returncode == 0


class InOverlay(Locally):
    """An overlay that is not mounted."""

    def __init__(self, dataset: SmallDataset, overlay: Path) -> None:
        super().__init__("--overlay", str(overlay))
        self._dataset = dataset
        self._overlay = overlay

    def write(self, files: Files) -> None:
        """See Place."""
        trio.run(self._write, files)

    async def _write(self, files: Files) -> None:
        async with writable(self._dataset.path.parent.parent, self._overlay) as driver:
            for path, data in files.items():
                at = b"one/" + path.encode()
                if data is None:
                    await driver.unlink(at)
                    continue
                for parent in reversed(Path(path).parents):
                    name = os.path.join(b"one", os.fsencode(parent))
                    if str(parent) != "." and parent.name.encode() not in await driver.ls(os.path.dirname(name)):
                        await driver.mkdir(name)
                await driver.write(at, data, flags=os.O_CREAT | os.O_TRUNC)

    def base(self) -> str:
        """See Place."""
        with opened(str(self._overlay)) as overlay:
            return overlay.base(self._dataset.id.encode()).commit.decode()

    def restore(self, path: str) -> None:
        """See Place."""
        assert run_riafs("restore", *self._words, f"one/{path}").returncode == 0


class InClone:
    """A clone by git, which rebases when it is refused. Conflicts are never decided for what is local."""

    def __init__(self, dataset: SmallDataset, path: Path) -> None:
        self._path = path
        run(path.parent, "git", "clone", "-q", "-b", "main", dataset.path, path)

    def _git(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["git", *words], cwd=self._path, capture_output=True, text=True)

    def write(self, files: Files) -> None:
        """See Place."""
        for path, data in files.items():
            (self._path / path).parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                (self._path / path).unlink()
            else:
                (self._path / path).write_bytes(data)

    def base(self) -> str:
        """See Place."""
        return self._git("rev-parse", "HEAD").stdout.strip()

    def push(self, name: str, decided: str) -> frozenset[str]:
        """See Place."""
        run(self._path, "git", "add", "-A")
        run(self._path, "git", "commit", "-q", "-m", name)
        while self._git("push", "-q", "origin", "main").returncode:
            run(self._path, "git", "fetch", "-q")
            if self._git("rebase", "-q", "origin/main").returncode:
                paths = self._git("diff", "--name-only", "--diff-filter=U").stdout.split()
                run(self._path, "git", "rebase", "--abort")
                run(self._path, "git", "reset", "-q", "--soft", "HEAD^")
                return frozenset(paths)
        return frozenset()

    def restore(self, path: str) -> None:
        """See Place: also takes the others' commits in."""
        run(self._path, "git", "rm", "-q", "--cached", path) if self._is_new(path) else self._git("reset", "-q", path)
        self._git("checkout", "-q", "--", path)
        if self._is_new(path):
            (self._path / path).unlink()
        run(self._path, "git", "stash", "-q", "--include-untracked")
        run(self._path, "git", "reset", "-q", "--hard", "origin/main")
        run(self._path, "git", "stash", "pop", "-q")

    def _is_new(self, path: str) -> bool:
        return self._git("cat-file", "-e", f"HEAD:{path}").returncode != 0


# -- one of them ------------------------------------------------------------------------------------------------------


class Pusher:
    """`number` makes its names and choices its own. `barrier`: all push at the same time."""

    def __init__(
        self, place: Place, number: int, seed: int, barrier: threading.Barrier, decisions: Sequence[str]
    ) -> None:
        self._place = place
        self._number = number
        self._random = random.Random(f"{seed} {number}")
        self._barrier = barrier
        self._decisions = decisions
        self.own: dict[str, bytes] = {}
        """What has to be there in the end."""
        self.pushed: list[Pushed] = []
        self.refused: list[Refused] = []

    def run(self, rounds: int) -> None:
        """Raises what fails, and lets the others end."""
        try:
            for turn in range(rounds):
                self._round(turn)
        except BaseException:
            self._barrier.abort()
            raise

    def _round(self, turn: int) -> None:
        files = self._changes(turn)
        self._place.write(files)
        self._barrier.wait()
        base, decided = self._place.base(), ""
        for attempt in itertools.count():
            name = f"{self._number} {turn} {attempt}"
            paths = self._place.push(name, decided)
            if not paths:
                break
            assert not decided, f"{name}: a conflict, though it was decided: {paths}"
            self.refused.append(Refused(name, base, dict(files), paths))
            decided = self._random.choice(self._decisions)
            if decided == "restore":
                for path in paths:
                    self._place.restore(path)
                    del files[path]
                decided, base = "", self._place.base()
        self.pushed.append(Pushed(name, base, files, decided))

    def _changes(self, turn: int) -> dict[str, bytes | None]:
        mine = f"{self._number} {turn}\n".encode()
        own: dict[str, bytes | None] = {f"code/own/{self._number}/{turn}": mine}
        if self._number:  # who has a clone by git alone has no annex
            own |= {f"own/{self._number}/{turn}.dat": mine * 500, f"own/{self._number}/log.dat": mine * (turn + 1)}
        if turn > 2:
            own[f"code/own/{self._number}/{turn - 2}"] = None
        for path, data in own.items():
            self.own.pop(path, None)
            if data is not None:
                self.own[path] = data
        if self._random.random() < 0.6:
            own[f"code/shared/{self._random.randrange(SHARED)}"] = mine
        return own


# -- what the history says --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commit:
    """One of the branch. `changed`: path → object name, before and after ("" for nothing)."""

    name: str
    parent: str
    message: str
    changed: Mapping[str, tuple[str, str]]


def history(dataset: SmallDataset, first: str) -> list[Commit]:
    """The commits after `first`, the oldest first, none of which has two parents."""
    found = []
    for line in dataset.git("log", "--reverse", "--format=%H%x09%P%x09%s", f"{first}..main").splitlines():
        name, parent, message = line.split("\t")
        listed = dataset.git("diff-tree", "-r", "--no-renames", parent, name).splitlines()
        changed = {}
        for entry in listed:
            words, path = entry.split("\t")
            before, after = words.split()[2:4]
            changed[path] = before.strip("0") and before, after.strip("0") and after
        found.append(Commit(name, parent, message, changed))
    return found


def explain(dataset: SmallDataset, first: str, pushers: Sequence[Pusher]) -> None:
    """Raises AssertionError where what was told and what happened do not fit."""
    commits = history(dataset, first)
    pushes = {pushed.name: pushed for pusher in pushers for pushed in pusher.pushed}
    assert len({commit.message for commit in commits}) == len(commits)
    assert pushes.keys() == {commit.message for commit in commits}, "not every push is one commit"
    for commit in commits:
        explain_commit(dataset, commit, pushes[commit.message])
    order = {commit.name: number for number, commit in enumerate(commits)} | {first: -1}
    for refused in (refused for pusher in pushers for refused in pusher.refused):
        later = [commit for commit in commits if order[commit.name] > order[refused.base]]
        for path in refused.paths:
            assert path in refused.files, f"{refused.name} did not change {path}"
            assert any(path in commit.changed for commit in later), f"{refused.name}: nobody changed {path}"


def explain_commit(dataset: SmallDataset, commit: Commit, pushed: Pushed) -> None:
    """All that was changed is in it, nothing else, and nothing that its author had not seen was replaced."""
    assert commit.changed.keys() <= pushed.files.keys(), f"{pushed.name} has changes of others"
    for path, data in pushed.files.items():
        if path not in commit.changed:
            assert pushed.decided == "theirs", f"{pushed.name} lacks {path}"
            assert path.startswith("code/shared/"), f"{pushed.name} lacks {path}"
            continue
        before, after = commit.changed[path]
        assert bool(after) == (data is not None), path
        assert data is None or content(dataset, commit.name, path) == data, f"{pushed.name}: {path}"
        seen = dataset.git("ls-tree", "--format=%(objectname)", pushed.base, "--", path)
        assert seen == before or pushed.decided == "ours", f"{pushed.name} replaced a change of {path}"


def content(dataset: SmallDataset, commit: str, path: str) -> bytes:
    """What is committed at a path."""
    data = blob(dataset, f"{commit}:{path}")
    if b"/annex/objects/" not in data:
        return data
    return dataset.object_path(os.path.basename(data)).read_bytes()


def work(base: Path, count: int, rounds: int, seed: int) -> "Counter[str]":
    """Let all of them push; what happened how often. Raises AssertionError."""
    dataset = store_in(base / "store")
    first = dataset.git("rev-parse", "main")
    barrier = threading.Barrier(count + 1)
    with ExitStack() as stack, ThreadPoolExecutor(count + 1) as pool:
        pushers = [Pusher(InClone(dataset, base / "clone"), 0, seed, barrier, ["restore"])]
        for number in range(1, count + 1):
            overlay, place = base / f"over{number}", base / f"place{number}"
            if number % 2:
                mount = stack.enter_context(mounted(base / "store", place, "--overlay", str(overlay)))
                chosen: Place = InMount(mount)
            else:
                chosen = InOverlay(dataset, overlay)
            pushers.append(Pusher(chosen, number, seed, barrier, ["ours", "theirs", "restore"]))
        failures = [ended.exception() for ended in [pool.submit(pusher.run, rounds) for pusher in pushers]]
        for failure in failures:
            if failure is not None and not isinstance(failure, threading.BrokenBarrierError):
                raise failure
    explain(dataset, first, pushers)
    own = {path: data for pusher in pushers for path, data in pusher.own.items()}
    there = set(dataset.git("ls-tree", "-r", "--name-only", "main", "--", "own", "code/own").splitlines())
    assert there == own.keys()
    for path, data in own.items():
        assert content(dataset, "main", path) == data, f"{path} was lost"
    sound(dataset)
    decided = Counter(pushed.decided or "pushed" for pusher in pushers for pushed in pusher.pushed)
    return decided + Counter({"conflicts": sum(len(pusher.refused) for pusher in pushers)})


def main(count: str, rounds: str, seed: str = "1") -> None:
    """The command line."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "home").mkdir()
        os.environ.update(private_environment(base / "home"))
        told = work(base, int(count), int(rounds), int(seed))
    print(f"{count} pushers and a clone, {rounds} rounds: {json.dumps(told)}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
