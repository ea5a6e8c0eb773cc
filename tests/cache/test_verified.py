"""The memory of what was verified: a shortcut that never vouches for other bytes."""

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from riafs.cache import verified
from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.storage.local_file import LocalVersion

Announce = Callable[..., None]

EVIDENCE = Evidence(LocalVersion(1, 2, 3, 4, 5), 6, 7)
IDENTITIES = st.builds(
    LocalVersion,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
EVIDENCES = st.builds(Evidence, IDENTITIES, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))


@asynccontextmanager
async def kept(path: Path | None) -> AsyncIterator[VerifiedMemory]:
    """A memory as a mount has it; what it knows is written at the end."""
    memory = VerifiedMemory(None if path is None else os.fsencode(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.keep)
        await _until_loaded(memory)
        yield memory
        nursery.cancel_scope.cancel()
    memory.close()


async def _until_loaded(memory: VerifiedMemory) -> None:
    """`keep` waits for something to write as soon as it has loaded."""
    while memory._path is not None and not memory._wake.statistics().tasks_waiting:
        await trio.testing.wait_all_tasks_blocked(0.005)


def found(memory: VerifiedMemory, evidence: Evidence, key: bytes) -> bool:
    """`is_good` of a memory without a file, which has nothing to wait for."""
    return trio.run(memory.is_good, evidence, key)


@given(EVIDENCES, st.binary())
def test_good_is_remembered_for_these_bytes_and_this_key_only(evidence: Evidence, key: bytes) -> None:
    memory = VerifiedMemory(None)
    memory.remember_good(evidence, key)
    assert found(memory, evidence, key)
    assert not found(memory, evidence, key + b"x")
    assert not memory.is_bad(evidence, key)
    first = evidence.version
    for other in (
        LocalVersion(first.device ^ 1, first.inode, first.size, first.mtime_ns, first.ctime_ns),
        LocalVersion(first.device, first.inode ^ 1, first.size, first.mtime_ns, first.ctime_ns),
        LocalVersion(first.device, first.inode, first.size ^ 1, first.mtime_ns, first.ctime_ns),
        LocalVersion(first.device, first.inode, first.size, first.mtime_ns ^ 1, first.ctime_ns),
        LocalVersion(first.device, first.inode, first.size, first.mtime_ns, first.ctime_ns ^ 1),
    ):
        assert not found(memory, Evidence(other, evidence.start, evidence.length), key)
    assert not found(memory, Evidence(first, evidence.start ^ 1, evidence.length), key)
    assert not found(memory, Evidence(first, evidence.start, evidence.length ^ 1), key)


@given(st.lists(st.tuples(EVIDENCES, st.binary(max_size=50)), min_size=1, max_size=10))
def test_what_the_former_table_held_is_taken_over(pairs: list[tuple[Evidence, bytes]]) -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute(FORMER_SCHEMA)
        for evidence, key in pairs:
            row = former_row(evidence, key)
            connection.execute("insert or replace into verified_1 values (?, ?, ?, ?, ?, ?, ?, ?)", row)
        kept_rows = {tuple(row) for row in connection.execute("select * from verified_1")}
        connection.execute(verified._SCHEMA)
        verified._convert_former(connection)
        digests = {digest for (digest,) in connection.execute("select digest from verified_2")}
        assert not connection.execute("select 1 from sqlite_master where name = 'verified_1'").fetchone()
    connection.close()
    assert digests == {verified._digest(*pair) for pair in pairs if former_row(*pair) in kept_rows}


def test_a_row_is_what_earlier_releases_wrote() -> None:
    evidence = Evidence(LocalVersion(1, 2, 3, 4, 5), 6, 7)
    assert verified._digest(evidence, b"the key").hex() == "77453d2042c08e7a2c835a664f76b60703410b5e"


FORMER_SCHEMA = """
create table verified_1 (
    device integer, inode integer, size integer, mtime_ns integer, ctime_ns integer, start integer, length integer,
    key blob, primary key (device, inode, start, key)
) without rowid
"""


def former_row(evidence: Evidence, key: bytes) -> tuple[int | bytes, ...]:
    """As riafs wrote it before there was one digest for all columns."""
    identity = evidence.version
    device, inode = (n - (1 << 64) if n >= 1 << 63 else n for n in (identity.device, identity.inode))
    digest = hashlib.blake2b(key, digest_size=16).digest()
    place = (evidence.start, evidence.length)
    return (device, inode, identity.size, identity.mtime_ns, identity.ctime_ns, *place, digest)


async def test_good_survives_and_bad_does_not(tmp_path: Path) -> None:
    path = tmp_path / "verified.sqlite"
    async with kept(path) as memory:
        memory.remember_good(EVIDENCE, b"good")
        memory.remember_bad(EVIDENCE, b"bad")
        assert memory.is_bad(EVIDENCE, b"bad")
    async with kept(path) as memory:
        assert await memory.is_good(EVIDENCE, b"good")
        assert not memory.is_bad(EVIDENCE, b"bad")
        assert not await memory.is_good(EVIDENCE, b"bad")


async def test_two_daemons_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "verified.sqlite"
    async with kept(path) as first, kept(path) as second:
        first.remember_good(EVIDENCE, b"one")
        second.remember_good(EVIDENCE, b"two")
    async with kept(path) as memory:
        assert await memory.is_good(EVIDENCE, b"one")
        assert await memory.is_good(EVIDENCE, b"two")


async def test_without_a_file_it_works_for_one_mount() -> None:
    async with kept(None) as memory:
        memory.remember_good(EVIDENCE, b"key")
        assert await memory.is_good(EVIDENCE, b"key")


@pytest.mark.parametrize("content", [b"no database, but long enough to look like one" * 100, b"SQLite format 3\0" * 64])
async def test_damaged_file_is_renamed(tmp_path: Path, content: bytes, expected_warnings: Announce) -> None:
    expected_warnings("the record of content that earlier mounts verified is not used")
    path = tmp_path / "verified.sqlite"
    path.write_bytes(content)
    async with kept(path) as memory:
        memory.remember_good(EVIDENCE, b"key")
    assert (tmp_path / "verified.sqlite.damaged").read_bytes() == content
    async with kept(path) as memory:
        assert await memory.is_good(EVIDENCE, b"key")


async def test_file_that_cannot_be_written_costs_nothing_but_the_memory(
    tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("the record of content that earlier mounts verified is not used")
    (tmp_path / "verified.sqlite").mkdir()
    async with kept(tmp_path / "verified.sqlite") as memory:
        memory.remember_good(EVIDENCE, b"key")
        assert await memory.is_good(EVIDENCE, b"key")


async def test_oldest_are_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_RECENT", 3)
    memory = VerifiedMemory(None)
    for number in range(5):
        memory.remember_good(EVIDENCE, b"%d" % number)
    assert [await memory.is_good(EVIDENCE, b"%d" % number) for number in range(5)] == [False, False, True, True, True]


async def test_what_is_on_the_disk_costs_a_mount_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "verified.sqlite"
    async with kept(path):
        pass
    rows = ((hashlib.blake2b(b"%d" % number, digest_size=20).digest(),) for number in range(200_000))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("insert into verified_2 values (?)", rows)
    async with kept(path) as first:
        first.remember_good(EVIDENCE, b"key")
    tracemalloc.start()
    try:
        async with kept(path) as memory:
            assert await memory.is_good(EVIDENCE, b"key")
            for number in range(500):
                assert not await memory.is_good(EVIDENCE, b"%d" % number)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


async def test_a_disk_that_hangs_costs_one_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with kept(tmp_path / "verified.sqlite") as memory:
        monkeypatch.setattr(verified, "_LOOK_SECONDS", 0.05)
        release = threading.Event()
        monkeypatch.setattr(memory, "_look_up", lambda _digest: release.wait(10))
        began = time.monotonic()
        for number in range(100):
            assert not await memory.is_good(EVIDENCE, b"%d" % number)
        assert time.monotonic() - began < 3
        release.set()


async def test_file_whose_damage_a_look_up_meets_is_renamed(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("the record of content that earlier mounts verified is not used")
    path = tmp_path / "verified.sqlite"
    async with kept(path) as memory:
        for number in range(1000):
            memory.remember_good(EVIDENCE, b"%d" % number)
    async with kept(path) as memory:
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        path.write_bytes(content)
        assert not await memory.is_good(EVIDENCE, b"7")
        assert not await memory.is_good(EVIDENCE, b"8")
    assert (tmp_path / "verified.sqlite.damaged").exists()
