"""Kills at every step, full disks, and loss of power: what is left of an overlay."""

import itertools
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import OverlayFull
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from tests.overlay.disk import DiskLower
from tests.overlay.walking import Walker

SIZE = 200_000
OLD, NEW = b"o" * SIZE, b"n" * SIZE


def plant(root: Path) -> None:
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"below")
    (root / "big").write_bytes(OLD)


async def opened(base: Path, failpoint: Callable[[str], None]) -> tuple[Overlay, OverlayFileSystem, Walker]:
    overlay = Overlay(f"{base}/overlay", Counters(), failpoint)
    engine = OverlayFileSystem(overlay, DiskLower(os.fsencode(base / "lower")), Ownership(0, 0))
    await engine.attach()
    return overlay, engine, Walker(engine)


async def fsynced(walker: Walker, path: bytes, data: bytes) -> None:
    handle = await walker.open(path, os.O_CREAT | os.O_WRONLY)
    await walker.engine.write(handle, 0, data)
    await walker.engine.fsync(handle)
    walker.engine.release(handle)


async def work(base: Path, failpoint: Callable[[str], None], done: Callable[[str], object]) -> None:
    """Changes of every kind; `done` is told what has to survive from then on."""
    overlay, engine, walker = await opened(base, failpoint)
    await fsynced(walker, b"one", NEW)
    done("one")
    await walker.mkdir(b"new")
    await fsynced(walker, b"new/two", NEW)
    done("two")
    await walker.write(b"big", b"HERE", 1000)
    await walker.link(b"big", b"new/big")
    await walker.rename(b"dir", b"moved")
    await walker.write(b"moved/file", b"above", 0, os.O_WRONLY | os.O_TRUNC)
    await fsynced(walker, b"three", NEW)
    done("three")
    await walker.write(b"one", b"", 0, os.O_WRONLY | os.O_TRUNC)
    await engine.setattr((await walker.stat(b"new/two")).inode, size=100)
    await walker.write(b"tmp", b"replaced")
    await walker.rename(b"tmp", b"three")
    await walker.unlink(b"one")
    await walker.link(b"three", b"four")
    await walker.unlink(b"new/big")
    await overlay.tidy()
    await overlay.journal.checkpoint(0)
    for number in range(100):
        await walker.write(b"many %d" % number, b"x" * number)
    await overlay.durable()
    done("all")
    engine.close()
    overlay.close()


