"""Transactions of the overlay's database: steps, groups of steps, and durability.

How it works: SQLite's write-ahead log is the journal. The rows of one operation are changed in one step (a savepoint).
Steps are committed in groups of at most GROUP, by the step that completes a group or by the commit loop of the mount.
A commit writes to the page cache only, so that it survives the end of this process; `durable` syncs the log, so that it
survives a loss of power. Checkpoints and syncs run in threads.

Invariants: there is no await within a step. Before a group begins, disk space for its part of the log is allocated, so
that a full disk cannot make the commit of operations fail that were answered already.

Very many rows are changed in a thread with its own connection (`in_thread`). Until all of it is committed, the event
loop reads the previous state.
"""

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType
from typing import TypeVar

import trio

from riafs.errors import OverlayFailed, OverlayFull, StaleHandle, TaskFailed
from riafs.overlay.database import Snapshot, Statements, connect, failure_of, prepare
from riafs.storage.deadline import Deadline
from riafs.tasks import described, is_shortage

log = logging.getLogger(__name__)

GROUP = 64
_COUNT = "UPDATE setting SET value = ? WHERE name IN ('commits', 'seen')"
_FRAME = 4096 + 24
_ROOM = 1 << 20
"""Bytes of log that a group may need: GROUP steps change four pages each, and their parents in the B-trees."""
_SPARE = 1 << 20
"""Bytes of log for removals only, so that a full disk can be emptied."""
_STRIDE = 4 << 20
_CHECKPOINT = 16 << 20
"""Length of the log from which on it is moved into the database (a checkpoint)."""
T = TypeVar("T")


def no_failpoint(_: str) -> None:
    """No step fails."""


