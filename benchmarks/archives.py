"""Reading members of 7z archives: how soon, all of them, and a few of very many, beside what people use today."""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import archive_peers, measure, mounts
from benchmarks.archive_peers import Peer
from benchmarks.archive_stores import (
    COPY,
    ONE_BLOCK,
    OWN,
    PACKINGS,
    RESETS,
    SINGLE,
    SMALL_SIZE,
    SOLID,
    Packed,
    Packing,
    small_store,
    text_store,
)
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target

_FILES = 200
_OPENED = 20
_ROUNDS = 3
"""For what takes many seconds."""
_GOT = 10
"""Files that DataLad gets; the time of all is computed from them."""
_FIRST_BYTE_MS = {COPY: 20.0, SINGLE: 60.0, RESETS: 60.0, OWN: 60.0}


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements. Archives are in the page cache; "cold" is a mount that has its index, but no content."""
    size = bench.sized(2_600_000, 260_000)
    for packing in PACKINGS:
        packed = text_store(bench.data, packing, _FILES, size)
        yield from _first_bytes(bench, packed, packing)
        yield from _mount_and_read(bench, packed, packing)
    for packing in (RESETS, SOLID, ONE_BLOCK, OWN):
        yield from _all_members(bench, text_store(bench.data, packing, _FILES, size), packing)
    yield from _two_processors(bench, text_store(bench.data, RESETS, _FILES, size))
    archived, loose = small_store(bench.data, bench.sized(100_000, 10_000))
    yield from _index(bench, archived)
    yield from _random_keys(bench, archived, loose)


def _cold(bench: Bench, packed: Packed, *words: str) -> contextlib.AbstractContextManager[Path]:
    return mounts.riafs_mount(bench.data, packed.source, *words, remembered=True, forget_blocks=True)


def _first_byte(file: Path) -> float:
    """Seconds from opening `file`, of which the kernel knows already, until its first byte is there."""
    os.stat(file)
    began = time.perf_counter()
    descriptor = os.open(file, os.O_RDONLY)
    try:
        if len(os.read(descriptor, 1)) != 1:
            raise AssertionError(f"{file} is empty")
    finally:
        os.close(descriptor)
    return time.perf_counter() - began


def _milliseconds(samples: Sequence[float]) -> list[float]:
    return measure.each(samples, lambda taken: taken * 1e3)


def _first_bytes(bench: Bench, packed: Packed, packing: Packing) -> Iterator[Row]:
    """Of files here and there, with the index present."""
    chosen = random.Random(1).sample(packed.files, _OPENED)
    with mounts.riafs_mount(bench.data, packed.source, remembered=True) as directory:
        _first_byte(directory / packed.files[0])
    first, others, worst = [], [], []
    for _ in range(bench.rounds):
        with _cold(bench, packed) as directory:
            times = [_first_byte(directory / name) for name in chosen]
        first.append(times[0])
        others += times[1:]
        worst.append(max(times[1:]))
    bound = _FIRST_BYTE_MS.get(packing)
    target = Target(at_most=bound, of_ratio=False) if bound else None
    kind = f"{packing.shown}: open and first byte"
    yield Row(f"{kind}, the first one of a mount", "ms", _milliseconds(first), target)
    yield Row(f"{kind}, {_OPENED - 1} others, anywhere", "ms", _milliseconds(others), target)
    yield Row(f"{kind}, the slowest of these", "ms", _milliseconds(worst), target)


# -- with mounting ----------------------------------------------------------------------------------------------------


def _mount_and_read(bench: Bench, packed: Packed, packing: Packing) -> Iterator[Row]:
    """From nothing but the index until the first byte, and until the last file was read, mounting included."""
    members = packed.members()

    def ours() -> Times:
        return _timed("riafs", lambda: _cold(bench, packed), packed.files)

    steps = [ours]
    peers = archive_peers.mounting(bench.data, packed.archive)
    for peer in peers:
        if peer.mount is not None:
            steps.append(_peer_step(peer, members))
    samples = measure.in_turns(_ROUNDS if packing is COPY else 1, *steps)
    for what in ("first byte of the first file", "last file"):
        for peer in peers:
            yield Row(
                f"{packing.shown}: mount, {what}", "s", samples[f"riafs {what}"], peer.target,
                peer.shown, samples.get(f"{peer.name} {what}", ()),
            )  # fmt: skip


def _peer_step(peer: Peer, members: Sequence[str]) -> Callable[[], Times]:
    assert peer.mount is not None
    mount = peer.mount
    return lambda: _timed(peer.name, mount, members)


def _timed(name: str, mount: Callable[[], contextlib.AbstractContextManager[Path]], files: Sequence[str]) -> Times:
    began = time.perf_counter()
    with mount() as directory:
        _first_byte(directory / files[0])
        first = time.perf_counter() - began
    began = time.perf_counter()
    with mount() as directory:
        measure.seconds("cat", directory / files[-1])
        last = time.perf_counter() - began
    return {f"{name} first byte of the first file": first, f"{name} last file": last}


# -- everything -------------------------------------------------------------------------------------------------------


def _cat(directory: Path, files: Sequence[str]) -> float:
    return measure.seconds("cat", *(directory / file for file in files))


def _seven_zip(packed: Packed, *switches: str) -> float:
    return measure.seconds("7z", "x", "-so", "-bd", *switches, packed.archive)


def _all_members(bench: Bench, packed: Packed, packing: Packing) -> Iterator[Row]:
    shuffled = random.Random(2).sample(packed.files, len(packed.files))

    def in_order() -> Times:
        with _cold(bench, packed) as directory:
            return {"order": _cat(directory, packed.files)}

    def again() -> Times:
        with mounts.riafs_mount(bench.data, packed.source, remembered=True) as directory:
            return {"again": _cat(directory, packed.files), "kernel": _cat(directory, packed.files)}

    def any_order() -> Times:
        with _cold(bench, packed) as directory:
            return {"random": _cat(directory, shuffled)}

    def peer() -> Times:
        return {"7z": _seven_zip(packed)}

    samples = measure.in_turns(_ROUNDS, peer, in_order, again, any_order)
    kind = f"{packing.shown}: all members"
    yield Row(f"{kind}, in order, cold", "s", samples["order"], Target(at_most=1.25), "7z x -so", samples["7z"])
    yield Row(f"{kind}, random order, cold", "s", samples["random"], Target(at_most=1.4), "7z x -so", samples["7z"])
    target = Target(at_least=1000, of_ratio=False)
    for what, name in (
        ("by another mount, from the block cache", "again"),
        ("again, from the kernel's cache", "kernel"),
    ):
        yield Row(f"{kind}, {what}", "MB/s", measure.each(samples[name], _rate(packed)), target)
    yield from _slow_peers(bench, packed, kind, samples["order"])


def _slow_peers(bench: Bench, packed: Packed, kind: str, ours: Sequence[float]) -> Iterator[Row]:
    members = packed.members()
    for peer in archive_peers.mounting(bench.data, packed.archive):
        samples, note = archive_peers.cat_through(peer, members)
        yield Row(f"{kind}, in order, cold", "s", ours, peer.target, peer.shown, samples, note)


def _two_processors(bench: Bench, packed: Packed) -> Iterator[Row]:
    """What several resets gain: beside one decoder alone, ours (on one processor) and 7-Zip's."""
    one = str(min(os.sched_getaffinity(0)))

    def both() -> Times:
        with _cold(bench, packed) as directory:
            return {"both": _cat(directory, packed.files)}

    def single() -> Times:
        with _cold(bench, packed) as directory:
            subprocess.run(
                ["taskset", "-acp", one, str(mounts.daemon(directory))], stdout=subprocess.DEVNULL, check=True
            )
            return {"one": _cat(directory, packed.files)}

    samples = measure.in_turns(_ROUNDS, both, single, lambda: {"7z": _seven_zip(packed, "-mmt1")})
    rate = _rate(packed)
    speeds = {name: measure.each(taken, rate) for name, taken in samples.items()}
    kind = f"{RESETS.shown}: all members, in order, cold"
    peer = "riafs on one processor"
    yield Row(kind, "MB/s", speeds["both"], Target(at_least=1.6), peer, speeds["one"])
    yield Row(kind, "MB/s", speeds["both"], Target(at_least=1.6), "7z x -so -mmt1", speeds["7z"])


