"""The time of the last change of each path of a dataset, for each commit whose history was read; kept across mounts.

Each dataset has one SQLite file, in ``times-1`` of the cache directory. It depends only on commits, whose names are
checksums, so that all mounts and stores share it. It may be removed at any time: then the history is read again.

A *line* is a sequence of commits along first parents, numbered from 0, which may branch off from a commit of another
line. For each change the file has its line and number. So a new commit costs only its own changes, and the last change
at any commit is that with the largest number up to the commit's, on its line or on one that this branched off from.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import quote

from riafs.errors import CacheFailed
from riafs.formats.gitrepository import ChangedCommit
from riafs.storage.temporary import ensure_private_file, private_directory

DIRECTORY = "times-1"
MAX_BYTES = 1 << 30
"""Of all files: some 15 million changes. Beyond that, the least recently used files are removed."""
_BUSY_SECONDS = 60.0
_MOST_TIPS = 16
_SCHEMA = """
create table if not exists lines (id integer primary key, base integer, base_place integer, last integer not null);
create table if not exists commits (oid blob primary key, line integer not null, place integer not null) without rowid;
create table if not exists directories (id integer primary key, path blob not null unique);
create table if not exists changes (
  directory integer, line integer, name blob, place integer, time integer not null,
  primary key (directory, line, name, place)
) without rowid;
"""
_MOST_NAMES = 2000
"""Names whose times are read at once, in up to 32 directories."""
_NEXT = "select id, path from directories where path >= ? order by path limit 32"
_TIMES = """
select name, time, max(place) from changes where directory = ? and line = ? and place <= ? group by name
"""


class UnknownParent(Exception):
    """The first of the commits to add has a parent that no line has."""


class _Place(NamedTuple):
    line: int
    place: int


class LastChanges:
    """The last changes of one dataset, in `directory`. Calls block, and raise CacheFailed; one thread calls `times`."""

    def __init__(self, directory: str, dataset: bytes) -> None:
        self._directory = directory
        self._path = f"{directory}/{blake2b(dataset, digest_size=16).hexdigest()}.sqlite"
        self._reader: sqlite3.Connection | None = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def has(self, commit: bytes) -> bool:
        """Whether the history of a commit (hex) is known."""
        with self._open() as connection:
            known = _find(connection, commit) is not None
        with contextlib.suppress(OSError):
            os.utime(self._path)
        return known

    def tips(self) -> Sequence[bytes]:
        """The last commits of the newest lines: their history does not have to be read."""
        with self._open() as connection:
            rows = connection.execute(
                "select oid from lines join commits on line = id and place = last order by id desc limit ?",
                (_MOST_TIPS,),
            )
            return [oid.hex().encode() for (oid,) in rows]

    def times(self, commit: bytes, directory: bytes) -> Mapping[bytes, Mapping[bytes, int]] | None:
        """Directory (a path from the dataset's top) → name → nanoseconds since the epoch, for `directory` and some
        after it in the order of paths. They may include names that were deleted before the commit. None if the commit
        is not known any more.
        """
        try:
            if self._reader is None:
                self._reader = sqlite3.connect(f"file:{quote(self._path)}?mode=ro", uri=True, check_same_thread=False)
            return _times(self._reader, commit, directory)
        except sqlite3.Error as error:
            self.close()
            raise CacheFailed(f"{self._path} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the connection of `times`."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # -- adding -------------------------------------------------------------------------------------------------------

    def add(self, commits: Iterable[ChangedCommit]) -> None:
        """Add commits, each the first parent of the next. Raises UnknownParent, and what reading `commits` raises."""
        with self._open() as connection:
            connection.execute("begin immediate")
            numbers: dict[bytes, int] = {}
            for commit in commits:
                if _find(connection, commit.oid) is None:  # else another mount has added it
                    place = _next_place(connection, commit)
                    connection.execute("insert into commits values (?, ?, ?)", (_raw(commit.oid), *place))
                    rows = (
                        (_number(connection, numbers, path.rpartition(b"/")[0]), place.line, path.rpartition(b"/")[2],
                         place.place, commit.time)
                        for path in commit.paths
                    )  # fmt: skip
                    connection.executemany("insert or replace into changes values (?, ?, ?, ?, ?)", rows)
        self._make_room()

    def _make_room(self) -> None:
        """Remove files of other datasets, least recently used first, until the limit is met."""
        with contextlib.suppress(OSError):
            with os.scandir(self._directory) as entries:
                files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in entries)
            total = sum(size for _, size, _ in files)
            for _, size, path in files:
                if total > MAX_BYTES and path != self._path:
                    os.unlink(path)
                    total -= size

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are committed at the end. A damaged file is removed, and made again later."""
        try:
            ensure_private_file(f"{private_directory(self._directory)}/{os.path.basename(self._path)}")
            connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
            with contextlib.closing(connection), connection:
                connection.executescript(_SCHEMA)
                yield connection
        except (OSError, sqlite3.OperationalError) as error:
            raise CacheFailed(f"{self._path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            raise CacheFailed(f"{self._path} was damaged ({error}) and is made again") from error


def _raw(oid: bytes) -> bytes:
    return bytes.fromhex(oid.decode())


def _find(connection: sqlite3.Connection, oid: bytes) -> _Place | None:
    row = connection.execute("select line, place from commits where oid = ?", (_raw(oid),)).fetchone()
    return None if row is None else _Place(*row)


def _times(
    connection: sqlite3.Connection, commit: bytes, directory: bytes
) -> Mapping[bytes, Mapping[bytes, int]] | None:
    place = _find(connection, commit)
    if place is None:
        return None
    lines = _lines_below(connection, place)
    found: dict[bytes, dict[bytes, int]] = {directory: {}}
    names = 0
    for number, path in connection.execute(_NEXT, (directory,)):
        if names > _MOST_NAMES:
            break
        times = found[path] = {}
        for line, last in lines:
            rows = connection.execute(_TIMES, (number, line, last))
            times.update((name, time * 1_000_000_000) for name, time, _ in rows)
        names += len(times)
    return found


def _lines_below(connection: sqlite3.Connection, place: _Place) -> Sequence[_Place]:
    """The line of `place` and those it branched off from, each up to the branching commit, the oldest first."""
    found = [place]
    for line, _ in found:  # it grows meanwhile
        base = connection.execute("select base, base_place from lines where id = ?", (line,)).fetchone()
        if base[0] is not None:
            found.append(_Place(*base))
    return found[::-1]


def _next_place(connection: sqlite3.Connection, commit: ChangedCommit) -> _Place:
    """The place of a new commit: after its parent if that is the last of its line, else on a new line."""
    parent = None if commit.parent is None else _find(connection, commit.parent)
    if parent is None and commit.parent is not None:
        raise UnknownParent(commit.oid)
    if parent is not None:
        grown = connection.execute(
            "update lines set last = last + 1 where id = ? and last = ?", (parent.line, parent.place)
        )
        if grown.rowcount:
            return _Place(parent.line, parent.place + 1)
    made = connection.execute("insert into lines values (null, ?, ?, 0)", parent or (None, None))
    assert made.lastrowid is not None
    return _Place(made.lastrowid, 0)


def _number(connection: sqlite3.Connection, known: dict[bytes, int], directory: bytes) -> int:
    number = known.get(directory)
    if number is None:
        connection.execute("insert or ignore into directories values (null, ?)", (directory,))
        [number] = connection.execute("select id from directories where path = ?", (directory,)).fetchone()
        known[directory] = number
    return number
