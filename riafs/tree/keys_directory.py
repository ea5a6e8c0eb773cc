"""``.keys``: the keys that are stored for a dataset, as files.

A dataset may have millions of them, so what was listed is in a table on disk, and listing begins before all of the
store was looked at.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio

from riafs import memory
from riafs.content.annex import AnnexContents
from riafs.content.locations import StoredKeys
from riafs.errors import MalformedKey, NoSuchName, NotADirectoryHere, NotThereYet, StoreError
from riafs.formats.keys import Key, parse_file_name
from riafs.formats.names import valid_name
from riafs.storage.bytesource import RangedBytes
from riafs.storage.deadline import DeadlineLock
from riafs.tree.directories import PlainDirectory
from riafs.tree.listing import FEW, PIECE
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Found, Kind, Versions

KEYS = b".keys"
_PER_VERSION = 600
"""Bytes of memory for a key while versions are compared."""
_TABLE = """
    PRAGMA cache_size = -4096;
    CREATE TABLE keys (number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, mtime INTEGER);
"""


class _Row(NamedTuple):
    """A key. `size`: UNKNOWN_SIZE where only reading tells; `mtime`: in seconds, where the key tells it."""

    name: bytes
    size: int
    mtime: int | None


class _Table:
    """Keys by position, in at most 4 MiB of memory and a temporary file of SQLite's, which has no name.

    Each call raises StoreError if there is no room for that file. Used by one thread at a time.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.executescript(_TABLE)
        self.count = 0

    def __del__(self) -> None:
        self._database.close()

    def _failure(self, error: sqlite3.Error) -> StoreError:
        return StoreError(f"{self._what}: the temporary file of the list of keys fails: {error}")

    def add(self, rows: Sequence[_Row]) -> None:
        """Add keys, those that are there already excepted: all of them or none."""
        try:
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR IGNORE INTO keys (name, size, mtime) VALUES (?, ?, ?)", rows)
            self.count = self._database.execute("SELECT max(number) FROM keys").fetchone()[0] or 0
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def position(self, name: bytes) -> int | None:
        """That of a key."""
        try:
            found = self._database.execute("SELECT number - 1 FROM keys WHERE name = ?", (name,)).fetchone()
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return None if found is None else found[0]

    def rows(self, start: int, count: int) -> Sequence[_Row]:
        """Those from position `start` on."""
        query = "SELECT name, size, mtime FROM keys WHERE number > ? ORDER BY number LIMIT ?"
        try:
            return [_Row(*row) for row in self._database.execute(query, (start, count))]
        except sqlite3.Error as error:
            raise self._failure(error) from error


class KeysDirectory(PlainDirectory):
    """The keys in `contents` of the dataset `identifier`. It only grows, at its end: no position, and no inode number
    with it, ever comes to mean another key.

    What is stored is looked through bit by bit, as listings come to the end of what is known. A listing ends when all
    was looked through once after it began.
    """

    def __init__(self, contents: AnnexContents, identifier: bytes, mtime_ns: int) -> None:
        self._contents = contents
        self._identifier = identifier
        self._table: _Table | None = None
        self._using = trio.Lock()
        """Held while the table is used,"""
        self._looking = DeadlineLock()
        """and while the store is looked through."""
        self._stored: StoredKeys | None = None
        """Where looking has come to."""
        self._again = True
        """Whether a listing has begun since that began."""
        self._piece: tuple[int, Sequence[Entry]] = 0, ()
        """The entries that were listed last, from this position on."""
        self.mtime_ns = mtime_ns

    @property
    def _shown(self) -> str:
        return f"{os.fsdecode(KEYS)} of dataset {os.fsdecode(self._identifier)}"

    @property
    def _known(self) -> _Table:
        self._table = self._table or _Table(self._shown)
        return self._table

    async def entries(self, start: int) -> Sequence[Entry]:
        self._again = self._again or start == 0
        has_begun = False
        while start >= self._known.count:
            async with self._looking.held():
                if self._stored is None:
                    if has_begun or not self._again:
                        break
                    self._stored, self._again, has_begun = self._contents.stored_keys(), False, True
                await self._look_further(self._stored)
                if start == 0 and self._known.count:  # opening a directory comes here, and its listing then begins anew
                    self._stored, self._again = None, True
        first, piece = self._piece
        if not first <= start < first + len(piece):
            many = PIECE if start in (0, first + len(piece)) else FEW
            async with self._using:
                piece = [self._entry(row) for row in self._known.rows(start, many)]
            first, self._piece = start, (start, piece)
        return piece[start - first :] if start > first else piece

    async def _look_further(self, stored: StoredKeys) -> None:
        try:
            keys = await stored.some()
            wanted = {key.file_name: key for key in keys if valid_name(key.file_name)}
            rows = [_Row(name, await self._size(name, key), key.mtime) for name, key in wanted.items()]
            async with self._using:
                await trio.to_thread.run_sync(self._known.add, rows)
        except BaseException:
            self._stored, self._again = None, True
            raise
        if not keys:
            self._stored = None

    async def _size(self, name: bytes, key: Key) -> int:
        """Of what is in the table already it does not matter."""
        if key.size is not None:
            return key.size
        size = None if await self._position(name) is not None else await self._contents.size(key)
        return UNKNOWN_SIZE if size is None else size

    async def _position(self, name: bytes) -> int | None:
        async with self._using:
            return self._known.position(name)

    def _entry(self, row: _Row) -> Entry:
        name, size, mtime = row
        mtime_ns = self.mtime_ns if mtime is None else mtime * 1_000_000_000
        return Entry(name, Kind.FILE, size, executable=False, mtime_ns=mtime_ns, version=name)

    async def find(self, name: bytes) -> Found:
        """Keys that were stored since the last listing are found."""
        position = await self._position(name)
        if position is None:
            key = _key(name)
            size = await self._contents.size(key)
            if size is None:
                raise NotThereYet(f"{os.fsdecode(self._identifier)} stores no key {os.fsdecode(name)}")
            async with self._using:
                self._known.add([_Row(name, size if key.size is None else key.size, key.mtime)])
                position = self._known.position(name)
            assert position is not None
        async with self._using:
            [row] = self._known.rows(position, 1)
        return Found(position, self._entry(row))

    async def versions(self) -> Versions:
        """Raises OutOfMemory."""
        async with self._using:
            memory.ensure(_PER_VERSION * self._known.count, f"comparing two versions of {self._shown}")
            rows = await trio.to_thread.run_sync(self._known.rows, 0, self._known.count)
        return Versions({row.name: row.name for row in rows}, set())

    async def directory(self, entry: Entry) -> Directory:
        raise NotADirectoryHere(f"{os.fsdecode(entry.name)} is a key")

    async def open(self, entry: Entry) -> RangedBytes:
        shown = f"{os.fsdecode(entry.name)} in {self._shown}"
        return await self._contents.find(parse_file_name(entry.name), lambda: shown)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        key = parse_file_name(entry.name)
        known = {**await self.own_attributes(), "kind": b"annex", "key": key.serialised}
        return known if name in known else {**known, **await self._contents.attributes(key, name)}

    async def own_attributes(self) -> Mapping[str, bytes]:
        return {"dataset": self._identifier}


def _key(name: bytes) -> Key:
    """The key whose file name is `name`. Raises NoSuchName for what is none, and for a part of one."""
    try:
        key = parse_file_name(name)
    except MalformedKey:
        key = None
    if key is None or key.file_name != name or key.unchunked() != key:
        raise NoSuchName(f"{os.fsdecode(name)} is no key's file name")
    return key
