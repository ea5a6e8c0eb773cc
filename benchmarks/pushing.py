"""Pushing new content into a store, beside ``datalad save`` and ``datalad push`` in a clone, and beside ``cp``."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks import measure
from benchmarks.bench import Bench
from benchmarks.report import Row, Target
from riafs.formats.gitobjects import Stamp
from riafs.formats.sources import parse_ria_source
from riafs.overlay.changes import Base, Change, ChangeKind, LocalContent
from riafs.push.protocol import PushRequest
from riafs.push.pushing import Push
from riafs.tree.tools import CommandSettings
from riafs.watching import NoWatcher
from tests.push.destinations import open_for_pushing

_SIZE = 20_000
_EACH = 100
_ENVIRONMENT = {"DATALAD_LOG_LEVEL": "error", "DATALAD_UI_PROGRESSBAR": "none"}
_IDENTITY = {
    f"GIT_{who}_{what}": "benchmark@riafs.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    if not shutil.which("datalad") or not shutil.which("git-annex"):
        yield Row("push", "s", [0.0], None, "datalad, git-annex: not installed")
        return
    with tempfile.TemporaryDirectory(dir=bench.data, prefix="push-") as directory:
        lab = _lab(Path(directory))
        yield from _many(bench, lab)
        yield from _one_of_many(bench, lab)
        yield from _large(bench, lab)


@dataclass(frozen=True, slots=True)
class _Lab:
    """A store that DataLad made with one dataset in it, a clone of it, and a place for local files."""

    path: Path
    identifier: str

    @property
    def bare(self) -> Path:
        return self.path / "store" / self.identifier[:3] / self.identifier[3:]

    def git(self, *words: str) -> str:
        command = ["git", "--git-dir", self.bare, *words]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()

    def push(self, changes: Sequence[Change]) -> float:
        """Seconds that pushing onto the branch takes, opening the store included."""
        ref = self.git("symbolic-ref", "HEAD").encode()
        base = Base(self.identifier.encode(), str(self.path / "store"), ref, self.git("rev-parse", "HEAD").encode())
        began = time.perf_counter()
        trio.run(self._push, base, sorted(changes, key=lambda change: change.path))
        return time.perf_counter() - began

    async def _push(self, base: Base, changes: Sequence[Change]) -> None:
        stamp = Stamp(b"benchmark <benchmark@riafs.invalid> %d +0000" % time.time())
        search_path = os.environ["PATH"]
        means = CommandSettings(shutil.which("git") or "git", search_path, 300.0, None)
        async with open_for_pushing(parse_ria_source(f"{self.path / 'store'}#{self.identifier}"), means) as destination:
            await Push(destination, base, changes, PushRequest(b"push", stamp, stamp, search_path), NoWatcher()).run()


def _run(cwd: Path, *words: str) -> str:
    environment = {**os.environ, **_ENVIRONMENT, **_IDENTITY}
    command = subprocess.run(words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    command.check_returncode()
    return command.stdout


def _lab(path: Path) -> _Lab:
    work = path / "work"
    _run(path, "datalad", "create", str(work))
    store = f"ria+file://{path}/store"
    _run(work, "datalad", "create-sibling-ria", "-s", "store", "--alias", "push", "--new-store-ok", store)
    _run(work, "datalad", "push", "--to", "store")
    identifier = _run(work, "git", "config", "-f", ".datalad/config", "datalad.dataset.id").strip()
    return _Lab(path, identifier)


def _file(place: Path, name: bytes, size: int) -> Change:
    """A new local file of random bytes, as an overlay would tell of it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    piece = os.urandom(min(size, 1 << 20))
    with open(place, "wb") as file:
        file.writelines(piece[: size - start] for start in range(0, size, len(piece)))
    content = LocalContent(os.fsencode(place), ((0, size),), size, None, executable=False)
    return Change(name, ChangeKind.ADDED, None, content, None, 1)


def _files(lab: _Lab, top: str, count: int, size: int) -> list[Change]:
    names = [f"{top}/d{number // _EACH:04d}/f{number:06d}.dat" for number in range(count)]
    return [_file(lab.path / "local" / name, name.encode(), size) for name in names]


def _many(bench: Bench, lab: _Lab) -> Iterator[Row]:
    count = bench.sized(10_000, 1_000)
    clone = lab.path / "clone"
    _run(lab.path, "datalad", "clone", f"ria+file://{lab.path}/store#{lab.identifier}", str(clone))
    _run(clone, "git", "config", "remote.store-storage.annex-verified", "verified")
    _files(lab, "theirs", count, _SIZE)
    shutil.copytree(lab.path / "local" / "theirs", clone / "theirs")
    began = time.perf_counter()
    _run(clone, "datalad", "save", "-m", "new")
    _run(clone, "datalad", "push", "--to", "origin")
    taken = time.perf_counter() - began
    samples = [lab.push(_files(lab, f"ours{turn}", count, _SIZE)) for turn in range(2 if bench.quick else 3)]
    name = f"push of {count} new files of {_SIZE} bytes"
    yield Row(name, "s", samples, Target(at_most=0.2), "datalad save + push", [taken])


def _one_of_many(bench: Bench, lab: _Lab) -> Iterator[Row]:
    count = bench.sized(100_000, 10_000)
    lab.push(_files(lab, "many", count, 100))
    samples = []
    for turn in range(bench.rounds):
        change = _file(lab.path / "local" / f"turn{turn}", b"many/d0001/f000100.dat", 200)
        samples.append(lab.push([change]))
    yield Row(f"push of one changed file of {count}", "s", samples, Target(at_most=1, of_ratio=False))


def _large(bench: Bench, lab: _Lab) -> Iterator[Row]:
    size = bench.sized(2 << 30, 256 << 20)
    speeds, peers = [], []
    for turn in range(2 if bench.quick else 3):
        change = _file(lab.path / "large", b"large/%d.dat" % turn, size)
        copy = lab.path / "copy"
        os.sync()
        peers.append(size / 1e6 / (measure.seconds("cp", lab.path / "large", copy) + measure.seconds("md5sum", copy)))
        copy.unlink()
        os.sync()
        speeds.append(size / 1e6 / lab.push([change]))
    yield Row(f"push of a file of {size >> 20} MiB", "MB/s", speeds, Target(at_least=0.6), "cp + md5sum", peers)
