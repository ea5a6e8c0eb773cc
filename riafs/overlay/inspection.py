"""Inspection of an overlay: whether its database and data files agree. All are inspected when the overlay is opened,
and those that a push sends before each push.

SQLite checks the database, and each row must have a data file with enough bytes. The time grows with the number of
changes. A small overlay is inspected before anything is changed; a large one in the background of the mount, in a
thread, with a snapshot of the database from the opening (`Inspection.run`), and findings are compared with the current
rows. Bytes are compared in the background only, and only of files whose inode or ctime differs from the checksum's.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar, TypeVarTuple
from urllib.parse import quote

import trio

from riafs.errors import OverlayDamaged, OverlayFailed
from riafs.overlay.changes import Change
from riafs.overlay.completeness import DATABASE, damaged
from riafs.overlay.data_files import Checksum, Checksums, DataFiles, checksum, compute
from riafs.overlay.journal import Journal
from riafs.overlay.rows import NUMBERS, Row, Rows
from riafs.storage.deadline import Deadline
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

AT_START = 8 << 20
"""Bytes of a database, about 40,000 changes, up to which it is inspected before the mount answers: at most 0.6 s."""
_LEFT_ALONE_SECONDS = 1.0
_SLOWEST = 8 << 20
"""Bytes a second of the slowest disk."""
_SHOWN = 10
_AT_ONCE = 256
_STEPS = 1_000_000
"""Steps of SQLite's virtual machine between two reports of progress: some hundredths of a second."""
_PAUSE_SECONDS = 0.005
"""Pause after each `_AT_ONCE` files, so that requests of the mount get the interpreter's lock."""
_ROWS = """
SELECT node.id, node.data, node.written, checksum.data, checksum.length, checksum.crc, checksum.inode, checksum.ctime
FROM node LEFT JOIN checksum ON checksum.data = node.data AND checksum.length = node.written WHERE node.data <> 0
"""


@dataclass(slots=True)
class Findings:
    """The result of an inspection. Number of a row → number of its data file."""

    missing: dict[int, int] = field(default_factory=dict)
    """Files that are missing, or no regular files of this user."""
    short: dict[int, int] = field(default_factory=dict)
    """Files with fewer bytes than their rows say."""
    unknown: dict[int, int] = field(default_factory=dict)
    """Files without a checksum."""
    touched: dict[int, Checksum] = field(default_factory=dict)
    """Files with another inode or ctime than their checksum has."""
    unnamed: list[int] = field(default_factory=list)
    """Data files without a row."""


class Inspection:
    """An inspection of the overlay in the directory `path`, with a snapshot of its database. It may run in a thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = DataFiles(f"{path}/data")
        self._ended = False
        try:
            self._database = sqlite3.connect(
                f"file:{quote(path)}/{DATABASE}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            self._database.execute("BEGIN")
            self._database.execute("SELECT 1 FROM setting").fetchone()
        except sqlite3.Error as error:
            self._files.close()
            raise damaged(path, f"its {DATABASE} cannot be read: {error}") from error

    def run(self, *, last: int, politely: bool = True, doing: Doing = untold) -> Findings:
        """Inspect the database and all files up to the number `last`, with pauses if `politely`. Blocks.

        Raises OverlayDamaged if the database is damaged, OverlayFailed.
        """
        self._database.set_progress_handler(lambda: doing(f"the database of {self._path} is being checked"), _STEPS)
        try:
            self._check_database()
            return self._compared(last, politely=politely, doing=doing)
        except sqlite3.Error as error:
            raise damaged(self._path, f"its {DATABASE} is damaged: {error}") from error
        except OSError as error:
            raise OverlayFailed(f"the overlay {self._path} cannot be inspected: {error.strerror}") from error
        finally:
            self.close()

    def _check_database(self) -> None:
        [(said,), *_] = self._database.execute("PRAGMA integrity_check(1)").fetchall()
        if said != "ok":
            raise damaged(self._path, f"its {DATABASE} is damaged: {said.splitlines()[-1]}")

    def _compared(self, last: int, *, politely: bool, doing: Doing) -> Findings:
        found, named = Findings(), set[int]()
        there = {number for number in self._files.numbers() if number <= last}
        for looked_at, (node, data, written, *known) in enumerate(self._database.execute(_ROWS), 1):
            named.add(data)
            status = self._files.status(data)
            if status is None:
                found.missing[node] = data
            elif status.st_size < written:
                found.short[node] = data
            elif known[0] is None:
                found.unknown[node] = data
            elif not (taken := Checksum._make(known)).is_of(status):
                found.touched[node] = taken
            if looked_at % _AT_ONCE == 0:
                doing(f"the files of {self._path} are being compared ({looked_at} so far)")
            if politely and looked_at % _AT_ONCE == 0:
                time.sleep(_PAUSE_SECONDS)
                if self._ended:
                    break
        found.unnamed = sorted(there - named)
        return found

    def end(self) -> None:
        """Make `run`, in another thread, end soon."""
        self._ended = True
        self._database.interrupt()

    def close(self) -> None:
        """Close the snapshot."""
        self._database.close()
        self._files.close()


class Inspected(Protocol):
    """An open overlay."""

    path: str
    files: DataFiles
    journal: Journal
    rows: Rows
    checksums: Checksums
    deadline: Deadline
    doing: Doing
    is_open: Callable[[int], bool]
    """Whether a row's file is open."""

    def mark_closed(self) -> None:
        """Record that the overlay was closed, so that the next opening finds the damage again."""