def _rate(packed: Packed) -> Callable[[float], float]:
    size = packed.size / 1e6
    return lambda taken: size / taken


# -- very many small keys ---------------------------------------------------------------------------------------------


def _index(bench: Bench, packed: Packed) -> Iterator[Row]:
    """Until the first byte of a member of an archive that was never opened, which takes the whole index."""

    def fresh() -> Times:
        with mounts.riafs_mount(bench.data, packed.source) as directory:
            return {"riafs": _first_byte(directory / packed.files[0])}

    def listing() -> Times:
        return {"7z": measure.seconds("7z", "l", packed.archive)}

    samples = measure.in_turns(bench.rounds, fresh, listing)
    kind = f"stored archive of {len(packed.files)} keys: index and first byte"
    yield Row(kind, "s", samples["riafs"], Target(at_most=1.5), "7z l", samples["7z"])
    with mounts.riafs_mount(bench.data, packed.source, remembered=True) as directory:
        indexed = [_first_byte(directory / packed.files[-1])]
    for _ in range(bench.rounds - 1):
        with mounts.riafs_mount(bench.data, packed.source, remembered=True) as directory:
            indexed.append(_first_byte(directory / packed.files[-1]))
    target = Target(at_most=20, of_ratio=False)
    yield Row(f"{kind}, with the index present", "ms", _milliseconds(indexed), target)


