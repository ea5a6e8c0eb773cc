"""A file system that can be written: an overlay's engine over a FileSystem, with what neither knows of the other.

What belongs to no dataset, and what is only looked up (``.riafs``, ``NAME@REF``), comes from the FileSystem alone; so
do files whose size only their content tells, until they are changed.
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import trio
from cachetools import LRUCache

from riafs.errors import (
    NoSuchAttribute,
    NoSuchName,
    NotADirectoryHere,
    NotThereYet,
    ReadOnly,
    StaleHandle,
)
from riafs.formats.names import is_in
from riafs.overlay.changes import NOTHING, Carried
from riafs.overlay.filesystem import Figures, OverlayFileSystem
from riafs.overlay.listing import Listed
from riafs.overlay.lower import Home
from riafs.overlay.namespace import Creator
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import Area
from riafs.overlay.stat import Ownership, Stat
from riafs.storage.bytesource import Buffer
from riafs.tree.protocol import Kind
from riafs.vfs.commit_switch import CommitSwitch
from riafs.vfs.filesystem import ATTRIBUTE_PREFIX, FileSystem, Tell, unused_in
from riafs.vfs.inode_aliases import InodeAliases
from riafs.vfs.lower_tree import BaseKeeper, LowerTree
from riafs.vfs.nodes import Node
from riafs.vfs.open_directories import OpenDirectories, Revisited, Shown
from riafs.vfs.open_files import OpenedFile, OpenFiles
from riafs.vfs.recording import Recorder
from riafs.vfs.refreshing import Invalidation
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_ENDING_SECONDS = 1.0
_MAX_REMOVED = 4096
WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_LOOKING = ("lookup", "getattr", "readlink", "_attribute", "opendir")
"""Requests that only look at the inode that comes first."""
_OVERTAKEN = (NoSuchName, NotADirectoryHere, NotThereYet, ReadOnly, StaleHandle)
"""What a call may come to that a move came into."""


class WritableFileSystem(OpenFiles):
    """`filesystem` with the changes in `overlay`; `store`: the store, as a source that names it."""

    def __init__(self, filesystem: FileSystem, overlay: Overlay, ownership: Ownership, store: str) -> None:
        super().__init__(filesystem.counters)
        self._filesystem = filesystem
        self._keeper = BaseKeeper(overlay.kept)
        self._lower = LowerTree(filesystem, store, self._keeper)
        self._merged = OverlayFileSystem(overlay, self._lower, ownership)
        self._aliases = InodeAliases()
        self._directories = OpenDirectories(filesystem, self._merged, self._aliases, lambda: self._moves)
        self._changeable: dict[int, int] = {}
        """File handle → the merged tree's, of files that are open there."""
        self._removed: LRUCache[int, Stat] = LRUCache(_MAX_REMOVED)
        """Directories by the kernel's numbers, asked where nothing else has the number."""
        self._moves = 0
        """Odd while datasets are moved to another commit."""
        self._moving: trio.Event | None = None
        self._concerned: tuple[Node, Set[int]] | None = None
        """What a move is about: see _concerns."""
        self._running = 0
        self._one_ended = trio.Event()
        self.overlay = overlay
        self.recorder = Recorder(self._merged, self._lower, self._aliases)

    async def attach(self, doing: Doing = untold) -> None:
        """To be called once, before anything else: finds the datasets with changes again. Raises OverlayFailed where
        something else is shown, NoSuchVersion, GitError, …
        """
        await self._merged.attach(doing)

    def unshown(self) -> list[Area]:
        """Datasets with changes that the tree below does not show any more: a superdataset has dropped them."""
        return [
            area
            for area in self.overlay.rows.areas()
            if not self._lower.is_pinned(area.base.dataset) and area.base.dataset not in self.unavailable
        ]

    @property
    def unavailable(self) -> Mapping[bytes, str]:
        """Datasets with changes whose commit cannot be read: why. They show what the store has."""
        return self._merged.inodes.unavailable

    def tasks(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What has to run as long as this is used: commits, copies of the commits below changes, inspections."""

        async def keep_bases() -> None:
            await self._keeper.run(self._lower.pinned_directories)

        return self.overlay.keep, keep_bases, self.overlay.inspector.run

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Stat:
        """What a name in a directory is. Raises NoSuchName, NotThereYet for a ``NAME@REF`` that may come to be without
        the kernel being told, and what the tree below raises.
        """
        found = await self._lookup(parent, name)
        if found is None:
            raise (NotThereYet if b"@" in name else NoSuchName)(f"there is no {os.fsdecode(name)}")
        return found

    async def _lookup(self, parent: int, name: bytes) -> Stat | None:
        found = await self._seen(parent, lambda: self._merged.lookup(self._aliases.now(parent), name))
        if found is None:
            return None
        await self._filesystem.reached(found.inode)
        shown = self._given(found)
        return shown if self._is_lasting(found.inode) else shown._replace(listed=False)

    def _given(self, found: Stat) -> Stat:
        """With the number that the kernel has for it."""
        number = self._aliases.given(found.inode)
        return found if number == found.inode else found._replace(inode=number)

    def _is_lasting(self, inode: int) -> bool:
        return self._merged.has_row(inode) or self._filesystem.is_lasting(inode)

    async def getattr(self, inode: int) -> Stat:
        """What an inode is. A removed directory is there, with no links, as long as a program may be in it."""
        try:
            return self._given(await self._seen(inode, lambda: self._merged.getattr(self._aliases.now(inode))))
        except StaleHandle:
            if inode not in self._removed:
                raise
            return self._removed[inode]

    async def readlink(self, inode: int) -> bytes:
        """The text of a symbolic link."""
        return await self._seen(inode, lambda: self._merged.readlink(self._aliases.now(inode)))

    async def attribute(self, inode: int, name: str) -> bytes:
        """The value of an extended attribute ``user.riafs.…``. Raises NoSuchAttribute."""
        short = name.removeprefix(ATTRIBUTE_PREFIX)
        known = await self._seen(inode, lambda: self._attributes(self._aliases.now(inode), short))
        if short == name or short not in known:
            raise NoSuchAttribute(f"no attribute {name}")
        return known[short]

    async def _attributes(self, inode: int, name: str) -> Mapping[str, bytes]:
        own = await self._merged.attributes(inode)
        return own or await self._filesystem.attributes(inode, name)

    def statfs(self) -> Figures:
        """The file system that the overlay lies on."""
        return self._merged.statfs()

    # -- listing ------------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int) -> int:
        """A handle to list a directory; one that is removed is empty."""
        try:
            return await self._seen(inode, lambda: self._directories.open(inode))
        except StaleHandle:
            if inode not in self._removed:
                raise
            return self._directories.open_removed()

    async def readdir(self, handle: int, offset: int) -> tuple[Shown, bool]:
        """Some names from an offset on, and whether the kernel may remember them."""
        return await self._directories.read(handle, offset)

    def stat_of(self, listed: Listed | Revisited) -> Stat:
        """The attributes of a name in a listing."""
        return self._given(listed.stat if isinstance(listed, Revisited) else self._merged.stat_of(listed))

    def releasedir(self, handle: int) -> None:
        """Give a directory's handle back."""
        self._directories.release(handle)

    async def fsyncdir(self, handle: int) -> None:
        """Make the names in a directory survive the loss of power."""
        await self._merged.fsyncdir(self._directories.merged(handle))

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(
        self, parent: int, name: bytes, maker: Creator, flags: int, thread: int | None = None
    ) -> tuple[Stat, OpenedFile]:
        """A new file, open; an existing one is opened unless `flags` has O_EXCL."""
        found, handle = await self._done(lambda: self._merged.create(self._aliases.now(parent), name, maker, flags))
        shown = self._given(found)
        self.recorder.wrote(shown.inode, thread)
        return shown, self._opened(shown.inode, handle)

    async def mknod(self, parent: int, name: bytes, maker: Creator, kind: Kind, device: int) -> Stat:
        """A new file, fifo, socket or device."""
        now = self._aliases.now
        return self._given(await self._done(lambda: self._merged.mknod(now(parent), name, maker, kind, device)))

    async def mkdir(self, parent: int, name: bytes, maker: Creator) -> Stat:
        """A new directory."""
        return self._given(await self._done(lambda: self._merged.mkdir(self._aliases.now(parent), name, maker)))

    async def symlink(self, parent: int, name: bytes, target: bytes, maker: Creator) -> Stat:
        """A new symbolic link."""
        now = self._aliases.now
        return self._given(await self._done(lambda: self._merged.symlink(now(parent), name, target, maker)))

    async def link(self, inode: int, parent: int, name: bytes) -> Stat:
        """Another name of a file."""

        async def link() -> Stat:
            number = self._aliases.now(inode)
            await self._before_change(number, empties=False)
            return await self._merged.link(number, self._aliases.now(parent), name)

        return self._given(await self._done(link))

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of a file."""
        await self._done(lambda: self._merged.unlink(self._aliases.now(parent), name))

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory; a subdataset follows its branch again."""
        found = await self._lookup(parent, name)
        if await self._done(lambda: self._merged.rmdir(self._aliases.now(parent), name)):
            self._lower.unpin_all_but({base.dataset for base in self.overlay.datasets()})
        if found is not None:
            self._removed[found.inode] = found._replace(links=0)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Move an entry, or exchange two."""
        now = self._aliases.now
        await self._done(lambda: self._merged.rename(now(parent), name, now(new_parent), new_name, flags))

    # -- attributes ---------------------------------------------------------------------------------------------------

    async def setattr(
        self, inode: int, *, mode: int | None, uid: int | None, gid: int | None, size: int | None,
        atime_ns: int | None, mtime_ns: int | None, thread: int | None = None,
    ) -> Stat:  # fmt: skip
        """chmod, chown, truncate, utimens. What is None stays. `thread`: the one that asks for it."""

        async def change() -> Stat:
            number = self._aliases.now(inode)
            await self._before_change(number, empties=size == 0)
            return await self._merged.setattr(
                number, mode=mode, uid=uid, gid=gid, size=size, atime_ns=atime_ns, mtime_ns=mtime_ns
            )

        changed = self._given(await self._done(change))
        if size is not None:
            self.recorder.wrote(inode, thread)
        return changed

    async def _before_change(self, inode: int, *, empties: bool) -> None:
        if not empties and not self._merged.has_row(inode):
            await self._lower.learn_size(inode)

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, thread: int | None = None) -> OpenedFile:
        """A handle. Opening to write copies no content. `thread`: the one that asks for it.

        Raises IsADirectoryHere, ReadOnly, OverlayFull, OverlayFailed, and opening to read what the content raises.
        """
        seen = await self.recorder.seen(inode, flags, thread)
        opened = await self._done(lambda: self._open(inode, flags))
        if seen is not None:
            self.recorder.note(seen)
        return opened

    async def _open(self, inode: int, flags: int) -> OpenedFile:
        number = self._aliases.now(inode)
        if flags & WRITING:
            await self._before_change(number, empties=bool(flags & os.O_TRUNC))
        elif not self._merged.has_row(number) and await self._lower.has_unknown_size(number):
            content = (await self._filesystem.content(number))[1]
            return self.add_file(inode, content, content.close, sized=False)
        return self._opened(inode, await self._merged.open(number, flags))

    def _opened(self, inode: int, merged: int) -> OpenedFile:
        """A handle on a file of the merged tree. `inode`: the kernel's."""

        def close() -> None:
            del self._changeable[opened.handle]
            self._merged.release(merged)

        opened = self.add_file(inode, self._merged.opened_file(merged), close)
        self._changeable[opened.handle] = merged
        return opened

    async def write(self, handle: int, offset: int, data: Buffer) -> int:
        """Write; the number of bytes that were written."""
        merged = self._changeable.get(handle)
        if merged is None:
            raise StaleHandle(f"handle {handle} is not open to be written")
        return await self._done(lambda: self._merged.write(merged, offset, data))

    async def fsync(self, handle: int) -> None:
        """Make an open file survive the loss of power."""
        if handle in self._changeable:
            await self._merged.fsync(self._changeable[handle])

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def refresh(self, tell: Tell, unused: int | None = None) -> None:
        """Look for newer versions of all renewable directories; datasets with changes stay where they are."""
        await self.recorder.hold()
        self._lower.let_go()

        async def tell_all(changes: Sequence[Invalidation]) -> None:
            await tell(self._aliases.told(changes))

        await self._filesystem.refresh(tell_all, unused)

    async def keep_fresh(self, tell: Tell, seconds: float) -> None:
        """Look for changes in the store every so many seconds, until cancelled."""
        while True:
            await trio.sleep(seconds)
            await self.refresh(tell, unused_in(seconds))

    # -- moving to another commit -------------------------------------------------------------------------------------

    def in_turn(self, handler: Callable[P, Awaitable[T]], name: str = "") -> Callable[P, Awaitable[T]]:
        """`handler` of the request `name`, which does not begin while a dataset is moved to another commit, but where
        it only reads and the move does not concern it.
        """
        passes: Callable[P, bool] | None = self._passes().get(name)

        @wraps(handler)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._moving is not None and passes is not None and passes(*args, **kwargs):
                return await handler(*args, **kwargs)
            await self._its_turn()
            self._running += 1
            try:
                return await handler(*args, **kwargs)
            finally:
                self._running -= 1
                if self._moving is not None:
                    self._one_ended.set()
                    self._one_ended = trio.Event()

        return waiting

    async def _its_turn(self) -> None:
        while self._moving is not None:
            await self._moving.wait()

    def _passes(self) -> dict[str, Callable[..., bool]]:
        """Request → whether, with its arguments, it does not concern the dataset that is being moved."""
        passes: dict[str, Callable[..., bool]] = dict.fromkeys(_LOOKING, lambda inode, *_: self.is_unaffected(inode))
        passes["read"] = lambda handle, *_: self.is_unaffected(self.inode_of_handle(handle))
        passes["open"] = lambda inode, flags, *_: not flags & WRITING and self.is_unaffected(inode)
        return passes

    def is_unaffected(self, inode: int) -> bool:
        """Whether an inode of the kernel's is none of the dataset that is being moved, nor of one in it."""
        if self._concerned is None:
            return False
        top, areas = self._concerned
        number = self._aliases.now(inode)
        try:
            row = self._merged.inodes.row(number)
            if row is not None:
                return row.area not in areas
            above: Node | None = self._filesystem.parent(number)
        except StaleHandle:
            return False
        while above is not None and above is not top:
            above = above.parent
        return above is None and number != top.inode

    async def _seen(self, inode: int, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` finds at an inode of the kernel's, as it is after a move that came into it."""
        while True:
            moves = self._moves
            try:
                found = await look()
            except _OVERTAKEN:
                if moves == self._moves:
                    raise
            else:
                if moves == self._moves or self.is_unaffected(inode):
                    return found
            await self._moved()

    async def _done(self, change: Callable[[], Awaitable[T]]) -> T:
        """What `change` comes to, done again where it failed as a move came into it."""
        while True:
            moves = self._moves
            try:
                return await change()
            except _OVERTAKEN:
                if self._moves == moves:
                    raise
            await self._moved()

    async def _moved(self) -> None:
        """Returns when no move is under way."""
        if self._moving is not None and self._moves & 1:
            await self._moving.wait()

    @asynccontextmanager
    async def _alone(self, dataset: bytes) -> AsyncIterator[None]:
        """Meanwhile nothing is changed, and only the caller looks at a dataset, or at one in it."""
        async with self._filesystem.refreshing:  # first: notifying the kernel may wait for a handler that waits here
            self._concerned = self._concerns(dataset)
            self._moving = trio.Event()
            try:
                with trio.move_on_after(_ENDING_SECONDS):  # longer ones wait for content, which stays what it is
                    while self._running:
                        await self._one_ended.wait()
                await self._directories.keep_names()
                self._moves += 1
                try:
                    yield
                finally:
                    self._moves += 1
            finally:
                self._moving.set()
                self._moving = self._concerned = None

    def _concerns(self, dataset: bytes) -> tuple[Node, Set[int]] | None:
        """The top of a dataset, and the areas of it and of those in it; None where it is not shown."""
        if not self._lower.is_pinned(dataset):
            return None
        entrance = self.overlay.area(dataset).entrance
        areas = {area.id for area in self.overlay.rows.areas() if is_in(area.entrance, entrance)}
        return self._lower.pinned(dataset), areas

    async def pushed(self, dataset: bytes, commit: bytes, carried: Carried, tell: Tell) -> None:
        """What a push carried is in `commit` now: show it, with what was changed since. Open files go on as they are.

        Raises NoSuchName, Busy where changes never pause, and what reading the commit raises.
        """
        mover = self._mover()
        if self._lower.is_pinned(dataset):
            await mover.prepare(dataset, commit, carried)
        async with self._alone(dataset):
            if not self._lower.is_pinned(dataset):
                await self._drop_unshown(dataset, carried)
                return
            told = await mover.pushed(dataset, commit, carried)
        await tell(told)

    async def _drop_unshown(self, dataset: bytes, carried: Carried) -> None:
        """What is not shown is not moved either: its rows go when there is nothing else than what was pushed."""
        pushed = {(change.path, change.kind) for change in carried.changes}
        is_there = any(area.base.dataset == dataset for area in self.overlay.rows.areas())
        if not is_there:
            return
        with self.overlay.snapshot() as snapshot:
            changes = await snapshot.changes(self.overlay.area(dataset))
        if all((change.path, change.kind) in pushed for change in changes):
            await self._merged.restore(dataset, [b""])

    def _mover(self) -> CommitSwitch:
        return CommitSwitch(self._filesystem, self._lower, self._merged, self.overlay, self._aliases)

    async def superdatasets(self, dataset: bytes) -> list[Home]:
        """Where a dataset with changes is registered, then where that one is, and so on."""
        found: list[Home] = []
        if not self._lower.is_pinned(dataset):
            return []
        step = await self._lower.above(self._lower.pinned(dataset).inode)
        while step is not None:
            home, top = step
            found.append(home)
            step = await self._lower.above(top)
        return found

    async def restore(self, dataset: bytes, paths: Sequence[bytes], tell: Tell) -> None:
        """Drop the changes of `paths` and of what is in them, durably; see Overlay.restore.

        Raises NoSuchName where nothing is changed, and Busy while something changed is open.
        """
        async with self._alone(dataset):
            if not self._lower.is_pinned(dataset):
                await self._merged.restore(dataset, paths)
                await self._drop_unshown(dataset, NOTHING)
                await self.overlay.durable()
                return
            told = await self._mover().restore(dataset, paths)
            await self.overlay.durable()
        await tell(told)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back all handles; what they wrote is stored. The overlay stays open."""
        self.recorder.close()
        self._directories.clear()
        super().close()
        self._merged.close()
        self._filesystem.close()
