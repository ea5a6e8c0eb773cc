"""A file system that can be written: an overlay's engine over a FileSystem, with what neither knows of the other.

What belongs to no dataset, and what is only looked up (``.riafs``, ``NAME@REF``), comes from the FileSystem alone; so
do files whose size only their content tells, until they are changed. Handles of the engine are even numbers here, those
of the FileSystem odd ones.
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

import trio

from riafs.counters import Counters
from riafs.errors import NoSuchAttribute, RiafsError, StaleHandle
from riafs.overlay.changes import Change as Overlaid
from riafs.overlay.engine import COMMIT_SECONDS, Engine, Figures
from riafs.overlay.listing import Listed
from riafs.overlay.lower import Home
from riafs.overlay.naming import Maker
from riafs.overlay.places import Ownership
from riafs.overlay.stats import Stat
from riafs.overlay.store import Overlay
from riafs.storage.ranged import Buffer
from riafs.vfs.beneath import Beneath
from riafs.vfs.filesystem import ATTRIBUTE_PREFIX, FileSystem, Page
from riafs.vfs.moving import Mover, also_of
from riafs.vfs.refreshing import Change

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Tell = Callable[[Sequence[Change]], Awaitable[None]]
"""Hears what the kernel has to forget."""

_ENDING_SECONDS = 1.0
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file. `sized`, `settled`: see OpenedFile."""

    handle: int
    sized: bool
    settled: bool


@dataclass(frozen=True, slots=True)
class _Directory:
    """An open directory. `below`: the FileSystem's handle, None where it had changes already."""

    inode: int
    merged: int
    below: int | None


