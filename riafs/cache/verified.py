"""The record of verified content: which stored bytes are the content of a key, so that they are hashed only once.

Stored bytes are identified by `Evidence`: the version of their file (device, inode, size, mtime, ctime) and the range
in it. Writing to the file or replacing it gives it another version, for which the record has no entry. Good content is
recorded in an SQLite file in the cache directory, for later mounts and shared by all mounts of a user; bad content only
in memory, so that the next mount reads a repaired store again. Without the record, all content is verified again.

A row is only a digest of evidence and key, some 40 bytes on the disk. A mount keeps the last few thousand in memory.
It looks for others in a thread and waits a second at most, so that neither millions of rows nor a disk that does not
answer delay a reader.
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
"""Rows in a mount's memory, for good and bad content each: some 6 MB."""
MAX_BYTES = 1 << 30
"""Of the SQLite file: 20 to 30 million rows. Beyond that a random eighth is removed."""
_WRITE_SECONDS = 1.0
_BUSY_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 60.0
"""How long the file is not read after a look-up that took longer than `_LOOK_SECONDS`."""
_DIGEST = 20
_ROW = struct.Struct("<qq16s")  # start, length, digest of the key; the version's token comes before
_SCHEMA = "create table if not exists verified_2 (digest blob primary key) without rowid"
_FORMER = "select device, inode, size, mtime_ns, ctime_ns, start, length, key from verified_1"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A range of bytes in one version of a file."""

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
    """A connection whose changes are committed at the end. A damaged file is renamed; the next call makes a new one."""
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
        _rename_damaged(path)
        raise _Unusable(f"{error}; the file was renamed to {os.fsdecode(path or b'')}.damaged") from error


def _rename_damaged(path: bytes | None) -> None:
    if path:
        with suppress(OSError):
            os.replace(path, path + b".damaged")


def _convert_former(connection: sqlite3.Connection) -> None:
    """Convert the table of riafs 0.1, which has evidence and key in columns."""
    if connection.execute("select 1 from sqlite_master where name = 'verified_1'").fetchone():
        rows = ((_row_digest(LocalVersion(*row[:5]), *row[5:]),) for row in connection.execute(_FORMER).fetchall())
        connection.executemany("insert or ignore into verified_2 values (?)", rows)
        connection.execute("drop table verified_1")


def _prune(connection: sqlite3.Connection) -> None:
    """Remove a random eighth if the file is too large: nothing tells whose content still exists."""
    [pages], [free], [size] = (
        connection.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > MAX_BYTES:
        first = secrets.randbelow(8) << 5  # digests are spread evenly: an eighth of the rows lies in an eighth of them
        end = bytes([first + 32]) if first < 224 else b"\xff" * (_DIGEST + 1)
        connection.execute("delete from verified_2 where digest >= ? and digest < ?", (bytes([first]), end))


class _Recent:
    """The digests that were used last, `MAX_RECENT` at most."""

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
        self._known[digest] = None
        self._known.move_to_end(digest)
        if len(self._known) > MAX_RECENT:
            self._known.popitem(last=False)


class VerifiedMemory:
    """`path`: the SQLite file, None for a record in memory only. Used from the event loop's thread; `keep` writes."""

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
        """Whether this mount or another one has verified that these bytes are the content of `key`."""
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
        """Whether this mount has found that these bytes are not the content of `key`."""
        return bool(self._bad) and _digest(evidence, key) in self._bad

    def remember_good(self, evidence: Evidence, key: bytes) -> None:
        """Record that these bytes are the content of `key`."""
        digest = _digest(evidence, key)
        self._good.add(digest)
        if self._path is not None:
            self._unwritten[digest] = None
            self._wake.set()

    def remember_bad(self, evidence: Evidence, key: bytes) -> None:
        """Record that these bytes are not the content of `key`, for the time of this mount."""
        self._bad.add(_digest(evidence, key))

    async def keep(self) -> None:
        """Write new rows to the file, until cancelled; then those that are left."""
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
                _rename_damaged(self._path)
            self._warn(problem)
            self._reader.close()
            self._reader = None
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            return False

    def _open(self) -> None:
        """Prepare the file and open it for reading; one that cannot be used is tried again after a pause."""
        if self._reader is not None:
            return
        try:
            with _connection(self._path) as connection:
                _convert_former(connection)
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
            log.warning("the record of content that earlier mounts verified is not used: %s", problem)
        self._warned = True

    def _store(self, rows: list[bytes]) -> None:
        try:
            with _connection(self._path) as connection:
                connection.executemany("insert or ignore into verified_2 values (?)", ((row,) for row in rows))
                _prune(connection)
        except _Unusable as problem:
            log.info("verified content cannot be recorded: %s", problem)

    def close(self) -> None:
        """Close the connection, unless a look-up still uses it."""
        if self._reader is not None and not self._one_at_a_time.borrowed_tokens:
            self._reader.close()
            self._reader = None