def _random_keys(bench: Bench, archived: Packed, loose: Packed) -> Iterator[Row]:
    count = bench.sized(1000, 200)
    chosen = random.Random(3).sample(archived.files, count)

    def read(packed: Packed) -> float:
        with mounts.riafs_mount(bench.data, packed.source, remembered=True) as directory:
            return _cat(directory, chosen)

    samples = measure.in_turns(bench.rounds, lambda: {"archived": read(archived)}, lambda: {"loose": read(loose)})
    kind = f"{count} random keys of {SMALL_SIZE} bytes of {len(archived.files)} in a stored archive"
    ours = samples["archived"]
    yield Row(kind, "s", ours, Target(at_most=2), "riafs, the same as loose objects", samples["loose"])
    got = _datalad_get(bench, archived, chosen[:_GOT])
    peer = f"datalad get ({count // _GOT} x {_GOT} keys)" if got else "datalad, git-annex: not installed"
    yield Row(kind, "s", ours, Target(at_most=0.01), peer, measure.each(got, lambda taken: taken * count / _GOT))
    names = archived.members()
    members = [names[archived.files.index(file)] for file in chosen]
    for slow in archive_peers.mounting(bench.data, archived.archive):
        taken, note = archive_peers.cat_through(slow, members)
        yield Row(kind, "s", ours, slow.target, slow.shown, taken, note)


def _datalad_get(bench: Bench, packed: Packed, files: Sequence[str]) -> list[float]:
    """Seconds for `files`, in a clone that was made before; empty without DataLad."""
    if not shutil.which("datalad") or not shutil.which("git-annex"):
        return []
    with archive_peers.datalad_clone(bench.data, packed) as clone:
        began = time.perf_counter()
        subprocess.run(["datalad", "-l", "error", "get", *files], cwd=clone, stdout=subprocess.DEVNULL, check=True)
        taken = time.perf_counter() - began
        if not all((clone / file).exists() for file in files):
            raise AssertionError("datalad did not get what it was asked for")
    return [taken]
