"""Getting going: a store with many datasets, and what Python has to import."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target
from benchmarks.stores import Annexed

DATASETS = 10_000
_SECOND = Target(at_most=1, of_ratio=False)
_MODULES = "riafs.cli.main, riafs.cli.parser, riafs.cli.mount, riafs.daemon.lifecycle, riafs.daemon.assemble"
_IMPORTS = f"import gc; gc.disable(); import {_MODULES}"  # as riafs.cli.mount does


def store(bench: Bench) -> Path:
    """A store of many datasets of one file each."""
    return stores.build_once(bench.data / f"datasets-{DATASETS}", _build)


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    place = store(bench)

    def mounting() -> Times:
        began = time.perf_counter()
        with mounts.riafs_mount(bench.data, str(place)) as directory:
            mounted = time.perf_counter()
            with os.scandir(directory) as entries:
                found = sum(1 for _ in entries)
            listed = time.perf_counter()
            if found < DATASETS:
                raise AssertionError(f"{found} entries in the root instead of {DATASETS} or more")
            by_id = measure.seconds("ls", "-l", directory / "by-id")
        return {"mount": mounted - began, "root": listed - mounted, "ids": by_id}

    def importing() -> Times:
        repository = ("env", f"PYTHONPATH={mounts.REPOSITORY}")
        return {
            "imports": measure.seconds(*repository, sys.executable, "-c", _IMPORTS),
            "python": measure.seconds(*repository, sys.executable, "-c", "pass"),
        }

    samples = measure.in_turns(bench.rounds, mounting, importing)
    kind = f"store of {DATASETS} datasets with aliases"
    yield Row(f"{kind}, riafs mount", "s", samples["mount"], _SECOND)
    yield Row(f"{kind}, listing the root", "s", samples["root"], _SECOND)
    yield Row(f"{kind}, ls -l by-id", "s", samples["ids"])
    target = Target(at_most=0.5, of_ratio=False)
    yield Row("python with all of a mount's imports", "s", samples["imports"], target, "python", samples["python"])


def _build(root: Path) -> None:
    """One dataset, then the others with hard links to its files."""
    stores.make_store(root)
    with stores.new_dataset(root, root, 0, "ds00000") as dataset:
        dataset.commit("main", [Annexed("file.dat", b"the only file")])
    template = root / stores.dataset_path(0)
    for number in range(1, DATASETS):
        place = root / stores.dataset_path(number)
        place.parent.mkdir(exist_ok=True)
        _copy_linked(template, place)
        stores.add_alias(root, f"ds{number:05d}", number)


def _copy_linked(template: Path, place: Path) -> None:
    place.mkdir()
    for entry in os.scandir(template):
        if entry.is_dir():
            if entry.name not in ("hooks", "branches"):
                _copy_linked(Path(entry.path), place / entry.name)
        else:
            os.link(entry.path, place / entry.name)
