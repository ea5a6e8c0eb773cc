"""A stand-in Arvados cluster with collections to measure on, and the peer arv-mount over it."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mounts
from tests.keep.standin.cluster import Cluster

BLOCK = 64 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that a run made."""

    api: int
    blocks: int

    def __str__(self) -> str:
        return f"{self.api} API, {self.blocks} block requests"


@contextmanager
def cluster(data: Path) -> Iterator[Cluster]:
    """A cluster with two keepstores, whose blocks later runs use again."""
    made = Cluster(data / "keep-cluster")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def counted(running: Cluster) -> Counts:
    """What clients have asked for since the last call."""
    counts = Counts(running.api_requests(), running.block_requests())
    running.reset()
    return counts


def large(running: Cluster, blocks: int) -> str:
    """A collection of files of one whole block each, ``f0``, ``f1``, …; its uuid."""
    names = [running.put(_noise(number)) for number in range(blocks)]
    lines = [f". {name} 0:{BLOCK}:f{number}\n" for number, name in enumerate(names)]
    uuid: str = running.collection("large", "".join(lines))["uuid"]
    return uuid


def _noise(number: int) -> bytes:
    return hashlib.shake_128(b"block %d" % number).digest(_MIB) * (BLOCK // _MIB)


def tree(running: Cluster, folders: int, files: int) -> Mapping[str, str]:
    """A collection of small files in many folders; its ``uuid`` and ``portable_data_hash``."""
    name = running.put(b"x" * 4096)
    lines = [
        f"./d{folder:04d} {name} " + " ".join(f"0:{17 + file % 3000}:f{file:05d}" for file in range(files)) + "\n"
        for folder in range(folders)
    ]
    record = running.collection(f"tree {folders}x{files}", "".join(lines))
    return {"uuid": record["uuid"], "portable_data_hash": record["portable_data_hash"]}


@contextmanager
def riafs_mount(data: Path, running: Cluster) -> Iterator[Path]:
    """The cluster through riafs, whose caches are empty."""
    with _settings(running.environment), mounts.riafs_mount(data, f"arvados://{running.host}") as directory:
        yield directory


@contextmanager
def _settings(wanted: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- peers ------------------------------------------------------------------------------------------------------------


def arv_mount() -> Path | None:
    """The program, None where it is not installed."""
    found = shutil.which("arv-mount")
    return Path(found) if found else None


@contextmanager
def arv_mounted(data: Path, program: Path, running: Cluster) -> Iterator[Path]:
    """The cluster through arv-mount with its own defaults, its caches empty and its event listener off."""
    with tempfile.TemporaryDirectory(prefix="arv-", dir=data) as scratch:
        cache = Path(scratch, "blocks")
        cache.mkdir()
        environment = {"HOME": scratch, "XDG_CACHE_HOME": scratch, **running.environment}
        words = ("--foreground", "--read-only", "--disable-event-listening", "--disk-cache-dir", cache)
        with _settings(environment), mounts.peer(data, program, *words) as directory:
            yield directory


def sdk_python() -> Path | None:
    """An interpreter that has Arvados' Python SDK: the one of arv-mount."""
    program = arv_mount()
    if program is None:
        return None
    line = program.resolve().read_bytes().splitlines()[0]
    python = Path(os.fsdecode(line.removeprefix(b"#!").split()[0]))
    check = subprocess.run([python, "-c", "import arvados.collection"], check=False, capture_output=True)
    return None if check.returncode else python
