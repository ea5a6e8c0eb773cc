"""Reading one large loose object: while it is verified, once it is verified, and from the kernel's cache."""

import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target

_MIB = 1 << 20


def store(bench: Bench) -> tuple[Path, int]:
    """A store with one object of so many MiB."""
    mib = bench.sized(1024, 256)
    place = bench.data / f"large-{mib}"
    return stores.build_once(place, lambda root: _build(root, place, mib)), mib


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements. The object's file is in the page cache; "cold" is the mount's own cache."""
    place, mib = store(bench)
    [native] = (place / stores.dataset_path(1) / "annex/objects").glob("*/*/*/*")
    measure.seconds("cat", native)
    program = mounts.passthrough_ll(bench.data)

    def digest_tool() -> Times:
        return {"md5sum": measure.seconds("md5sum", native)}

    def first() -> Times:
        with mounts.riafs_mount(bench.data, f"{place}#~large") as directory:
            return {"first": measure.seconds("cat", directory / "large.dat")}

    def verified() -> Times:
        with mounts.riafs_mount(bench.data, f"{place}#~large", remembered=True) as directory:
            file = directory / "large.dat"
            return {
                "verified": measure.seconds("cat", file),
                "warm": measure.seconds("cat", file),
                "native": measure.seconds("cat", native),
            }

    def passthrough() -> Times:
        if program is None:
            return {}
        with mounts.passthrough_mount(bench.data, program, native.parent) as directory:
            return {"passthrough": measure.seconds("cat", directory / native.name)}

    samples = measure.in_turns(bench.rounds, digest_tool, first, verified, passthrough)

    def speed(name: str) -> list[float]:
        return measure.each(samples.get(name, ()), lambda taken: mib * _MIB / 1e6 / taken)

    kind = f"{mib} MiB object"
    yield Row(f"{kind}, first read", "MB/s", speed("first"), Target(at_least=0.85), "md5sum", speed("md5sum"))
    peer = "passthrough_ll" if program else "passthrough_ll: cannot be built"
    yield Row(f"{kind}, verified, cold", "MB/s", speed("verified"), Target(at_least=0.8), peer, speed("passthrough"))
    yield Row(f"{kind}, warm", "MB/s", speed("warm"), Target(at_least=0.9), "native cat", speed("native"))


def _build(root: Path, store: Path, mib: int) -> None:
    stores.make_store(root)
    content = stores.Annexed("large.dat", os.urandom(_MIB) * mib)
    with stores.new_dataset(root, store, 1, "large") as dataset:
        dataset.keep([content])
        dataset.commit("main", [content])
