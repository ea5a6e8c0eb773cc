"""The overlay's database: its tables, connections to it, and its failures.

Tables:

node: each entry that differs from the tree below, and all directories above it.
  id         never used twice; a part of the inode number
  parent     the directory's id; NULL for the top of a dataset, for an entry removed while it was open, and for records
  kind       1 file, 2 symbolic link, 3 directory, 4 whiteout: the entry below is gone; 5 fifo, 6 socket, 7 character
             device, 8 block device
  covered    the entry of the tree below under this name in this directory (see lower.packed); NULL: none
  mode       permission bits; uid, gid; atime, mtime, ctime in nanoseconds
  size       bytes of a file or of a link's target
  base       path, in the dataset's base commit, of the entry that this was copied up from; NULL for a new one
  entry      the entry of the base commit at `base` (see lower.packed)
  based      so many first bytes of a file are the base's, except in extents; 0 if all bytes are local
  data       number of the local data file, 0 without one; written: bytes that it has at least
  version    grows with each change that a push would publish
  record     for a name of a file that has, or had, several names (hard links): the node with everything but the name;
             of the name's row only parent, name, kind, covered, base, entry and version are used. `base` of a record
             is the path of its content, that of a name the commit's entry that it was
  links      how many names a record has; 0 for any other node
  device     number of a device (as stat's st_rdev)
extent: the local ranges of a file below `based`.
area: a dataset with changes, and their base commit; `top` is its node.
checksum: `data_files.Checksums`.
written, since: `pushes.PushedTimes`; `directory` and `name` are a path in `dataset`.
setting: `layout`; `source` of the mount; `boot`, the machine's boot id at the last opening; `commits` and `identity`
  (see `completeness`); `numbers`: not less than any number of a data file or version; `seen`: equal to `commits` unless
  a riafs without `checksum` and `numbers` has changed something since, so that these two are outdated.
"""

import os
import sqlite3
from collections.abc import Iterable
from typing import Any

from riafs.errors import OverlayFailed, OverlayFull
from riafs.overlay.completeness import damaged
from riafs.storage.temporary import ensure_private_file

LAYOUT = 2
"""Layout 1 had no `record`, `links` and `device`."""

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value ANY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS area (
    id INTEGER PRIMARY KEY, dataset BLOB NOT NULL UNIQUE, store TEXT NOT NULL, ref BLOB, "commit" BLOB NOT NULL,
    entrance BLOB NOT NULL, top INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY, parent INTEGER, name BLOB, kind INTEGER NOT NULL, covered BLOB,
    mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, size INTEGER NOT NULL, target BLOB,
    area INTEGER NOT NULL, base BLOB, entry BLOB, based INTEGER NOT NULL,
    data INTEGER NOT NULL, written INTEGER NOT NULL, version INTEGER NOT NULL,
    record INTEGER, links INTEGER NOT NULL DEFAULT 0, device INTEGER NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX IF NOT EXISTS named ON node (parent, name) WHERE parent IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS based ON node (area, base) WHERE base IS NOT NULL AND parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS added ON node (parent) WHERE covered IS NULL;
CREATE INDEX IF NOT EXISTS directories ON node (parent) WHERE kind = 3;
CREATE INDEX IF NOT EXISTS removed ON node (id) WHERE parent IS NULL;
CREATE TABLE IF NOT EXISTS extent (node INTEGER, start INTEGER, "end" INTEGER, PRIMARY KEY (node, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checksum (
    data INTEGER PRIMARY KEY, length INTEGER NOT NULL, crc INTEGER NOT NULL, inode INTEGER NOT NULL,
    ctime INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (
    dataset BLOB, directory BLOB, name BLOB, content BLOB NOT NULL, mtime INTEGER NOT NULL,
    PRIMARY KEY (dataset, directory, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS since (dataset BLOB PRIMARY KEY, "commit" BLOB NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO setting VALUES ('layout', 2), ('checkpoints', 0), ('commits', 0), ('seen', 0);
COMMIT;
"""

_FROM_1 = """
BEGIN IMMEDIATE;
ALTER TABLE node ADD COLUMN record INTEGER;
ALTER TABLE node ADD COLUMN links INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN device INTEGER NOT NULL DEFAULT 0;
DROP INDEX based;
CREATE UNIQUE INDEX based ON node (area, base) WHERE base IS NOT NULL AND parent IS NOT NULL;
UPDATE setting SET value = 2 WHERE name = 'layout';
COMMIT;
"""
_LINKED = "CREATE INDEX IF NOT EXISTS linked ON node (record) WHERE record IS NOT NULL"


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables, or upgrade those of an earlier layout. Raises sqlite3.Error."""
    connection.executescript(SCHEMA)
    if connection.execute("SELECT value FROM setting WHERE name = 'layout'").fetchone() == (1,):
        connection.executescript(_FROM_1)
    connection.execute(_LINKED)


Values = tuple[object, ...]
_FULL = 1 << 20
"""Free bytes of a disk that counts as full."""


class Statements:
    """Executes statements on a connection to the database at `path`, and turns errors into failures of the overlay."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._execute = connection.execute

    def run(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises OverlayFailed, OverlayFull."""
        try:
            return self._execute(sql, values)
        except sqlite3.Error as error:
            raise failure_of(self.path, error) from error

    def run_each(self, sql: str, values: Iterable[Values]) -> None:
        """Execute one statement with each of `values`. Raises OverlayFailed, OverlayFull."""
        try:
            self._connection.executemany(sql, values)
        except sqlite3.Error as error:
            raise failure_of(self.path, error) from error

    def one(self, sql: str, values: Values = ()) -> Any:  # noqa: ANN401  # as sqlite3 types it
        """The first row, None if there is none."""
        return self.run(sql, values).fetchone()

    def begin(self) -> None:
        """Begin a transaction unless there is one. Here there always is."""


class Snapshot(Statements):
    """Statements that only read, from the state of the database when the snapshot was made."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self.run("BEGIN")
        self.run("SELECT 1 FROM setting").fetchone()  # in SQLite, the first statement that reads starts the snapshot


def failure_of(path: str, error: sqlite3.Error) -> OverlayFailed | OverlayFull:
    """The failure for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    is_io = code is not None and code & 0xFF == sqlite3.SQLITE_IOERR
    if code == sqlite3.SQLITE_FULL or (is_io and _is_full(os.path.dirname(path))):  # some I/O errors are a full disk
        return OverlayFull(f"no room left for {path}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(os.path.dirname(path), f"its database is damaged: {error}")
    return OverlayFailed(f"{path} cannot be used: {error}")


def _is_full(directory: str) -> bool:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize < _FULL


def connect(path: str) -> sqlite3.Connection:
    """A connection without automatic transactions and checkpoints. Raises sqlite3.Error, OSError."""
    ensure_private_file(path)  # SQLite gives its log and index the same mode
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0", "cache_spill = 0"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
