"""Inode numbers and rows, and copying up: making a row for an entry of the tree below, and for the directories above
it.

An inode number is that of the tree below, or OVERLAY plus a row's number. A copied-up entry keeps its number until the
dataset gets another base commit, and a row never has two numbers at a time. A row has its path in the base commit, so
that its entry of the tree below is found again after a mount.
"""

import os
import time
from dataclasses import replace

from riafs.errors import (
    ChangedElsewhere,
    GitError,
    NoSuchVersion,
    NotInStore,
    ReadOnly,
    StaleHandle,
    StoreError,
)
from riafs.formats.names import joined
from riafs.overlay.changes import Base
from riafs.overlay.lower import Home, Lower, LowerEntry, packed, unpacked
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import BLOCK, CHARACTER, DIRECTORY, FIFO, FILE, LINK, SOCKET, Area, Row, Rows
from riafs.overlay.stat import Ownership
from riafs.slices import Sliced
from riafs.tree.protocol import Entry, Kind
from riafs.watching import Doing, untold

OVERLAY = 1 << 62
KINDS = {
    Kind.FILE: FILE, Kind.LINK: LINK, Kind.DIRECTORY: DIRECTORY, Kind.FIFO: FIFO, Kind.SOCKET: SOCKET,
    Kind.CHARACTER: CHARACTER, Kind.BLOCK: BLOCK,
}  # fmt: skip


