"""Keep: reading blocks from servers and volumes, walking collections, parsing manifests; beside arv-mount and the SDK.

The cluster is a stand-in that runs in the benchmark's own process; both sides ask the same one in turns.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks import keep_data, measure, mounts
from benchmarks.bench import Bench
from benchmarks.measure import Samples, Times
from benchmarks.report import Row, Target
from tests.keep.standin.cluster import Cluster

_MIB = 1 << 20
_UNFINISHED_SECONDS = 60.0
_NO_PEER = "arv-mount: not installed"

Mounting = Callable[[], AbstractContextManager[Path]]


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    with keep_data.cluster(bench.data) as running:
        yield from _reading(bench, running)
        yield from _walking(bench, running)
        yield from _volumes(bench, running)
    yield from _parsing(bench)


def _sides(bench: Bench, running: Cluster) -> dict[str, Mounting]:
    """Who is compared, and how each mounts the cluster."""
    sides: dict[str, Mounting] = {"riafs": lambda: keep_data.riafs_mount(bench.data, running)}
    program = keep_data.arv_mount()
    if program is not None:
        sides["arv-mount"] = lambda: keep_data.arv_mounted(bench.data, program, running)
    return sides


# -- reading ----------------------------------------------------------------------------------------------------------


def _reading(bench: Bench, running: Cluster) -> Iterator[Row]:
    blocks = bench.sized(8, 3)
    uuid = keep_data.large(running, blocks)
    requests: dict[str, keep_data.Counts] = {}

    def whole(side: str, mounting: Mounting) -> Times:
        with mounting() as directory:
            files = sorted((directory / "by_id" / uuid).iterdir())
            keep_data.counted(running)
            taken = {f"{side} cold": measure.seconds("cat", *files)}
            requests[side] = keep_data.counted(running)
            return taken | {f"{side} again": measure.seconds("cat", *files)}

    def first_byte(side: str, mounting: Mounting) -> Times:
        with mounting() as directory:
            folder = directory / "by_id" / uuid
            next(folder.iterdir())
            return {f"{side} first": measure.seconds("head", "-c", "1", folder / "f1") * 1000}

    sides = _sides(bench, running)
    samples = measure.in_turns(
        bench.rounds,
        *(lambda side=side, mounting=mounting: whole(side, mounting) for side, mounting in sides.items()),
        *(lambda side=side, mounting=mounting: first_byte(side, mounting) for side, mounting in sides.items()),
    )
    size = blocks * keep_data.BLOCK
    yield _compared(f"{size // _MIB} MiB, cold", "MB/s", _speeds(samples, "cold", size), Target(at_least=3), requests)
    yield _compared(f"{size // _MIB} MiB, again", "MB/s", _speeds(samples, "again", size), Target(at_least=3), {})
    yield _compared("first byte of a block of 64 MiB", "ms", _named(samples, "first"), Target(at_most=0.6), {})


def _named(samples: Samples, what: str) -> dict[str, list[float]]:
    """Side → its samples of `what`."""
    return {name.rpartition(" ")[0]: list(values) for name, values in samples.items() if name.endswith(f" {what}")}


def _speeds(samples: Samples, what: str, size: int) -> dict[str, list[float]]:
    found = _named(samples, what)
    return {side: measure.each(values, lambda taken: size / 1e6 / taken) for side, values in found.items()}


def _compared(
    name: str, unit: str, sides: dict[str, list[float]], target: Target, requests: dict[str, keep_data.Counts]
) -> Row:
    note = "; ".join(f"{side}: {counts}" for side, counts in requests.items())
    peer = "arv-mount" if "arv-mount" in sides else _NO_PEER
    return Row(name, unit, sides["riafs"], target, peer, sides.get("arv-mount", ()), note)


# -- walking ----------------------------------------------------------------------------------------------------------


def _walking(bench: Bench, running: Cluster) -> Iterator[Row]:
    folders = bench.sized(1000, 100)
    names = keep_data.tree(running, folders, 100)
    for kind in ("portable_data_hash", "uuid"):
        yield _walk(bench, running, f"find -ls of {folders} x 100 files, by {kind}", names[kind], Target(at_most=0.2))
    files = bench.sized(100_000, 10_000)
    wide = keep_data.tree(running, 1, files)["portable_data_hash"]
    yield _walk(bench, running, f"find -ls of a folder of {files} files", wide, Target(at_most=1 / 3))


def _walk(bench: Bench, running: Cluster, name: str, identifier: str, target: Target) -> Row:
    """The peer has one turn, as it takes long, and is stopped where it takes very long."""
    requests: dict[str, keep_data.Counts] = {}

    def walk(side: str, mounting: Mounting) -> float:
        with mounting() as directory:
            keep_data.counted(running)
            taken = _find(directory / "by_id" / identifier)
            requests[side] = keep_data.counted(running)
            return taken

    sides = _sides(bench, running)
    samples = {"riafs": [walk("riafs", sides["riafs"]) for _ in range(bench.rounds)]}
    if "arv-mount" in sides:
        samples["arv-mount"] = [walk("arv-mount", sides["arv-mount"])]
    row = _compared(name, "s", samples, target, requests)
    if row.peer_value is not None and row.peer_value >= _UNFINISHED_SECONDS:
        return Row(name, "s", row.samples, target, f"arv-mount, stopped after {_UNFINISHED_SECONDS:.0f} s",
                   row.peer_samples, row.note)  # fmt: skip
    return row


def _find(directory: Path) -> float:
    try:
        return measure.seconds("timeout", str(_UNFINISHED_SECONDS), "find", f"{directory}/", "-ls")
    except subprocess.CalledProcessError:
        return _UNFINISHED_SECONDS


# -- volumes ----------------------------------------------------------------------------------------------------------


def _volumes(bench: Bench, running: Cluster) -> Iterator[Row]:
    blocks = bench.sized(8, 3)
    record = running.records.tables["collections"][keep_data.large(running, blocks)]
    manifests = bench.data / "keep-manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "large.manifest").write_text(record["manifest_text"])
    roots = [each.volume.root for each in running.keepstores]
    files = [str(roots[0] / name[:3] / name[:32]) for name in record["manifest_text"].split() if name[32:33] == "+"]
    source = f"keep+file://{','.join(map(str, roots))}?manifests={manifests}"
    measure.seconds("cat", *files)

    def read(*, remembered: bool) -> float:
        with mounts.riafs_mount(bench.data, source, remembered=remembered) as directory:
            return measure.seconds("cat", *sorted((directory / "large").iterdir()))

    samples = measure.in_turns(
        bench.rounds,
        lambda: {"native": measure.seconds("cat", *files), "md5sum": measure.seconds("md5sum", *files)},
        lambda: {"first": read(remembered=False)},
        lambda: {"verified": read(remembered=True)},
    )

    def speed(name: str) -> list[float]:
        return measure.each(samples[name], lambda taken: blocks * keep_data.BLOCK / 1e6 / taken)

    kind = f"volumes, {blocks * keep_data.BLOCK // _MIB} MiB"
    yield Row(f"{kind}, first read", "MB/s", speed("first"), None, "md5sum of the block files", speed("md5sum"))
    peer = "cat of the block files"
    yield Row(f"{kind}, first read", "MB/s", speed("first"), Target(at_least=0.7), peer, speed("native"))
    yield Row(f"{kind}, verified", "MB/s", speed("verified"), Target(at_least=0.7), peer, speed("native"))


# -- parsing ----------------------------------------------------------------------------------------------------------

_MANIFEST = """
import sys, time
count = int(sys.argv[1])
name = "900150983cd24fb0d6963f7d28e17f72+3"
lines = (". %s " % name if not d else "./d%d %s " % (d, name) for d in range(max(1, count // 1000)))
text = "".join(l + " ".join("0:3:file%d-%d.dat" % (d, f) for f in range(1000)) + "\\n" for d, l in enumerate(lines))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
"""
_RIAFS_PARSE = """
from riafs.formats.manifests.reader import parse_manifest
data = text.encode()
del text
before, began = resident(), time.perf_counter()
parsed = parse_manifest(data)
print(time.perf_counter() - began, resident() - before)
"""
_SDK_PARSE = """
from arvados.collection import CollectionReader
before, began = resident(), time.perf_counter()
reader = CollectionReader(text, api_client=object(), keep_client=object())
reader.items()
print(time.perf_counter() - began, resident() - before)
"""


def _parsing(bench: Bench) -> Iterator[Row]:
    files = bench.sized(1_000_000, 100_000)
    fewer = files // 10  # the SDK takes long, and its time is proportional
    python = keep_data.sdk_python()
    ours, theirs = [], []
    for _ in range(bench.rounds):
        ours.append(_parse(Path(sys.executable), _RIAFS_PARSE, files))
        if python is not None:
            theirs.append(_parse(python, _SDK_PARSE, fewer))
    peer = "Arvados' Python SDK" if theirs else "Arvados' Python SDK: not installed"
    speeds = [files / taken for taken, _ in ours]
    peers = [fewer / taken for taken, _ in theirs]
    name = f"parsing a manifest of {files} files"
    yield Row(name, "files/s", speeds, Target(at_least=300_000, of_ratio=False), peer, peers)
    yield Row(name, "files/s", speeds, Target(at_least=5), peer, peers)
    memory, peer_memory = [size / files for _, size in ours], [size / fewer for _, size in theirs]
    yield Row(f"{name}: memory", "bytes/file", memory, Target(at_most=500, of_ratio=False), peer, peer_memory)


def _parse(python: Path, program: str, files: int) -> tuple[float, float]:
    """Seconds and bytes of memory of one parse in a process of its own."""
    command: list[str | Path] = [python, "-c", _MANIFEST + program, str(files)]
    said = subprocess.run(command, cwd=mounts.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True).stdout
    taken, size = said.split()
    return float(taken), float(size)
