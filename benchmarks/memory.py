"""The daemon's memory after all of a very large dataset was listed, and listed again."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.report import Row, Target

_EACH = 100


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements: resident memory (VmRSS) after each ``find``, all with one mount."""
    directories = bench.sized(10_000, 1_000)
    store = bench.data / f"huge-{directories}x{_EACH}"
    stores.build_once(store, lambda root: _build(root, store, directories))
    with mounts.riafs_mount(bench.data, f"{store}#~huge") as mount:
        process = mounts.daemon(mount)
        before = resident(process)
        after = []
        for _ in range(bench.sized(10, 3)):
            measure.seconds("find", mount, "-ls")
            after.append(resident(process))
            if measure.can_drop_caches():
                measure.drop_caches(2)  # so that the next round asks for every entry again
    kind = f"daemon after find over {directories * _EACH} files"
    limit = Target(at_most=200, of_ratio=False)
    yield Row(f"{kind} in {directories} directories", "MB", after[:1], limit, "at the start", [before])
    name = f"{kind}, {len(after)} times"
    yield Row(name, "MB", after[-1:], Target(at_most=1.05), "after the first", after[:1])


def resident(process: int) -> float:
    """VmRSS in MB (10**6 bytes)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"process {process} has no VmRSS")


def _build(root: Path, store: Path, directories: int) -> None:
    """Links only: listing asks the store for the objects' modes, and gets "not there"."""
    stores.make_store(root)
    with stores.new_dataset(root, store, 1, "huge") as dataset:
        dataset.commit("main", stores.files(directories, _EACH, 12))
