"""The memory of what was verified does not grow for ever."""

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from riafs.cache import verified
from riafs.cache.verified import VerifiedMemory


async def opened_for_a_while(path: Path) -> None:
    """As by a mount."""
    memory = VerifiedMemory(os.fsencode(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.keep)
        while memory._reader is None:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    memory.close()


def add(path: Path, count: int) -> int:
    """More rows; how many there are then."""
    with closing(sqlite3.connect(path)) as connection, connection:
        rows = [(secrets.token_bytes(20),) for _ in range(count)]
        connection.executemany("insert into verified_2 values (?)", rows)
        [found] = connection.execute("select count(*) from verified_2").fetchone()
    return int(found)


async def test_beyond_the_limit_a_part_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_BYTES", 400_000)
    path = tmp_path / "verified.sqlite"
    await opened_for_a_while(path)
    counts = []
    for _ in range(30):
        counts.append(add(path, 1000))
        await opened_for_a_while(path)
    assert 8000 < max(counts) < 20_000
    assert min(counts[20:]) > 6000
