"""What people read archives with today: ratarmount and archivemount, and DataLad with its ORA special remote."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mounts
from benchmarks.archive_stores import Packed
from benchmarks.report import Target

_LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A file system over an archive. `shown` tells of a missing program, `mount` is None then. Not each is a target."""

    name: str
    shown: str
    mount: Callable[[], AbstractContextManager[Path]] | None

    @property
    def target(self) -> Target | None:
        """ratarmount is to be beaten everywhere; archivemount, a small program in C, is shown beside it."""
        return Target(at_most=1) if self.name == "ratarmount" else None


def mounting(data: Path, archive: Path) -> Sequence[Peer]:
    """Both of them. ratarmount keeps its index beside the benchmarks' other data."""
    indexes = data / "ratarmount"
    indexes.mkdir(exist_ok=True)
    return (
        _peer(data, "ratarmount", "-f", "--index-folders", str(indexes), str(archive)),
        _peer(data, "archivemount", "-f", "-o", "readonly", str(archive)),
    )


def _peer(data: Path, name: str, *words: str) -> Peer:
    program = shutil.which(name) or shutil.which(name, path=str(Path(mounts.RIAFS[0]).parent))
    if program is None:
        return Peer(name, f"{name}: not installed", None)
    return Peer(name, name, lambda: mounts.peer(data, program, *words))


def bounded_cat(directory: Path, files: Sequence[str]) -> tuple[float, bool]:
    """Seconds for reading `files`, and whether that was all: it is stopped after a minute."""
    began = time.perf_counter()
    try:
        subprocess.run(
            ["cat", *(directory / file for file in files)], stdout=subprocess.DEVNULL, check=True, timeout=_LONGEST
        )
    except subprocess.TimeoutExpired:
        return time.perf_counter() - began, False
    return time.perf_counter() - began, True


def cat_through(peer: Peer, files: Sequence[str]) -> tuple[list[float], str]:
    """Seconds for `files` through a mount of `peer`, none where it fails on the archive, and what to note."""
    if peer.mount is None:
        return [], ""
    try:
        with peer.mount() as directory:
            taken, whole = bounded_cat(directory, files)
    except subprocess.CalledProcessError:
        return [], f"{peer.name} cannot mount or read it"
    return [taken], "" if whole else f"{peer.name} was stopped there"


@contextmanager
def datalad_clone(data: Path, packed: Packed) -> Iterator[Path]:
    """A clone of the dataset, which gets its content through ORA."""
    working = Path(tempfile.mkdtemp(prefix="clone-", dir=data))
    try:
        source = f"ria+file://{packed.source}"
        subprocess.run(
            ["datalad", "-l", "error", "clone", source, "clone"], cwd=working, check=True, stdout=subprocess.DEVNULL
        )
        yield working / "clone"
    finally:
        subprocess.run(["chmod", "-R", "u+w", working], check=True)
        shutil.rmtree(working)
