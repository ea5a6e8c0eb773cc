"""Which stored objects were found to be good, and which bad: the memory that makes verification cost once.

An object is recognised by Evidence: device, inode, size, mtime and ctime of the file it lies in, and where in the file.
Whatever writes to that file or replaces it changes the evidence, and the memory no longer applies. Good ones are
kept in an SQLite file in the cache directory, across mounts and shared by several daemons; bad ones only as long as
the mount lives, so that a repaired store is looked at again. The memory is a shortcut: without it everything is
verified again.

A row is nothing but a digest of the evidence and the key, some 40 bytes on the disk. A mount has the last few thousand
in memory and looks others up, in a thread, so that neither millions of them nor a disk that hangs cost it anything.
"""

import hashlib
import logging
import os
import secrets
import sqlite3
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import trio

from riafs.storage.bytesource import Version
from riafs.storage.local_file import LocalVersion
from riafs.storage.temporary import ensure_private_file

log = logging.getLogger(__name__)

MAX_RECENT = 30_000
"""Objects that a mount has in memory, good and bad ones each: some 6 MB."""
MAX_BYTES = 1 << 30
"""Of the SQLite file: 20 to 30 million objects. Beyond that an eighth is forgotten, chosen at random."""
_WRITE_SECONDS = 1.0
_BUSY_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 60.0
"""How long nothing is looked up after a look-up that took longer than `_LOOK_SECONDS`."""
_DIGEST = 20
_ROW = struct.Struct("<qq16s")  # start, length, digest of the key, behind the token of the version
_SCHEMA = "create table if not exists verified_2 (digest blob primary key) without rowid"
_FORMER = "select device, inode, size, mtime_ns, ctime_ns, start, length, key from verified_1"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which bytes of which version of which file."""

    version: Version
    start: int
    length: int


def _digest(evidence: Evidence, key: bytes) -> bytes:
    return _row_digest(evidence.version, evidence.start, evidence.length, hashlib.blake2b(key, digest_size=16).digest())


def _row_digest(version: Version, start: int, length: int, key: bytes) -> bytes:
    return hashlib.blake2b(version.token + _ROW.pack(start, length, key), digest_size=_DIGEST).digest()


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
            connection.execute("pragma cache_size = -1024")  # KiB
            connection.execute(_SCHEMA)
            with connection:
                yield connection
    except sqlite3.OperationalError as error:  # busy, read-only, disk full
        raise _Unusable(str(error)) from error
    except sqlite3.DatabaseError as error:
        _put_aside(path)
        raise _Unusable(f"{error}; the file was put aside") from error


def _put_aside(path: bytes | None) -> None:
    if path:
        with suppress(OSError):
            os.replace(path, path + b".damaged")


def _take_over(connection: sqlite3.Connection) -> None:
    """Move what riafs 0.1 remembered, in a table with all its columns."""
    if connection.execute("select 1 from sqlite_master where name = 'verified_1'").fetchone():
        rows = ((_row_digest(LocalVersion(*row[:5]), *row[5:]),) for row in connection.execute(_FORMER).fetchall())
        connection.executemany("insert or ignore into verified_2 values (?)", rows)
        connection.execute("drop table verified_1")


def _prune(connection: sqlite3.Connection) -> None:
    """Forget some where more are kept than there is room for: any, as nothing tells which ones are still there."""
    [pages], [free], [size] = (
        connection.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > MAX_BYTES:
        first = secrets.randbelow(8) << 5  # digests are spread evenly: an eighth of the rows lies in an eighth of them
        end = bytes([first + 32]) if first < 224 else b"\xff" * (_DIGEST + 1)
        connection.execute("delete from verified_2 where digest >= ? and digest < ?", (bytes([first]), end))


class _Recent:
    """The digests that were used last."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._known)

    def __contains__(self, digest: bytes) -> bool:
        if digest not in self._known:
            return False
        self._known.move_to_end(digest)
        return True

    def add(self, digest: bytes) -> None:
        """The one used last from now on."""
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MAX_RECENT:
            self._known.popitem(last=False)


