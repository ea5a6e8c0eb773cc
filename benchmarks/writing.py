"""Changing things in a mount, beside a C file system and without one, and asking what was changed.

What was written is removed when all rounds are over: ext4 does not use inodes again that were freed minutes ago, and
looks for others the longer the more there are, so that one round would slow down the next.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target
from benchmarks.stores import Annexed

_EACH, _SIZE = 100, 1000
_MIB = 1 << 20
_SOON = Target(at_most=0.2, of_ratio=False)


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements. Nothing is made durable, by nobody, within the times taken."""
    count, mib = bench.sized(10_000, 2_000), bench.sized(1024, 256)
    with tempfile.TemporaryDirectory(dir=bench.data, prefix="written-") as place:
        samples = _samples(bench, Path(place), count, mib)
    kind = f"create + write + close of {count} files of {_SIZE} bytes"
    peer = "passthrough_ll" if "passthrough" in samples else "passthrough_ll: cannot be built"
    yield Row(kind, "s", samples["create"], Target(at_most=3), peer, samples.get("passthrough", ()))
    yield Row(kind, "s", samples["create"], None, "native", samples["native create"])

    def speed(name: str) -> list[float]:
        return measure.each(samples[name], lambda taken: mib * _MIB / 1e6 / taken)

    kind = f"sequential write of {mib} MiB"
    yield Row(kind, "MB/s", speed("write"), Target(at_least=0.5), "native", speed("native write"))
    yield Row(f"riafs status with {count} changes", "s", samples["status"], _SOON)
    yield Row(f"riafs diff of {count} changes", "s", samples["diff"], _SOON)


def _samples(bench: Bench, top: Path, count: int, mib: int) -> measure.Samples:
    store = stores.build_once(bench.data / "writing", lambda root: _build(root, bench.data / "writing"))
    program = mounts.passthrough_ll(bench.data)

    def written() -> Times:
        words = ("--overlay", str(_directory(top) / "overlay"))
        with mounts.riafs_mount(bench.data, f"{store}#~writing", *words, remembered=True) as directory:
            return {
                "create": _create(directory, count),
                "status": _asking("status", directory),
                "diff": _asking("diff", directory),
                "write": _write(directory, mib),
            }

    def passthrough() -> Times:
        if program is None:
            return {}
        with mounts.passthrough_mount(bench.data, program, _directory(top)) as directory:
            return {"passthrough": _create(directory, count)}

    def native() -> Times:
        place = _directory(top)
        return {"native create": _create(place, count), "native write": _write(place, mib)}

    return measure.in_turns(bench.rounds, written, passthrough, native)


def _build(root: Path, store: Path) -> None:
    stores.make_store(root)
    content = [Annexed("file.dat", b"the only file")]
    with stores.new_dataset(root, store, 1, "writing") as dataset:
        dataset.keep(content)
        dataset.commit("main", content)


def _directory(top: Path) -> Path:
    """An empty directory, with nothing on its way to the disk."""
    os.sync()
    return Path(tempfile.mkdtemp(dir=top))


def _create(top: Path, count: int) -> float:
    """Seconds that new files take; their directories are there."""
    names = [top / f"d{number // _EACH:04d}" / f"file{number:06d}.dat" for number in range(count)]
    for directory in {name.parent for name in names}:
        directory.mkdir()
    content = os.urandom(_SIZE)
    began = time.perf_counter()
    for name in names:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(file, content)
        os.close(file)
    return time.perf_counter() - began


def _write(top: Path, mib: int) -> float:
    """Seconds that a large file takes, which is removed then."""
    piece, place = os.urandom(_MIB), top / "large.dat"
    began = time.perf_counter()
    with open(place, "wb", buffering=0) as file:
        file.writelines(piece for _ in range(mib))
    taken = time.perf_counter() - began
    place.unlink()
    return taken


def _asking(command: str, directory: Path) -> float:
    """Seconds that the command takes, the start of its interpreter included."""
    began = time.perf_counter()
    mounts.riafs(command, directory)
    return time.perf_counter() - began
