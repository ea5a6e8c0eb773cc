"""Changes of names as POSIX has them: create, mkdir, mknod, symlink, link, unlink, rmdir, rename.

Each first awaits its look-ups in the tree below; then it reads the rows, checks, and changes them in one step without
an await in between, so that no task sees the incomplete work of another.
"""

import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from riafs.errors import (
    AcrossDatasets,
    BadChange,
    Busy,
    DirectoryNotEmpty,
    IsADirectoryHere,
    NameExists,
    NameTooLong,
    NoSuchName,
    NotADirectoryHere,
    NotPermitted,
    StaleHandle,
)
from riafs.formats.names import git_takes
from riafs.formats.text import shown
from riafs.overlay.inode_map import InodeMap
from riafs.overlay.lower import Lower, LowerEntry, packed, unpacked
from riafs.overlay.overlay import Overlay
from riafs.overlay.restoring import Restoring
from riafs.overlay.rows import DIRECTORY, FILE, LINK, WHITEOUT, Row, Rows
from riafs.tree.protocol import Kind

NAME_MAX = 255
_MOST_DISCARDED = 1000
"""Discarded data files that are removed at once."""
TARGET_MAX = 4095
NOREPLACE, EXCHANGE = 1, 2
"""Flags of renameat2(2)."""
_RENAME_WAYS = (0, NOREPLACE, EXCHANGE)


@dataclass(frozen=True, slots=True)
class Creator:
    """The user of a request that creates a file, and its permission bits after the umask."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A name in a directory, and its entry if there is one."""

    parent: Row
    name: bytes
    row: Row | None
    """May be a whiteout."""
    below: LowerEntry | None
    """The entry of the tree below; only without a row."""

    @property
    def covered(self) -> bytes | None:
        """The entry of the tree below under this name, as in a row."""
        if self.row is not None:
            return self.row.covered
        return None if self.below is None else packed(self.below.entry)

    @property
    def is_free(self) -> bool:
        """Whether the name does not exist."""
        return self.below is None if self.row is None else self.row.kind == WHITEOUT

    @property
    def is_directory(self) -> bool:
        """Whether the entry is a directory."""
        if self.row is not None:
            return self.row.kind == DIRECTORY
        return self.below is not None and self.below.entry.kind is Kind.DIRECTORY