class Journal(Statements):
    """The database at `path`. `failpoint` is called with the name of each step that a crash may separate."""

    def __init__(self, path: str, deadline: Deadline, failpoint: Callable[[str], None] = no_failpoint) -> None:
        self.failpoint = failpoint
        self.deadline = deadline
        self.before_commit: Callable[[], None] = lambda: None
        """Called first in each commit, to write rows that are kept in memory between commits."""
        self.before_step: Callable[[], None] = lambda: None
        """Called before a step that can be rolled back, to write rows of earlier steps that are still in memory."""
        self.undone: Callable[[], None] = lambda: None
        """Called when a step was rolled back."""
        self.committed: Callable[[int], None] = lambda _: None
        """Called after each commit with the number of commits of the database."""
        self.synced: Callable[[int], None] = lambda _: None
        """Called after each sync with the number of commits that survive a loss of power."""
        self._failed: str | None = None
        self._in_group = False
        self._steps = 0
        with contextlib.ExitStack() as undoing:
            try:
                super().__init__(path, undoing.enter_context(contextlib.closing(connect(path))))
                self._checkpointer = undoing.enter_context(contextlib.closing(connect(path)))
                self._anchor = undoing.enter_context(contextlib.closing(connect(path)))
                prepare(self._connection)
            except sqlite3.Error as error:
                raise failure_of(path, error) from error
            self._log = os.open(path + "-wal", os.O_RDWR | os.O_CLOEXEC)
            undoing.callback(os.close, self._log)
            self._allocated = self._used = os.fstat(self._log).st_size
            self._commits: int = self.one("SELECT value FROM setting WHERE name = 'commits'")[0]
            undoing.pop_all()
        self._groups = 0
        """Groups since `_used` was the size of the log."""
        self._is_anchored = self._is_moving = False
        self._changing: trio.Event | None = None
        self._synced = trio.Lock()
        self._durable = 0
        self._jobs: list[_Job] = []
        """Jobs to run with the next sync of the log."""
        self._change_threads = trio.CapacityLimiter(1)
        self.step = Step(self, _SPARE)
        self.freeing = Step(self, 0)
        self.single = Single(self, 0)
        self.making = Single(self, _SPARE)

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """The current state, which later changes do not affect. Raises OverlayFailed.

        While there is a snapshot, SQLite cannot restart the log, which grows.
        """
        self.commit()
        connection = connect(self.path)
        try:
            yield Snapshot(self.path, connection)
        finally:
            connection.close()

    # -- groups -------------------------------------------------------------------------------------------------------

    def begin(self, spare: int = 0) -> None:
        """Begin a group unless there is one. `spare`: bytes that have to stay free. Raises OverlayFull, OverlayFailed,
        and StaleHandle while rows are changed in a thread.
        """
        if self._failed is not None:
            raise OverlayFailed(self._failed)
        if self._changing is not None:
            raise StaleHandle("the changes are being moved; it can be done again afterwards")
        if not self._in_group:
            self._make_room(spare)
            self.run("BEGIN IMMEDIATE")
            self._in_group = True
            self._groups += 1

    def _make_room(self, spare: int) -> None:
        """Allocate the disk space that the group may need, so that its commit cannot fail on a full disk."""
        if self._log_size + _ROOM + spare > self._allocated:
            self._count()
        needed = self._log_size + _ROOM + spare
        if needed > self._allocated and not self._allocate(needed + _STRIDE) and not self._allocate(needed):
            self._move_log()
            self._count()
            if self._log_size + _ROOM + spare > self._allocated:
                raise OverlayFull(f"no room left for {self.path}")
        # Removals continue even if a checkpoint would have no room in the database.
        figures = os.fstatvfs(self._log)
        if spare and figures.f_bavail * figures.f_frsize < self._log_size:
            self._count()
            if figures.f_bavail * figures.f_frsize < self._log_size:
                raise OverlayFull(f"no room left for {self.path}")

    def _allocate(self, length: int) -> bool:
        try:
            os.posix_fallocate(self._log, 0, length)
        except OSError as error:
            # Other errors: the file system cannot allocate in advance.
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)
        self._allocated = length
        return True

    @property
    def size(self) -> int:
        """Bytes of the database and of the used part of its log, at most."""
        return os.stat(self.path).st_size + self._log_size

    @property
    def _log_size(self) -> int:
        """Bytes of the log in use, at most."""
        return self._used + self._groups * _ROOM

    def _count(self) -> None:
        """Ask SQLite how long the log is. It only reports this as the result of a checkpoint. So that this one moves
        nothing, `_anchor` holds a snapshot from the beginning of the log: SQLite moves no changes later than that.
        """
        if self._is_anchored and not self._is_moving:
            with contextlib.suppress(sqlite3.OperationalError):
                _, frames, _ = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if frames >= 0:
                    self._used, self._groups = frames * _FRAME, int(self._in_group)

    def end_step(self) -> None:
        """Count a step, and commit after the last of a group."""
        self._steps += 1
        if self._steps >= GROUP:
            self.commit()

    def refuse(self, why: str) -> None:
        """Refuse all further changes, with this reason."""
        self._failed = why

    def commit(self) -> None:
        """Commit the pending steps: afterwards they survive the end of this process. Raises OverlayFailed."""
        self.before_commit()
        if not self._in_group:
            return
        self.failpoint("before commit")
        try:
            self._execute(_COUNT, (self._commits + 1,))
            self._execute("COMMIT")
        except sqlite3.Error as error:
            # Operations that were answered are lost now; no others may build on them.
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

    # -- changes in a thread ------------------------------------------------------------------------------------------

    @property
    def is_changing(self) -> bool:
        """Whether rows are being changed in a thread, so that no step can begin."""
        return self._changing is not None

    async def in_thread(self, work: Callable[[Statements], T]) -> T:
        """The result of `work`, which changes rows in a thread. All its changes are committed, or none if it raises. No
        step can begin meanwhile. Raises OverlayFull, OverlayFailed, TaskFailed.
        """
        self.commit()
        if self._failed is not None:
            raise OverlayFailed(self._failed)
        self._make_room(0)
        self._changing = trio.Event()
        try:
            result = await trio.to_thread.run_sync(self._run_in_thread, work, limiter=self._change_threads)
            self._commits += 1
            self._used = os.fstat(self._log).st_size  # at most
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            raise TaskFailed(f"{self.path}: {described(error)}") from error
        finally:
            self._changing.set()
            self._changing = None
        self.failpoint("after commit")
        self.committed(self._commits)
        return result

    def _run_in_thread(self, work: Callable[[Statements], T]) -> T:
        try:
            with contextlib.closing(connect(self.path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(Statements(self.path, connection))
                    connection.execute(_COUNT, (self._commits + 1,))
                    self.failpoint("before commit")
                    connection.execute("COMMIT")
                except BaseException:
                    connection.rollback()
                    raise
        except sqlite3.Error as error:
            raise failure_of(self.path, error) from error
        return result

    # -- durability ---------------------------------------------------------------------------------------------------

    async def durable(self, beside: Callable[[], None] | None = None) -> None:
        """Commit, and wait until that survives a loss of power. `beside` runs in a thread while the log is synced.
        Raises OverlayFailed, StoreTimeout, and what `beside` raises.
        """
        self.commit()
        wanted, job = self._commits, None if beside is None else _Job(beside)
        if job is not None:
            self._jobs.append(job)
        try:
            async with self._synced:  # one sync serves all tasks that came during the previous one
                if self._durable < wanted or (job is not None and not job.is_done):
                    await self._sync()
        finally:
            if job is not None and job in self._jobs:
                self._jobs.remove(job)
        if job is not None and job.problem is not None:
            raise job.problem

    async def _sync(self) -> None:
        """Sync the log and run the jobs beside it in one call of a thread: several calls would cost more than a sync of
        a fast disk.
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
        """Move the log into the database, in a thread. The first write after that restarts the log and syncs its
        header; the update here is that write, so that it does not happen on the event loop.
        """
        self._is_anchored = False
        try:
            self._anchor.rollback()
            _, frames, moved = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames == moved:
                self._anchor.execute("BEGIN")
                self._anchor.execute("SELECT 1 FROM setting").fetchone()
                self._checkpointer.execute("UPDATE setting SET value = value + 1 WHERE name = 'checkpoints'")
                self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()  # commits in between
                self._is_anchored = True
        except sqlite3.OperationalError as error:
            log.info("%s: the log stays as it is for now: %s", self.path, error)

    def move_log(self) -> None:
        """Commit and move the log into the database. Blocks; changes that a reader still needs stay in the log."""
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
            # Last: closing any descriptor of a file releases all POSIX locks of the process on it, SQLite's included.
            os.close(self._log)


class _Job:
    """A call that runs in a thread while the log is synced. `problem`: its failure."""

    __slots__ = ("_do", "is_done", "problem")

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self.is_done = False
        self.problem: OSError | None = None

    def run(self) -> None:
        try:
            self._do()
        except OSError as error:
            self.problem = error
        self.is_done = True


def _sync_together(log_file: int | None, jobs: Sequence[_Job]) -> None:
    """In a thread: sync the log and run `jobs` at the same time, each in its own thread, so that the file system can
    commit all of them at once. Returns when all are done. Raises OSError for the log.
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
    """A step of one statement, which needs no savepoint. `spare` as in `Journal.begin`. Reusable, not nested."""

    __slots__ = ("_journal", "_spare")

    def __init__(self, journal: Journal, spare: int) -> None:
        self._journal = journal
        self._spare = spare

    def __enter__(self) -> None:
        self._journal.begin(self._spare)

    def __exit__(self, *_: object) -> None:
        self._journal.end_step()


class Step:
    """The statements of one operation: all of them or none. `spare` as in `Journal.begin`. Reusable, not nested."""

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
