"""The overlay's database: its tables, connections to it, and its failures.

Tables:

node: every entry that differs from the tree below, and every directory on the way to one.
  id         never used twice; the inode number shows it
  parent     the directory's id; NULL for the top of a dataset, for what was removed while it was open, and for records
  kind       1 file, 2 symbolic link, 3 directory, 4 whiteout: the entry below is gone; 5 fifo, 6 socket, 7 character
             device, 8 block device
  covered    what the tree below has under this name in this directory (see lower.packed); NULL: nothing
  mode       permission bits; uid, gid; atime, mtime, ctime in nanoseconds
  size       bytes of a file or of a link's target
  base       path, in the dataset's base commit, of what this was copied up from; NULL for what is new
  entry      what is there in the base commit (see lower.packed)
  based      a file's first bytes that are the base's unless an extent says otherwise; 0 when all is local
  data       number of the local data file, 0 without one; written: bytes that it has at least
  version    grows with each change of what a push would carry
  record     of a name of a file that has, or had, several names: the node that has all but the name (hard links); of
             such a name only parent, name, kind, covered, base, entry and version count. `base` of a record is where
             its content is from, that of a name which of the commit's entries it was
  links      how many names a record has; 0 for any other node
  device     number of a device (as stat's st_rdev)
extent: the local ranges of a file below `based`.
area: a dataset with changes, and the commit they lie over; `top` is its node.
checksum: see data_files.Checksums.
written, since: see pushes.PushedTimes; `directory` and `name` are a path in `dataset`.
setting: `layout`; `source` that it was mounted over; `boot` of the machine when it was opened last; `commits` and
  `identity`: see completeness; `numbers`: no number of a data file and no version is larger; `seen`: `commits` again,
  which a riafs that knows neither `checksum` nor `numbers` leaves as it was, so that they do not count after it.
"""

import os
import sqlite3
from collections.abc import Iterable
from typing import Any

from riafs.errors import OverlayFailed, OverlayFull
from riafs.overlay.completeness import damaged
from riafs.storage.temporary import ensure_private_file

LAYOUT = 2
"""1 had no `record`, `links` and `device`."""

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
    """Make the tables, or bring those of an earlier layout up to date. Raises sqlite3.Error."""
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
