"""The writable file system without a kernel: the tree below, with an overlay's changes on top, by inode number.

POSIX's errno follow from the classes of errors.py that each call names. Permissions are not checked here: the kernel
does that, with the modes and owners given here. What the kernel leaves to a file system is decided here.

Shared state (one event loop; threads only move bytes): `handles` has the open files. A call first awaits what it must
know of the tree below, then decides and changes without an await; a row that another task made meanwhile is seen
because rows are read last.
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
from riafs.overlay.open_files import OpenFile, OpenFiles
from riafs.overlay.overlay import Overlay
from riafs.overlay.rebasing import Find, Rebasing, restore_all
from riafs.overlay.rows import DIRECTORY, FILE, LINK, WHITEOUT, Row
from riafs.overlay.stat import Ownership, Stat
from riafs.slices import in_slices
from riafs.storage.bytesource import Buffer
from riafs.tree.protocol import Kind
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)


class Figures(NamedTuple):
    """statvfs(3) of where the overlay lies: bytes of a block, blocks, free ones, those a user may have; files, free."""

    block: int
    blocks: int
    free: int
    available: int
    files: int
    files_free: int


class OverlayFileSystem(Namespace):
    """`overlay` over `lower`; `ownership` is what things of the store have."""

    def __init__(self, overlay: Overlay, lower: Lower, ownership: Ownership) -> None:
        places = InodeMap(overlay, lower, ownership)
        overlay.journal.undone = overlay.rows.forget
        self._handles = OpenFiles(overlay, places, lower)
        super().__init__(overlay, places, lower, self._handles.is_open)
        self._stats = Stats(self._rows, places, self._handles)
        overlay.is_open = lambda row: self._handles.is_open(places.inode(row))
        self._directories: dict[int, OpenDirectory] = {}
        self._last_directory = 0
        overlay.journal.before_commit = self._handles.store
        overlay.journal.before_step = self._rows.store_new

    async def attach(self, doing: Doing = untold) -> None:
        """To be called once, before anything else: finds the datasets with changes again."""
        await self._places.attach(doing)

    @property
    def places(self) -> InodeMap:
        """Which inode is what."""
        return self._places

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Stat | None:
        """What `name` in a directory is, None if nothing. Raises NameTooLong, and what the tree below raises."""
        check_length(name)
        try:
            row = self._places.row(parent)
        except StaleHandle:
            return None
        child = None if row is None else self._rows.child(row.id, name)
        if child is not None:
            return None if child.kind == WHITEOUT else self._stats.row(child)
        below = parent if row is None else await self._places.below(row)
        found = None if below is None else await self._lower.find(below, name)
        row = self._places.row(parent)
        if row is not None and self._rows.child(row.id, name) is not None:  # made meanwhile
            return await self.lookup(parent, name)
        return None if found is None else self._stats.below(found)

    async def getattr(self, inode: int) -> Stat:
        """What an inode is. Raises StaleHandle."""
        row = self._places.row(inode)
        return self._stats.below(await self._lower.entry(inode)) if row is None else self._stats.row(row)

    def has_row(self, inode: int) -> bool:
        """Whether an inode is the overlay's own, or was copied up."""
        return bool(inode & OVERLAY) or inode in self._places

    def inode_of(self, row: Row) -> int:
        """The inode number of what has a row's name."""
        return self._places.inode_of(row)

    def stat_of(self, listed: Listed) -> Stat:
        """The attributes of a name in a listing."""
        return self._stats.listed(listed)

    async def readlink(self, inode: int) -> bytes:
        """The text of a symbolic link. Raises BadChange for what is none."""
        row = self._places.row(inode)
        if row is not None and row.kind != LINK:
            raise BadChange("not a symbolic link")
        if row is not None and row.target is not None:
            return row.target
        below = inode if row is None else await self._places.below(row)
        assert below is not None
        return await self._lower.target(below)

    async def attributes(self, inode: int) -> Mapping[str, bytes]:
        """``user.riafs.`` attributes of our own: ``change`` says that it is not as in the commit, ``base`` what it was
        there. Nothing for what is as it was.
        """
        row = self._places.row(inode)
        if row is None:
            return {}
        state = b"copied" if row.base is not None else b"new"
        return {"change": state} | ({"base": row.base} if row.base else {})

    # -- listing ------------------------------------------------------------------------------------------------------

    def opendir(self, inode: int) -> int:
        """A handle to list a directory."""
        self._last_directory += 1
        self._directories[self._last_directory] = OpenDirectory(self._rows, self._places, self._lower, inode)
        return self._last_directory

    async def readdir(self, handle: int, offset: int) -> Sequence[Listed]:
        """Some names from `offset` (0, or `offset` of one that was listed) on; none at the end. Offsets stay valid
        while the directory changes: what stays in it is listed once.
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
        """Give a directory's handle back."""
        self._directories.pop(handle, None)

    async def fsyncdir(self, handle: int) -> None:
        """Make the names in a directory survive the loss of power."""
        self._directory(handle)
        await self._overlay.durable()

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, maker: Creator, flags: int = 0) -> tuple[Stat, int]:
        """A file that is opened with it. An existing one is opened unless `flags` has O_EXCL; O_TRUNC empties it.

        Raises NameExists, IsADirectoryHere, NameTooLong, NoSuchName, ReadOnly, OverlayFull.
        """
        slot = await self.slot(parent, name)
        if not slot.is_free and not flags & os.O_EXCL:
            found = await self.lookup(parent, name)
            if found is not None:
                return found, await self.open(found.inode, flags)
        row = self.make_at(slot, FILE, maker)
        return self._stats.row(row), self._handles.created(self._places.inode(row.id), row)

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
        """Another name of a file. Raises as `add_name`."""
        ahead = self._handles.ahead(inode)
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
        opened, ahead = self._handles.at(inode), self._handles.ahead(inode)
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
        """The row of an inode; an open file learns of it. Raises StaleHandle for one that only readers still have."""
        row = await self._places.copied_up(inode)
        if row.id in self._rows.superseded:
            raise StaleHandle("a push has put another file in its place")
        opened = self._handles.at(inode)
        if opened is not None and opened.row is None:
            opened.copied_up(row)
        return row

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int = 0) -> int:
        """A handle. Opening to write copies no content; O_TRUNC fetches none.

        Raises IsADirectoryHere, ReadOnly, OverlayFull, OverlayFailed, and opening to read what the content raises.
        """
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        row = await self._copied_up(inode) if writes else self._places.row(inode)
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
            if not self._overlay.files.doomed:
                raise
            await self._overlay.tidy()  # room that removed files still take
            return await opened.write(offset, data, time.time_ns())

    def opened_file(self, handle: int) -> OpenFile:
        """What a handle is on. Raises StaleHandle."""
        return self._handles.file(handle)

    async def fsync(self, handle: int) -> None:
        """Make an open file's bytes, attributes and name survive the loss of power."""
        await self._handles.file(handle).sync()

    def release(self, handle: int) -> None:
        """Give a handle back. Never fails: what cannot be stored is reported by the next commit."""
        self._handles.release(handle)

    # -- after a push -------------------------------------------------------------------------------------------------

    def rebasing(self, dataset: bytes, commit: bytes, carried: Carried, find: Find) -> Rebasing:
        """A move of a dataset's changes to `commit`, which has what a push carried, for `pushed`. Raises NoSuchName."""
        return Rebasing(self._overlay, self._overlay.area(dataset), commit, carried, find, self._handles.written)

    async def pushed(self, rebasing: Rebasing) -> dict[int, int]:
        """What a push carried is in a new commit now. A program that has a file open goes on with the content it has; a
        file that is open to be written stays a change. Afterwards the tree below must show that commit there, and
        then `attach` be called.

        Returns the inode numbers of what is still a change: before → from now on.
        """
        for opened in self._handles:
            if opened.row is not None and opened.based:
                await opened.base()
        await rebasing.run()
        changed = await in_slices(self._places.moved(rebasing.area.id))
        self._handles.renumber(changed)
        return changed

    async def restore(self, dataset: bytes, paths: Sequence[bytes]) -> dict[int, int]:
        """Drop the changes of `paths` and of what is in them. Afterwards `attach` must be called. Raises Busy while
        something changed is open.

        Returns the inode numbers of what goes on under other names: before → from now on.
        """
        area = self._overlay.area(dataset)
        for opened in self._handles:
            row = None if opened.row is None else self._rows.get(opened.row)
            if row is not None and row.area == area.id and (row.parent is not None or row.links):
                raise Busy(f"{'a file' if row.name is None else shown(row.name)} is open; nothing was restored")
        try:
            await restore_all(self._overlay, dataset, paths)
        finally:
            changed = await in_slices(self._places.dropped())
        return changed

    # -- the rest -----------------------------------------------------------------------------------------------------

    def statfs(self) -> Figures:
        """The file system that the overlay lies on. Raises OverlayFailed."""
        try:
            found = os.fstatvfs(self._overlay.files.directory)
        except OSError as error:
            raise OverlayFailed(f"{self._overlay.path} cannot be used: {error.strerror}") from error
        return Figures(found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)

    def close(self) -> None:
        """Give back all handles; what they wrote is stored. The overlay itself stays open."""
        self._handles.close()
        self._directories.clear()
        self._overlay.journal.commit()
