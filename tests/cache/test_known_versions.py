"""The record of versions: what is put is found, by later mounts as well, and nothing depends on its file."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from riafs.cache.known_versions import KnownVersion, KnownVersions


@asynccontextmanager
async def kept(path: Path | None) -> AsyncIterator[KnownVersions]:
    versions = KnownVersions(None if path is None else os.fsencode(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(versions.keep)
        await trio.testing.wait_all_tasks_blocked()
        yield versions
        nursery.cancel_scope.cancel()


async def test_later_mounts_know_them(tmp_path: Path) -> None:
    path = tmp_path / "versions.sqlite"
    async with kept(path) as versions:
        assert await versions.get(b"file") is None
        versions.put(b"file", KnownVersion(b"token", 7), 7)
        versions.put(b"other", KnownVersion(b"token", 8), 8)
        assert await versions.get(b"file") == KnownVersion(b"token", 7)
        versions.forget(b"other")
        assert await versions.get(b"other") is None
    async with kept(path) as versions:
        assert await versions.get(b"file") == KnownVersion(b"token", 7)
        assert await versions.get(b"other") is None
    assert path.stat().st_mode & 0o777 == 0o600


async def test_without_a_file(tmp_path: Path) -> None:
    async with kept(None) as versions:
        versions.put(b"file", KnownVersion(b"token", 7), 7)
        assert await versions.get(b"file") == KnownVersion(b"token", 7)


async def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "versions.sqlite"
    path.write_bytes(b"rubbish" * 1000)
    async with kept(path) as versions:
        assert await versions.get(b"file") is None
        versions.put(b"file", KnownVersion(b"token", 7), 7)
    async with kept(path) as versions:
        assert await versions.get(b"file") == KnownVersion(b"token", 7)


async def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    async with kept(tmp_path / "none" / "versions.sqlite") as versions:
        assert await versions.get(b"file") is None
        versions.put(b"file", KnownVersion(b"token", 7), 7)
        assert await versions.get(b"file") == KnownVersion(b"token", 7)


async def test_another_row_of_the_file_is_no_version(tmp_path: Path) -> None:
    import hashlib
    import sqlite3

    path = tmp_path / "versions.sqlite"
    async with kept(path) as versions:
        versions.put(b"file", KnownVersion(b"token", 7), 7)
    with sqlite3.connect(path) as connection:
        name = hashlib.blake2b(b"odd", digest_size=16).digest()
        connection.execute("insert into versions_1 values (?, 'text')", (name,))
    connection.close()
    async with kept(path) as versions:
        assert await versions.get(b"odd") is None
