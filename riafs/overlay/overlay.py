"""An overlay on disk: its directory and lock, its database and data files, its commit loop, and lists of its changes.

Layout: ``overlay.sqlite`` (with SQLite's ``-wal`` and ``-shm``), ``data/``, ``state`` and ``copy.sqlite`` (see
`completeness`), ``base/`` (see `git/kept_objects`), ``announced-…`` (see `pushes`). A process locks the directory while
it uses the overlay.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import trio

from riafs.counters import Counters
from riafs.errors import Busy, NoSuchName, OverlayFailed, RiafsError
from riafs.formats.names import below, joined, parents_of
from riafs.git.kept_objects import KeptObjects
from riafs.overlay.changes import Base, Carried, Change
from riafs.overlay.completeness import DATABASE, StateFile, damaged, examine, has_evidence, keep_copy, read_database
from riafs.overlay.data_files import Checksums, DataFiles, failure
from riafs.overlay.database import LAYOUT, Statements
from riafs.overlay.differences import count, differences, row_positions
from riafs.overlay.inspection import Findings, Inspector
from riafs.overlay.journal import Journal, no_failpoint
from riafs.overlay.pushes import PendingPush, PendingPushes, PushedTimes
from riafs.overlay.rows import FILE, Area, Row, Rows
from riafs.slices import Sliced, at_once, in_slices
from riafs.storage.deadline import Deadline
from riafs.storage.posix import lock_holder
from riafs.storage.temporary import private_directory
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_SECONDS = 0.1
_SYNC_SECONDS = 300.0
_THREADS = 8
_REMOVED_AT_ONCE = 1000
"""Data files; removing one takes a statement on the event loop."""
_ENDING_SECONDS, _STEP_SECONDS = 2.0, 0.02


InUse = Callable[[int], bool]
"""Whether the row of that number may still be written to."""


def nothing_in_use(_: int) -> bool:
    """For an overlay without open files."""
    return False


class Overlay:
    """The overlay in the directory `path`, made if missing. Raises Busy if another process uses it, StoreDenied
    if other users can write to it, OverlayDamaged if a part of it is missing, OverlayFailed, OverlayFull.
    """

    def __init__(
        self,
        path: str,
        counters: Counters,
        failpoint: Callable[[str], None] = no_failpoint,
        doing: Doing = untold,
    ) -> None:
        self.doing = doing
        """Reports the progress of opening."""
        self.path = private_directory(os.path.abspath(path))
        self.kept = KeptObjects(os.fsencode(self.path) + b"/base")
        """The git objects of the base commits."""
        with contextlib.ExitStack() as undoing, _as_failure(self.path):
            self._lock = _locked(self.path)
            undoing.callback(os.close, self._lock)
            examined = examine(self.path)
            self._state = StateFile(self.path, examined.state)
            undoing.callback(self._state.close)
            os.makedirs(f"{self.path}/data", mode=0o700, exist_ok=True)
            self.files = DataFiles(f"{self.path}/data")
            undoing.callback(self.files.close)
            self.deadline = Deadline(f"the overlay {path}", _SYNC_SECONDS, counters, _THREADS, ours=True)
            self.journal = Journal(f"{self.path}/{DATABASE}", self.deadline, failpoint)
            undoing.callback(self.journal.close)
            self.journal.committed, self.journal.synced = self._state.committed, self._state.synced
            self.rows = Rows(self.journal)
            self.checksums = Checksums(self.journal)
            self.times = PushedTimes(self.journal)
            """The mtimes of pushed files."""
            self._announcements = PendingPushes(self.path)
            self.is_open: InUse = nothing_in_use
            """Whether the file of a row is open, so that the row must be kept until it is closed."""
            self.keeps_files = False
            """Whether data files without a row are kept, as a push reads them for its list of changes."""
            self.inspector = Inspector(self, was_closed=examined.closed)
            undoing.callback(self.inspector.close)
            self._recover()
            undoing.pop_all()

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Repair the state after a crash: rows of removed files, files without rows, rows with more bytes than their
        files. The time does not grow with the number of changes, except after a loss of power.
        """
        layout = self._setting("layout")
        if layout != LAYOUT:
            raise OverlayFailed(f"the overlay {self.path} is of layout {layout}, this riafs knows {LAYOUT}")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        lost_power = self._setting("boot") not in (None, boot)
        found = self.inspector.look(lost_power=lost_power)
        is_new = self._setting("identity") is None
        with self.journal.step:
            for row in self.rows.removed():
                self.rows.delete(row)
                self.files.discard(row.data)
            if found is not None and lost_power:
                self._shorten(found)
            settings = {"boot": boot, "identity": self._state.identity, "numbers": self.rows.numbers}
            self.journal.run_each("INSERT OR REPLACE INTO setting VALUES (?, ?)", settings.items())
            for area in self.rows.areas():
                if self.rows.is_pristine(area):
                    self.rows.drop_area(area)
        if is_new:
            self.journal.move_log()  # so that the database has the identity even if its log is lost
        self.journal.commit()
        if found is not None:
            self.files.remove(found.unnamed)
        self.doing(f"the pushes that {self.path} announces are being read")
        for announced in self._announcements.all():
            self.rows.count_from(announced.last_row, announced.last_version)
            self.announced(announced.dataset)

    def _shorten(self, found: Findings) -> None:
        """After a loss of power, a file that was not synced may have fewer bytes than its row says: shorten the row."""
        for node in (*found.missing, *found.short):
            self.doing(f"the overlay {self.path} is being repaired after a loss of power")
            row = self.rows.get(node)
            if row is not None:
                status = self.files.status(row.data)
                self._shorten_row(row, 0 if status is None else status.st_size)
        self.checksums.forget([known.data for known in found.touched.values()])

    def _shorten_row(self, row: Row, length: int) -> None:
        if row.kind == FILE and length < row.written:
            log.info("%s: the loss of power took the end of %s", self.path, os.fsdecode(row.name or b""))
            self.rows.clip_extents(row.id, length)
            size = row.size if row.written <= row.based else min(row.size, max(length, row.based))
            self.rows.update(row.id, written=length, size=size, data=row.data if length else 0)
            self.files.discard(0 if length else row.data)

    def _setting(self, name: str) -> object:
        found = self.journal.one("SELECT value FROM setting WHERE name = ?", (name,))
        return None if found is None else found[0]

    def close(self) -> None:
        """Commit, close, and unlock the directory."""
        try:
            is_whole = self.inspector.is_done and not self.keeps_files
            if is_whole:
                self.checksums.forget(self.files.discarded_numbers)
            self.journal.close()
            if is_whole:
                self._mark_complete()
        finally:
            self.inspector.close()
            self._state.close()
            self.files.close()
            os.close(self._lock)

    def mark_closed(self) -> None:
        """Record that the overlay was closed, so that the next opening finds the damage again."""
        self._state.closed()

    def _mark_complete(self) -> None:
        """Remove files without a row and record that there are none: one at the next opening is a sign of damage."""
        try:
            self.files.remove(self.files.take_discarded())
        except OSError as error:
            log.warning("%s: files that are not needed any more cannot be removed: %s", self.path, error)
            return
        self._state.closed()
        keep_copy(self.path)

    # -- durability ---------------------------------------------------------------------------------------------------

    async def durable(self) -> None:
        """Wait until all names and attributes of answered operations survive a loss of power."""
        await self.journal.durable()

    async def keep(self) -> None:
        """Commit every COMMIT_SECONDS until cancelled; a commit that has begun is finished. After a failure it is tried
        again: fsync reports it to its callers, and a database that cannot be written refuses further changes.
        """
        trouble = ""
        while True:
            await trio.sleep(COMMIT_SECONDS)
            try:
                with trio.CancelScope(shield=True):
                    self.journal.commit()
                    await self.tidy()
                trouble = ""
            except RiafsError as error:
                if str(error) != trouble:
                    log.error("changes are not safe: %s", error)  # noqa: TRY400  # the message says it all
                trouble = str(error)

    async def tidy(self) -> None:
        """Remove discarded data files; move the log into the database if it is long."""
        while self.files.discarded and not self.keeps_files and not self.journal.is_changing:
            self.journal.commit()
            numbers = self.files.take_discarded(_REMOVED_AT_ONCE)
            self.checksums.forget(numbers)
            await self.journal.durable()
            await self.deadline.run(self.files.remove, numbers)
        await self.journal.checkpoint()

    # -- the source ---------------------------------------------------------------------------------------------------

    @property
    def source(self) -> str | None:
        """The source that is changed, None before `belong_to`."""
        found = self._setting("source")
        return None if found is None else str(found)

    def belong_to(self, source: str) -> None:
        """Record the source, so that changes can be pushed without a mount."""
        if self.source != source:
            with self.journal.step:
                self.journal.run("INSERT OR REPLACE INTO setting VALUES ('source', ?)", (source,))
            self.journal.commit()

    # -- changes ------------------------------------------------------------------------------------------------------

    def datasets(self) -> list[Base]:
        """The datasets with rows, each with its base commit."""
        return [area.base for area in self.rows.areas()]

    def area(self, dataset: bytes) -> Area:
        """The area of a dataset. Raises NoSuchName if it has no changes."""
        area = self.rows.area(dataset)
        if area is None:
            raise NoSuchName(f"the dataset {os.fsdecode(dataset)} has no changes in {self.path}")
        return area

    def base(self, dataset: bytes) -> Base:
        """The base commit of a dataset's changes. Raises NoSuchName."""
        return self.area(dataset).base

    def shown_entrances(self) -> Mapping[int, bytes]:
        """Area → its current path from the root: directories above it may be renamed in the superdataset."""
        areas = self.rows.areas()
        by_entrance = {area.entrance: area for area in areas}
        return {area.id: self._shown_entrance(area, by_entrance) for area in areas}

    def _shown_entrance(self, area: Area, areas: Mapping[bytes, Area]) -> bytes:
        path = b""
        while area.entrance:
            above = next((each for each in (*reversed(parents_of(area.entrance)), b"") if each in areas), None)
            if above is None:
                break
            inside = self._shown_path(areas[above], below(area.entrance, above))
            path = joined(inside, path) if path else inside
            area = areas[above]
        return joined(area.entrance, path) if path else area.entrance

    def _shown_path(self, area: Area, path: bytes) -> bytes:
        """The current path, in its dataset, of the commit's entry at `path`."""
        for directory in reversed(parents_of(path)):
            row = self.rows.by_base(area.id, directory)
            if row is not None:
                names = [path[len(directory) + 1 :]]
                while row is not None and row.parent is not None:
                    names.insert(0, row.name or b"")
                    row = self.rows.get(row.parent)
                return b"/".join(names)
        return path

    async def change_in_thread(self, change: Callable[[Rows, Statements, Callable[[int], None]], T]) -> T:
        """The result of ``change(rows, statements, discard)``, called in a thread; `discard` takes the numbers of data
        files that are not needed any more. All its changes are one step, as in `Journal.in_thread`.
        """

        def work(statements: Statements) -> tuple[T, Rows]:
            rows = self.rows.on_connection(statements)
            return change(rows, statements, discarded.append), rows

        discarded: list[int] = []
        result, rows = await self.journal.in_thread(work)
        self.rows.adopt(rows)
        self.times.read_again()
        for data in discarded:
            self.files.discard(data)
        return result

    async def announce(self, dataset: bytes, carried: Carried, commit: bytes) -> None:
        """Record that `carried` will be in `commit` as soon as the refs have moved. If this process is killed before it
        drops the pushed changes, the next one does. Raises OverlayFull, OverlayFailed.
        """
        await self.durable()
        rows = self.rows
        base = self.base(dataset).commit
        announced = PendingPush(dataset, base, commit, carried, rows.last_id, rows.last_version)
        await self.deadline.run(self._announcements.write, announced)

    def announced(self, dataset: bytes) -> PendingPush | None:
        """The announced push of a dataset whose result is unknown, if any. Raises OverlayFailed."""
        announced = self._announcements.read(dataset)
        area = self.rows.area(dataset)
        if announced is not None and (area is None or area.base.commit != announced.base):
            self.withdraw(dataset)
            return None
        return announced

    def withdraw(self, dataset: bytes) -> None:
        """Remove the announcement: the push has ended, with or without success."""
        self._announcements.remove(dataset)

    def changes(self, dataset: bytes) -> Iterator[Change]:
        """The changes of a dataset by path, for a process without an event loop. Raises NoSuchName."""
        self.journal.before_commit()
        return iter(at_once(differences(self.rows, self.files, self.area(dataset))))

    def count_changes(self) -> int:
        """The number of changes in all datasets, for a process without an event loop."""
        self.journal.before_commit()
        return sum(at_once(count(self.rows, self.files, area)) for area in self.rows.areas())

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """The current changes, which later ones do not affect. Raises OverlayFailed."""
        with self.journal.snapshot() as statements:
            yield Snapshot(Rows(statements, only_read=True), self.files)

    def carried(self, dataset: bytes, choose: Callable[[Sequence[Change]], Sequence[Change]] = list) -> Carried:
        """The changes that a push of a dataset would publish now: all of `changes`, or those that `choose` keeps."""
        changes = choose(list(self.changes(dataset)))
        return Carried(changes, at_once(row_positions(self.rows, self.area(dataset))))


