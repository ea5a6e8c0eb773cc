"""The overlay's database: its tables, transactions in groups, and when what is in it becomes durable.

SQLite's write-ahead log is the journal. The rows of one operation are one savepoint; operations are committed in
groups of at most GROUP, by the operation that completes a group or by the commit loop of the mount. A commit writes to
the page cache only: it survives the end of this process, and `durable` makes it survive a loss of power. Checkpoints
and syncs run in threads.

Invariants: there is no await inside a step, and none between a step's statements; room for the log's next group is
allocated before the group begins, so that a commit of operations that were answered does not fail on a full disk.

Changes of very many rows run in a thread, on a connection of their own (`apart`): the event loop goes on reading what
was there before until all of it is committed.

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

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, TypeVar

import trio

from riafs.errors import OverlayFailed, OverlayFull, StaleHandle, TaskFailed
from riafs.overlay.completeness import damaged
from riafs.storage.deadline import Deadline
from riafs.storage.temporary import ensure_private_file
from riafs.tasks import described, is_shortage

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


log = logging.getLogger(__name__)

GROUP = 64
_COUNT = "UPDATE setting SET value = ? WHERE name IN ('commits', 'seen')"
_FRAME = 4096 + 24
_ROOM = 1 << 20
"""Bytes of log a group may need: GROUP operations change four pages each, with their share of the tree above them."""
_SPARE = 1 << 20
"""Bytes of log that only what removes something may use, so that a full disk can be emptied."""
_STRIDE = 4 << 20
_CHECKPOINT = 16 << 20
"""Bytes of log that are moved into the database."""
Values = tuple[object, ...]
T = TypeVar("T")


def no_failpoint(_: str) -> None:
    """Nothing fails."""


class Statements(Protocol):
    """What executes statements: the journal, or a snapshot of what it has."""

    def run(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute one statement."""

    def run_each(self, sql: str, values: Iterable[Values]) -> None:
        """Execute one statement with each of `values`."""

    def one(self, sql: str, values: Values = ()) -> Any:  # noqa: ANN401  # as sqlite3 types it
        """The first row, None if there is none."""

    def begin(self) -> None:
        """Begin a group unless there is one."""


