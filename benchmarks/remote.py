"""Stores on other machines: sshd and nginx of this machine, behind a line of 0, 10 and 200 ms, beside other clients.

All clients of one comparison use the same servers and the same line in turns. A peer that is slow by design reads less,
and its speed is what counts.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import measure, memory, mounts, remote_data
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.remote_data import EACH, Servers, line, served, sizes, store
from benchmarks.report import Row, Target

ROUND_TRIPS = (0.0, 0.01, 0.2)
_RATE = 100e6
"""Bytes a second of the line of 200 ms."""
_LISTING_ROUND_TRIP = 0.02
_PEER_BYTES = 8 << 20
"""What sshfs and rclone read at 200 ms."""
_READERS = 64
_GOT_FILES = 20
_KINDS = ("http", "ssh")
_MIB = 1 << 20


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    missing = [name for name in ("sshd", "nginx") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
    if missing:
        print(f"remote: {', '.join(missing)} not installed, nothing is measured", file=sys.stderr)
        return
    place = store(bench)
    with served(bench, place, sizes(bench).large) as servers:
        for round_trip in ROUND_TRIPS:
            chosen = line(servers, round_trip, _RATE if round_trip >= max(ROUND_TRIPS) else float("inf"))
            yield from _sequential(bench, chosen, round_trip)
            yield from _random(bench, chosen, round_trip)
            yield from _small(bench, chosen, round_trip)
        yield from _listing(bench, line(servers, _LISTING_ROUND_TRIP))
        yield from _memory(bench, line(servers, 0.01))


def _named(what: str, kind: str, round_trip: float) -> str:
    return f"{what}, {kind}, {round_trip * 1000:g} ms"


def _installed(program: str) -> bool:
    return shutil.which(program) is not None


def _peer(name: str, samples: list[float]) -> str:
    return name if samples else f"{name}: not installed"


# -- one large file ---------------------------------------------------------------------------------------------------


def _sequential(bench: Bench, servers: Servers, round_trip: float) -> Iterator[Row]:
    size = servers.size
    long = round_trip >= max(ROUND_TRIPS)
    little = min(size, _PEER_BYTES) if long else size
    path = remote_data.large_object(servers.store)

    def speed(seconds: float, read: int = size) -> float:
        return read / 1e6 / seconds

    def ours(kind: str) -> Callable[[], Times]:
        def turn() -> Times:
            with _mounted(bench, servers, kind, "large") as mount:
                return {kind: speed(measure.seconds("cat", mount / "large"))}

        return turn

    def curl() -> Times:
        if not _installed("curl"):
            return {}
        return {"curl": speed(measure.seconds("curl", "-s", "-f", servers.object_url()))}

    def cat() -> Times:
        return {"ssh cat": speed(measure.seconds(*servers.remote_word(), f"cat {path}"))}

    def sshfs() -> Times:
        if not _installed("sshfs"):
            return {}
        with servers.sshfs(bench.data) as mount:
            file = mount / path.relative_to(servers.store)
            return {"sshfs": speed(measure.seconds("head", "-c", str(little), file), little)}

    def rclone() -> Times:
        if not _installed("rclone"):
            return {}
        with servers.rclone(bench.data) as mount:
            return {"rclone": speed(measure.seconds("head", "-c", str(little), mount / path.name), little)}

    taken = measure.in_turns(bench.sized(3, 1), *map(ours, _KINDS), curl, cat, sshfs, rclone)
    found = {name: list(values) for name, values in taken.items()}
    what = f"{size // _MIB} MiB in order"
    for kind, peer, least in (
        ("http", "curl", 0.8),
        ("ssh", "ssh cat", 0.75),
        ("ssh", "sshfs", 1.8),
        ("http", "rclone", 3),
    ):
        samples = found.get(peer, [])
        name = _named(what, kind, round_trip)
        yield Row(name, "MB/s", found[kind], Target(at_least=least), _peer(peer, samples), samples)
    if long:
        for kind in _KINDS:
            goal = Target(at_least=0.8 * _RATE / 1e6, of_ratio=False)
            yield Row(_named(f"{what}, line of 100 MB/s", kind, round_trip), "MB/s", found[kind], goal)


@contextmanager
def _mounted(bench: Bench, servers: Servers, kind: str, alias: str, *, remembered: bool = False) -> Iterator[Path]:
    source = servers.url(kind, alias)
    with mounts.riafs_mount(bench.data, source, *servers.words(kind), remembered=remembered) as mount:
        yield mount


# -- here and there in it ---------------------------------------------------------------------------------------------

_READ = """
import os, random, sys
path, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = os.open(path, os.O_RDONLY)
whole, chance = os.fstat(file).st_size, random.Random(13)
for _ in range(count):
    assert len(os.pread(file, size, chance.randrange(whole - size))) == size