class Snapshot:
    """The changes of an overlay at one moment, from `Overlay.snapshot`; they are listed in slices."""

    def __init__(self, rows: Rows, files: DataFiles) -> None:
        self._rows = rows
        self._files = files

    def areas(self) -> list[Area]:
        """The datasets with rows."""
        return self._rows.areas()

    async def changes(self, area: Area) -> list[Change]:
        """The changes of `area` against its base commit, by path."""
        return await in_slices(differences(self._rows, self._files, area))

    async def count(self, area: Area) -> int:
        """How many changes `area` has."""
        return await in_slices(count(self._rows, self._files, area))

    async def carried(self, area: Area, choose: Callable[[Sequence[Change]], Sliced[Sequence[Change]]]) -> Carried:
        """The changes of a dataset that a push publishes: those that `choose` keeps."""
        changes = await in_slices(choose(await self.changes(area)))
        return Carried(changes, await in_slices(row_positions(self._rows, area)) if changes else {})


def recorded_source(path: str) -> str | None:
    """The source of the overlay in the directory `path`, which another process may use; None if none is recorded.

    Raises OverlayFailed if there is no overlay, OverlayDamaged if it cannot be read.
    """
    if not has_evidence(path):
        raise OverlayFailed(f"{path} is no overlay: it has no {DATABASE}")
    if read_database(path) is None:
        examine(path)
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}/{DATABASE}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT value FROM setting WHERE name = 'source'").fetchone()
    except sqlite3.Error as error:
        raise damaged(path, f"its {DATABASE} cannot be read: {error}") from error
    return None if found is None else str(found[0])


def open_when_free(path: str, counters: Counters, doing: Doing = untold) -> Overlay:
    """The overlay in `path`. Waits a moment for another process, as that of a mount that was just unmounted may still
    be ending. Raises Busy if it is still in use then, and as `Overlay`.
    """
    until = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            return Overlay(path, counters, doing=doing)
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(_STEP_SECONDS)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Overlay]:
    """The overlay in an existing directory. Raises OverlayFailed if there is none, and as `open_when_free`."""
    recorded_source(path)
    overlay = open_when_free(path, Counters())
    try:
        yield overlay
    finally:
        overlay.close()


@contextlib.contextmanager
def holding(path: str) -> Iterator[None]:
    """Lock the overlay in the directory `path`. Raises Busy."""
    lock = _locked(path)
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _as_failure(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failure(error, path) from error


def _locked(path: str) -> int:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = lock_holder(directory)
        os.close(directory)
        raise Busy(f"the overlay {path} is in use by another process{holder}") from error
    return directory