class Journal:
    """The database at `path`. `failpoint` is called with the name of each step that a crash may separate."""

    def __init__(self, path: str, deadline: Deadline, failpoint: Callable[[str], None] = no_failpoint) -> None:
        self.path = path
        self.failpoint = failpoint
        self.deadline = deadline
        self.before_commit: Callable[[], None] = lambda: None
        """Called first in each commit, to write rows that are kept in memory between changes."""
        self.before_step: Callable[[], None] = lambda: None
        """Called first in each step that can be undone, to write what must not be undone with it."""
        self.undone: Callable[[], None] = lambda: None
        """Called when the rows of a step were undone."""
        self.committed: Callable[[int], None] = lambda _: None
        """Hears how many commits the database has, after each one."""
        self.synced: Callable[[int], None] = lambda _: None
        """Hears how many of them survive the loss of power."""
        self._failed: str | None = None
        self._in_group = False
        self._steps = 0
        with contextlib.ExitStack() as undoing:
            try:
                self._connection = undoing.enter_context(contextlib.closing(_connect(path)))
                self._checkpointer = undoing.enter_context(contextlib.closing(_connect(path)))
                self._anchor = undoing.enter_context(contextlib.closing(_connect(path)))
                prepare(self._connection)
            except sqlite3.Error as error:
                raise self._failure(error) from error
            self._execute = self._connection.execute
            self._log = os.open(path + "-wal", os.O_RDWR | os.O_CLOEXEC)
            undoing.callback(os.close, self._log)
            self._allocated = self._used = os.fstat(self._log).st_size
            self._commits: int = self.one("SELECT value FROM setting WHERE name = 'commits'")[0]
            undoing.pop_all()
        self._groups = 0
        """Those since `_used` was the size of the log."""
        self._is_anchored = self._is_moving = False
        self._apart: trio.Event | None = None
        self._synced = trio.Lock()
        self._durable = 0
        self._jobs: list[_Job] = []
        """What is to be done beside the next sync of the log."""
        self._apart_threads = trio.CapacityLimiter(1)
        self.step = Step(self, _SPARE)
        self.freeing = Step(self, 0)
        self.single = Single(self, 0)
        self.making = Single(self, _SPARE)

    # -- statements ---------------------------------------------------------------------------------------------------

    def run(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises OverlayFailed, OverlayFull."""
        try:
            return self._execute(sql, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def run_each(self, sql: str, values: Iterable[Values]) -> None:
        """Execute one statement with each of `values`. Raises OverlayFailed, OverlayFull."""
        try:
            self._connection.executemany(sql, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def one(self, sql: str, values: Values = ()) -> Any:  # noqa: ANN401  # as sqlite3 types it
        """The first row, None if there is none."""
        return self.run(sql, values).fetchone()

    def _failure(self, error: sqlite3.Error) -> OverlayFailed | OverlayFull:
        return _failure(self.path, error)

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """What there is now, whatever is written meanwhile. Raises OverlayFailed.

        As long as it is held, the log is not begun anew.
        """
        self.commit()
        connection = _connect(self.path)
        try:
            yield Snapshot(self.path, connection)
        finally:
            connection.close()

    # -- groups -------------------------------------------------------------------------------------------------------

    def begin(self, spare: int = 0) -> None:
        """Begin a group unless there is one. `spare`: room to be left over. Raises OverlayFull, OverlayFailed, and
        StaleHandle while rows are changed apart.
        """
        if self._failed is not None:
            raise OverlayFailed(self._failed)
        if self._apart is not None:
            raise StaleHandle("the changes are being moved; it can be done again afterwards")
        if not self._in_group:
            self._make_room(spare)
            self.run("BEGIN IMMEDIATE")
            self._in_group = True
            self._groups += 1

    def _make_room(self, spare: int) -> None:
        """Allocate what the log may grow by, so that the commit cannot fail for want of it."""
        if self._log_size + _ROOM + spare > self._allocated:
            self._count()
        needed = self._log_size + _ROOM + spare
        if needed > self._allocated and not self._allocate(needed + _STRIDE) and not self._allocate(needed):
            self._move_log()
            self._count()
            if self._log_size + _ROOM + spare > self._allocated:
                raise OverlayFull(f"no room left for {self.path}")
        # What removes things goes on where the database could not take the log in.
        figures = os.fstatvfs(self._log)
        if spare and figures.f_bavail * figures.f_frsize < self._log_size:
            self._count()
            if figures.f_bavail * figures.f_frsize < self._log_size:
                raise OverlayFull(f"no room left for {self.path}")

    def _allocate(self, length: int) -> bool:
        try:
            os.posix_fallocate(self._log, 0, length)
        except OSError as error:
            # Others than these: the file system cannot allocate in advance.
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)
        self._allocated = length
        return True

    @property
    def size(self) -> int:
        """Bytes of the database and of its log; at most what they would be without space that was set aside."""
        return os.stat(self.path).st_size + self._log_size

    @property
    def _log_size(self) -> int:
        """Bytes of the log in use, at most."""
        return self._used + self._groups * _ROOM

    def _count(self) -> None:
        """Ask SQLite how long the log is. It only says so when it is told to move the log into the database, of which
        `_anchor` keeps it: that reads what there was when the log began, so there is nothing that could be moved.
        """
        if self._is_anchored and not self._is_moving:
            with contextlib.suppress(sqlite3.OperationalError):
                _, frames, _ = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if frames >= 0:
                    self._used, self._groups = frames * _FRAME, int(self._in_group)

    def end_step(self) -> None:
        """Count a step; the last of a group commits."""
        self._steps += 1
        if self._steps >= GROUP:
            self.commit()

    def refuse(self, why: str) -> None:
        """Change nothing any more."""
        self._failed = why

    def commit(self) -> None:
        """Commit what is pending: afterwards it survives the end of this process. Raises OverlayFailed."""
        self.before_commit()
        if not self._in_group:
            return
        self.failpoint("before commit")
        try:
            self._execute(_COUNT, (self._commits + 1,))
            self._execute("COMMIT")
        except sqlite3.Error as error:
            # Operations were answered that are lost now; nothing may be built on them.
            self._failed = f"{self.path} could not be written and must be mounted again: {error}"
            log.error("%s", self._failed)  # noqa: TRY400  # said once, the caller raises
            self._connection.rollback()
            raise OverlayFailed(self._failed) from error
        finally:
            self._in_group = False
            self._steps = 0
        self._commits += 1
        self.failpoint("after commit")
        self.committed(self._commits)

    # -- apart --------------------------------------------------------------------------------------------------------

    @property
    def is_apart(self) -> bool:
        """Whether rows are being changed apart, so that nobody else can change any."""
        return self._apart is not None

    async def apart(self, work: Callable[[Statements], T]) -> T:
        """What `work` comes to, which changes rows in a thread: all of it is committed, or nothing where it raises.
        Nobody can change anything meanwhile. Raises OverlayFull, OverlayFailed, TaskFailed.
        """
        self.commit()
        if self._failed is not None:
            raise OverlayFailed(self._failed)
        self._make_room(0)
        self._apart = trio.Event()
        try:
            result = await trio.to_thread.run_sync(self._run_apart, work, limiter=self._apart_threads)
            self._commits += 1
            self._used = os.fstat(self._log).st_size  # at most
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            raise TaskFailed(f"{self.path}: {described(error)}") from error
        finally:
            self._apart.set()
            self._apart = None
        self.failpoint("after commit")
        self.committed(self._commits)
        return result

    def _run_apart(self, work: Callable[[Statements], T]) -> T:
        try:
            with contextlib.closing(_connect(self.path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(_Connected(self.path, connection))
                    connection.execute(_COUNT, (self._commits + 1,))
                    self.failpoint("before commit")
                    connection.execute("COMMIT")
                except BaseException:
                    connection.rollback()
                    raise
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return result

    # -- durability ---------------------------------------------------------------------------------------------------

    async def durable(self, beside: Callable[[], None] | None = None) -> None:
        """Commit, and wait until that survives the loss of power, and `beside` was done in a thread, at the same time
        as the log is synced. Raises OverlayFailed, StoreTimeout, and what `beside` raises.
        """
        self.commit()
        wanted, job = self._commits, None if beside is None else _Job(beside)
        if job is not None:
            self._jobs.append(job)
        try:
            async with self._synced:  # one sync serves all that came while the one before was under way
                if self._durable < wanted or (job is not None and not job.is_done):
                    await self._sync()
        finally:
            if job is not None and job in self._jobs:
                self._jobs.remove(job)
        if job is not None and job.problem is not None:
            raise job.problem

    async def _sync(self) -> None:
        """Sync the log, and do what is to be done beside it, with one visit to a thread: to wait for several costs more
        than a sync of a fast disk.
        """
        reached, jobs = self._commits, list(self._jobs)
        log_file = self._log if self._durable < reached else None
        self.failpoint("before sync")
        try:
            await self.deadline.run(_sync_together, log_file, jobs)
        except OSError as error:
            raise OverlayFailed(f"{self.path} cannot be synced: {error.strerror}") from error
        finally:
            self._jobs = [job for job in self._jobs if not job.is_done]
        self._durable = max(self._durable, reached)
        self.failpoint("after sync")
        if log_file is not None:
            self.synced(reached)

    async def checkpoint(self, least: int = _CHECKPOINT) -> None:
        """Move the log into the database if it is `least` bytes long."""
        if self._log_size >= least:
            self._count()
        if self._log_size >= least:
            self.commit()
            self.failpoint("before checkpoint")
            self._is_moving = True
            try:
                await self.deadline.run(self._move_log)
            finally:
                self._is_moving = False
            self._count()
            self.failpoint("after checkpoint")

    def _move_log(self) -> None:
        """In a thread. The write makes the log begin again, which syncs its header: here, not on the event loop."""
        self._is_anchored = False
        try:
            self._anchor.rollback()
            _, frames, moved = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames == moved:
                self._anchor.execute("BEGIN")
                self._anchor.execute("SELECT 1 FROM setting").fetchone()
                self._checkpointer.execute("UPDATE setting SET value = value + 1 WHERE name = 'checkpoints'")
                self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # what came in between
                self._is_anchored = True
        except sqlite3.OperationalError as error:
            log.info("%s: the log stays as it is for now: %s", self.path, error)

    def move_log(self) -> None:
        """Move the log into the database, whatever it has. Blocks; what cannot be moved stays in the log."""
        self.commit()
        self._move_log()

    def close(self) -> None:
        """Commit, make that durable, and close. Raises OverlayFailed."""
        try:
            self.commit()
            os.fdatasync(self._log)
        except OSError as error:
            raise OverlayFailed(f"{self.path} cannot be synced: {error.strerror}") from error
        finally:
            self._anchor.close()
            self._checkpointer.close()
            self._connection.close()
            # Not before: closing a descriptor of a file gives up the process's locks on it, SQLite's among them.
            os.close(self._log)


class _Job:
    """What is done in a thread beside a sync of the log. `problem`: why it failed."""

    __slots__ = ("_do", "is_done", "problem")

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self.is_done = False
        self.problem: OSError | None = None

    def run(self) -> None:
        """Do it."""
        try:
            self._do()
        except OSError as error:
            self.problem = error
        self.is_done = True


def _sync_together(log_file: int | None, jobs: Sequence[_Job]) -> None:
    """In a thread: sync the log beside `jobs`, each in a thread of its own, so that the file system below makes one
    commit of all. Returns when all are done. Raises OSError for the log.
    """
    ended: SimpleQueue[object] = SimpleQueue()
    here, elsewhere = (list(jobs[:1]), jobs[1:]) if log_file is None else ([], jobs)
    for job in elsewhere:
        trio.lowlevel.start_thread_soon(job.run, ended.put)
    try:
        if log_file is not None:
            os.fdatasync(log_file)
        for job in here:
            job.run()
    finally:
        for _ in elsewhere:
            ended.get()


class Single:
    """A step of one statement, which needs no savepoint. `spare`: see Journal.begin. Reusable, not nested."""

    __slots__ = ("_journal", "_spare")

    def __init__(self, journal: Journal, spare: int) -> None:
        self._journal = journal
        self._spare = spare

    def __enter__(self) -> None:
        self._journal.begin(self._spare)

    def __exit__(self, *_: object) -> None:
        self._journal.end_step()


class Step:
    """The rows of one operation: all of them or none. `spare`: see Journal.begin. Reusable, not nested."""

    __slots__ = ("_journal", "_spare")

    def __init__(self, journal: Journal, spare: int) -> None:
        self._journal = journal
        self._spare = spare

    def __enter__(self) -> None:
        self._journal.begin(self._spare)
        self._journal.before_step()
        self._journal.run("SAVEPOINT step")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._journal.run("ROLLBACK TO step")
            self._journal.undone()
        self._journal.run("RELEASE step")
        self._journal.end_step()


class _Connected:
    """Statements on a connection other than the journal's, in a transaction that is begun already."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    def run(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Execute one statement. Raises OverlayFailed, OverlayFull."""
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error

    def run_each(self, sql: str, values: Iterable[Values]) -> None:
        """Execute one statement with each of `values`. Raises OverlayFailed, OverlayFull."""
        try:
            self._connection.executemany(sql, values)
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error

    def one(self, sql: str, values: Values = ()) -> Any:  # noqa: ANN401  # as sqlite3 types it
        """The first row, None if there is none."""
        return self.run(sql, values).fetchone()

    def begin(self) -> None:
        """It is begun already."""


class Snapshot(_Connected):
    """Statements that only read, and see what there was when this was made."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self.run("BEGIN")
        self.run("SELECT 1 FROM setting").fetchone()  # with the first statement that reads a snapshot begins

    def run_each(self, sql: str, values: Iterable[Values]) -> None:
        """Nothing is written."""


def _failure(path: str, error: sqlite3.Error) -> OverlayFailed | OverlayFull:
    code = getattr(error, "sqlite_errorcode", None)
    is_io = code is not None and code & 0xFF == sqlite3.SQLITE_IOERR
    if code == sqlite3.SQLITE_FULL or (is_io and _is_full(os.path.dirname(path))):
        return OverlayFull(f"no room left for {path}")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(os.path.dirname(path), f"its database is damaged: {error}")
    return OverlayFailed(f"{path} cannot be used: {error}")


def _is_full(directory: str) -> bool:
    """SQLite does not tell for each of its files that this is why it cannot be written."""
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize < _ROOM


def _connect(path: str) -> sqlite3.Connection:
    ensure_private_file(path)  # SQLite gives its log and index the same mode
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 0", "cache_spill = 0"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
