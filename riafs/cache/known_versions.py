"""The record of versions: which version a file of another machine had when it was opened last.

The object of an annexed key is named by its content and does not change. So a mount that has its blocks in the cache
opens it without a request, under the version that was recorded; the file itself is opened only if a block is missing,
and its version compared then. Without the record, each open asks the server.

Rows are in an SQLite file in the cache directory, shared by all mounts of a user; the last ones also in memory. A
damaged file is removed.
"""

import hashlib
import logging
import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import trio
from cachetools import LRUCache

from riafs.storage.bytesource import Version
from riafs.storage.temporary import ensure_private_file

log = logging.getLogger(__name__)

T = TypeVar("T")

_RECENT = 30_000
_AT_ONCE = 500
_MAX_ROWS = 5_000_000
_WRITE_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_SIZE = struct.Struct("<q")
_SCHEMA = "create table if not exists versions_1 (name blob primary key, value blob) without rowid"


@dataclass(frozen=True, slots=True)
class KnownVersion(Version):
    """A version that was seen before; one with the same token is the same version."""

    known_token: bytes
    size: int
    """Bytes of the file."""

    @property
    def token(self) -> bytes:
        return self.known_token

    @property
    def modification(self) -> object:
        return self.known_token

    def fresh_seconds(self) -> float:
        """It is no news."""
        return 0.0


class KnownVersions:
    """`path`: the SQLite file, None for a record in memory only. Used from the event loop's thread; `keep` writes."""

    def __init__(self, path: bytes | None) -> None:
        self._path = path
        self._recent: LRUCache[bytes, bytes] = LRUCache(_RECENT)
        """Digest of a name → size and token; empty where there is none."""
        self._unwritten: dict[bytes, bytes] = {}
        self._wake = trio.Event()
        self._connection: sqlite3.Connection | None = None
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def get(self, file: bytes) -> KnownVersion | None:
        """The version of the file of that name (store and path), None if it is not known."""
        await self.look_up([file])
        value = self._recent.get(_digest(file), b"")
        if len(value) <= _SIZE.size:
            return None
        [size] = _SIZE.unpack_from(value)
        return KnownVersion(value[_SIZE.size :], size)

    async def look_up(self, files: Sequence[bytes]) -> None:
        """Look for many files in one call; `get` finds what is known of them in memory then."""
        names = [name for name in map(_digest, files) if name not in self._recent]
        if not names or self._path is None:
            return
        found: dict[bytes, bytes] | None = None
        with trio.move_on_after(_LOOK_SECONDS):
            found = await trio.to_thread.run_sync(
                self._look_up, names, abandon_on_cancel=True, limiter=self._one_at_a_time
            )
        for name in names:
            self._recent.setdefault(name, (found or {}).get(name, b""))

    def put(self, file: bytes, version: Version, size: int) -> None:
        """Record the version of a file of `size` bytes."""
        name, value = _digest(file), _SIZE.pack(size) + version.token
        if self._recent.get(name) != value:
            self._recent[name] = value
            if self._path is not None:
                self._unwritten[name] = value
                self._wake.set()

    def forget(self, file: bytes) -> bool:
        """From now on the version is not known; whether it was."""
        known = len(self._recent.get(_digest(file), b"")) > _SIZE.size
        self.put(file, KnownVersion(b"", 0), 0)
        return known

    async def keep(self) -> None:
        """Write new rows to the file, until cancelled; then those that are left."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(_WRITE_SECONDS)
                self._wake = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(_WRITE_SECONDS, shield=True):
                await self._write()
                await trio.to_thread.run_sync(self._close, limiter=self._one_at_a_time)

    async def _write(self) -> None:
        rows, self._unwritten = self._unwritten, {}
        if rows:
            await trio.to_thread.run_sync(self._store, rows, abandon_on_cancel=True, limiter=self._one_at_a_time)

    # -- in threads, one at a time ------------------------------------------------------------------------------------

    def _look_up(self, names: Sequence[bytes]) -> dict[bytes, bytes] | None:
        def look(connection: sqlite3.Connection) -> dict[bytes, bytes]:
            found: dict[bytes, bytes] = {}
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"select name, value from versions_1 where name in ({marks})", some)  # noqa: S608  # question marks
                found.update((name, value) for name, value in rows if isinstance(value, bytes))
            return found

        return self._with_file(look)

    def _store(self, rows: dict[bytes, bytes]) -> None:
        def store(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("insert or replace into versions_1 values (?, ?)", rows.items())
                [count] = connection.execute("select max(1, count(*)) from versions_1").fetchone()
                if count > _MAX_ROWS:  # names are digests, so an eighth of the values of their first byte are an eighth
                    connection.execute("delete from versions_1 where name < ?", (b"\x20",))

        self._with_file(store)

    def _with_file(self, use: Callable[[sqlite3.Connection], T]) -> T | None:
        try:
            if self._connection is None:
                assert self._path is not None
                ensure_private_file(self._path)
                self._connection = sqlite3.connect(os.fsdecode(self._path), timeout=1, check_same_thread=False)
                self._connection.execute("pragma synchronous = off")  # a lost row costs one request
                self._connection.execute(_SCHEMA)
            return use(self._connection)
        except (sqlite3.Error, OSError) as problem:
            log.info("the record of versions is not used: %s", problem)
            self._close()
            if isinstance(problem, sqlite3.DatabaseError) and not isinstance(problem, sqlite3.OperationalError):
                with suppress(OSError):
                    os.unlink(self._path or b"")
            return None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _digest(file: bytes) -> bytes:
    return hashlib.blake2b(file, digest_size=16).digest()