class VerifiedMemory:
    """`path`: the SQLite file, None to remember only in memory. Used from the event loop's thread; `keep` writes."""

    def __init__(self, path: bytes | None) -> None:
        self._path = path
        self._good = _Recent()
        self._bad = _Recent()
        self._unwritten: dict[bytes, None] = {}
        self._wake = trio.Event()
        self._reader: sqlite3.Connection | None = None
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._not_before = 0.0
        self._warned = False

    async def is_good(self, evidence: Evidence, key: bytes) -> bool:
        """Whether these bytes were found to be the content of `key`, by this mount or another one."""
        digest = _digest(evidence, key)
        if digest in self._good or digest in self._unwritten:
            return True
        if self._path is None or time.monotonic() < self._not_before:
            return False
        with trio.move_on_after(_LOOK_SECONDS) as scope:
            if await trio.to_thread.run_sync(
                self._look_up, digest, abandon_on_cancel=True, limiter=self._one_at_a_time
            ):
                self._good.add(digest)
                return True
        if scope.cancelled_caught:
            self._not_before = time.monotonic() + _PAUSE_SECONDS
        return False

    def is_bad(self, evidence: Evidence, key: bytes) -> bool:
        """Whether these bytes were found not to be the content of `key`."""
        return bool(self._bad) and _digest(evidence, key) in self._bad

    def remember_good(self, evidence: Evidence, key: bytes) -> None:
        """Note that these bytes are the content of `key`."""
        digest = _digest(evidence, key)
        self._good.add(digest)
        if self._path is not None:
            self._unwritten[digest] = None
            self._wake.set()

    def remember_bad(self, evidence: Evidence, key: bytes) -> None:
        """Note that these bytes are not the content of `key`, for as long as this mount lives."""
        self._bad.add(_digest(evidence, key))

    async def keep(self) -> None:
        """Write what this mount finds out, until cancelled; then write the rest."""
        if self._path is None:
            return
        await trio.to_thread.run_sync(self._open, abandon_on_cancel=True, limiter=self._one_at_a_time)
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
        rows = list(self._unwritten)
        if rows:
            await trio.to_thread.run_sync(self._store, rows, abandon_on_cancel=True)
            for digest in rows:
                self._unwritten.pop(digest, None)

    # -- in threads, one at a time ------------------------------------------------------------------------------------

    def _look_up(self, digest: bytes) -> bool:
        self._open()
        if self._reader is None:
            return False
        try:
            return self._reader.execute("select 1 from verified_2 where digest = ?", (digest,)).fetchone() is not None
        except sqlite3.Error as problem:
            if not isinstance(problem, sqlite3.OperationalError):
                _put_aside(self._path)
            self._warn(problem)
            self._reader.close()
            self._reader = None
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            return False

    def _open(self) -> None:
        """Make the file ready and open it to be read; what cannot be used is tried again after a pause."""
        if self._reader is not None:
            return
        try:
            with _connection(self._path) as connection:
                _take_over(connection)
                _prune(connection)
            self._reader = sqlite3.connect(
                os.fsdecode(self._path or b""), timeout=_LOOK_SECONDS, check_same_thread=False
            )
            self._reader.execute("pragma cache_size = -1024")
        except (_Unusable, sqlite3.Error) as problem:
            self._warn(problem)
            self._not_before = time.monotonic() + _PAUSE_SECONDS

    def _warn(self, problem: Exception) -> None:
        if not self._warned:
            log.warning("what earlier mounts verified is not used: %s", problem)
        self._warned = True

    def _store(self, rows: list[bytes]) -> None:
        try:
            with _connection(self._path) as connection:
                connection.executemany("insert or ignore into verified_2 values (?)", ((row,) for row in rows))
                _prune(connection)
        except _Unusable as problem:
            log.info("what was verified cannot be remembered: %s", problem)

    def close(self) -> None:
        """Give the connection back, when nothing is looked up any more."""
        if self._reader is not None and not self._one_at_a_time.borrowed_tokens:
            self._reader.close()
            self._reader = None
