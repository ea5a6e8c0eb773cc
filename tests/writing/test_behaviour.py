"""What can be done in a file system that can be written: the object and a mount of it do the same."""

import errno
import os
from collections.abc import Awaitable

import pytest

from riafs.errors import RiafsError
from riafs.tree.protocol import Kind
from tests.behaviour import shown_store
from tests.writing.drivers import Driver, Status

CREATE = os.O_CREAT | os.O_EXCL


async def failure(awaitable: Awaitable[object]) -> int:
    """The errno that a call ends with."""
    try:
        await awaitable
    except (OSError, RiafsError) as error:
        return int(error.errno or 0)
    return 0


async def test_a_new_file_is_there_with_its_content(driver: Driver) -> None:
    await driver.write(b"main/new", b"content", flags=CREATE)
    assert await driver.read(b"main/new") == b"content"
    assert await driver.stat(b"main/new") == Status(Kind.FILE, 0o644, 7)
    assert b"new" in await driver.ls(b"main")
    assert await failure(driver.write(b"main/new", b"x", flags=CREATE)) == errno.EEXIST


@pytest.mark.parametrize("name", [b"version", b"locked", b"unlocked", b"medium", b"archived", b"unsized"])
async def test_bytes_change_in_place_and_the_others_stay(driver: Driver, name: bytes) -> None:
    before = await driver.read(b"main/" + name)
    await driver.write(b"main/" + name, b"XY", offset=3)
    assert await driver.read(b"main/" + name) == before[:3] + b"XY" + before[5:]
    assert (await driver.stat(b"main/" + name)).size == max(len(before), 5)


async def test_what_is_cut_off_does_not_come_back(driver: Driver) -> None:
    before = await driver.read(b"main/medium")
    await driver.truncate(b"main/medium", 5)
    await driver.truncate(b"main/medium", 8)
    assert await driver.read(b"main/medium") == before[:5] + bytes(3)


async def test_a_file_without_content_can_be_overwritten(driver: Driver) -> None:
    await driver.write(b"main/missing", b"here now", flags=os.O_TRUNC)
    assert await driver.read(b"main/missing") == b"here now"


async def test_an_unmodified_directory_moves_with_everything_in_it(driver: Driver) -> None:
    await driver.mkdir(b"main/to")
    await driver.rename(b"main/many", b"main/to/moved")
    assert len(await driver.ls(b"main/to/moved")) == 1500
    assert await driver.read(b"main/to/moved/0042") == b"42"
    assert b"many" not in await driver.ls(b"main")
    assert await failure(driver.stat(b"main/many/0042")) == errno.ENOENT


async def test_names_go_and_come(driver: Driver) -> None:
    await driver.unlink(b"main/version")
    assert await failure(driver.read(b"main/version")) == errno.ENOENT
    await driver.symlink(b"somewhere", b"main/version")
    assert await driver.readlink(b"main/version") == b"somewhere"
    assert await failure(driver.rmdir(b"main/deep")) == errno.ENOTEMPTY
    assert await failure(driver.unlink(b"main/deep")) in (errno.EISDIR, errno.EPERM)
    await driver.rename(b"main/script", b"main/locked")
    assert (await driver.read(b"main/locked")).startswith(b"#!/bin/sh")
    assert (await driver.stat(b"main/locked")).mode == 0o755


async def test_attributes_change(driver: Driver) -> None:
    await driver.chmod(b"main/version", 0o755)
    assert (await driver.stat(b"main/version")).mode == 0o755
    await driver.utime(b"main/locked", 1_000_000_000)
    assert await driver.read(b"main/locked") == shown_store.SMALL


async def test_a_file_has_several_names(driver: Driver) -> None:
    """One of the store, annexed, and one of the overlay, with a fifo, which is no file."""
    await driver.link(b"main/locked", b"main/deep/hard")
    await driver.write(b"main/deep/hard", b"HERE", 1)
    changed = shown_store.SMALL[:1] + b"HERE" + shown_store.SMALL[5:]
    assert await driver.read(b"main/locked") == changed
    assert (await driver.stat(b"main/locked")).links == 2
    await driver.rename(b"main/deep/hard", b"main/moved")
    await driver.unlink(b"main/locked")
    assert await driver.read(b"main/moved") == changed
    await driver.mkfifo(b"main/fifo")
    assert b"fifo" in await driver.ls(b"main")
    assert await failure(driver.link(b"main/fifo", b"main/sub/fifo")) == errno.EXDEV


@pytest.mark.parametrize("place", [b"", b"by-id", b"nested", b"main@v1", b".riafs", b"main/sub@main", b"unborn"])
async def test_only_datasets_can_be_changed(driver: Driver, place: bytes) -> None:
    below = place + b"/unheard-of" if place else b"unheard-of"
    assert await failure(driver.write(below, b"x", flags=CREATE)) == errno.EROFS
    assert await failure(driver.mkdir(below)) == errno.EROFS
    assert await failure(driver.chmod(place, 0o700)) == errno.EROFS


async def test_another_way_to_a_changed_dataset_is_read_only(driver: Driver, store: shown_store.ShownStore) -> None:
    other = b"by-id/" + store.main.id.encode()
    await driver.write(b"main/version", b"changed", flags=os.O_TRUNC)
    assert await failure(driver.write(other + b"/version", b"x")) == errno.EROFS
    assert await driver.read(other + b"/version") == b"second\n"


async def test_a_subdataset_is_changed_in_its_place_and_stays_there(driver: Driver) -> None:
    await driver.write(b"main/sub/new", b"content", flags=CREATE)
    assert sorted(await driver.ls(b"main/sub")) == [b"inside", b"new"]
    assert await failure(driver.rename(b"main/sub", b"main/other")) == errno.EBUSY
    assert await failure(driver.rename(b"main/sub/new", b"main/new")) == errno.EXDEV


async def test_attributes_of_our_own_tell_what_changed(driver: Driver) -> None:
    await driver.write(b"main/version", b"x")
    assert await driver.getxattr(b"main/version", "user.riafs.change") == b"copied"
    assert await driver.getxattr(b"main/locked", "user.riafs.kind") == b"annex"
    assert await failure(driver.getxattr(b"main/locked", "user.riafs.change")) == errno.ENODATA
