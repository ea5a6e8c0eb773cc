"""Traps in a store: at every place that riafs writes to, scans, cleans or locks there is something else than belongs
there. Nothing outside may be touched, nothing waited for, and the trap itself stays.

``python -m tests.faults.traps`` tries every place with every kind of trap, each with a push, ``archive`` and
``unarchive``, under strace(1), and prints what came of each; it takes some minutes.
"""

import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import trio

from riafs.errors import RiafsError
from tests.packing.conftest import archive, request, unarchive
from tests.push.conftest import changes_over, push, with_annex
from tests.small import Locked, Node, SmallDataset, SmallStore, key_of, mixed_path

NEW = b"new content\n"
OLD = [b"a text " * 100, b"another text " * 100]
ARCHIVED = b"in the archive " * 100
_HASH_DIRECTORY, _, _KEY = os.fsdecode(mixed_path(key_of(NEW))).rpartition("/")
SECONDS = 60

PUSHED = (
    "annex", "annex/objects", "annex/.riafs-push", "objects", "objects/??", "objects/pack", "objects/info",
    "objects/info/packs", "objects/info/alternates", "info", "info/refs", "refs", "refs/heads", "refs/heads/main",
    "refs/heads/main.lock", "refs/heads/git-annex", "refs/heads/git-annex.lock", "packed-refs", "logs", "logs/refs",
    "logs/refs/heads", "logs/refs/heads/main", "logs/refs/heads/git-annex", "logs/HEAD", "HEAD", "config", "hooks",
    "hooks/post-update", f"annex/objects/{_HASH_DIRECTORY.split('/')[0]}", f"annex/objects/{_HASH_DIRECTORY}",
    f"annex/objects/{_HASH_DIRECTORY}/{_KEY}", "archives", "archives/archive.7z",
)  # fmt: skip
"""Places below a dataset that a push looks at or writes to."""
PACKED = (
    "annex", "annex/objects", "archives", "archives/.riafs-packing", "archives/.riafs-packing/lock",
    "archives/.riafs-packing/archive.7z", "archives/.riafs-packing/object", "archives/archive.7z", "config",
    f"annex/objects/{os.fsdecode(mixed_path(key_of(ARCHIVED)))}",
    f"annex/objects/{os.path.dirname(os.fsdecode(mixed_path(key_of(ARCHIVED))))}",
    f"annex/objects/{os.path.dirname(os.fsdecode(mixed_path(key_of(OLD[0]))))}",
    f"annex/objects/{os.fsdecode(mixed_path(key_of(OLD[0])))}",
)  # fmt: skip
"""Those of the commands that pack and unpack."""
KINDS = ("link", "fifo", "file", "device", "foreign")
"""``link``: leads to what belongs there, moved out of the store. ``foreign``: another user's directory."""
_DIRECTORIES = re.compile(
    r"annex|annex/objects(/..){0,2}|annex/objects/../../[^/]+|.*/\.riafs-(push|packing)|objects(/..|/pack|/info)?|info|"
    r"refs(/heads)?|logs(/refs|/refs/heads)?|hooks|archives"
).fullmatch
_REPLACED = re.compile(r"annex/objects/../../[^/]+/[^/]+|archives/.riafs-packing/(object|archive.7z)").fullmatch
"""The place of an object, or in a directory of riafs: what is there and is no content is replaced, never followed."""
_EMPTY = re.compile(r"file refs/heads/(main|git-annex)").fullmatch
"""An empty directory in a ref's place goes, as with git."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A dataset with one trap; `outside` is what no one may touch."""

    original: SmallDataset
    """As it was, without a trap."""
    dataset: SmallDataset
    outside: Path
    traps: Sequence[Path]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it: a failure's message, or nothing; and what was wrong."""

    said: str
    wrong: Sequence[str]