class InodeMap:
    """The inodes of one mount of `overlay` over `lower`."""

    def __init__(self, overlay: Overlay, lower: Lower, ownership: Ownership) -> None:
        self._overlay = overlay
        self._rows: Rows = overlay.rows
        self._lower = lower
        self.ownership = ownership
        self._row_of: dict[int, int] = {}
        self._inode_of: dict[int, int] = {}
        self._lower_of: dict[int, int] = {}
        self.unavailable: dict[bytes, str] = {}
        """Dataset with changes whose base commit cannot be shown → reason."""

    async def attach(self, doing: Doing = untold) -> None:
        """Find the tops of the datasets with changes, and pin them to their base commits. Datasets that are not shown
        any more, or cannot be, keep their changes. Raises OverlayFailed if another dataset is shown there.
        """
        self.unavailable.clear()
        areas = self._rows.areas()
        for number, area in enumerate(areas):
            doing(f"dataset {number + 1} of {len(areas)} with changes is being opened")
            try:
                top = await self._lower.top(area.base, area.entrance)
            except (GitError, NoSuchVersion, NotInStore, StoreError) as error:
                self.unavailable[area.base.dataset] = str(error)
                continue
            if top is not None:
                self._link(top, area.top)

    def _link(self, inode: int, row: int) -> None:
        self._row_of[inode] = row
        self._inode_of[row] = inode
        self._lower_of[row] = inode

    def __contains__(self, inode: int) -> bool:
        """Whether an inode of the tree below was copied up."""
        return inode in self._row_of

    def inode(self, row: int) -> int:
        """The inode number of a row."""
        return self._inode_of.get(row, OVERLAY | row)

    def inode_of(self, row: Row) -> int:
        """The inode number of the name `row`: its own or its record's."""
        return self.inode(row.id if row.record is None else row.record)

    def shared(self, row: int, record: int) -> None:
        """Give the inode number of a row to its new record."""
        inode = self._inode_of.pop(row, OVERLAY | row)
        self._row_of[inode], self._inode_of[record] = record, inode
        if row in self._lower_of:
            self._lower_of[record] = self._lower_of.pop(row)

    def row(self, inode: int) -> Row | None:
        """The row of an inode, None if it has none. Raises StaleHandle if the row was removed."""
        number = self.number(inode)
        if number is None:
            return None
        row = self._rows.get(number)
        if row is None:
            raise StaleHandle(f"inode {inode} is gone")
        return self._rows.content(row)

    # -- datasets and paths -------------------------------------------------------------------------------------------

    async def dataset(self, inode: int) -> tuple[Base, bytes] | None:
        """The dataset of an inode, and the path from the root to it; None where files cannot be changed."""
        row = self.row(inode)
        if row is not None:
            area = self._area(row)
            return area.base, area.entrance
        home = await self._lower.home(inode)
        return None if home is None else (home.base, home.entrance)

    async def origin(self, inode: int) -> bytes | None:
        """The path, from the root, of the commit's file that has the bytes of a file that are not local; None if all
        are local.
        """
        row = self.row(inode)
        if row is None:
            home = await self._lower.home(inode)
            return None if home is None else joined(home.entrance, home.path)
        if row.base is None or row.entry is None or (not row.based and unpacked(row.entry).size > 0):
            return None
        return joined(self._area(row).entrance, row.base)

    def _area(self, row: Row) -> Area:
        return next(area for area in self._rows.areas() if area.id == row.area)

    def number(self, inode: int) -> int | None:
        """The number of the row of an inode, which may be removed; None if it has none."""
        known = self._row_of.get(inode)
        return inode ^ OVERLAY if known is None and inode & OVERLAY else known

    def forget_gone(self) -> None:
        """Forget the inodes of removed rows, after all rows of a dataset were removed."""
        for inode, row in list(self._row_of.items()):
            if self._rows.get(row) is None:
                del self._row_of[inode]
                self._inode_of.pop(row, None)
                self._lower_of.pop(row, None)

    def dropped(self) -> Sliced[dict[int, int]]:
        """Forget the inodes of removed rows, which are the tree's below again. A file that has lost the name that it
        had in the commit, and keeps others, gets another number. Returns those numbers: old → new.
        """
        changed = {}
        for inode, number in list(self._row_of.items()):
            yield
            row = self._rows.get(number)
            if row is None:
                del self._row_of[inode]
                self._inode_of.pop(number, None)
            elif row.links and not inode & OVERLAY and not self._rows.has_base_name(number):
                del self._row_of[inode]
                if self._inode_of.pop(number, None) is not None:
                    changed[inode] = OVERLAY | number
        self._lower_of.clear()
        return changed

    def moved(self, area: int) -> Sliced[dict[int, int]]:
        """After a change of an area's base commit: as `dropped`, and all copied-up entries get other numbers, as the
        tree below may use theirs for other entries. Returns those numbers: old → new.
        """
        changed = yield from self.dropped()
        for inode, number in list(self._row_of.items()):
            yield
            row = self._rows.get(number)
            if row is None or row.area != area or row.base == b"" or inode & OVERLAY:  # a top keeps its number
                continue
            del self._row_of[inode]
            before = self._inode_of.pop(number, None)
            if before is not None:
                changed[before] = OVERLAY | number
        return changed

    # -- the tree below a row -----------------------------------------------------------------------------------------

    async def below(self, row: Row) -> int | None:
        """The inode of the entry that `row` was copied up from, None for a new one."""
        if row.base is None:
            return None
        unknown: list[Row] = []
        above: Row | None = row
        while above is not None and above.id not in self._lower_of:  # mostly its directory is known
            unknown.append(above)
            above = self._base_directory(above)
        area = self._area(row)
        known, path = (
            (self._lower_of[area.top], b"") if above is None else (self._lower_of[above.id], above.base or b"")
        )
        for each in reversed(unknown):
            assert each.base is not None
            for name in (each.base[len(path) + 1 :] if path else each.base).split(b"/"):
                found = await self._lower.find(known, name)
                if found is None:
                    raise StaleHandle(f"{each.base!r} is not in commit {area.base.commit.decode()}")
                known = found.inode
            self._lower_of[each.id], path = known, each.base
        return known

    def _base_directory(self, row: Row) -> Row | None:
        """The row of the directory of `row`, None if it was copied up from another one."""
        parent = None if row.parent is None else self._rows.get(row.parent)
        if parent is None or parent.base is None or row.base is None:
            return None
        return parent if row.base.rpartition(b"/")[0] == parent.base else None

    # -- copying up ---------------------------------------------------------------------------------------------------

    async def copied_up(self, inode: int) -> Row:
        """The row of an inode, made if it has none. Copies no content.

        Raises ReadOnly where files cannot be changed, StaleHandle, OverlayFull, OverlayFailed.
        """
        row = self.row(inode)
        if row is not None:
            return row
        home = await self._lower.home(inode)
        if home is None:
            raise ReadOnly("only the files of datasets can be changed, not those of NAME@REF or of the store itself")
        missing: list[tuple[int, Home]] = []
        while (row := self.row(inode) or self._top_or_known(inode, home)) is None:
            missing.append((inode, home))
            inode, path = home.parent, home.path.rpartition(b"/")[0]
            home = replace(home, path=path, parent=self._lower.parent(inode) if path else inode)
        for below, home in reversed(missing):
            row = self._copy(below, home, row, await self._lower.entry(below))
        return row

    def _top_or_known(self, inode: int, home: Home) -> Row | None:
        """The row of a dataset's top, made if it has none; for other inodes, that of an earlier mount."""
        area = self._rows.area(home.base.dataset)
        if area is None:
            return None if home.path else self._new_top(inode, home)
        return self._known(inode, home, area)

    def _copy(self, inode: int, home: Home, parent: Row, found: LowerEntry) -> Row:
        row = self.row(inode)  # another task may have made it meanwhile
        if row is not None:
            return row
        entry = found.entry
        if self._rows.child(parent.id, entry.name) is not None:
            raise StaleHandle(f"{home.path!r} was replaced")
        remembered = packed(entry)
        size = max(entry.size, 0)
        row = self._new(entry, parent.area, home.path)._replace(
            parent=parent.id, name=entry.name, covered=remembered, entry=remembered,
            size=0 if entry.kind is Kind.DIRECTORY else size, based=size if entry.kind is Kind.FILE else 0,
        )  # fmt: skip
        with self._overlay.journal.step:
            self._rows.insert(row)
        self._link(inode, row.id)
        return row

    def _new(self, entry: Entry, area: int, path: bytes) -> Row:
        times = entry.mtime_ns
        return Row(
            self._rows.next_id(), None, None, KINDS[entry.kind], None,
            self.ownership.mode(entry), self.ownership.uid, self.ownership.gid,
            times, times, times, 0, None, area, path, None, 0, 0, 0, self._rows.next_version(),
        )  # fmt: skip

    def _new_top(self, inode: int, home: Home) -> Row:
        now = time.time_ns()
        with self._overlay.journal.step:
            entry = Entry(b"", Kind.DIRECTORY, 0, executable=True, mtime_ns=now, version=b"")
            row = self._new(entry, 0, b"")
            area = self._rows.add_area(home.base, home.entrance, row.id)
            row = row._replace(area=area.id)
            self._rows.insert(row)
        self._lower.pin(inode)
        self._link(inode, row.id)
        return row

    def _known(self, inode: int, home: Home, area: Area) -> Row | None:
        """The row that an earlier mount made. Raises ChangedElsewhere if the dataset has changes at another path."""
        if (home.entrance, home.base.commit) != (area.entrance, area.base.commit):
            if home.base.dataset in self.unavailable:
                raise ChangedElsewhere(
                    f"dataset {os.fsdecode(home.base.dataset)} has local changes over commit "
                    f"{area.base.commit.decode()}, which cannot be read ({self.unavailable[home.base.dataset]}), so "
                    "that it can only be read until they are pushed (riafs push) or dropped (riafs restore)"
                )
            there, here = (os.fsdecode(path) or "the root" for path in (area.entrance, home.entrance))
            raise ChangedElsewhere(
                f"dataset {os.fsdecode(home.base.dataset)} is being changed in {there}, so that it can only be read in "
                f"{here}: change it there, or first push those changes (riafs push) or drop them (riafs restore)"
            )
        row = self._rows.by_base(area.id, home.path)
        if row is not None:
            row = self._rows.content(row)
            self._row_of[inode] = row.id  # the row keeps its own number as well
        return row