class Inspector:
    """Inspects one overlay that is open."""

    def __init__(self, overlay: Inspected, *, was_closed: bool) -> None:
        self._overlay = overlay
        self._was_closed = was_closed
        self._pending: Inspection | None = None
        self._running: Inspection | None = None
        self._turn = trio.Lock()
        self._damage: OverlayFailed | None = None
        self.unknown: dict[int, int] = {}
        """Row → its data file, for closed files without a checksum."""
        self._touched: dict[int, Checksum] = {}
        self.is_done = False
        """Whether the inspection has ended without damage."""

    # -- at the opening -----------------------------------------------------------------------------------------------

    def look(self, *, lost_power: bool) -> Findings | None:
        """Inspect the overlay before anything is changed; None if it is large and inspected in the background. Raises
        OverlayDamaged, OverlayFailed.
        """
        overlay = self._overlay
        inspection = Inspection(overlay.path)
        if overlay.journal.size > AT_START and not lost_power:
            self._pending = inspection
            return None
        found = inspection.run(last=overlay.rows.last_data, politely=False, doing=overlay.doing)
        problem = incomplete(overlay.path, found, was_closed=self._was_closed, lost_power=lost_power)
        if problem is not None:
            raise problem
        self._noted(found)
        return found

    def _noted(self, found: Findings) -> None:
        self.unknown |= found.unknown
        self._touched |= found.touched
        self.is_done = True

    # -- in the background --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Inspect a large overlay, compare touched files and compute missing checksums, until cancelled."""
        with contextlib.suppress(OverlayFailed):  # it is in the log
            await self.finish()
        while self._damage is None:
            await trio.sleep(_LEFT_ALONE_SECONDS)
            await self.compare_touched()
            await self.compute_checksums()
        await trio.sleep_forever()

    async def finish(self) -> None:
        """Inspect a large overlay, if that was not done at the opening. Raises OverlayDamaged, OverlayFailed."""
        async with self._turn:
            if self._pending is not None:
                self._running, self._pending = self._pending, None
                last = self._overlay.rows.numbers - NUMBERS
                found = await trio.to_thread.run_sync(lambda: self._run(last), abandon_on_cancel=True)
                self._running = None
                await self._conclude(found)
        if self._damage is not None:
            raise self._damage

    def _run(self, last: int) -> Findings | OverlayFailed:
        assert self._running is not None
        try:
            return self._running.run(last=last)
        except OverlayFailed as problem:
            return problem

    async def _conclude(self, found: Findings | OverlayFailed) -> None:
        if isinstance(found, OverlayFailed):
            self._refuse(found)
            return
        self._overlay.journal.before_commit()
        found.missing = {node: data for node, data in found.missing.items() if self._lacks(node, data)}
        found.short = {node: data for node, data in found.short.items() if self._lacks(node, data)}
        problem = incomplete(self._overlay.path, found, was_closed=self._was_closed, lost_power=False)
        if problem is not None:
            self._refuse(problem)
            return
        for start in range(0, len(found.unnamed), _AT_ONCE):
            await trio.to_thread.run_sync(self._overlay.files.remove, found.unnamed[start : start + _AT_ONCE])
        self._noted(found)

    def _lacks(self, node: int, data: int) -> bool:
        """Whether a data file is still missing or too short, as rows may have changed since the snapshot."""
        row = self._overlay.rows.get(node)
        if row is None or row.data != data:
            return False
        status = self._overlay.files.status(data)
        return status is None or status.st_size < row.written

    def _refuse(self, damage: OverlayFailed) -> None:
        log.error("%s", damage)
        self._damage = damage
        self._overlay.journal.refuse(str(damage))
        if self._was_closed:
            self._overlay.mark_closed()

    async def compare_touched(self) -> None:
        """Compare the bytes of touched files with their checksums: they were restored from a backup, or are damaged."""
        while self._touched:
            node, known = self._touched.popitem()
            row, overlay = self._overlay.rows.get(node), self._overlay
            found = await self._in_thread(known.length, _checksum, overlay.files, known.data, known.length)
            if row is None or overlay.checksums.find(known.data) != known:  # it was written to
                continue
            if found is not None and found.crc == known.crc:
                overlay.checksums.add(found)
            else:
                log.error(
                    "%s of the overlay has other bytes than were written to %s, which cannot be pushed like that",
                    os.fsdecode(overlay.files.name(known.data)), os.fsdecode(row.name or b"?"),
                )  # fmt: skip

    async def compute_checksums(self) -> None:
        """Compute the checksums of files that were not written from front to end."""
        overlay = self._overlay
        overlay.journal.before_commit()
        while self.unknown:
            rows: list[Row] = []
            while self.unknown and len(rows) < _AT_ONCE:
                node, data = self.unknown.popitem()
                row = overlay.rows.get(node)
                if row is not None and row.data == data and not overlay.is_open(node):
                    rows.append(row)
            size = sum(row.written for row in rows)
            for row, found in zip(rows, await self._in_thread(size, _checksums, overlay.files, rows), strict=True):
                if found is not None and overlay.rows.get(row.id) == row and not overlay.is_open(row.id):
                    overlay.checksums.add(found)
            await trio.sleep(_PAUSE_SECONDS)

    async def _in_thread(self, size: int, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await self._overlay.deadline.run_longer(size / _SLOWEST, function, *arguments)

    # -- before a push ------------------------------------------------------------------------------------------------

    async def check(self, changes: Sequence[Change]) -> None:
        """Raise OverlayDamaged unless the data files of all these changes have the length and checksum of their
        rows.
        """
        await self.finish()
        files, checksums = self._overlay.files, self._overlay.checksums
        local = [change for change in changes if change.content is not None and change.content.data]
        problems: list[str] = []
        for start in range(0, len(local), _AT_ONCE):
            wanted = [_Wanted.of(change, checksums) for change in local[start : start + _AT_ONCE]]
            size = sum(each.written for each in wanted)
            for each, problem in await self._in_thread(size, _faults, files, wanted):
                if len(problems) < _SHOWN and checksums.find(each.data) == each.known and self._still(each):
                    problems.append(f"{os.fsdecode(each.path)} ({problem})")
        if problems:
            raise OverlayDamaged(
                f"the overlay {self._overlay.path} has other bytes than were written to {', '.join(problems)}; "
                "nothing was pushed. Write them again, or drop them with riafs restore; if they are right as they are "
                "now, copy each and move the copy over it"
            )

    def _still(self, wanted: "_Wanted") -> bool:
        """Whether a file must still have as many bytes, as it may have been truncated."""
        written = self._overlay.rows.written(wanted.data)
        return written is not None and written >= wanted.written

    def close(self) -> None:
        """End the inspection."""
        if self._pending is not None:
            self._pending.close()
            self._pending = None
        if self._running is not None:
            self._running.end()


class _Wanted(NamedTuple):
    """The length and checksum that a data file must have."""

    path: bytes
    data: int
    written: int
    known: Checksum | None

    @classmethod
    def of(cls, change: Change, checksums: Checksums) -> "_Wanted":
        """Those of one change."""
        assert change.content is not None
        data = int(change.content.data.rpartition(b"/")[2], 16)
        return cls(change.path, data, change.content.written, checksums.find(data))


def _faults(files: DataFiles, wanted: Sequence[_Wanted]) -> list[tuple[_Wanted, str]]:
    found = ((each, fault(files, each.data, each.written, each.known)) for each in wanted)
    return [(each, problem) for each, problem in found if problem is not None]


def _checksums(files: DataFiles, rows: Sequence[Row]) -> list[Checksum | None]:
    return [_checksum(files, row.data, row.written) for row in rows]


def _checksum(files: DataFiles, data: int, length: int) -> Checksum | None:
    try:
        descriptor = files.open(data)
    except OverlayFailed:  # the next push reports it
        return None
    try:
        return compute(descriptor, data, length)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def fault(files: DataFiles, number: int, written: int, known: Checksum | None) -> str | None:
    """The fault of a data file that must have `written` bytes with the checksum `known`; None if it is right.
    Blocks.
    """
    try:
        descriptor = files.open(number)
    except OverlayFailed as failure:
        return str(failure)
    try:
        size = os.fstat(descriptor).st_size
        if size < written:
            return f"{files.path}/{number:x} has {size} bytes instead of {written}"
        if known is not None and known.length == written and checksum(descriptor, written) != known.crc:
            return f"{files.path}/{number:x} has other bytes than were written"
    except OSError as error:
        return f"{files.path}/{number:x} cannot be read: {error.strerror}"
    finally:
        os.close(descriptor)
    return None


def incomplete(path: str, found: Findings, *, was_closed: bool, lost_power: bool) -> OverlayDamaged | None:
    """The failure of an overlay with findings that a loss of power does not explain, None if there are none."""
    if was_closed and found.unnamed:
        return damaged(path, f"no row names {len(found.unnamed)} of its data files")
    if found.missing and (was_closed or not lost_power):
        return damaged(path, f"of the files that were changed, the data of {len(found.missing)} is missing")
    if found.short and not lost_power:
        return damaged(path, f"of the files that were changed, the data of {len(found.short)} is too short")
    return None