def template(path: Path) -> SmallDataset:
    """A dataset that has everything that a repository may have."""
    files: dict[bytes, Node] = {b"old%d" % n: Locked(key_of(content)) for n, content in enumerate([*OLD, ARCHIVED])}
    files[b".gitattributes"] = b"* annex.backend=MD5E\ncode/** annex.largefiles=nothing\n"
    made = with_annex(SmallStore.make(path).dataset("one", files))
    for content in OLD:
        made.put(key_of(content), content).chmod(0o444)
    made.archive({key_of(ARCHIVED): ARCHIVED})
    for name in ("HEAD", "refs/heads/main", "refs/heads/git-annex"):
        log = made.path / "logs" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    made.git("branch", "other")
    made.git("pack-refs", "--all", "--no-prune")
    made.git("update-server-info")
    (made.path / "hooks").mkdir(exist_ok=True)
    return made


def arranged(directory: Path, made: SmallDataset, place: str, kind: str) -> Trial:
    """A copy of a dataset's store with a trap."""
    store = made.path.parent.parent
    shutil.copytree(store, directory / "store", symlinks=True)
    path = directory / "store" / made.path.relative_to(store)
    outside = directory / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    places = [path / "objects" / f"{first:02x}" for first in range(256)] if "??" in place else [path / place]
    for each in places:
        _lay(each, place, kind, outside)
    return Trial(made, SmallDataset(path, made.id, made.alias), outside, places)


def _lay(place: Path, name: str, kind: str, outside: Path) -> None:
    target = outside / place.name
    is_directory = bool(_DIRECTORIES(name.replace("??", "aa")))
    if os.path.lexists(place):
        place.rename(target)
    elif is_directory:
        target.mkdir()
        (target / "precious").write_bytes(b"precious")
    else:
        target.write_bytes(b"")
    place.parent.mkdir(parents=True, exist_ok=True)
    if name.startswith("archives/.riafs-packing/"):
        place.parent.chmod(0o700)
        (place.parent / "lock").touch()
        (place.parent / place.name).unlink(missing_ok=True)
    match kind:
        case "link":
            place.symlink_to(target)
        case "fifo":
            os.mkfifo(place)
        case "file":
            place.write_bytes(b"somebody's") if is_directory else place.mkdir()
        case "device":
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case "foreign":
            place.mkdir(mode=0o755)
            (place / "precious").write_bytes(b"precious")
            for each in (place / "precious", place):
                os.chown(each, 1234, 1234)


# -- trying -----------------------------------------------------------------------------------------------------------

Job = Callable[[Trial], Coroutine[Any, Any, object]]


async def _push(trial: Trial) -> None:
    below = changes_over(trial.original, trial.outside.parent / "local")
    await push(trial.dataset, below, [below.write(b"new.dat", NEW), below.write(b"code/in-git", b"x\n")])


async def _archive(trial: Trial) -> None:
    await archive(trial.dataset, request(prune=True))


async def _unarchive(trial: Trial) -> None:
    await unarchive(trial.dataset, remove=True)


JOBS: dict[str, Job] = {"push": _push, "archive": _archive, "unarchive": _unarchive}


def trials(kinds: Sequence[str] = KINDS) -> Iterator[tuple[str, str, str]]:
    """Every (job, place, kind)."""
    for kind in kinds:
        for place in PUSHED:
            yield "push", place, kind
        for job in ("archive", "unarchive"):
            for place in PACKED:
                yield job, place, kind


def tried(directory: Path, made: SmallDataset, job: str, place: str, kind: str) -> Result:
    """Try one in a new directory, which is removed afterwards."""
    trial = arranged(directory, made, place, kind)
    before, traps = _state(trial.outside), [_identity(trap) for trap in trial.traps]
    refs = _refs(trial)
    said = ""
    _mark(directory, "begin")
    try:
        trio.run(_bounded, JOBS[job], trial)
    except RiafsError as failure:
        said = str(failure)
    except ExceptionGroup as group:
        said = str(group.exceptions[0])
    _mark(directory, "end")
    wrong = []
    if _state(trial.outside) != before:
        wrong.append("something outside was changed")
    may_go = _REPLACED(place) or _EMPTY(f"{kind} {place}")
    if not may_go and [_identity(trap) for trap in trial.traps] != traps:
        wrong.append("the trap did not stay")
    moved = [old != new for old, new in zip(refs, _refs(trial), strict=True)]
    if any(moved) != all(moved):
        wrong.append("one ref has moved and the other not")
    if said and trial.dataset.id not in said and os.path.relpath(trial.dataset.path, directory) not in said:
        wrong.append(f"the message names nothing: {said}")
    shutil.rmtree(directory)
    return Result(said, wrong)


