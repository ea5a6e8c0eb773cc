"""An overlay on disk: its directory, its lock, its database and data files, and what it tells of its changes.

Layout: ``overlay.sqlite`` (with SQLite's ``-wal`` and ``-shm``), ``data/``, ``state`` and ``copy.sqlite`` (see
completeness), ``base/`` (see git/kept_objects). The directory is locked while it is in use, so that two processes never
are in it at once.
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
from riafs.overlay.differences import count, differences, standing
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
"""Data files: each has a statement on the event loop."""
_ENDING_SECONDS, _STEP_SECONDS = 2.0, 0.02


InUse = Callable[[int], bool]
"""Whether the row of that number may still be written to."""


def nobody(_: int) -> bool:
    """Nothing is in use."""
    return False


class Overlay:
    """The overlay in the directory `path`, made if missing. Raises Busy while another process uses it, StoreDenied
    where others could write to it, OverlayDamaged where a part of it is missing, OverlayFailed, OverlayFull.
    """

    def __init__(
        self,
        path: str,
        counters: Counters,
        failpoint: Callable[[str], None] = no_failpoint,
        doing: Doing = untold,
    ) -> None:
        self.doing = doing
        """Hears how opening gets on, where that takes long."""
        self.path = private_directory(os.path.abspath(path))
        self.kept = KeptObjects(os.fsencode(self.path) + b"/base")
        """What the commits below the changes consist of."""
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
            """Of what was pushed from here."""
            self._announcements = PendingPushes(self.path)
            self.is_open: InUse = nobody
            """Whether a row is open, so that it must be kept until it is closed."""
            self.keeps_files = False
            """Whether data files stay though no row names them: somebody reads those of a list of changes."""
            self.inspector = Inspector(self, was_closed=examined.closed)
            undoing.callback(self.inspector.close)
            self._recover()
            undoing.pop_all()

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Put right what a crash left: rows of removed files, files without rows, rows that promise lost bytes. Takes
        no longer the more changes there are, except after a loss of power.
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
                self.files.doom(row.data)
            if found is not None and lost_power:
                self._put_right(found)
            settings = {"boot": boot, "identity": self._state.identity, "numbers": self.rows.numbers}
            self.journal.run_each("INSERT OR REPLACE INTO setting VALUES (?, ?)", settings.items())
            for area in self.rows.areas():
                if self.rows.is_pristine(area):
                    self.rows.drop_area(area)
        if is_new:
            self.journal.move_log()  # so that the database is known to be this overlay's without its log, too
        self.journal.commit()
        if found is not None:
            self.files.purge(found.unnamed)
        self.doing(f"the pushes that {self.path} announces are being read")
        for announced in self._announcements.all():
            self.rows.count_from(announced.last_row, announced.last_version)
            self.announced(announced.dataset)

    def _put_right(self, found: Findings) -> None:
        """After a loss of power: files that nobody synced may be shorter, and what was written to them last is gone."""
        for node in (*found.missing, *found.short):
            self.doing(f"what a loss of power left of {self.path} is being put right")
            row = self.rows.get(node)
            if row is not None:
                status = self.files.status(row.data)
                self._check_data(row, 0 if status is None else status.st_size)
        self.checksums.forget([known.data for known in found.touched.values()])

    def _check_data(self, row: Row, length: int) -> None:
        """After a loss of power a file that nobody synced may have fewer bytes than its row says: it ends there."""
        if row.kind == FILE and length < row.written:
            log.info("%s: the loss of power took the end of %s", self.path, os.fsdecode(row.name or b""))
            self.rows.clip_extents(row.id, length)
            size = row.size if row.written <= row.based else min(row.size, max(length, row.based))
            self.rows.update(row.id, written=length, size=size, data=row.data if length else 0)
            self.files.doom(0 if length else row.data)

    def _setting(self, name: str) -> object:
        found = self.journal.one("SELECT value FROM setting WHERE name = ?", (name,))
        return None if found is None else found[0]

    def close(self) -> None:
        """Commit, close, and let others in."""
        try:
            is_whole = self.inspector.is_done and not self.keeps_files
            if is_whole:
                self.checksums.forget(self.files.doomed_numbers)
            self.journal.close()
            if is_whole:
                self._leave_complete()
        finally:
            self.inspector.close()
            self._state.close()
            self.files.close()
            os.close(self._lock)

    def leave_closed(self) -> None:
        """Nothing is changed any more, and what is wrong now is to be found again at the next opening."""
        self._state.closed()

    def _leave_complete(self) -> None:
        """Remove what no row names, so that whatever there is the next time without a row tells of a loss."""
        try:
            self.files.purge(self.files.take_doomed())
        except OSError as error:
            log.warning("%s: files that are not needed any more stay: %s", self.path, error)
            return
        self._state.closed()
        keep_copy(self.path)

    # -- durability ---------------------------------------------------------------------------------------------------

    async def durable(self) -> None:
        """Make everything answered so far survive the loss of power, as far as names and attributes go."""
        await self.journal.durable()

    async def keep(self) -> None:
        """Commit what is pending, every COMMIT_SECONDS, until cancelled, which waits for what is under way. What fails
        is tried again: callers of fsync are told, and a database that cannot be written refuses further changes.
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
        """Remove the data files that are not needed any more, move the log into the database if it is long."""
        while self.files.doomed and not self.keeps_files and not self.journal.is_changing:
            self.journal.commit()
            numbers = self.files.take_doomed(_REMOVED_AT_ONCE)
            self.checksums.forget(numbers)
            await self.journal.durable()
            await self.deadline.run(self.files.purge, numbers)
        await self.journal.checkpoint()

    # -- what it belongs to -------------------------------------------------------------------------------------------

    @property
    def source(self) -> str | None:
        """The source that the overlay lies over, None before `belong_to`."""
        found = self._setting("source")
        return None if found is None else str(found)

    def belong_to(self, source: str) -> None:
        """Remember the source that the changes are made in, so that they can be pushed without a mount."""
        if self.source != source:
            with self.journal.step:
                self.journal.run("INSERT OR REPLACE INTO setting VALUES ('source', ?)", (source,))
            self.journal.commit()

    # -- what changed -------------------------------------------------------------------------------------------------

    def datasets(self) -> list[Base]:
        """The datasets with rows, each with the commit below them."""
        return [area.base for area in self.rows.areas()]

    def area(self, dataset: bytes) -> Area:
        """The area of a dataset. Raises NoSuchName where it has no changes."""
        area = self.rows.area(dataset)
        if area is None:
            raise NoSuchName(f"the dataset {os.fsdecode(dataset)} has no changes in {self.path}")
        return area

    def base(self, dataset: bytes) -> Base:
        """The commit that the changes of a dataset lie over. Raises NoSuchName."""
        return self.area(dataset).base

    def shown_entrances(self) -> Mapping[int, bytes]:
        """Area → the path from the root at which it is seen: what is above it may be renamed in the superdataset."""
        areas = self.rows.areas()
        by_entrance = {area.entrance: area for area in areas}
        return {area.id: self._shown_entrance(area, by_entrance) for area in areas}

    def _shown_entrance(self, area: Area, areas: Mapping[bytes, Area]) -> bytes:
        path = b""
        while area.entrance:
            above = next((each for each in (*reversed(parents_of(area.entrance)), b"") if each in areas), None)
            if above is None:
                break
            inside = self._seen_at(areas[above], below(area.entrance, above))
            path = joined(inside, path) if path else inside
            area = areas[above]
        return joined(area.entrance, path) if path else area.entrance

    def _seen_at(self, area: Area, path: bytes) -> bytes:
        """Where what the commit has at `path` is seen in its dataset."""
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
        """What `change` comes to, which is given the rows in a thread, and what hears of data files that are not needed
        any more. All it does is one step; see Journal.in_thread.
        """

        def work(statements: Statements) -> tuple[T, Rows]:
            rows = self.rows.beside(statements)
            return change(rows, statements, doomed.append), rows

        doomed: list[int] = []
        result, rows = await self.journal.in_thread(work)
        self.rows.adopt(rows)
        self.times.read_again()
        for data in doomed:
            self.files.doom(data)
        return result

    async def announce(self, dataset: bytes, carried: Carried, commit: bytes) -> None:
        """What a push carried will be in `commit` as soon as refs have moved; `pushed` comes next, unless this process
        is killed. Raises OverlayFull, OverlayFailed.
        """
        await self.durable()
        rows = self.rows
        base = self.base(dataset).commit
        announced = PendingPush(dataset, base, commit, carried, rows.last_id, rows.last_version)
        await self.deadline.run(self._announcements.write, announced)

    def announced(self, dataset: bytes) -> PendingPush | None:
        """The push of a dataset whose end was not seen, if there is one. Raises OverlayFailed."""
        announced = self._announcements.read(dataset)
        area = self.rows.area(dataset)
        if announced is not None and (area is None or area.base.commit != announced.base):
            self.withdraw(dataset)
            return None
        return announced

    def withdraw(self, dataset: bytes) -> None:
        """The push that was announced is over, whatever came of it."""
        self._announcements.remove(dataset)

    def changes(self, dataset: bytes) -> Iterator[Change]:
        """What differs from that commit, by path, for whoever is alone in a process. Raises NoSuchName."""
        self.journal.before_commit()
        return iter(at_once(differences(self.rows, self.files, self.area(dataset))))

    def count_changes(self) -> int:
        """How many changes there are in all datasets, for whoever is alone in a process."""
        self.journal.before_commit()
        return sum(at_once(count(self.rows, self.files, area)) for area in self.rows.areas())

    @contextlib.contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """The changes as they are now, whatever is done meanwhile. Raises OverlayFailed."""
        with self.journal.snapshot() as statements:
            yield Snapshot(Rows(statements, only_read=True), self.files)

    def carried(self, dataset: bytes, choose: Callable[[Sequence[Change]], Sequence[Change]] = list) -> Carried:
        """What a push of a dataset carries that begins now: all of `changes`, or what `choose` leaves of them."""
        changes = choose(list(self.changes(dataset)))
        return Carried(changes, at_once(standing(self.rows, self.area(dataset))))


