"""Restored paths are as in the base commit; pushed changes are dropped, later ones stay."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.errors import NoSuchName
from riafs.overlay.changes import ChangeKind
from riafs.overlay.lower import packed, unpacked
from riafs.overlay.restoring import restore
from riafs.tree.listing import GitEntry, git_version
from riafs.tree.protocol import Entry, Kind, Origin
from tests.overlay.test_filesystem import Setup


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.close()


async def restored(setup: Setup, *paths: bytes) -> dict[bytes, tuple[str, int, bytes]]:
    """Close the mount, restore, look again."""
    setup.engine.close()
    for path in paths:
        restore(setup.overlay, b"study", path)
    return await (await setup.again()).tree()


async def test_everything_restored_is_the_base_commit(setup: Setup) -> None:
    walker = await setup.open()
    before = await walker.tree()
    await walker.rename(b"a", b"full/a")
    await walker.write(b"full/a/one", b"changed", 0, os.O_WRONLY | os.O_TRUNC)
    await walker.unlink(b"big")
    await walker.mkdir(b"big")
    assert await restored(setup, b"") == before
    assert setup.overlay.datasets() == []


async def test_one_path_is_restored_and_others_stay(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"a/one", b"changed", 0, os.O_WRONLY | os.O_TRUNC)
    await walker.unlink(b"run")
    tree = await restored(setup, b"a/one")
    assert tree[b"a/one"][2] == b"one"
    assert b"run" not in tree


@pytest.mark.parametrize("end", [b"a/one", b"elsewhere"])
async def test_a_rename_is_restored_at_either_end(setup: Setup, end: bytes) -> None:
    walker = await setup.open()
    before = await walker.tree()
    await walker.rename(b"a/one", b"elsewhere")
    assert await restored(setup, end) == before
    assert setup.changes() == []


async def test_what_was_moved_out_of_a_removed_directory_goes_back_with_it(setup: Setup) -> None:
    walker = await setup.open()
    before = await walker.tree()
    await walker.rename(b"a/b/deep", b"deep")
    await walker.rmdir(b"a/b")
    assert await restored(setup, b"a/b") == before


async def test_what_is_not_changed_cannot_be_restored(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"new", b"")
    with pytest.raises(NoSuchName):
        restore(setup.overlay, b"study", b"a/one")


async def test_open_files_go_on_over_a_push(setup: Setup) -> None:
    walker = await setup.open()
    await walker.write(b"a/one", b"ONE", 0, os.O_WRONLY)
    await walker.write(b"run", b"#!/bin/ba", 0, os.O_WRONLY)
    reader, writer = await walker.open(b"a/one"), await walker.open(b"run", os.O_RDWR)
    carried = setup.overlay.carried(b"study")

    async def find(path: bytes) -> Entry | None:
        found = setup.lower.at(path)
        return None if found is None else found.entry

    await setup.engine.pushed(setup.engine.rebasing(b"study", b"b" * 40, carried, find))
    assert await setup.engine.read(reader, 0, 10) == b"ONE"
    assert await setup.engine.write(writer, 0, b"later") == 5
    assert [(change.path, change.kind) for change in setup.overlay.changes(b"study")] == [(b"run", ChangeKind.CHANGED)]
    assert setup.overlay.base(b"study").commit == b"b" * 40


def test_a_row_remembers_what_any_source_has() -> None:
    entry = Entry(b"f", Kind.FILE, 3, executable=True, mtime_ns=0, version=b"37b5+0 +3\n\xff")
    told = unpacked(packed(entry))
    assert (told.origin, told.size, told.executable) == (entry.origin, 3, True)
    assert not told.is_link
    other = Entry(b"f", Kind.FILE, 3, executable=True, mtime_ns=0, version=b"37b5+3 +3\n\xff")
    assert unpacked(packed(other)).content != told.content


def test_what_is_remembered_of_an_entry_can_be_told_to_a_push() -> None:
    entry = GitEntry(b"x", Kind.FILE, 5, False, 0, git_version(0o120000, b"\1" * 20), b"MD5E-s5--a b.txt", False)
    assert packed(entry) == b"120000 %b 5 0 MD5E-s5--a b.txt" % (b"01" * 20)  # as overlays on disk have it
    told = unpacked(packed(entry))
    assert told.origin == Origin(0o120000, b"01" * 20, b"MD5E-s5--a b.txt")
    assert (told.size, told.executable, told.is_link, told.content) == (5, False, True, b"MD5E-s5--a b.txt")
    directory = GitEntry(b"d", Kind.DIRECTORY, 0, True, 0, git_version(0o40000, b"\2" * 20), None, False)
    assert packed(directory) == b"40000 %b 0 1 " % (b"02" * 20)