async def _bounded(job: Job, trial: Trial) -> None:
    with trio.fail_after(SECONDS):
        await job(trial)


def _state(directory: Path) -> list[tuple[str, int, int, int, bytes]]:
    found = []
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path), status.st_ino, status.st_ctime_ns, status.st_mode, content))
    return found


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a trap from anything that takes its place; of somebody else's directory also what he has in it, to
    which others may add."""
    if not os.path.lexists(path):
        return ()
    status = path.lstat()
    precious = path / "precious"
    inner = precious.lstat().st_ino if stat.S_ISDIR(status.st_mode) and precious.exists() else 0
    return status.st_ino, stat.S_IFMT(status.st_mode), status.st_uid, inner


def _refs(trial: Trial) -> list[bytes]:
    """What files say, wherever they are now."""
    found = []
    for name in ("main", "git-annex"):
        places = [trial.dataset.path / "refs/heads" / name, trial.outside / name, trial.outside / "heads" / name]
        places.append(trial.outside / "refs/heads" / name)
        files = [place for place in places if place.is_file() and not place.is_symlink()]
        found.append(files[0].read_bytes() if files else b"")
    return found


# -- the proof under strace -------------------------------------------------------------------------------------------


def _mark(directory: Path, name: str) -> None:
    """Something to see in a trace: only what is opened between two marks is the trial's."""
    (directory / f"mark-{name}").touch()


def main() -> int:
    """Start over under strace, unless it is."""
    if sys.argv[1:2] == ["--traced"]:
        return _all(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    directory = Path(tempfile.mkdtemp(prefix="riafs-traps-"))
    try:
        return traced(directory, sys.argv[1:])
    finally:
        shutil.rmtree(directory)


def traced(directory: Path, kinds: Sequence[str], every: int = 1) -> int:
    """Try all kinds of traps (`kinds`, if given) under strace, only `every` so many; returns how many went wrong."""
    trace = directory / "trace"
    calls = "trace=open,openat,openat2,creat,?open_by_handle_at"
    program = [sys.executable, "-m", "tests.faults.traps", "--traced", str(directory), str(every), *kinds]
    status = subprocess.run(["strace", "-f", "-y", "-qq", "-e", calls, "-o", trace, *program], check=False).returncode
    lines = _opened_outside(trace)
    for line in lines:
        print("opened outside:", line)
    return status or len(lines)


def _opened_outside(trace: Path) -> list[str]:
    """Lines between marks in which something below a directory ``outside`` came to be open."""
    found, watching = [], False
    opened = re.compile(r"= \d+<[^>]*/outside(/[^>]*)?>")
    for line in trace.read_text(errors="replace").splitlines():
        if "/mark-begin" in line:
            watching = True
        elif "/mark-end" in line:
            watching = False
        elif watching and opened.search(line):
            found.append(line)
    return found


def _all(directory: Path, every: int, kinds: Sequence[str]) -> int:
    logging.disable()
    made = template(directory / "template")
    failed = 0
    for number, (job, place, kind) in enumerate(islice(trials(kinds or KINDS), 0, None, every)):
        result = tried(directory / str(number), made, job, place, kind)
        failed += bool(result.wrong)
        print(f"{job:10} {kind:8} {place:40} {'; '.join(result.wrong) or 'ok':4} {result.said[:160]}", flush=True)
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