"""


def _read_at_random(path: Path) -> float:
    return measure.seconds(sys.executable, "-I", "-c", _READ, path, "100", str(64 << 10))


def _random(bench: Bench, servers: Servers, round_trip: float) -> Iterator[Row]:
    name = remote_data.large_object(servers.store).name
    theirs: list[float] = []
    if _installed("rclone"):
        with servers.rclone(bench.data) as mount:
            theirs = [_read_at_random(mount / name)]
    for kind in _KINDS:
        with _mounted(bench, servers, kind, "large") as mount:
            before = servers.transferred()
            taken = _read_at_random(mount / "large")
            transferred = (servers.transferred() - before) / 1e6
        what = _named("100 reads of 64 KiB at random", kind, round_trip)
        yield Row(what, "s", [taken], Target(at_most=0.7), _peer("rclone", theirs), theirs)
        if servers.long:
            yield Row(f"{what}, transferred", "MB", [transferred], Target(at_most=20, of_ratio=False))


# -- many small files -------------------------------------------------------------------------------------------------


def _small(bench: Bench, servers: Servers, round_trip: float) -> Iterator[Row]:
    count = sizes(bench).small * EACH
    peers = _small_peers(bench, servers, count)
    for kind in _KINDS:
        with _mounted(bench, servers, kind, "small") as mount:
            cold = measure.seconds_piped("tar", "-C", mount, "-cf", "-", ".")
        before = servers.content_requests()
        with _mounted(bench, servers, kind, "small", remembered=True) as mount:
            again = measure.seconds_piped("tar", "-C", mount, "-cf", "-", ".")
        requests = servers.content_requests() - before
        what = _named(f"{count} files of 20 kB, cold", kind, round_trip)
        seconds = Target(at_most=count / 1000, of_ratio=False) if round_trip <= min(ROUND_TRIPS[1:]) else None
        yield Row(what, "s", [cold], seconds)
        if kind == "ssh":
            for peer, most in (("sshfs", 1 / 5), ("datalad get", 1 / 20)):
                yield Row(what, "s", [cold], Target(at_most=most), _peer(peer, peers[peer]), peers[peer])
        what = _named("the same by a second mount", kind, round_trip)
        yield Row(what, "s", [again])
        goal = Target(at_most=0, of_ratio=False)
        yield Row(f"{what}, requests for content", "requests", [float(requests)], goal)


def _small_peers(bench: Bench, servers: Servers, count: int) -> dict[str, list[float]]:
    """Seconds for all files, from what a hundred of them took."""
    found: dict[str, list[float]] = {"sshfs": [], "datalad get": []}
    if _installed("sshfs"):
        with servers.sshfs(bench.data) as mount:
            top = mount / remote_data.stores.dataset_path(3) / "annex/objects"
            paths = [Path(path) for path in _some_objects(top, EACH)]
            found["sshfs"] = [measure.seconds("cat", *paths) * count / len(paths)]
    if _installed("datalad"):
        with _working(bench) as working:
            _, each = remote_data.clone(servers, working, "small", _GOT_FILES)
            found["datalad get"] = [each * count]
    return found


def _some_objects(top: Path, count: int) -> Iterator[str]:
    """The first so many objects, found where looking for them takes no time that is measured."""
    for _, path in zip(range(count), top.glob("*/*/*/*"), strict=False):
        yield str(path)


@contextmanager
def _working(bench: Bench) -> Iterator[Path]:
    working = Path(tempfile.mkdtemp(prefix="clone-", dir=bench.data))
    try:
        yield working
    finally:
        subprocess.run(["chmod", "-R", "u+w", working], check=True)
        shutil.rmtree(working)


# -- a large tree -----------------------------------------------------------------------------------------------------


def _listing(bench: Bench, servers: Servers) -> Iterator[Row]:
    count = sizes(bench).wide * EACH
    trip = _LISTING_ROUND_TRIP
    cloned: list[float] = []
    if _installed("datalad"):
        with _working(bench) as working:
            cloned = [remote_data.clone(servers, working, "wide", 0)[0]]
    with mounts.riafs_mount(bench.data, f"{servers.store}#~wide"):
        pass
    local = _mount_and_list(bench, f"{servers.store}#~wide")
    for kind in _KINDS:
        before = servers.transferred()
        began = time.perf_counter()
        with _mounted(bench, servers, kind, "wide") as mount:
            measure.seconds("ls", "-l", mount, mount / "d00000")
            first, transferred = time.perf_counter() - began, (servers.transferred() - before) / 1e6
            whole = measure.seconds("find", mount, "-ls")
        again = _mount_and_list(bench, servers.url(kind, "wide"), *servers.words(kind))
        what = _named(f"mount and first ls of a dataset of {count} files", kind, trip)
        yield Row(what, "s", [first], Target(at_most=2, of_ratio=False))
        yield Row(f"{what}, transferred", "MB", [transferred], Target(at_most=7, of_ratio=False))
        find = _named(f"find -ls over {count} files", kind, trip)
        yield Row(find, "s", [whole], Target(at_most=0.3), _peer("datalad clone", cloned), cloned)
        second = _named("second mount and ls: more than of a local store", kind, trip)
        yield Row(second, "s", [again - local], Target(at_most=0.2, of_ratio=False))


def _mount_and_list(bench: Bench, source: str, *words: str) -> float:
    began = time.perf_counter()
    with mounts.riafs_mount(bench.data, source, *words, remembered=True) as mount:
        measure.seconds("ls", "-l", mount, mount / "d00000")
        return time.perf_counter() - began


# -- memory -----------------------------------------------------------------------------------------------------------


def _memory(bench: Bench, servers: Servers) -> Iterator[Row]:
    chance = random.Random(13)
    blocks = servers.size // _MIB
    for kind in _KINDS:
        with _mounted(bench, servers, kind, "large") as mount:
            file = mount / "large"
            places = [chance.randrange(blocks - 8) for _ in range(_READERS)]
            words = ["bs=1M", "count=8", "status=none", f"if={file}", "of=/dev/null"]
            readers = [subprocess.Popen(["dd", *words, f"skip={place}"]) for place in places]
            failed = [reader.wait() for reader in readers]
            assert not any(failed)
            taken = memory.resident(mounts.daemon(mount))
        goal = Target(at_most=250, of_ratio=False)
        yield Row(_named(f"memory with {_READERS} readers of 8 MiB", kind, 0.01), "MB", [taken], goal)
