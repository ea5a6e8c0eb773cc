"""The memory of what was verified does not grow for ever."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache import verified
from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.storage.files import Identity


def evidence(number: int) -> Evidence:
    return Evidence(Identity(1, number, 10, 20, 30), 0, 10)


async def filled(path: Path, numbers: range) -> VerifiedMemory:
    """A memory that ran for a while, in which these were found to be good."""
    memory = VerifiedMemory(os.fsencode(path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.keep)
        for number in numbers:
            memory.remember_good(evidence(number), b"key")
        await trio.sleep(0.3)
        nursery.cancel_scope.cancel()
    return memory


async def test_what_is_never_loaded_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_REMEMBERED", 40)
    path = tmp_path / "verified.sqlite"
    for start in range(0, 300, 30):
        await filled(path, range(start, start + 30))
        with closing(sqlite3.connect(path)) as connection:
            [count] = connection.execute("select count(*) from verified_1").fetchone()
        assert 30 <= count <= 40 + 30
    memory = await filled(path, range(0))
    assert 30 <= sum(memory.is_good(evidence(number), b"key") for number in range(300)) <= 40
