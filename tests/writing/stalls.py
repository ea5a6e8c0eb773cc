"""How long others wait while one user's many changes are told, restored or pushed: ``python -m tests.writing.stalls``.

A directory of SIZE files is moved to another depth, and a quarter as many files are made. Then each command runs on the
mount, while two other processes look up names all the time: one in another dataset, one in that with the changes. Told
are, for each size and command: seconds, processor time of the mount's daemon and the exponent with which it grew from
size to size, and the longest look-ups.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import private_environment
from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.growth import looking, processor, slope
from tests.push.conftest import with_annex
from tests.small import SmallDataset, SmallStore

_IN_A_DIRECTORY = 500
_SECONDS = 600.0


@dataclass(slots=True)
class Told:
    """One command on a mount. Times in seconds. `worst`: the longest look-up of another process meanwhile in another
    dataset, `worst_inside`: in the one with the changes."""

    command: str
    size: int
    seconds: float = 0.0
    processor: float = 0.0
    worst: float = 0.0
    worst_inside: float = 0.0


def store_of(size: int, directory: Path) -> tuple[Path, SmallDataset]:
    """A store with a dataset of `size` files, and one that others look into."""
    store = SmallStore.make(directory / "store")
    files = {b".gitattributes": b"* annex.largefiles=nothing\n"} | {
        b"old/%d/%d" % (number // _IN_A_DIRECTORY, number): b"%d" % number for number in range(size)
    }
    dataset = with_annex(store.dataset("many", files))
    store.dataset("other", {b"x": b"x"})
    return store.path, dataset


def change(top: Path, size: int) -> None:
    """Move what there is to another depth, and make a quarter as many new files."""
    (top / "deeper/still").mkdir(parents=True)
    (top / "old").rename(top / "deeper/still/old")
    for number in range(size // 4):
        path = top / f"new/{number // _IN_A_DIRECTORY}"
        if not number % _IN_A_DIRECTORY:
            path.mkdir(parents=True)
        (path / f"{number}").write_bytes(b"new %d" % number)


@contextmanager
def timed(mount: Mounted, command: str, size: int) -> Iterator[Told]:
    """Times what is done inside of the ``with``, and look-ups of other processes beside it."""
    told = Told(command, size)
    with looking(mount.path / "other") as others, looking(mount.path / "many") as inside:
        before, began = processor(mount.pid), time.monotonic()
        yield told
        told.seconds, told.processor = time.monotonic() - began, processor(mount.pid) - before
    told.worst, told.worst_inside = others.worst, inside.worst


def measure(size: int, directory: Path) -> list[Told]:
    """All commands, one after the other."""
    store, _ = store_of(size, directory)
    found: list[Told] = []
    with mounted(store, directory, "--overlay", str(directory / "overlay")) as mount:
        top = mount.path / "many"
        change(top, size)
        for words in (["status"], ["diff"], ["restore", "new/0"], ["push", "-m", "x"]):
            where = [str(top / words.pop())] if words[0] == "restore" else [str(mount.path)]
            with timed(mount, words[0], size) as told:
                _run(*words[:1], *where, *words[1:])
            found.append(told)
        for number in range(size // 4):
            (top / f"new-{number}").write_bytes(b"")
        with timed(mount, "restore all", size) as told:
            _run("restore", str(mount.path))
        found.append(told)
    return found


def _run(*words: str) -> None:
    done = run_riafs(*words, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr


def main(arguments: Sequence[str]) -> None:
    """Print a line for each command and size."""
    parser = argparse.ArgumentParser(prog="python -m tests.writing.stalls", description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[5000, 20000, 80000], metavar="SIZE")
    print(f"{'command':12} {'files':>8} {'seconds':>8} {'processor':>9} {'slope':>6} {'look-up':>10} {'inside':>10}")
    known: defaultdict[str, list[Told]] = defaultdict(list)
    for size in parser.parse_args(arguments).sizes:
        with tempfile.TemporaryDirectory() as directory:
            os.environ.update(private_environment(Path(directory)))
            for told in measure(size, Path(directory)):
                known[told.command].append(told)
                print(_line(told, known[told.command]), flush=True)


def _line(told: Told, known: Sequence[Told]) -> str:
    grown = slope([each.size for each in known], [each.processor for each in known]) if len(known) > 1 else None
    figures = f"{told.seconds:8.2f} {told.processor:9.2f} {'' if grown is None else f'{grown:.2f}':>6}"
    waits = f"{told.worst * 1000:7.0f} ms {told.worst_inside * 1000:7.0f} ms"
    return f"{told.command:12} {told.size:8} {figures} {waits}"


if __name__ == "__main__":
    main(sys.argv[1:])
