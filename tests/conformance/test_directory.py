"""Everything that a mount shows follows the protocol of directories."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from riafs.tree.commit_directory import CommitDirectory, VersionedDirectory
from riafs.tree.directories import FixedDirectory, VirtualDirectory
from riafs.tree.listing import PIECE
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.store_root import AliasDirectory, IdDirectory, PendingDirectory
from riafs.tree.subdatasets import AbsentSubdataset
from tests.behaviour.drivers import ObjectDriver, opened
from tests.conformance.directory import CHECKS, Check, all_entries
from tests.small import Executable, Files, Link, Locked, Pointer, Registered, SmallStore, key_of

CONTENT = b"content of an annexed file"
EMPTY_KEY = key_of(b"")

Open = Callable[[Path], AbstractAsyncContextManager[Directory]]


def everything(subdataset: str) -> Files:
    """One of each kind."""
    return {
        b"git": b"in git",
        b"empty": b"",
        b"script": Executable(b"#!/bin/sh\n"),
        b"link": Link(b"git"),
        b"dangling": Link(b"/nowhere"),
        b"locked": Locked(key_of(CONTENT)),
        b"unlocked": Pointer(key_of(CONTENT)),
        b"unlocked-executable": Pointer(key_of(CONTENT), executable=True),
        b"locked-empty": Locked(EMPTY_KEY),
        b"directory/below": b"below",
        b"\xff\n\t name": b"odd name",
        b"n" * 255: b"long name",
        b"subdataset": Registered(subdataset),
        b"absent-subdataset": Registered("12" * 20),
        b"name@with@at": b"no version",
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets with everything in them."""
    made = SmallStore.make(tmp_path_factory.mktemp("directories") / "store")
    sub = made.dataset("sub")
    commit = sub.commit({b"in the subdataset": b"x"})
    modules = f'[submodule "s"]\n\tpath = subdataset\n\turl = ./s\n\tdatalad-id = {sub.id}\n'.encode()
    one = made.dataset("one", {**everything(commit), b".gitmodules": modules})
    one.put(key_of(CONTENT), CONTENT)
    one.put(EMPTY_KEY, b"")
    made.dataset("large", {b"%04d" % number: b"%d" % (number % 7) for number in range(2 * PIECE + 3)})
    made.dataset("unborn")
    (made.path / "alias" / "group").mkdir()
    (made.path / "alias" / "group" / "one").symlink_to(f"../../{one.id[:3]}/{one.id[3:]}")
    return made.path


async def at(shown: ObjectDriver, path: bytes) -> Directory:
    """The directory at a path of the mount."""
    return (await shown.filesystem.node(await shown.inode(path))).directory


def in_store(kind: type, path: bytes, fragment: str = "") -> Open:
    """The directory at a path of the mounted store, or of what `fragment` names in it."""

    @asynccontextmanager
    async def open_it(store: Path) -> AsyncIterator[Directory]:
        async with opened(store, fragment) as shown:
            directory = await at(shown, path)
            assert type(directory) is kind
            yield directory

    return open_it


@asynccontextmanager
async def fixed(store: Path) -> AsyncIterator[Directory]:
    yield FixedDirectory((), 5, {"error": b"none"})


@asynccontextmanager
async def virtual(store: Path) -> AsyncIterator[Directory]:
    yield VirtualDirectory({b"b": lambda: "text of b", b"a": lambda: ""}, {b"d": FixedDirectory((), 9, {})}, 9)


OPENERS: dict[str, Open] = {
    "fixed": fixed,
    "virtual": virtual,
    "store": in_store(AliasDirectory, b""),
    "aliases-below": in_store(AliasDirectory, b"group"),
    "by-id": in_store(IdDirectory, b"by-id"),
    "dataset": in_store(VersionedDirectory, b"one"),
    "dataset-at-branch": in_store(VersionedDirectory, b"one@main"),
    "dataset-as-source": in_store(VersionedDirectory, b"", "#~one"),
    "commit": in_store(CommitDirectory, b"one/directory"),
    "subdataset": in_store(CommitDirectory, b"one/subdataset"),
    "absent-subdataset": in_store(AbsentSubdataset, b"one/absent-subdataset"),
    "unborn": in_store(PendingDirectory, b"unborn"),
    "several-pieces": in_store(VersionedDirectory, b"large"),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("open_it", OPENERS.values(), ids=OPENERS)
async def test_directory(open_it: Open, check: Check, store: Path) -> None:
    async with open_it(store) as directory:
        await check(directory)


async def test_fixed_directory_shows_what_it_was_given() -> None:
    entries = [Entry(b"x", Kind.DIRECTORY, 0, executable=True, mtime_ns=1, version=b"v")]
    directory = FixedDirectory(entries, 1, {})
    assert await directory.entries(0) == tuple(entries)


async def test_who_asks_a_large_fixed_directory_for_one_entry_is_not_given_all_that_follow() -> None:
    entries = [Entry(b"%d" % n, Kind.DIRECTORY, 0, executable=True, mtime_ns=1, version=b"v") for n in range(5000)]
    directory = FixedDirectory(entries, 1, {})
    assert 0 < len(await directory.entries(1)) < 1000
    assert await all_entries(directory) == entries
