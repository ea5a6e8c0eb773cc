"""How costs grow with size: each at three sizes, and the slope of its logarithm over that of the size.

A slope of 1 is linear; below it costs that do not depend on the size count as well. Where a machine has other work,
only processor time tells how a cost grows. Beside what takes long, another process looks up names; its longest look-up
is told.
"""

import contextlib
import os
import sqlite3
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks import attributes, datasets, listing, memory, mounts, stores
from benchmarks.bench import Bench
from benchmarks.report import Row, Target
from tests.conftest import private_environment
from tests.growth import looking, processor, slope
from tests.overlay.many import multiply
from tests.writing import stalls

_LINEAR = Target(at_most=1.2, of_ratio=False)
_SETTLING_SECONDS = 3.0
"""After a mount has begun: what it checks then runs beside its users."""
_FILES_EACH = 50


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs at one size. `grows`: its slope is told as well; `most`: what it may be."""

    name: str
    value: float
    unit: str = "s"
    grows: bool = True
    most: float | None = None


Measured = Callable[[Bench, int], Iterator[Cost]]


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    yield from _growing(bench, "changes", bench.sized(1_000_000, 20_000), _opening)
    yield from _growing(bench, "moved files", bench.sized(100_000, 2_000), _commands)
    yield from _growing(bench, "datasets", bench.sized(10_000, 1_000), _datasets)
    yield from _growing(bench, "directories", bench.sized(16_000, 2_000), _directories)
    yield from _growing(bench, "entries of a directory", bench.sized(300_000, 20_000), _flat)
    yield from _growing(bench, "verified keys", bench.sized(20_000_000, 400_000), _verified)
    yield from _growing(bench, "files", bench.sized(20_000, 4_000), _attributes)
    yield from _growing(bench, "keys of an archive", bench.sized(8_000, 800), _unarchiving)


def _growing(bench: Bench, what: str, largest: int, measured: Measured) -> Iterator[Row]:
    """A row for each cost with the largest size, its note has the others; then the slopes."""
    sizes = (largest // 4, largest // 2, largest)
    series: defaultdict[str, list[Cost]] = defaultdict(list)
    for size in sizes:
        print(f"  {size} {what}", flush=True)
        for cost in measured(bench, size):
            series[cost.name].append(cost)
    for name, costs in series.items():
        *smaller, last = costs
        note = ", ".join(f"{cost.value:.3g} with {size}" for cost, size in zip(smaller, sizes, strict=False))
        target = None if last.most is None else Target(at_most=last.most, of_ratio=False)
        yield Row(f"{name}, {largest} {what}", last.unit, [last.value], target, note=note)
        if last.grows:
            exponent = slope(sizes, [cost.value for cost in costs])
            yield Row(f"{name} by {what}, slope", "", [exponent], _LINEAR)


def _memory(name: str, process: int, most: float | None = None) -> Cost:
    return Cost(f"{name}, memory", memory.resident(process), "MB", grows=False, most=most)


def _longest(name: str, seconds: float) -> Cost:
    return Cost(f"{name}, longest look-up", seconds * 1000, "ms", grows=False)


# -- overlays ---------------------------------------------------------------------------------------------------------


def _opening(bench: Bench, size: int) -> Iterator[Cost]:
    """Mounting over an overlay of so many new files."""
    source = f"{_flat_store(bench, 100)}#~flat"
    with tempfile.TemporaryDirectory(dir=bench.data) as place:
        overlay = Path(place, "overlay")
        with mounts.riafs_mount(bench.data, source, "--overlay", str(overlay)) as mount:
            (mount / "new").write_bytes(b"new")
        multiply(overlay, size)
        began = time.perf_counter()
        with mounts.riafs_mount(bench.data, source, "--overlay", str(overlay)) as mount:
            yield Cost("mount with an overlay", time.perf_counter() - began, most=3)
            process = mounts.daemon(mount)
            yield Cost("mount with an overlay, processor time", processor(process), grows=False)
            with looking(mount) as looks:
                time.sleep(_SETTLING_SECONDS)
            yield _longest("mount with an overlay", looks.worst)
            yield _memory("mount with an overlay", process)


def _commands(_: Bench, size: int) -> Iterator[Cost]:
    """The commands on a mount after a directory of so many files was moved, and a quarter as many were made."""
    with tempfile.TemporaryDirectory() as place, patch.dict(os.environ):
        os.environ.update(private_environment(Path(place)))
        for told in stalls.measure(size, Path(place)):
            yield Cost(told.command, told.seconds, grows=False)
            yield Cost(f"{told.command}, processor time", told.processor)
            yield _longest(told.command, told.worst)
            yield _longest(f"{told.command}, in the dataset", told.worst_inside)


def _directories(bench: Bench, size: int) -> Iterator[Cost]:
    """So many new directories in one, made and removed one by one."""
    with (
        tempfile.TemporaryDirectory(dir=bench.data) as place,
        mounts.riafs_mount(bench.data, f"{_flat_store(bench, 100)}#~flat", "--overlay", f"{place}/overlay") as mount,
    ):
        process, names = mounts.daemon(mount), [f"{mount}/d{number}" for number in range(size)]
        for name, call in (("mkdir", os.mkdir), ("rmdir", os.rmdir)):
            with looking(mount / "all") as looks:
                began, before = time.perf_counter(), processor(process)
                for each in names:
                    call(each)
                yield Cost(name, time.perf_counter() - began, grows=False)
                yield Cost(f"{name}, processor time", processor(process) - before)
            yield _longest(name, looks.worst)
        yield _memory("mkdir and rmdir", process)


# -- listing ----------------------------------------------------------------------------------------------------------


def _datasets(bench: Bench, size: int) -> Iterator[Cost]:
    """So many datasets that are entered once by ``ls``."""
    found = datasets.measured(bench, size, bench.sized(60, 5), bench.sized(5, 1))
    yield Cost("first ls of each, processor time", found.entering, most=15 * size / 4500)
    yield Cost("entered, memory", found.resident, "MB", grows=False)
    yield Cost("idle, of a core", found.idle * 100, "%", grows=False, most=1)
    if found.calls is not None:
        yield Cost("idle, stats", found.calls, "1/s", grows=False, most=50)
    yield Cost("ls of a new commit", found.again, grows=False, most=1)


def _flat(bench: Bench, size: int) -> Iterator[Cost]:
    with mounts.riafs_mount(bench.data, f"{_flat_store(bench, size)}#~flat") as mount:
        process = mounts.daemon(mount)
        began, before = time.perf_counter(), processor(process)
        with os.scandir(mount / "all") as entries:
            next(entries)
            yield Cost("first entry", time.perf_counter() - began, most=0.3)
            yield Cost("first entry, processor time", processor(process) - before, grows=False)
            with looking(mount) as looks:
                found = 1 + sum(1 for _ in entries)
        assert found == size, f"{found} entries instead of {size}"
        yield Cost("ls, processor time", processor(process) - before)
        yield _longest("ls", looks.worst)
        for turn in ("first", "second"):
            before = processor(process)
            subprocess.run(["ls", "-l", mount / "all"], stdout=subprocess.DEVNULL, check=True)
            yield Cost(f"{turn} ls -l, processor time", processor(process) - before)
        yield _memory("ls -l", process)


def _flat_store(bench: Bench, size: int) -> Path:
    """Links to annexed content in one directory, ``all``; there are no objects."""
    place = bench.data / f"flat-{size}"

    def build(root: Path) -> None:
        stores.make_store(root)
        with stores.new_dataset(root, place, 1, "flat") as dataset:
            dataset.commit_flat("main", "all", stores.files(1, size, 12, "file{1:07d}.dat"))

    return stores.build_once(place, build)


# -- content ----------------------------------------------------------------------------------------------------------


def _verified(bench: Bench, size: int) -> Iterator[Cost]:
    """Reading files that were never verified, where so many others were."""
    store, file = listing.spread(bench), bench.data / "verified/verified.sqlite"
    with mounts.riafs_mount(bench.data, str(store)):  # nothing is remembered from before
        pass
    _remember(file, size)
    with mounts.riafs_mount(bench.data, f"{store}#~wide", remembered=True) as mount:
        process, files = mounts.daemon(mount), attributes.some_files(mount, 20)
        start, before = memory.resident(process), processor(process)
        for path in files:
            Path(path).read_bytes()
        yield Cost(f"first read of {len(files)} files, processor time", processor(process) - before)
        yield Cost("memory more than before", memory.resident(process) - start, "MB", grows=False, most=10)
    file.unlink()


def _remember(file: Path, size: int) -> None:
    """Rows of keys that nobody has, evenly spread as digests are."""
    step = (1 << 160) // size
    digests = (((number * step).to_bytes(20, "big"),) for number in range(size))
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.executemany("insert into verified_2 values (?)", digests)


def _attributes(bench: Bench, size: int) -> Iterator[Cost]:
    """Extended attributes of so many files that the kernel knows."""
    with mounts.riafs_mount(bench.data, f"{listing.spread(bench)}#~wide") as mount:
        process, files = mounts.daemon(mount), attributes.some_files(mount, size // _FILES_EACH)
        attributes.each(files, os.stat)
        calls: dict[str, Callable[[str], object]] = {"listxattr": os.listxattr}
        calls["getxattr"] = partial(os.getxattr, attribute="security.capability")
        calls["look-up"] = lambda path: os.stat(f"{path}.absent")
        for name, call in calls.items():
            before = processor(process)
            attributes.each(files, call)
            yield Cost(f"{name}, processor time", processor(process) - before)


def _unarchiving(bench: Bench, size: int) -> Iterator[Cost]:
    """``riafs unarchive`` of so many objects of 1,000 bytes."""
    with tempfile.TemporaryDirectory(dir=bench.data) as place:
        store, content = Path(place), list(stores.files(1, size, 1000))
        stores.make_store(store)
        with stores.new_dataset(store, store, 1, "packed") as dataset:
            dataset.keep(content)
            dataset.commit("main", content)
        mounts.riafs("archive", "--prune", f"{store}#~packed")
        began = time.perf_counter()
        mounts.riafs("unarchive", f"{store}#~packed")
        yield Cost("unarchive", time.perf_counter() - began)