class WritableFileSystem:
    """`filesystem` with the changes in `overlay`; `store`: the store, as a source that names it."""

    def __init__(self, filesystem: FileSystem, overlay: Overlay, ownership: Ownership, store: str) -> None:
        self._filesystem = filesystem
        self._beneath = Beneath(filesystem, store)
        self._engine = Engine(overlay, self._beneath, ownership)
        self._directories: dict[int, _Directory] = {}
        self._inodes: dict[int, int] = {}
        self._unsettled: set[int] = set()
        self._last_directory = 0
        self._successors: dict[int, int] = {}
        self._moving: trio.Event | None = None
        self._running = 0
        self._one_ended = trio.Event()
        self.overlay = overlay

    async def attach(self) -> None:
        """To be called once, before anything else: finds the datasets with changes again. Raises OverlayFailed where
        they are not shown, NoSuchVersion, GitError, …
        """
        await self._engine.attach()

    @property
    def counters(self) -> Counters:
        """Those of the mount."""
        return self._filesystem.counters

    async def keep(self) -> None:
        """Commit what is pending, every COMMIT_SECONDS, until cancelled, which waits for what is under way."""
        trouble = ""
        while True:
            await trio.sleep(COMMIT_SECONDS)
            try:
                with trio.CancelScope(shield=True):
                    self.overlay.journal.commit()
                    await self.overlay.tidy()
                trouble = ""
            except RiafsError as error:
                if str(error) != trouble:
                    log.error("changes are not safe: %s", error)  # noqa: TRY400  # the message says it all
                trouble = str(error)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Stat | None:
        """See Engine."""
        return await self._engine.lookup(self._now(parent), name)

    def is_lasting(self, inode: int) -> bool:
        """See FileSystem."""
        return self._engine.has_row(inode) or self._filesystem.is_lasting(inode)

    async def getattr(self, inode: int) -> Stat:
        """See Engine."""
        return await self._engine.getattr(self._now(inode))

    async def readlink(self, inode: int) -> bytes:
        """See Engine."""
        return await self._engine.readlink(self._now(inode))

    async def attribute(self, inode: int, name: str) -> bytes:
        """The value of an extended attribute ``user.riafs.…``. Raises NoSuchAttribute."""
        short = name.removeprefix(ATTRIBUTE_PREFIX)
        known = await self._attributes(self._now(inode))
        if short == name or short not in known:
            raise NoSuchAttribute(f"no attribute {name}")
        return known[short]

    async def _attributes(self, inode: int) -> Mapping[str, bytes]:
        own = await self._engine.attributes(inode)
        return own or await self._filesystem.attributes(inode)

    def statfs(self) -> Figures:
        """See Engine."""
        return self._engine.statfs()

    # -- listing ------------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int) -> int:
        """A handle to list a directory."""
        inode = self._now(inode)
        below = None if self._engine.has_row(inode) else await self._filesystem.opendir(inode)
        self._last_directory += 1
        self._directories[self._last_directory] = _Directory(inode, self._engine.opendir(inode), below)
        return self._last_directory

    async def readdir(self, handle: int, offset: int) -> tuple[Sequence[Listed], bool]:
        """See Engine.readdir; and whether the kernel may remember what is listed."""
        opened = self._directory(handle)
        if opened.below is None or self._engine.has_row(opened.inode):
            return await self._engine.readdir(opened.merged, offset), True
        page = await self._filesystem.readdir(opened.below, offset)
        return _listed(page, offset), page.current

    def stat_of(self, listed: Listed) -> Stat:
        """See Engine."""
        return self._engine.stat_of(listed)

    def _directory(self, handle: int) -> _Directory:
        try:
            return self._directories[handle]
        except KeyError:
            raise StaleHandle(f"handle {handle} is not open") from None

    def releasedir(self, handle: int) -> None:
        """Give a directory's handle back."""
        opened = self._directories.pop(handle, None)
        if opened is not None:
            self._engine.releasedir(opened.merged)
            if opened.below is not None:
                self._filesystem.releasedir(opened.below)

    async def fsyncdir(self, handle: int) -> None:
        """See Engine."""
        await self._engine.fsyncdir(self._directory(handle).merged)

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(self, parent: int, name: bytes, maker: Maker, flags: int) -> tuple[Stat, Opened]:
        """See Engine."""
        found, handle = await self._engine.create(self._now(parent), name, maker, flags)
        return found, self._opened(found.inode, handle)

    async def mknod(self, parent: int, name: bytes, maker: Maker, *, regular: bool) -> Stat:
        """See Engine."""
        return await self._engine.mknod(self._now(parent), name, maker, regular=regular)

    async def mkdir(self, parent: int, name: bytes, maker: Maker) -> Stat:
        """See Engine."""
        return await self._engine.mkdir(self._now(parent), name, maker)

    async def symlink(self, parent: int, name: bytes, target: bytes, maker: Maker) -> Stat:
        """See Engine."""
        return await self._engine.symlink(self._now(parent), name, target, maker)

    async def link(self, inode: int, parent: int, name: bytes) -> NoReturn:
        """See Engine."""
        await self._engine.link(inode, parent, name)

    async def unlink(self, parent: int, name: bytes) -> None:
        """See Engine."""
        await self._engine.unlink(self._now(parent), name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """See Engine."""
        await self._engine.rmdir(self._now(parent), name)

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """See Engine."""
        await self._engine.rename(self._now(parent), name, self._now(new_parent), new_name, flags)

    # -- attributes ---------------------------------------------------------------------------------------------------

    async def setattr(
        self, inode: int, *, mode: int | None, uid: int | None, gid: int | None, size: int | None,
        atime_ns: int | None, mtime_ns: int | None,
    ) -> Stat:  # fmt: skip
        """See Engine."""
        inode = self._now(inode)
        await self._before_change(inode, empties=size == 0)
        return await self._engine.setattr(
            inode, mode=mode, uid=uid, gid=gid, size=size, atime_ns=atime_ns, mtime_ns=mtime_ns
        )

    async def _before_change(self, inode: int, *, empties: bool) -> None:
        if not empties and not self._engine.has_row(inode):
            await self._beneath.learn_size(inode)

    async def setxattr(self, inode: int, name: bytes) -> NoReturn:
        """See Engine."""
        await self._engine.setxattr(inode, name)

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int) -> Opened:
        """See Engine."""
        if flags & _WRITING:
            await self._before_change(inode, empties=bool(flags & os.O_TRUNC))
        elif not self._engine.has_row(inode) and await self._beneath.has_unknown_size(inode):
            found = await self._filesystem.open(inode)
            return Opened(found.handle << 1 | 1, found.sized, found.settled)
        return self._opened(inode, await self._engine.open(inode, flags))

    def _opened(self, inode: int, handle: int) -> Opened:
        settled = self._engine.is_settled(handle)
        known = inode not in self._unsettled
        if settled:
            self._unsettled.discard(inode)
        else:
            self._unsettled.add(inode)
        self._inodes[handle << 1] = inode
        return Opened(handle << 1, sized=True, settled=settled and known)

    async def read(self, handle: int, offset: int, length: int) -> Buffer:
        """See Engine."""
        if handle & 1:
            return await self._filesystem.read(handle >> 1, offset, length)
        data = await self._engine.read(handle >> 1, offset, length)
        self.counters.reads += 1
        self.counters.bytes_read += len(data)
        return data

    async def write(self, handle: int, offset: int, data: Buffer) -> int:
        """See Engine."""
        return await self._engine.write(handle >> 1, offset, data)

    async def fsync(self, handle: int) -> None:
        """See Engine."""
        if not handle & 1:
            await self._engine.fsync(handle >> 1)

    def inode_of_handle(self, handle: int) -> int:
        """The inode that a file handle was opened on."""
        if handle & 1:
            return self._filesystem.inode_of_handle(handle >> 1)
        return self._inodes[handle]

    def release(self, handle: int) -> None:
        """Give a file handle back."""
        if handle & 1:
            self._filesystem.release(handle >> 1)
        else:
            self._inodes.pop(handle, None)
            self._engine.release(handle >> 1)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def refresh(self, tell: Tell) -> None:
        """See FileSystem; datasets with changes stay where they are."""
        self._beneath.let_go()

        async def tell_all(changes: Sequence[Change]) -> None:
            await tell(also_of(changes, self._successors))

        await self._filesystem.refresh(tell_all)

    # -- moving to another commit -------------------------------------------------------------------------------------

    def _now(self, inode: int) -> int:
        """The number of a directory that has another one since a push."""
        while inode in self._successors:
            inode = self._successors[inode]
        return inode

    def in_turn(self, handler: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """`handler`, which does not begin while datasets are moved to another commit."""

        @wraps(handler)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
            if self._moving is not None:
                await self._moving.wait()
            self._running += 1
            try:
                return await handler(*args, **kwargs)
            finally:
                self._running -= 1
                if self._moving is not None:
                    self._one_ended.set()
                    self._one_ended = trio.Event()

        return waiting

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._filesystem.refreshing:  # first: who tells the kernel may wait for a handler that waits here
            self._moving = trio.Event()
            try:
                with trio.move_on_after(_ENDING_SECONDS):  # longer ones wait for content, which stays what it is
                    while self._running:
                        await self._one_ended.wait()
                yield
            finally:
                self._moving.set()
                self._moving = None

    async def pushed(self, dataset: bytes, commit: bytes, changes: Sequence[Overlaid], tell: Tell) -> None:
        """`changes` are in `commit` now: show it, with what was changed since. Open files go on as they are.

        Raises NoSuchName, Busy where changes never pause, and what reading the commit raises.
        """
        async with self._alone():
            mover = Mover(self._filesystem, self._beneath, self._engine, self.overlay)
            told = await mover.pushed(dataset, commit, changes)
            self._successors |= mover.successors
        await tell(also_of(told, self._successors))

    async def superdatasets(self, dataset: bytes) -> list[Home]:
        """Where a dataset with changes is registered, then where that one is, and so on."""
        found = []
        step = await self._beneath.above(self._beneath.pinned(dataset).inode)
        while step is not None:
            home, top = step
            found.append(home)
            step = await self._beneath.above(top)
        return found

    async def restore(self, dataset: bytes, paths: Sequence[bytes], tell: Tell) -> None:
        """Drop the changes of `paths` and of what is in them; see Overlay.restore.

        Raises NoSuchName where nothing is changed, and Busy while something changed is open.
        """
        async with self._alone():
            mover = Mover(self._filesystem, self._beneath, self._engine, self.overlay)
            told = await mover.restore(dataset, paths)
            self._successors |= mover.successors
        await tell(also_of(told, self._successors))

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back all handles; what they wrote is stored. The overlay stays open."""
        self._directories.clear()
        self._engine.close()
        self._filesystem.close()


def _listed(page: Page, start: int) -> list[Listed]:
    return [
        Listed(entry.name, position + 1, page.inode_at(position), None, entry)
        for position, entry in enumerate(page.entries, start)
    ]
