"""Which stored objects were found to be good, and which bad: the memory that makes verification cost once.

An object is recognised by Evidence: device, inode, size, mtime and ctime of the file it lies in, and where in the file.
Whatever writes to that file or replaces it changes the evidence, and the memory no longer applies. Good ones are
kept in an SQLite file in the cache directory, across mounts and shared by several daemons; bad ones only as long as
the mount lives, so that a repaired store is looked at again. The memory is a shortcut: without it everything is
verified again.
"""

import hashlib
import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import trio

from riafs.cache.private import ensure_private_file
from riafs.storage.files import Identity

log = logging.getLogger(__name__)

MAX_REMEMBERED = 200_000
"""Objects kept in memory and loaded at the start: about 40 MB at most."""
_WRITE_SECONDS = 1.0
_BUSY_SECONDS = 2.0
_SCHEMA = """
create table if not exists verified_1 (
    device integer, inode integer, size integer, mtime_ns integer, ctime_ns integer, start integer, length integer,
    key blob, primary key (device, inode, start, key)
) without rowid
"""
_CHOOSE = "create temporary table gone as select device, inode, start, key from verified_1 order by random() limit ?"
_PRUNE = "delete from verified_1 where (device, inode, start, key) in (select device, inode, start, key from gone)"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which bytes of which version of which file."""

    identity: Identity
    start: int
    length: int


_Row = tuple[int, int, int, int, int, int, int, bytes]


def _row(evidence: Evidence, key: bytes) -> _Row:
    identity = evidence.identity
    digest = hashlib.blake2b(key, digest_size=16).digest()
    return (
        # SQLite's integers are signed; device and inode numbers use all 64 bits
        _signed(identity.device),
        _signed(identity.inode),
        identity.size,
        identity.mtime_ns,
        identity.ctime_ns,
        evidence.start,
        evidence.length,
        digest,
    )


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


class _Unusable(Exception):
    """The SQLite file cannot be read or written."""


@contextmanager
def _connection(path: bytes | None) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are committed at the end. A damaged file is put aside, so that the next call starts
    anew."""
    try:
        if path:
            with suppress(OSError):  # SQLite says what is wrong
                ensure_private_file(path)
        with closing(sqlite3.connect(os.fsdecode(path) if path else ":memory:", timeout=_BUSY_SECONDS)) as connection:
            connection.execute("pragma synchronous = off")  # losing the last second costs a verification, nothing else
            connection.execute(_SCHEMA)
            with connection:
                yield connection
    except sqlite3.OperationalError as error:  # busy, read-only, disk full
        raise _Unusable(str(error)) from error
    except sqlite3.DatabaseError as error:
        if path:
            with suppress(OSError):
                os.replace(path, path + b".damaged")
        raise _Unusable(f"{error}; the file was put aside") from error


def _prune(connection: sqlite3.Connection) -> None:
    """Forget some where more are kept than are ever loaded: any, as nothing tells which ones are still there."""
    [count] = connection.execute("select count(*) from verified_1").fetchone()
    if count > MAX_REMEMBERED:
        connection.execute(_CHOOSE, (count - MAX_REMEMBERED * 3 // 4,))
        connection.execute(_PRUNE)


class VerifiedMemory:
    """`path`: the SQLite file, None to remember only in memory. Used from the event loop's thread; `keep` writes."""

    def __init__(self, path: bytes | None) -> None:
        self._path = path
        self._good: OrderedDict[_Row, None] = OrderedDict()
        self._bad: set[_Row] = set()
        self._unwritten: list[_Row] = []
        self._wake = trio.Event()

    def is_good(self, evidence: Evidence, key: bytes) -> bool:
        """Whether these bytes were found to be the content of `key`."""
        return _row(evidence, key) in self._good

    def is_bad(self, evidence: Evidence, key: bytes) -> bool:
        """Whether these bytes were found not to be the content of `key`."""
        return bool(self._bad) and _row(evidence, key) in self._bad

    def remember_good(self, evidence: Evidence, key: bytes) -> None:
        """Note that these bytes are the content of `key`."""
        row = _row(evidence, key)
        self._add(row)
        self._unwritten.append(row)
        self._wake.set()

    def _add(self, row: _Row) -> None:
        self._good[row] = None
        if len(self._good) > MAX_REMEMBERED:
            self._good.popitem(last=False)

    def remember_bad(self, evidence: Evidence, key: bytes) -> None:
        """Note that these bytes are not the content of `key`, for as long as this mount lives."""
        self._bad.add(_row(evidence, key))

    async def keep(self) -> None:
        """Load what earlier mounts found out, then write what this one finds out, until cancelled; then write the
        rest."""
        for row in await trio.to_thread.run_sync(self._load, abandon_on_cancel=True):
            self._add(row)
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(_WRITE_SECONDS)
                self._wake = trio.Event()
                await self._write()
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_BUSY_SECONDS, shield=True):
                await self._write()

    async def _write(self) -> None:
        rows, self._unwritten = self._unwritten, []
        if rows:
            await trio.to_thread.run_sync(self._store, rows, abandon_on_cancel=True)

    def _load(self) -> list[_Row]:
        try:
            with _connection(self._path) as connection:
                _prune(connection)
                rows = connection.execute("select * from verified_1 limit ?", (MAX_REMEMBERED,)).fetchall()
        except _Unusable as problem:
            log.warning("what earlier mounts verified is not used: %s", problem)
            return []
        return [tuple(row) for row in rows]

    def _store(self, rows: list[_Row]) -> None:
        try:
            with _connection(self._path) as connection:
                connection.executemany("insert or replace into verified_1 values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except _Unusable as problem:
            log.info("what was verified cannot be remembered: %s", problem)
