"""Files with several names, fifos, sockets and devices: as a local file system has them, over mounts and changes."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import NoSuchName
from riafs.overlay.changes import ChangeKind
from riafs.overlay.database import LAYOUT
from riafs.overlay.inode_map import OVERLAY
from riafs.overlay.overlay import Overlay
from riafs.overlay.recovery import recover
from riafs.tree.protocol import Kind
from tests.overlay.disk import TOP
from tests.overlay.test_filesystem import Setup

BIG = bytes(range(256)) * 4096


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


async def test_two_names_have_one_number_one_content_and_count(setup: Setup) -> None:
    walker = await setup.open()
    before = (await walker.stat(b"big")).inode
    await walker.link(b"big", b"a/hard")
    await walker.write(b"a/hard", b"HERE", 7)
    first, second = await walker.stat(b"big"), await walker.stat(b"a/hard")
    assert first == second
    assert (first.inode, first.links) == (before, 2)
    assert await walker.read(b"big") == BIG[:7] + b"HERE" + BIG[11:]
    walker = await setup.again()
    assert await walker.read(b"a/hard") == BIG[:7] + b"HERE" + BIG[11:]
    assert (await walker.linked())[b"big"] == (b"a/hard", b"big")


async def test_a_second_name_of_a_file_of_the_store_fetches_nothing(setup: Setup) -> None:
    walker = await setup.open()
    await walker.link(b"big", b"hard")
    assert setup.lower.bytes_read == 0
    assert setup.changes() == [(b"hard", ChangeKind.COPIED)]
    [change] = setup.overlay.changes(b"study")
    assert change.base is not None
    assert (change.base.path, change.content, change.source) == (b"big", None, None)


async def test_what_is_open_goes_on_when_its_names_go(setup: Setup) -> None:
    walker = await setup.open()
    handle = await walker.open(b"new", os.O_CREAT | os.O_RDWR)
    await walker.engine.write(handle, 0, b"first")
    await walker.link(b"new", b"other")
    await walker.engine.write(handle, 5, b" second")
    assert await walker.read(b"other") == b"first second"
    assert (await walker.stat(b"other")).size == 12
    inode = (await walker.stat(b"other")).inode
    await walker.unlink(b"new")
    assert (await walker.stat(b"other")).links == 1
    await walker.unlink(b"other")
    assert (await walker.engine.getattr(inode)).links == 0
    with pytest.raises(NoSuchName):
        await walker.engine.link(inode, TOP, b"back")
    assert bytes(await walker.engine.read(handle, 0, 99)) == b"first second"
    walker.engine.release(handle)
    await setup.overlay.tidy()
    assert os.listdir(setup.path / "data") == []


async def test_a_listing_goes_on_while_its_files_get_other_names(setup: Setup) -> None:
    walker = await setup.open()
    await walker.mkdir(b"many")
    for number in range(600):
        await walker.write(b"many/%d" % number, b"")
    directory = (await walker.stat(b"many")).inode
    handle, seen, offset = walker.engine.opendir(directory), [], 0
    while page := await walker.engine.readdir(handle, offset):
        for each in page:
            seen.append(each.name)
            await walker.engine.link(each.inode, TOP, b"linked-" + each.name)
        offset = page[-1].offset
    walker.engine.releasedir(handle)
    assert len(seen) == len(set(seen)) == 600


async def test_a_rename_onto_another_name_of_the_same_file_changes_nothing(setup: Setup) -> None:
    walker = await setup.open()
    await walker.link(b"big", b"hard")
    await walker.rename(b"big", b"hard")
    assert (await walker.linked())[b"big"] == (b"big", b"hard")
    await walker.write(b"other", b"other")
    await walker.rename(b"other", b"hard")
    assert ((await walker.stat(b"big")).links, await walker.read(b"hard")) == (1, b"other")


async def test_a_name_that_was_moved_is_told_as_a_rename_and_the_other_as_a_copy(setup: Setup) -> None:
    walker = await setup.open()
    await walker.link(b"big", b"hard")
    await walker.rename(b"big", b"moved")
    await walker.link(b"run", b"run2")
    await walker.unlink(b"run")
    assert setup.changes() == [
        (b"hard", ChangeKind.COPIED), (b"moved", ChangeKind.RENAMED), (b"run", ChangeKind.REMOVED),
        (b"run2", ChangeKind.COPIED),
    ]  # fmt: skip


async def test_restoring_one_name_leaves_the_other_with_what_it_has(setup: Setup) -> None:
    walker = await setup.open()
    inode = (await walker.stat(b"big")).inode
    await walker.link(b"big", b"hard")
    await walker.write(b"hard", b"HERE")
    moved = await setup.engine.restore(b"study", [b"big"])
    await setup.engine.attach()
    assert list(moved) == [inode]
    assert moved[inode] & OVERLAY
    assert await walker.read(b"big") == BIG
    assert await walker.read(b"hard") == b"HERE" + BIG[4:]
    await walker.write(b"big", b"THERE")
    walker = await setup.again()
    assert await walker.read(b"big") == b"THERE" + BIG[5:]
    assert await walker.read(b"hard") == b"HERE" + BIG[4:]
    assert (await walker.linked())[b"hard"] == (b"hard",)


@pytest.mark.parametrize("kind", [Kind.FIFO, Kind.SOCKET, Kind.CHARACTER, Kind.BLOCK])
async def test_special_files_stay_what_they_are_and_are_told(setup: Setup, kind: Kind) -> None:
    device = os.makedev(1, 3) if kind in (Kind.CHARACTER, Kind.BLOCK) else 0
    walker = await setup.open()
    await walker.unlink(b"big")
    await walker.mknod(b"big", kind, device)
    await walker.mknod(b"a/new", kind, device)
    await walker.link(b"a/new", b"a/second")
    walker = await setup.again()
    found = await walker.stat(b"a/second")
    assert (found.kind, found.device, found.links, found.mode) == (kind, device, 2, 0o644)
    assert setup.changes() == [
        (b"a/new", ChangeKind.SPECIAL), (b"a/second", ChangeKind.SPECIAL), (b"big", ChangeKind.REMOVED),
        (b"big", ChangeKind.SPECIAL),
    ]  # fmt: skip


async def test_an_overlay_of_the_first_layout_is_used_as_it_is(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"new", b"new")
    await walker.write(b"big", b"HERE")
    before = await walker.tree()
    setup.close()
    database = sqlite3.connect(setup.path / "overlay.sqlite", isolation_level=None)
    database.execute("DROP INDEX linked")
    database.execute("DROP INDEX based")
    for column in ("record", "links", "device"):
        database.execute(f"ALTER TABLE node DROP COLUMN {column}")
    database.execute("CREATE UNIQUE INDEX based ON node (area, base) WHERE base IS NOT NULL")
    database.execute("UPDATE setting SET value = 1 WHERE name = 'layout'")
    database.close()
    walker = await setup.open()
    assert await walker.tree() == before
    await walker.link(b"big", b"hard")
    walker = await setup.again()
    assert (await walker.linked())[b"big"] == (b"big", b"hard")
    assert setup.overlay.journal.one("SELECT value FROM setting WHERE name = 'layout'") == (LAYOUT,)


async def test_recovering_keeps_names_together_and_counts_them(setup: Setup, tmp_path: Path) -> None:
    walker = await setup.open()
    for name in (b"big", b"new"):
        await walker.write(name, b"HERE")
        await walker.link(name, name + b"2")
    setup.close()
    (setup.path / "overlay.sqlite").unlink()
    recovered = recover(str(setup.path), str(tmp_path / "recovered"))
    assert (recovered.lost, recovered.numbered) == ([], [])
    walker = await setup.open()
    assert await walker.read(b"big2") == b"HERE" + BIG[4:]
    linked = await walker.linked()
    assert (linked[b"big"], linked[b"new"]) == ((b"big", b"big2"), (b"new", b"new2"))


async def test_names_of_content_that_was_lost_go_with_it(setup: Setup, tmp_path: Path) -> None:
    walker = await setup.open()
    await walker.write(b"new", b"HERE")
    await walker.link(b"new", b"new2")
    setup.close()
    for file in (setup.path / "data").iterdir():
        file.unlink()
    recovered = recover(str(setup.path), str(tmp_path / "recovered"))
    assert recovered.lost == [b"study/new"] or recovered.lost == [b"study/new2"]
    overlay = Overlay(str(setup.path), Counters())
    assert [row.kind for row in overlay.rows.all()] in ([], [3])
    overlay.close()