class Snapshot:
    """The changes of an overlay as they were at one moment; see Overlay.snapshot. Told in slices."""

    def __init__(self, rows: Rows, files: DataFiles) -> None:
        self._rows = rows
        self._files = files

    def areas(self) -> list[Area]:
        """The datasets with rows."""
        return self._rows.areas()

    async def changes(self, area: Area) -> list[Change]:
        """What differs from the commit of `area`, by path."""
        return await in_slices(differences(self._rows, self._files, area))

    async def count(self, area: Area) -> int:
        """How many changes `area` has."""
        return await in_slices(count(self._rows, self._files, area))

    async def carried(self, area: Area, choose: Callable[[Sequence[Change]], Sliced[Sequence[Change]]]) -> Carried:
        """What a push of a dataset carries: what `choose` leaves of its changes."""
        changes = await in_slices(choose(await self.changes(area)))
        return Carried(changes, await in_slices(standing(self._rows, area)) if changes else {})


def recorded_source(path: str) -> str | None:
    """The source of the overlay in the directory `path`, which others may be using; None where none is recorded.

    Raises OverlayFailed where there is no overlay, OverlayDamaged where it cannot be read.
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
    """The overlay in `path`, waited for while the process of a mount that has just been unmounted ends. Raises Busy
    where it is used for longer than that, and as Overlay.
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
    """The overlay in an existing directory. Raises OverlayFailed where there is none, and as open_when_free."""
    recorded_source(path)
    overlay = open_when_free(path, Counters())
    try:
        yield overlay
    finally:
        overlay.close()


@contextlib.contextmanager
def holding(path: str) -> Iterator[None]:
    """The overlay in that directory is nobody else's meanwhile. Raises Busy."""
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
