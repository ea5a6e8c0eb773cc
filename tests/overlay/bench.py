"""Speed of the engine by itself: ``python -m tests.overlay.bench DIRECTORY``. Prints one line for each figure."""

import os
import shutil
import sys
import tempfile
import time

import trio

from riafs.counters import Counters
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.namespace import Creator
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from tests.overlay.disk import TOP, DiskLower

COUNT = 10_000
MAKER = Creator(0, 0, 0o644)


def show(what: str, seconds: float, each: int, unit: str = "us each") -> None:
    print(f"{what}: {seconds:.3f} s, {seconds / each * 1e6:.1f} {unit}")


def native(base: str) -> None:
    os.mkdir(f"{base}/native")
    start, processor = time.perf_counter(), time.process_time()
    for number in range(COUNT):
        file = os.open(f"{base}/native/{number}", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.pwrite(file, b"x" * 1000, 0)
        os.close(file)
    show("native create + write + close", time.perf_counter() - start, COUNT)
    show("  processor time", time.process_time() - processor, COUNT)


async def small_files(engine: OverlayFileSystem) -> int:
    top = (await engine.mkdir(TOP, b"new", MAKER)).inode
    start, processor = time.perf_counter(), time.process_time()
    for number in range(COUNT):
        _, handle = await engine.create(top, b"file %d" % number, MAKER)
        await engine.write(handle, 0, b"x" * 1000)
        engine.release(handle)
    show("create + write + close", time.perf_counter() - start, COUNT)
    show("  processor time", time.process_time() - processor, COUNT)
    return top


async def listing(engine: OverlayFileSystem, top: int) -> None:
    start = time.perf_counter()
    handle, offset, count = engine.opendir(top), 0, 0
    while page := await engine.readdir(handle, offset):
        count += len([engine.stat_of(each) for each in page])
        offset = page[-1].offset
    show(f"listing {count} names with attributes", time.perf_counter() - start, count)


async def sequential(engine: OverlayFileSystem, base: str) -> None:
    piece, count = os.urandom(1 << 20), 512
    file = os.open(f"{base}/big", os.O_CREAT | os.O_RDWR)
    start = time.perf_counter()
    for number in range(count):
        os.pwrite(file, piece, number << 20)
    took = time.perf_counter() - start
    print(f"native write of 1 MiB pieces: {count / 1024 / took:.2f} GiB/s")
    os.close(file)
    os.unlink(f"{base}/big")
    _, handle = await engine.create(TOP, b"big", MAKER)
    start = time.perf_counter()
    for number in range(count):
        await engine.write(handle, number << 20, piece)
    took = time.perf_counter() - start
    print(f"write of 1 MiB pieces: {count / 1024 / took:.2f} GiB/s")
    start = time.perf_counter()
    for number in range(count):
        await engine.read(handle, number << 20, 1 << 20)
    took = time.perf_counter() - start
    print(f"read of 1 MiB pieces: {count / 1024 / took:.2f} GiB/s")
    engine.release(handle)


async def main(base: str) -> None:
    os.mkdir(f"{base}/lower")
    overlay = Overlay(f"{base}/overlay", Counters())
    engine = OverlayFileSystem(overlay, DiskLower(os.fsencode(f"{base}/lower")), Ownership(0, 0))
    await engine.attach()
    native(base)
    await listing(engine, await small_files(engine))
    start = time.perf_counter()
    changes = len(list(overlay.changes(b"study")))
    show(f"list of {changes} changes", time.perf_counter() - start, changes)
    await sequential(engine, base)
    start = time.perf_counter()
    await overlay.durable()
    show("making all rows durable", time.perf_counter() - start, 1, "us")
    engine.close()
    overlay.close()


if __name__ == "__main__":
    where = tempfile.mkdtemp(dir=sys.argv[1])
    try:
        trio.run(main, where)
    finally:
        shutil.rmtree(where)