def killed(base: Path, step: int) -> list[str]:
    """Do the work in another process that dies at its `step`-th failpoint; what it was told to be done."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            trio.run(work, base, dying(step), lambda what: os.write(writing, what.encode() + b" "))
            status = 0
        finally:
            traceback.print_exc()
            os._exit(status)
    os.close(writing)
    with open(reading) as told:
        done = told.read().split()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return done if status else [*done, "finished"]


def dying(step: int) -> Callable[[str], None]:
    count = itertools.count(1)

    def failpoint(_: str) -> None:
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint


def check(tree: dict[bytes, tuple[str, int, bytes]], done: list[str]) -> None:
    """Everything that was made durable is there, and nothing is in between."""
    content = {path: data for path, (kind, _, data) in tree.items() if kind == "file"}
    assert content[b"big"] in (OLD, OLD[:1000] + b"HERE" + OLD[1004:])
    assert (b"dir/file" in content) != (b"moved/file" in content)
    assert content.get(b"moved/file", b"") in (b"", b"below", b"above")
    assert content.get(b"new/big", content[b"big"]) == content[b"big"]
    assert content.get(b"four", content.get(b"three")) == content.get(b"three")
    assert content.get(b"one", NEW) in (b"", NEW)
    assert content.get(b"new/two", NEW) in (b"", NEW, NEW[:100])
    assert content.get(b"three", NEW) in (b"", NEW, b"replaced")
    assert content.get(b"tmp", b"") in (b"", b"replaced")
    for number in range(100):
        assert content.get(b"many %d" % number, b"") in (b"", b"x" * number)
    if "all" not in done:
        assert "one" not in done or "three" in done or content[b"one"] == NEW
        assert "two" not in done or "three" in done or content[b"new/two"] == NEW
        if "three" in done:
            assert content[b"three"] in (NEW, b"replaced")
            assert content[b"big"][1000:1004] == b"HERE"
            assert content[b"moved/file"] == b"above"
    else:
        assert content[b"three"] == b"replaced"
        assert b"one" not in content
        assert len([path for path in content if path.startswith(b"many")]) == 100


async def looked_at(base: Path, done: list[str]) -> None:
    overlay, engine, walker = await opened(base, lambda _: None)
    check(await walker.tree(), done)
    await walker.linked()
    list(overlay.changes(b"study") if overlay.datasets() else ())
    named = {row.data for row in overlay.rows.all()}
    assert {int(name, 16) for name in os.listdir(f"{base}/overlay/data")} <= named
    await walker.write(b"still", b"usable")
    engine.close()
    overlay.close()


def test_a_kill_at_any_step_loses_nothing_durable_and_tears_nothing(tmp_path: Path) -> None:
    for step in itertools.count(1):
        base = tmp_path / str(step)
        plant(base / "lower")
        done = killed(base, step)
        trio.run(looked_at, base, done)
        if "finished" in done:
            break
    assert step > 15


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a tmpfs")
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "riafs-test", where], check=True)
    yield where
    subprocess.run(["umount", "-l", where], check=True)


async def test_a_full_disk_leaves_what_was_there_and_lets_files_be_removed(small: Path) -> None:
    plant(small / "lower")
    overlay, engine, walker = await opened(small, lambda _: None)
    await walker.write(b"kept", b"kept")
    piece = os.urandom(100_000)
    written = 0
    handle = await walker.open(b"large", os.O_CREAT | os.O_WRONLY)
    with pytest.raises(OverlayFull):  # noqa: PT012  # at some time
        while True:
            written += await engine.write(handle, written, piece)
    engine.release(handle)
    assert await walker.read(b"kept") == b"kept"
    content = await walker.read(b"large")
    assert len(content) == written
    assert content[:100_000] == piece
    await overlay.durable()
    await walker.unlink(b"large")
    await walker.write(b"after", piece)
    assert await walker.read(b"after") == piece
    engine.close()
    overlay.close()
    overlay, engine, walker = await opened(small, lambda _: None)
    assert sorted(await walker.names(b"")) == [b"after", b"big", b"dir", b"kept"]
    engine.close()
    overlay.close()


async def test_many_names_on_a_full_disk_end_in_no_room_and_none_of_those_answered_is_lost(small: Path) -> None:
    plant(small / "lower")
    overlay, engine, walker = await opened(small, lambda _: None)
    made = 0
    with pytest.raises(OverlayFull):  # noqa: PT012  # at some time
        while True:
            await walker.mkdir(b"directory with a long name " + b"%d" % made)
            made += 1
    for number in range(made // 2):
        await walker.rmdir(b"directory with a long name " + b"%d" % number)
    left = sorted(await walker.names(b""))
    engine.close()
    overlay.close()
    overlay, engine, walker = await opened(small, lambda _: None)
    assert sorted(await walker.names(b"")) == left
    assert len(left) == made - made // 2 + 2
    engine.close()
    overlay.close()


async def test_a_file_whose_bytes_a_loss_of_power_took_ends_where_they_end(tmp_path: Path) -> None:
    plant(tmp_path / "lower")
    overlay, engine, walker = await opened(tmp_path, lambda _: None)
    await walker.write(b"new", NEW)
    await walker.write(b"big", b"HERE", 1000)
    changes = {change.path: change.content for change in overlay.changes(b"study")}
    with overlay.journal.step:
        overlay.journal.run("UPDATE setting SET value = 'another boot' WHERE name = 'boot'")
    engine.close()
    overlay.close()
    for path, length in ((b"new", 1234), (b"big", 1002)):
        content = changes[path]
        assert content is not None
        os.truncate(content.data, length)
    overlay, engine, walker = await opened(tmp_path, lambda _: None)
    assert await walker.read(b"new") == NEW[:1234]
    assert await walker.read(b"big") == OLD[:1000] + b"HE" + OLD[1002:]
    engine.close()
    overlay.close()
