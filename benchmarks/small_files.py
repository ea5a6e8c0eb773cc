"""Reading many small annexed files, beside a C file system over ordinary files and beside DataLad."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, mounts, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target
from benchmarks.stores import Annexed

_DIRECTORIES, _EACH, _SIZE = 100, 100, 4000
_SAMPLED = 10
"""Directories that DataLad gets unless asked for all."""


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    store, checkout = _data(bench.data)
    measure.seconds_piped("tar", "-C", str(checkout), "-cf", "-", ".")
    measure.seconds_piped("tar", "-C", str(store), "-cf", "-", ".")
    samples = _tar(bench, store, checkout)
    kind = f"tar c of {_DIRECTORIES * _EACH} files of {_SIZE} bytes, cold"
    peer = "passthrough_ll over ordinary files" if "passthrough" in samples else "passthrough_ll: cannot be built"
    tar = samples["riafs"]
    yield Row(kind, "s", tar, Target(at_most=2.5), peer, samples.get("passthrough", ()))
    yield Row(f"{kind}, all verified before", "s", samples["again"], None, "native", samples["native"])
    if not shutil.which("datalad") or not shutil.which("git-annex"):
        yield Row(kind, "s", tar, Target(at_most=0.05), "datalad, git-annex: not installed")
        return
    taken = _clone_and_get(bench, store)
    peer = "datalad clone + get" if bench.whole_get else f"datalad clone + {_DIRECTORIES // _SAMPLED} x get of a part"
    yield Row(kind, "s", tar, Target(at_most=0.05), peer, [taken])


def store(bench: Bench) -> tuple[Path, int]:
    """A store of many small files, and their number."""
    return _data(bench.data)[0], _DIRECTORIES * _EACH


def _data(data: Path) -> tuple[Path, Path]:
    store, checkout = data / "small", data / "small-checkout"

    def build(root: Path) -> None:
        stores.make_store(root)
        with stores.new_dataset(root, store, 1, "small") as dataset:
            dataset.keep(_files())
            dataset.commit("main", _files())
            dataset.log_locations(_files())

    stores.build_once(store, build)
    return store, stores.build_once(checkout, lambda root: stores.write_plain(root, _files()))


def _files() -> Iterator[Annexed]:
    return stores.files(_DIRECTORIES, _EACH, _SIZE)


def _tar(bench: Bench, store: Path, checkout: Path) -> measure.Samples:
    program = mounts.passthrough_ll(bench.data)

    def tar(directory: Path) -> float:
        return measure.seconds_piped("tar", "-C", directory, "-cf", "-", ".")

    def mounted() -> Times:
        with mounts.riafs_mount(bench.data, f"{store}#~small") as directory:
            return {"riafs": tar(directory)}

    def again() -> Times:
        with mounts.riafs_mount(bench.data, f"{store}#~small", remembered=True) as directory:
            return {"again": tar(directory), "native": tar(checkout)}

    def passthrough() -> Times:
        if program is None:
            return {}
        with mounts.passthrough_mount(bench.data, program, checkout) as directory:
            return {"passthrough": tar(directory)}

    return measure.in_turns(bench.rounds, mounted, passthrough, again)


def _clone_and_get(bench: Bench, store: Path) -> float:
    """Seconds for all files; where only a part is got, its time is multiplied."""
    parts = _DIRECTORIES if bench.whole_get else _SAMPLED
    names = [f"d{number:05d}" for number in range(parts)]
    working = Path(tempfile.mkdtemp(prefix="clone-", dir=bench.data))
    try:
        began = time.perf_counter()
        _datalad(working, "clone", f"ria+file://{store}#~small", "clone")
        cloned = time.perf_counter()
        _datalad(working / "clone", "get", *names)
        got = time.perf_counter()
        present = sum(1 for name in names for file in (working / "clone" / name).iterdir() if file.exists())
        if present != parts * _EACH:
            raise AssertionError(f"datalad got {present} files of {parts * _EACH}")
    finally:
        subprocess.run(["chmod", "-R", "u+w", working], check=True)
        shutil.rmtree(working)
    return (cloned - began) + (got - cloned) * _DIRECTORIES / parts


def _datalad(directory: Path, *words: str) -> None:
    command = ["datalad", "-l", "error", *words]
    subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
