"""The memory of what was verified: a shortcut that never vouches for other bytes."""

import os
import sqlite3
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
from riafs.storage.files import Identity

Announce = Callable[..., None]

EVIDENCE = Evidence(Identity(1, 2, 3, 4, 5), 6, 7)
IDENTITIES = st.builds(
    Identity,
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


async def _until_loaded(memory: VerifiedMemory) -> None:
    """`keep` waits for something to write as soon as it has loaded."""
    while not memory._wake.statistics().tasks_waiting:
        await trio.testing.wait_all_tasks_blocked(0.005)


@given(EVIDENCES, st.binary())
def test_good_is_remembered_for_these_bytes_and_this_key_only(evidence: Evidence, key: bytes) -> None:
    memory = VerifiedMemory(None)
    memory.remember_good(evidence, key)
    assert memory.is_good(evidence, key)
    assert not memory.is_good(evidence, key + b"x")
    assert not memory.is_bad(evidence, key)
    first = evidence.identity
    for other in (
        Identity(first.device ^ 1, first.inode, first.size, first.mtime_ns, first.ctime_ns),
        Identity(first.device, first.inode ^ 1, first.size, first.mtime_ns, first.ctime_ns),
        Identity(first.device, first.inode, first.size ^ 1, first.mtime_ns, first.ctime_ns),
        Identity(first.device, first.inode, first.size, first.mtime_ns ^ 1, first.ctime_ns),
        Identity(first.device, first.inode, first.size, first.mtime_ns, first.ctime_ns ^ 1),
    ):
        assert not memory.is_good(Evidence(other, evidence.start, evidence.length), key)
    assert not memory.is_good(Evidence(first, evidence.start ^ 1, evidence.length), key)
    assert not memory.is_good(Evidence(first, evidence.start, evidence.length ^ 1), key)


@given(st.lists(st.tuples(EVIDENCES, st.binary(max_size=50)), max_size=10))
def test_any_evidence_survives_the_file(pairs: list[tuple[Evidence, bytes]]) -> None:
    rows = [verified._row(*pair) for pair in pairs]
    with sqlite3.connect(":memory:") as connection:
        connection.execute(verified._SCHEMA)
        connection.executemany("insert or replace into verified_1 values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        found = {tuple(row) for row in connection.execute("select * from verified_1")}
    connection.close()
    by_place = {(row[0], row[1], row[5], row[7]): row for row in rows}
    assert found == set(by_place.values())


async def test_good_survives_and_bad_does_not(tmp_path: Path) -> None:
    path = tmp_path / "verified.sqlite"
    async with kept(path) as memory:
        memory.remember_good(EVIDENCE, b"good")
        memory.remember_bad(EVIDENCE, b"bad")
        assert memory.is_bad(EVIDENCE, b"bad")
    async with kept(path) as memory:
        assert memory.is_good(EVIDENCE, b"good")
        assert not memory.is_bad(EVIDENCE, b"bad")
        assert not memory.is_good(EVIDENCE, b"bad")


async def test_two_daemons_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "verified.sqlite"
    async with kept(path) as first, kept(path) as second:
        first.remember_good(EVIDENCE, b"one")
        second.remember_good(EVIDENCE, b"two")
    async with kept(path) as memory:
        assert memory.is_good(EVIDENCE, b"one")
        assert memory.is_good(EVIDENCE, b"two")


async def test_without_a_file_it_works_for_one_mount() -> None:
    async with kept(None) as memory:
        memory.remember_good(EVIDENCE, b"key")
        assert memory.is_good(EVIDENCE, b"key")


@pytest.mark.parametrize("content", [b"no database, but long enough to look like one" * 100, b"SQLite format 3\0" * 64])
async def test_damaged_file_is_put_aside(tmp_path: Path, content: bytes, expected_warnings: Announce) -> None:
    expected_warnings("what earlier mounts verified is not used")
    path = tmp_path / "verified.sqlite"
    path.write_bytes(content)
    async with kept(path) as memory:
        memory.remember_good(EVIDENCE, b"key")
    assert (tmp_path / "verified.sqlite.damaged").read_bytes() == content
    async with kept(path) as memory:
        assert memory.is_good(EVIDENCE, b"key")


async def test_file_that_cannot_be_written_costs_nothing_but_the_memory(
    tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("what earlier mounts verified is not used")
    (tmp_path / "verified.sqlite").mkdir()
    async with kept(tmp_path / "verified.sqlite") as memory:
        memory.remember_good(EVIDENCE, b"key")
        assert memory.is_good(EVIDENCE, b"key")


async def test_oldest_are_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_REMEMBERED", 3)
    memory = VerifiedMemory(None)
    for number in range(5):
        memory.remember_good(EVIDENCE, b"%d" % number)
    assert [memory.is_good(EVIDENCE, b"%d" % number) for number in range(5)] == [False, False, True, True, True]