class Namespace:
    """The part of OverlayFileSystem that changes names.

    `is_open`: whether an inode is open, so that its content must be kept.
    """

    def __init__(self, overlay: Overlay, inodes: InodeMap, lower: Lower, is_open: Callable[[int], bool]) -> None:
        self._overlay = overlay
        self._rows: Rows = overlay.rows
        self._inodes = inodes
        self._lower = lower
        self._is_open = is_open

    # -- look-up ------------------------------------------------------------------------------------------------------

    async def slot(self, parent: int, name: bytes) -> Slot:
        """The slot of a name; the directory is copied up. Raises NoSuchName if that was removed, ReadOnly, …"""
        _check_name(name)
        try:
            directory = await self._inodes.copied_up(parent)
        except StaleHandle as error:
            raise NoSuchName("the directory was removed") from error
        if directory.kind != DIRECTORY:
            raise NotADirectoryHere("not a directory")
        row = self._rows.child(directory.id, name)
        if row is not None or directory.base is None:
            return self._live(directory, name, row, None)
        below = await self._inodes.below(directory)
        assert below is not None
        turn = self._rows.turn
        found = await self._lower.find(below, name)
        if turn == self._rows.turn:
            return self._live(directory, name, None, found)
        return self._slot_now(directory.id, name, found)

    def _slot_now(self, parent: int, name: bytes, found: LowerEntry | None) -> Slot:
        """The slot now, without an await before it is used."""
        return self._live(self._rows.get(parent), name, self._rows.child(parent, name), found)

    @staticmethod
    def _live(directory: Row | None, name: bytes, row: Row | None, found: LowerEntry | None) -> Slot:
        if directory is None or (directory.parent is None and directory.base != b""):
            raise NoSuchName("the directory was removed")
        return Slot(directory, name, row, found if row is None else None)

    def _again(self, slot: Slot) -> Slot:
        return self._slot_now(slot.parent.id, slot.name, slot.below)

    # -- making -------------------------------------------------------------------------------------------------------

    async def make(
        self, parent: int, name: bytes, kind: int, maker: Creator, target: bytes | None = None, device: int = 0
    ) -> Row:
        """A new entry. Raises NameExists, NoSuchName, NameTooLong, NotADirectoryHere, ReadOnly, OverlayFull."""
        if target is not None and len(target) > TARGET_MAX:
            raise NameTooLong(f"a link's target may have {TARGET_MAX} bytes")
        return self.make_at(await self.slot(parent, name), kind, maker, target, device)

    def make_at(self, slot: Slot, kind: int, maker: Creator, target: bytes | None = None, device: int = 0) -> Row:
        """A new entry in `slot`, without an await since that was read. Raises as `make`."""
        if not slot.is_free:
            raise NameExists(f"{slot.name!r} exists")
        _check_git_takes(slot.name, is_link=kind == LINK)
        now = time.time_ns()
        row = self._new(slot, kind, maker, target, now)._replace(device=device)
        with self._overlay.journal.making if slot.row is None else self._overlay.journal.step:
            if slot.row is not None:
                self._rows.delete(slot.row)
            if slot.row is None and kind == FILE:
                self._rows.add(row)
            else:
                self._rows.insert(row)
        self._rows.touch(slot.parent.id, now)
        return row

    def _new(self, slot: Slot, kind: int, maker: Creator, target: bytes | None, now: int) -> Row:
        gid, mode = maker.gid, maker.mode & 0o7777
        if slot.parent.mode & stat.S_ISGID:  # the group is the directory's, and subdirectories become setgid as well
            gid = slot.parent.gid
            mode |= stat.S_ISGID if kind == DIRECTORY else 0
        if kind == LINK:
            mode = 0o777
        return Row(
            self._rows.next_id(), slot.parent.id, slot.name, kind, slot.covered, mode, maker.uid, gid, now, now, now,
            len(target or b""), target, slot.parent.area, None, None, 0, 0, 0, self._rows.next_version(),
        )  # fmt: skip

    async def add_name(self, inode: int, parent: int, name: bytes) -> Row:
        """Give an inode another name; with its second name it gets a record. Returns that.

        Raises NameExists, NoSuchName, NotPermitted (a directory), AcrossDatasets, NameTooLong, ReadOnly, OverlayFull.
        """
        slot = await self.slot(parent, name)
        if not slot.is_free:
            raise NameExists(f"{shown(name)} exists")
        if await self._inodes.dataset(inode) != await self._inodes.dataset(parent):
            raise AcrossDatasets("a file has names in one dataset only")
        await self._inodes.copied_up(inode)
        slot, row = self._again(slot), self._inodes.row(inode)
        if not slot.is_free:
            raise NameExists(f"{shown(name)} exists")
        if row is None or (row.parent is None and not row.links):
            raise NoSuchName("the file was removed")
        if row.kind == DIRECTORY:
            raise NotPermitted(f"{shown(name)}: a directory has one name")
        _check_git_takes(name, is_link=_is_link(row))
        now = time.time_ns()
        with self._overlay.journal.step:
            if slot.row is not None:
                self._rows.delete(slot.row)
            record = row if row.links else self._rows.share(row)
            self._rows.insert(
                Row(self._rows.next_id(), slot.parent.id, name, row.kind, slot.covered, 0, 0, 0, now, now, now, 0, None,
                    slot.parent.area, None, None, 0, 0, 0, self._rows.next_version(), record.id)
            )  # fmt: skip
            self._rows.update(record.id, links=record.links + 1, ctime=now)
        if record.id != row.id:
            self._inodes.shared(row.id, record.id)
        self._rows.touch(slot.parent.id, now)
        return record._replace(links=record.links + 1, ctime=now)

    # -- removing -----------------------------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a file or link. Raises NoSuchName, IsADirectoryHere, ReadOnly, OverlayFull."""
        slot = await self.slot(parent, name)
        if slot.is_free:
            raise NoSuchName(f"no {name!r}")
        if slot.is_directory:
            raise IsADirectoryHere(f"{name!r} is a directory")
        if slot.below is not None and self._is_open(slot.below.inode):
            await self._inodes.copied_up(slot.below.inode)
            slot = self._again(slot)
        now = time.time_ns()
        with self._overlay.journal.freeing:
            self._take_away(slot, now)
            self._rows.touch(slot.parent.id, now)
        await self._tidy()

    async def _tidy(self) -> None:
        if self._overlay.files.discarded >= _MOST_DISCARDED:
            await self._overlay.tidy()

    async def rmdir(self, parent: int, name: bytes) -> bool:
        """Remove an empty directory. As in a clone, the removal of a subdataset's directory unregisters it, and
        removals of files in it before are no changes of the subdataset. Returns whether there were such changes, which
        are dropped.

        Raises NoSuchName, NotADirectoryHere, DirectoryNotEmpty, Busy if a file of the subdataset is open.
        """
        slot = await self.slot(parent, name)
        if slot.is_free:
            raise NoSuchName(f"no {name!r}")
        if not slot.is_directory:
            raise NotADirectoryHere(f"{name!r} is not a directory")
        await self._check_empty(slot)
        slot = self._again(slot)
        if slot.row is not None and self._rows.is_occupied(slot.row.id):
            raise DirectoryNotEmpty(f"{name!r} is not empty")
        top = self._subdataset_top(slot)
        if top is not None and self._rows.is_occupied(top.id):
            raise DirectoryNotEmpty(f"{name!r} is not empty")
        now = time.time_ns()
        with self._overlay.journal.freeing:
            if top is not None:
                self._forget_subdataset(top)
            self._take_away(slot, now)
            self._rows.touch(slot.parent.id, now)
        if top is not None:
            self._inodes.forget_gone()
        return top is not None

    def _subdataset_top(self, slot: Slot) -> Row | None:
        """The row of a subdataset's top, None if it has no changes."""
        if slot.below is None or not slot.below.entry.is_registered:
            return None
        return self._inodes.row(slot.below.inode)

    def _forget_subdataset(self, top: Row) -> None:
        """Drop the changes in a subdataset, all of which are removals. Raises Busy. Within a step."""
        [area] = [area for area in self._rows.areas() if area.top == top.id]
        if self._rows.orphaned(area.id):
            raise Busy("a removed file of the subdataset is still open")
        Restoring(self._rows, self._overlay.files.discard, area).restore(b"")

    async def _check_empty(self, slot: Slot) -> None:
        """Raises DirectoryNotEmpty."""
        row = slot.row or self._subdataset_top(slot)
        below = await self._inodes.below(row) if row is not None else slot.below.inode if slot.below else None
        covering = {} if row is None else self._rows.covering(row.id)
        if row is not None and self._rows.is_occupied(row.id):
            raise DirectoryNotEmpty(f"{slot.name!r} is not empty")
        position = 0
        while below is not None and (page := await self._lower.entries(below, position)):
            if any(each.entry.name not in covering for each in page):
                raise DirectoryNotEmpty(f"{slot.name!r} is not empty")
            position += len(page)

    def _take_away(self, slot: Slot, now: int, *, hide: bool = True) -> None:
        """Remove the entry of `slot`. `hide`: add a whiteout for the entry of the tree below. Within a step."""
        row, covered = slot.row, slot.covered
        if row is not None:
            nameless = self._rows.remove_name(row, now)
            if nameless is not None and row.kind != WHITEOUT and self._is_open(self._inodes.inode(nameless.id)):
                self._rows.orphan(nameless.id, now)
            elif nameless is not None:
                self._rows.delete(nameless)
                self._overlay.files.discard(nameless.data)
        if hide and covered is not None:
            self._rows.whiteout(slot.parent, slot.name, covered, now)

    # -- moving -------------------------------------------------------------------------------------------------------

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """Move an entry, replacing a file or an empty directory, or exchanging two entries.

        Raises NoSuchName, NameExists (NOREPLACE), NotADirectoryHere, IsADirectoryHere, DirectoryNotEmpty, BadChange
        (into itself, other flags), Busy (a subdataset), AcrossDatasets, NameTooLong, ReadOnly, OverlayFull.
        """
        if flags not in _RENAME_WAYS:
            raise BadChange(f"rename with flags {flags}")
        source, target = await self.slot(parent, name), await self.slot(new_parent, new_name)
        source = self._again(source)  # it may be above the target, and was copied up then
        self._check_rename(source, target, flags)
        if (source.parent.id, name) == (target.parent.id, new_name):
            return
        for slot in (source, target) if flags == EXCHANGE or self._replaces_open(target) else (source,):
            if slot.below is not None:
                await self._inodes.copied_up(slot.below.inode)
        if flags != EXCHANGE and target.is_directory and source.is_directory:
            _check_movable(target)
            await self._check_empty(target)
        source, target = self._again(source), self._again(target)
        self._check_rename(source, target, flags)
        if source.row is None:
            raise NoSuchName(f"no {name!r}")
        _check_git_takes(new_name, is_link=_is_link(self._rows.content(source.row)))
        if flags == EXCHANGE and target.row is not None:
            _check_git_takes(name, is_link=_is_link(self._rows.content(target.row)))
        if target.row is not None and self._rows.content(target.row).id == self._rows.content(source.row).id:
            return  # the same file, maybe by two names: POSIX demands that nothing happens
        with self._overlay.journal.step:
            (self._exchange if flags == EXCHANGE else self._move)(source, target, time.time_ns())
        await self._tidy()

    def _replaces_open(self, target: Slot) -> bool:
        return target.below is not None and self._is_open(target.below.inode)

    def _check_rename(self, source: Slot, target: Slot, flags: int) -> None:
        if source.is_free or (flags == EXCHANGE and target.is_free):
            raise NoSuchName(f"no {(source if source.is_free else target).name!r}")
        if flags == NOREPLACE and not target.is_free:
            raise NameExists(f"{target.name!r} exists")
        if source.parent.area != target.parent.area:
            raise AcrossDatasets("moved between datasets only by copying")  # mv does that on EXDEV
        _check_movable(source)
        _check_movable(target)
        if self._is_above(source, target.parent) or (flags == EXCHANGE and self._is_above(target, source.parent)):
            raise BadChange(f"{source.name!r} cannot be moved into itself")
        if flags == EXCHANGE:
            return
        if self._is_above(target, source.parent):
            raise DirectoryNotEmpty(f"{target.name!r} is not empty")
        if not target.is_free and target.is_directory != source.is_directory:
            if target.is_directory:
                raise IsADirectoryHere(f"{target.name!r} is a directory")
            raise NotADirectoryHere(f"{target.name!r} is not a directory")

    def _is_above(self, slot: Slot, directory: Row) -> bool:
        """Whether `slot` has `directory` or a directory above it. All directories above `directory` have rows."""
        above: Row | None = directory if slot.row is not None and slot.is_directory else None
        while above is not None and slot.row is not None:
            if above.id == slot.row.id:
                return True
            above = None if above.parent is None else self._rows.get(above.parent)
        return False

    def _move(self, source: Slot, target: Slot, now: int) -> None:
        moved = source.row
        assert moved is not None
        covered = target.covered
        if target.row is not None and target.is_directory and self._rows.is_occupied(target.row.id):
            raise DirectoryNotEmpty(f"{target.name!r} is not empty")
        self._take_away(target, now, hide=False)
        self._move_name(moved, target, covered, now)
        if source.covered is not None:
            self._rows.whiteout(source.parent, source.name, source.covered, now)
        self._rows.touch(source.parent.id, now)
        self._rows.touch(target.parent.id, now)

    def _exchange(self, source: Slot, target: Slot, now: int) -> None:
        assert source.row is not None
        assert target.row is not None
        self._rows.move(source.row.id, None, None, None, now)
        self._move_name(target.row, source, source.covered, now)
        self._move_name(source.row, target, target.covered, now)
        self._rows.touch(source.parent.id, now)
        self._rows.touch(target.parent.id, now)

    def _move_name(self, row: Row, to: Slot, covered: bytes | None, now: int) -> None:
        self._rows.move(row.id, to.parent.id, to.name, covered, now)
        if row.record is not None:
            self._rows.update(row.record, ctime=now)


def check_length(name: bytes) -> None:
    """Raises NameTooLong."""
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name may have {NAME_MAX} bytes")


def _check_name(name: bytes) -> None:
    check_length(name)
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise BadChange(f"{name!r} is no name")


def _is_link(row: Row) -> bool:
    """Whether git stores a link: also for a locked annexed file."""
    return row.kind == LINK or (row.entry is not None and unpacked(row.entry).is_link)


def _check_git_takes(name: bytes, *, is_link: bool) -> None:
    """Raises NotPermitted for a name that git refuses to check out."""
    if not git_takes(name, is_link=is_link):
        what = "links" if git_takes(name, is_link=False) else "files and directories"
        raise NotPermitted(
            f"{shown(name)}: git takes no {what} of this name, as it may stand for one of its own on some systems"
        )


def _check_movable(slot: Slot) -> None:
    below = slot.below
    if below is not None and below.entry.is_registered:
        raise Busy(f"{slot.name!r} is a subdataset: DataLad moves and removes those")
