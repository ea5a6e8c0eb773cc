"""The writable file system without a kernel: the tree below, with an overlay's changes on top, by inode number.

Each call names the failures that it raises, from which POSIX's errno follow (`errors.py`). The kernel checks
permissions, with the modes and owners from here.

Shared state (one event loop; threads only move bytes): `_handles` has the open files. A call first awaits all look-ups
in the tree below, then reads rows, decides and changes them without an await, so that it sees rows that another task
made meanwhile.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from riafs.errors import (
    BadChange,
    Busy,
    IsADirectoryHere,
    OverlayFailed,
    OverlayFull,
    StaleHandle,
)
from riafs.formats.text import shown
from riafs.overlay.changes import Carried
from riafs.overlay.inode_map import KINDS, OVERLAY, InodeMap
from riafs.overlay.listing import Listed, OpenDirectory, Stats
from riafs.overlay.lower import Lower
from riafs.overlay.namespace import Creator, Namespace, check_length
from riafs.overlay.open_file import OpenFile
from riafs.overlay.open_files import OpenFiles
from riafs.overlay.overlay import Overlay
from riafs.overlay.rebasing import Find, Rebasing
from riafs.overlay.restoring import restore_all
from riafs.overlay.rows import DIRECTORY, FILE, LINK, WHITEOUT, Row
from riafs.overlay.stat import Ownership, Stat
from riafs.slices import in_slices
from riafs.storage.bytesource import Buffer
from riafs.tree.protocol import Kind
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)


class Figures(NamedTuple):
    """statvfs(3) of the overlay's file system: bytes of a block; blocks, free ones, available ones; files, free
    ones.
    """

    block: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int


class OverlayFileSystem(Namespace):
    """`overlay` over `lower`; `ownership`: owner and modes of entries from the store."""

    def __init__(self, overlay: Overlay, lower: Lower, ownership: Ownership) -> None:
        inodes = InodeMap(overlay, lower, ownership)
        overlay.journal.undone = overlay.rows.forget
        self._handles = OpenFiles(overlay, inodes, lower)
        super().__init__(overlay, inodes, lower, self._handles.is_open)
        self._stats = Stats(self._rows, inodes, self._handles)
        overlay.is_open = lambda row: self._handles.is_open(inodes.inode(row))
        self._directories: dict[int, OpenDirectory] = {}
        self._last_directory = 0
        overlay.journal.before_commit = self._handles.store
        overlay.journal.before_step = self._rows.store_new

    async def attach(self, doing: Doing = untold) -> None:
        """Find the datasets with changes. To be called once, before anything else."""
        await self._inodes.attach(doing)

    @property
    def inodes(self) -> InodeMap:
        """Rows by inode number."""
        return self._inodes

    # -- look-up ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Stat | None:
        """The attributes of `name` in a directory, None without it. Raises NameTooLong, and what the tree below
        raises.
        """
        check_length(name)
        try:
            row = self._inodes.row(parent)
        except StaleHandle:
            return None
        child = None if row is None else self._rows.child(row.id, name)
        if child is not None:
            return None if child.kind == WHITEOUT else self._stats.row(child)
        below = parent if row is None else await self._inodes.below(row)
        found = None if below is None else await self._lower.find(below, name)
        row = self._inodes.row(parent)
        if row is not None and self._rows.child(row.id, name) is not None:  # made meanwhile
            return await self.lookup(parent, name)
        return None if found is None else self._stats.below(found)

    async def getattr(self, inode: int) -> Stat:
        """The attributes of an inode. Raises StaleHandle."""
        row = self._inodes.row(inode)
        return self._stats.below(await self._lower.entry(inode)) if row is None else self._stats.row(row)

    def has_row(self, inode: int) -> bool:
        """Whether an inode is new in the overlay or was copied up."""
        return bool(inode & OVERLAY) or inode in self._inodes

    def inode_of(self, row: Row) -> int:
        """The inode number of a row, or of its record."""
        return self._inodes.inode_of(row)

    def stat_of(self, listed: Listed) -> Stat:
        """The attributes of a name in a listing."""
        return self._stats.listed(listed)

    async def readlink(self, inode: int) -> bytes:
        """The target of a symbolic link. Raises BadChange for anything else."""
        row = self._inodes.row(inode)
        if row is not None and row.kind != LINK:
            raise BadChange("not a symbolic link")
        if row is not None and row.target is not None:
            return row.target
        below = inode if row is None else await self._inodes.below(row)
        assert below is not None
        return await self._lower.target(below)

    async def attributes(self, inode: int) -> Mapping[str, bytes]:
        """The extended attributes ``user.riafs.…`` of a changed entry: ``change`` (``new`` or ``copied``) and ``base``,
        its path in the commit. None for others.
        """
        row = self._inodes.row(inode)
        if row is None:
            return {}
        state = b"copied" if row.base is not None else b"new"
        return {"change": state} | ({"base": row.base} if row.base else {})

    # -- listing ------------------------------------------------------------------------------------------------------

    def opendir(self, inode: int) -> int:
        """A handle to list a directory."""
        self._last_directory += 1
        self._directories[self._last_directory] = OpenDirectory(self._rows, self._inodes, self._lower, inode)
        return self._last_directory

    async def readdir(self, handle: int, offset: int) -> Sequence[Listed]:
        """Some names from `offset` (0, or that of a listed name) on; none at the end. Offsets stay valid while the
        directory changes: names that stay in it are listed once.
        """
        try:
            return await self._directory(handle).read(offset)
        except StaleHandle:  # removed while it was open
            return ()

    def _directory(self, handle: int) -> OpenDirectory:
        try:
            return self._directories[handle]
        except KeyError:
            raise StaleHandle(f"handle {handle} is not open") from None

    def releasedir(self, handle: int) -> None:
        """Release a directory's handle."""
        self._directories.pop(handle, None)

    async def fsyncdir(self, handle: int) -> None:
        """Make the names in a directory durable."""
        self._directory(handle)
        await self._overlay.durable()

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, maker: Creator, flags: int = 0) -> tuple[Stat, int]:
        """A new file and a handle on it. An existing one is opened unless `flags` has O_EXCL; O_TRUNC empties it.

        Raises NameExists, IsADirectoryHere, NameTooLong, NoSuchName, ReadOnly, OverlayFull.
        """
        slot = await self.slot(parent, name)
        if not slot.is_free and not flags & os.O_EXCL:
            found = await self.lookup(parent, name)
            if found is not None:
                return found, await self.open(found.inode, flags)
        row = self.make_at(slot, FILE, maker)
        return self._stats.row(row), self._handles.created(self._inodes.inode(row.id), row)

    async def mknod(self, parent: int, name: bytes, maker: Creator, kind: Kind = Kind.FILE, device: int = 0) -> Stat:
        """An empty file, a fifo, a socket, or a device with the number `device`. Raises as `mkdir`."""
        return self._stats.row(await self.make(parent, name, KINDS[kind], maker, device=device))

    async def mkdir(self, parent: int, name: bytes, maker: Creator) -> Stat:
        """A directory. Raises NameExists, NameTooLong, NoSuchName, ReadOnly, OverlayFull."""
        return self._stats.row(await self.make(parent, name, DIRECTORY, maker))

    async def symlink(self, parent: int, name: bytes, target: bytes, maker: Creator) -> Stat:
        """A symbolic link. Raises as `mkdir`."""
        return self._stats.row(await self.make(parent, name, LINK, maker, target))

    async def link(self, inode: int, parent: int, name: bytes) -> Stat:
        """Give a file another name. Raises as `add_name`."""
        ahead = self._handles.dirty(inode)
        if ahead is not None:
            with self._overlay.journal.single:
                ahead.store()
        record = await self.add_name(inode, parent, name)
        opened = self._handles.at(inode)
        if opened is not None:
            opened.linked(record)
        return await self.getattr(inode)

    # -- attributes ---------------------------------------------------------------------------------------------------

    async def setattr(
        self, inode: int, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        size: int | None = None, atime_ns: int | None = None, mtime_ns: int | None = None,
    ) -> Stat:  # fmt: skip
        """chmod, chown, truncate, utimens. Raises ReadOnly, IsADirectoryHere (size), FileTooLarge, OverlayFull."""
        row = await self._copied_up(inode)
        now = time.time_ns()
        if size is not None:
            await self._truncate(inode, row, size, now)
        columns = {"mode": None if mode is None else mode & 0o7777, "uid": uid, "gid": gid, "atime": atime_ns,
                   "mtime": mtime_ns}  # fmt: skip
        given = {name: value for name, value in columns.items() if value is not None}
        if given:
            self._set(inode, row, given, now)
        return await self.getattr(inode)

    def _set(self, inode: int, row: Row, columns: dict[str, int], now: int) -> None:
        opened, ahead = self._handles.at(inode), self._handles.dirty(inode)
        journal = self._overlay.journal
        with journal.making if self._rows.is_new(row.id) else journal.step:
            if ahead is not None:
                ahead.store()
            if row.id in self._rows.touched:
                self._rows.store()
            if "mode" in columns:
                columns["version"] = self._rows.next_version()
            self._rows.update(row.id, ctime=now, **columns)
        if opened is not None:
            opened.mtime, opened.ctime = columns.get("mtime", opened.mtime), now

    async def _truncate(self, inode: int, row: Row, size: int, now: int) -> None:
        if row.kind != FILE:
            raise IsADirectoryHere("not a file")
        if size < 0:
            raise BadChange("a negative size")
        opened = self._handles.opened(inode, row, row.size)
        opened.handles += 1
        try:
            await opened.truncate(size, now)
        finally:
            self._handles.let_go(opened)

    async def _copied_up(self, inode: int) -> Row:
        """The row of an inode, made if missing and set in its open file. Raises StaleHandle for a file whose name leads
        to another one since a push.
        """
        row = await self._inodes.copied_up(inode)
        if row.id in self._rows.superseded:
            raise StaleHandle("a push has put another file in its place")
        opened = self._handles.at(inode)
        if opened is not None and opened.row is None:
            opened.copied_up(row)
        return row

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int = 0) -> int:
        """A handle. Opening for writing copies no content; O_TRUNC fetches none.

        Raises IsADirectoryHere, ReadOnly, OverlayFull, OverlayFailed, and for reading what opening the content raises.
        """
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        row = await self._copied_up(inode) if writes else self._inodes.row(inode)
        size = row.size if row is not None else await self._size(inode)
        if row is not None and row.kind != FILE:
            raise IsADirectoryHere("not a file")
        opened = self._handles.opened(inode, row, size)
        handle = self._handles.give(opened, writes=bool(writes))
        try:
            if flags & os.O_TRUNC and opened.size:
                await opened.truncate(0, time.time_ns())
            elif opened.based and not writes:
                await opened.base()
        except BaseException:
            self.release(handle)
            raise
        return handle

    async def _size(self, inode: int) -> int:
        entry = (await self._lower.entry(inode)).entry
        if entry.kind is not Kind.FILE:
            raise IsADirectoryHere(f"{entry.name!r} is not a file")
        return max(entry.size, 0)

    async def read(self, handle: int, offset: int, length: int) -> Buffer:
        """Bytes of an open file; fewer than `length` only at its end. Raises what its base content raises."""
        return await self._handles.file(handle).read(offset, length)

    async def write(self, handle: int, offset: int, data: Buffer) -> int:
        """Write; returns the number of bytes written. Raises FileTooLarge, OverlayFull, OverlayFailed."""
        opened = self._handles.file(handle)
        try:
            return await opened.write(offset, data, time.time_ns())
        except OverlayFull:
            if not self._overlay.files.discarded:
                raise
            await self._overlay.tidy()  # to free the room of removed files
            return await opened.write(offset, data, time.time_ns())

    def opened_file(self, handle: int) -> OpenFile:
        """The open file of a handle. Raises StaleHandle."""
        return self._handles.file(handle)

    async def fsync(self, handle: int) -> None:
        """Make an open file's bytes, attributes and name durable."""
        await self._handles.file(handle).sync()

    def release(self, handle: int) -> None:
        """Release a handle. Never fails: a failure to store the row is reported by the next commit."""
        self._handles.release(handle)

    # -- after a push -------------------------------------------------------------------------------------------------

    def rebasing(self, dataset: bytes, commit: bytes, carried: Carried, find: Find) -> Rebasing:
        """The move of a dataset's changes to `commit`, which has those that a push published, for `pushed`. Raises
        NoSuchName.
        """
        return Rebasing(self._overlay, self._overlay.area(dataset), commit, carried, find, self._handles.written)

    async def pushed(self, rebasing: Rebasing) -> dict[int, int]:
        """Drop the changes that a push published in a new commit. Open files keep their content; a file that is open
        for writing stays a change. Afterwards the tree below must show the commit, and then `attach` must be called.

        Returns the inode numbers of entries that are still changes: old → new.
        """
        for opened in self._handles:
            if opened.row is not None and opened.based:
                await opened.base()
        await rebasing.run()
        changed = await in_slices(self._inodes.moved(rebasing.area.id))
        self._handles.renumber(changed)
        return changed

    async def restore(self, dataset: bytes, paths: Sequence[bytes]) -> dict[int, int]:
        """Drop the changes of `paths` and of everything in them. Afterwards `attach` must be called. Raises Busy if a
        changed file is open.

        Returns the inode numbers of files that keep other names: old → new.
        """
        area = self._overlay.area(dataset)
        for opened in self._handles:
            row = None if opened.row is None else self._rows.get(opened.row)
            if row is not None and row.area == area.id and (row.parent is not None or row.links):
                raise Busy(f"{'a file' if row.name is None else shown(row.name)} is open; nothing was restored")
        try:
            await restore_all(self._overlay, dataset, paths)
        finally:
            changed = await in_slices(self._inodes.dropped())
        return changed

    # -- the overlay's file system ------------------------------------------------------------------------------------

    def statfs(self) -> Figures:
        """Size and free room of the overlay's file system. Raises OverlayFailed."""
        try:
            found = os.fstatvfs(self._overlay.files.directory)
        except OSError as error:
            raise OverlayFailed(f"{self._overlay.path} cannot be used: {error.strerror}") from error
        return Figures(found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)

    def close(self) -> None:
        """Release all handles and commit. The overlay itself stays open."""
        self._handles.close()
        self._directories.clear()
        self._overlay.journal.commit()
