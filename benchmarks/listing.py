"""Listing many files: spread over directories, and all in one."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target
from benchmarks.stores import Annexed

_EACH = 50
_SIZE = 12


@dataclass(frozen=True, slots=True)
class _Data:
    store: Path
    links: Path
    """A clone with its locked links: what users of git-annex list today."""
    files: Path
    """The same as ordinary files."""


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements; "cold" is the kernel's cache of the mount, unless the machine's caches are mentioned."""
    directories = _directories(bench)
    data = _data(bench.data, directories)
    yield from _spread(bench, data, directories)
    if measure.can_drop_caches():
        yield from _machine_cold(bench, data)
    yield from _one_directory(bench, data.store, directories * _EACH)


def spread(bench: Bench) -> Path:
    """The store with these files."""
    return _data(bench.data, _directories(bench)).store


def _directories(bench: Bench) -> int:
    return bench.sized(2000, 400)


def _data(data: Path, directories: int) -> _Data:
    """The store's branch ``flat`` has the files of ``main`` in one directory."""
    name = f"wide-{directories}x{_EACH}"
    store = data / name

    def build(root: Path) -> None:
        stores.make_store(root)
        with stores.new_dataset(root, store, 1, "wide") as dataset:
            dataset.keep(_files(directories))
            dataset.commit("main", _files(directories))
            dataset.commit("flat", stores.files(directories, _EACH, _SIZE, "all/file{1:06d}.dat"))

    def clone(root: Path) -> None:
        subprocess.run(["git", "clone", "-q", store / stores.dataset_path(1), root], check=True)

    stores.build_once(store, build)
    links = stores.build_once(data / f"{name}-links", clone)
    return _Data(
        store,
        links,
        stores.build_once(data / f"{name}-files", lambda root: stores.write_plain(root, _files(directories))),
    )


def _files(directories: int) -> Iterator[Annexed]:
    return stores.files(directories, _EACH, _SIZE)


def _find(directory: Path) -> float:
    return measure.seconds("find", directory, "-path", "*/.git", "-prune", "-o", "-ls")


def _spread(bench: Bench, data: _Data, directories: int) -> Iterator[Row]:
    program = mounts.bindfs()
    for place in (data.store, data.links, data.files):
        _find(place)

    def mounted() -> Times:
        with mounts.riafs_mount(bench.data, f"{data.store}#~wide") as directory:
            return {"cold": _find(directory), "warm": _find(directory), "native": _find(data.links)}

    def peer() -> Times:
        if program is None:
            return {}
        times = {}
        for name, place in (("links", data.links), ("files", data.files)):
            with mounts.bindfs_mount(bench.data, program, place) as directory:
                times[name] = _find(directory)
        return times

    samples = measure.in_turns(bench.rounds, mounted, peer)
    kind = f"find -ls of {directories * _EACH} files in {directories} directories"
    peer_name = "bindfs over a clone, locked links" if program else "bindfs: not installed"
    cold = samples["cold"]
    yield Row(f"{kind}, cold", "s", cold, Target(at_most=0.5), peer_name, samples.get("links", ()))
    if program:
        yield Row(f"{kind}, cold", "s", cold, None, "bindfs over ordinary files", samples["files"])
    entries = directories * (_EACH + 1) + 1
    each = measure.each(cold, lambda taken: taken * 1e6 / entries)
    yield Row(f"{kind}, cold, each entry", "µs", each, Target(at_most=45, of_ratio=False))
    yield Row(f"{kind}, warm", "s", samples["warm"], Target(at_most=3), "native clone", samples["native"])


def _machine_cold(bench: Bench, data: _Data) -> Iterator[Row]:
    def mounted() -> Times:
        with mounts.riafs_mount(bench.data, f"{data.store}#~wide") as directory:
            measure.drop_caches()
            return {"riafs": _find(directory)}

    def native() -> Times:
        measure.drop_caches()
        return {"native": _find(data.links)}

    samples = measure.in_turns(1 if bench.quick else 3, mounted, native)
    kind = "the same find -ls, machine's caches dropped"
    yield Row(kind, "s", samples["riafs"], None, "native clone, dropped too", samples["native"])


def _one_directory(bench: Bench, store: Path, count: int) -> Iterator[Row]:
    def first_entry() -> Times:
        with mounts.riafs_mount(bench.data, f"{store}#~wide@flat") as directory:
            began = time.perf_counter()
            with os.scandir(directory / "all") as entries:
                next(entries)
                first = time.perf_counter() - began
                found = 1 + sum(1 for _ in entries)
            if found != count:
                raise AssertionError(f"{found} entries were listed instead of {count}")
            return {"first": first}

    def whole() -> Times:
        with mounts.riafs_mount(bench.data, f"{store}#~wide@flat") as directory:
            return {"whole": measure.seconds("ls", "-l", directory / "all")}

    samples = measure.in_turns(bench.rounds, first_entry, whole)
    kind = f"one directory of {count} entries"
    yield Row(f"{kind}, first entry", "s", samples["first"], Target(at_most=1, of_ratio=False))
    yield Row(f"{kind}, ls -l", "s", samples["whole"])
