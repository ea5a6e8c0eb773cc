"""The filesystem without a kernel: look-ups, listings, reads by inode number, over any Directory.

It is driven by fuse/ for a mount, and directly by tests and programs. Everything is read-only: nothing here changes a
store. Failures are the classes of errors.py.

Rules for shared state (there is one event loop and no threads here): `_by_number` only grows, and `_nodes` but for
`detach`; a node's
directory and numbering are replaced together, without an await in between, by `refresh`; a handle keeps the directory
version or the content it was opened with.
"""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from riafs.counters import Counters
from riafs.errors import (
    IsADirectoryHere,
    NoSuchAttribute,
    NoSuchName,
    NotADirectoryHere,
    RiafsError,
    StaleHandle,
)
from riafs.storage.bytesource import DeferredBytes, MemoryBytes, RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Kind
from riafs.tree.slots import Slots, own_slots
from riafs.vfs.kernel_cache import Readers
from riafs.vfs.nodes import ROOT, Node, Use, Uses, inode_of, new_number, number_of, slot_of
from riafs.vfs.open_files import OpenedFile, OpenFiles
from riafs.vfs.refreshing import Invalidation, Refresher

log = logging.getLogger(__name__)

# Files may stand between two directories that are listed one after the other.
_WALKING_STEP = 16
ATTRIBUTE_PREFIX = "user.riafs."
_WAKING_SECONDS = 1.0
"""For so long a request waits for what rests to be looked at; a store that is silent is not waited for longer."""

_UNUSED_A_SECOND = 8
"""So many of the datasets and other directories that are not in use are looked at: four calls of stat each."""

Tell = Callable[[Sequence[Invalidation]], Awaitable[None]]
"""Notifies the kernel of what it has to forget."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat shows of an inode, before ownership and permissions of the mount are applied."""

    inode: int
    kind: Kind
    size: int
    """UNKNOWN_SIZE where only reading tells."""
    executable: bool
    mtime_ns: int
    listed: bool = True
    """Whether the kernel will be told of a change. What is looked up but not listed may change without that."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing: entries that stand one after the other. The offset after the entry at p is p + 1."""

    entries: Sequence[Entry]
    number: int
    slots: Sequence[int] | None
    """position → slot, as far as the entries go; None where they are the same."""
    current: bool
    """Whether this is still what the directory shows; if not, the kernel must not remember these entries."""

    def inode_at(self, position: int) -> int:
        """The inode number of the entry at `position` of the directory."""
        return inode_of(self.number, position if self.slots is None else self.slots[position])


@dataclass(frozen=True, slots=True)
class _OpenDirectory:
    node: Node
    directory: Directory
    slots: Slots | None


def unused_in(seconds: float) -> int:
    """How many of the directories that are not in use are looked at by a round of refreshing, one each `seconds`."""
    return max(1, round(_UNUSED_A_SECOND * seconds))


class FileSystem(OpenFiles):
    """`root`: what the mount shows. `virtual`: directories at the root that are looked up but not listed."""

    def __init__(self, root: Directory, counters: Counters, virtual: Mapping[bytes, Directory] | None = None) -> None:
        super().__init__(counters)
        self._virtual = dict(virtual or {})
        self._root = Node(ROOT, 1, root, None)
        self._uses = Uses()
        self._root.use = self._uses.of(self._root, None)
        self._tell: Tell | None = None
        self._untold: list[Invalidation] = []
        """What the kernel has to be told in the next round."""
        self._nodes: dict[int, Node] = {ROOT: self._root}
        self._by_number = {self._root.number: self._root}
        self._directories: dict[int, _OpenDirectory] = {}
        self._last_directory = 0
        self._readers = Readers()
        self._opened_last: tuple[int, Directory, Entry] | None = None
        self._turn = 0
        self._woken = 0
        self._round = trio.Lock()
        """Held while a round of refreshing is made."""
        self.refreshing = trio.Lock()
        """Held while directories are moved to other versions, but not while the kernel is told: a request that waits
        for this lock may be what the kernel waits for."""

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """The attributes of `name` in the directory with inode `parent`.

        Raises NoSuchName, NotThereYet, NotADirectoryHere, StaleHandle, and what reading the directory raises.
        """
        self.counters.lookups += 1
        node = await self.node(parent)
        if name in (b".", b".."):
            return await self.getattr(node.inode if name == b"." or node.parent is None else node.parent.inode)
        inode, entry = await self._find(node, name)
        await self.reached(inode)
        return _attributes(inode, entry, listed=self.is_lasting(inode))

    async def find(self, parent: int, name: bytes) -> tuple[int, Entry]:
        """The inode number and the entry of a name. Raises as `lookup`."""
        return await self._find(await self.node(parent), name)

    async def _find(self, node: Node, name: bytes) -> tuple[int, Entry]:
        if node is self._root and name in self._virtual:
            return self._find_virtual(name)
        while True:
            directory = node.directory
            try:
                found = await directory.find(name)
            except NoSuchName:
                if directory is node.directory:
                    raise
                continue  # renewed meanwhile: the kernel was told to forget too early
            if found.position is None:
                return node.hide(found.entry), found.entry
            slots = await node.slots(found.position + 1)
            if directory is node.directory:  # else renewed meanwhile: positions may have changed
                break
        slot = found.position if slots is None else slots[found.position]
        return inode_of(node.number, slot), found.entry

    def _find_virtual(self, name: bytes) -> tuple[int, Entry]:
        directory = self._virtual[name]
        entry = Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=directory.mtime_ns, version=b"")
        return self._root.hide(entry), entry

    def is_lasting(self, inode: int) -> bool:
        """Whether the kernel will be told of a change of what the inode's name stands for: it is, of what is listed."""
        node, slot = self.parent(inode), slot_of(inode)
        return inode == ROOT or not node.is_hidden(slot) or node.hidden_entry(slot).name in self._virtual

    async def entry(self, inode: int) -> Entry:
        """The entry an inode stands for; the root's has no name. Raises StaleHandle."""
        if inode == ROOT:
            when = self._root.directory.mtime_ns
            return Entry(b"", Kind.DIRECTORY, 0, executable=True, mtime_ns=when, version=b"")
        return (await self._entry(inode))[1]

    async def getattr(self, inode: int) -> Attributes:
        """The attributes of an inode. Raises StaleHandle."""
        return _attributes(inode, await self.entry(inode))

    async def readlink(self, inode: int) -> bytes:
        """The text of a symbolic link."""
        directory, entry = await self._entry(inode)
        return await directory.target(entry)

    async def attribute(self, inode: int, name: str) -> bytes:
        """The value of an extended attribute ``user.riafs.…``. Raises NoSuchAttribute."""
        short = name.removeprefix(ATTRIBUTE_PREFIX)
        if short != name:
            known = await self.attributes(inode, short)
            if short in known:
                return known[short]
        raise NoSuchAttribute(f"no attribute {name}")

    async def attributes(self, inode: int, name: str | None = None) -> Mapping[str, bytes]:
        """The ``user.riafs.`` attributes of an inode, by their short names; `name`: see Directory."""
        if inode == ROOT:
            return await self._root.directory.own_attributes()
        directory, entry = await self._entry(inode)
        if self._parent(inode) is self._root and entry.name in self._virtual:
            return await self._virtual[entry.name].own_attributes()
        return await directory.attributes(entry, name)

    # -- inodes -------------------------------------------------------------------------------------------------------

    async def _entry(self, inode: int) -> tuple[Directory, Entry]:
        parent = self._parent(inode)
        await self._use(parent)
        return await parent.entry(slot_of(inode))

    def parent(self, inode: int) -> Node:
        """The directory that an inode is in; the root's is the root. Raises StaleHandle."""
        return self._root if inode == ROOT else self._parent(inode)

    def _parent(self, inode: int) -> Node:
        node = self._by_number.get(number_of(inode))
        if node is None:
            raise StaleHandle(f"inode {inode} is not in use")
        return node

    async def node(self, inode: int) -> Node:
        """The directory with that inode, entered now if it was not before. Raises NotADirectoryHere, StaleHandle."""
        known = self._nodes.get(inode)
        if known is not None:
            await self._use(known)
            return known
        parent = self._parent(inode)
        while True:
            version = parent.directory, parent.renumbering
            entered = await self._directory_at(parent, slot_of(inode))
            if version == (
                parent.directory,
                parent.renumbering,
            ):  # else renewed meanwhile
                break
        if inode not in self._nodes:  # another task may have entered it meanwhile
            node = Node(inode, new_number(inode, self._by_number), entered, parent)
            self._by_number[node.number] = node
            self._nodes[inode] = node
            self._note_use(node)
        return self._nodes[inode]

    async def _directory_at(self, parent: Node, slot: int) -> Directory:
        directory, entry = await parent.entry(slot)
        if entry.kind is not Kind.DIRECTORY:
            raise NotADirectoryHere(f"{os.fsdecode(entry.name)} is not a directory")
        virtual = self._virtual.get(entry.name) if parent is self._root else None
        return virtual or await directory.directory(entry)

    # -- directories --------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int) -> int:
        """A handle on a directory as it is now."""
        node = await self.node(inode)
        await self._prepare_walk(node)
        while True:
            directory = node.directory
            await directory.entries(0)
            slots = await node.numbering()
            if directory is node.directory:
                break
        self.counters.directories_listed += 1
        _use_of(node).opened(1)
        self._last_directory += 1
        self._directories[self._last_directory] = _OpenDirectory(node, directory, slots)
        return self._last_directory

    async def _prepare_walk(self, node: Node) -> None:
        """Programs that walk a tree list the directories in a directory one after the other: tell it where they are.

        Only positions of an unchanged numbering are followed, which is nearly all of them.
        """
        parent, slot = node.parent, slot_of(node.inode)
        if parent is None or parent.renumbering is not None or parent.is_hidden(slot):
            return
        own = await own_slots(parent.directory)
        position = slot if own is None else (await own.positions()).get(slot)
        if position is None:
            return
        if parent.listed_last is not None and 0 < position - parent.listed_last <= _WALKING_STEP:
            with contextlib.suppress(RiafsError):
                await parent.directory.prepare(position)
        parent.listed_last = position

    async def readdir(self, handle: int, start: int) -> Page:
        """Some entries from offset `start` on; none at the end. The offset after entry i of a page is start + i + 1."""
        opened = self._directories.get(handle)
        if opened is None:
            raise StaleHandle(f"handle {handle} is not open")
        entries = await opened.directory.entries(start)
        self.counters.entries_listed += len(entries)
        slots = None if opened.slots is None else await opened.slots.reach(start + len(entries))
        current = opened.node.directory is opened.directory
        return Page(entries, opened.node.number, slots, current)

    async def page(self, inode: int, start: int) -> Page:
        """Some entries of a directory as it is now, from position `start` on; none at the end."""
        node = await self.node(inode)
        while True:
            directory = node.directory
            entries = await directory.entries(start)
            slots = await node.slots(start + len(entries))
            if directory is node.directory:
                break
        return Page(entries, node.number, slots, current=True)

    def releasedir(self, handle: int) -> None:
        """Give a directory handle back."""
        opened = self._directories.pop(handle, None)
        if opened is not None:
            _use_of(opened.node).opened(-1)

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, *, to_be_read: bool = True) -> OpenedFile:
        """A handle on a file's content as it is now; it stays the same until released.

        Where there is none, this fails. Damage is found at the first read, if not earlier: see vfs/kernel_cache.
        """
        directory, entry = self._still_open(inode) or await self._entry(inode)
        content = await self._content(inode, directory, entry, to_be_read=to_be_read)
        self._opened_last = inode, directory, entry
        sized = entry.size != UNKNOWN_SIZE
        whole = content.data if sized and isinstance(content, MemoryBytes) and not self.is_open(inode) else None
        if whole is not None:
            self.counters.bytes_read += len(whole)
        use = _use_of(self._parent(inode))
        use.opened(1)

        def close() -> None:
            use.opened(-1)
            content.close()

        return self.add_file(inode, content, close, sized=sized, whole=whole)

    def _still_open(self, inode: int) -> tuple[Directory, Entry] | None:
        """What the inode stands for that was opened last, if it is open, since then that never changes: borg and lsattr
        open each file twice. A size that was not known may be known now.
        """
        if self._opened_last is None or self._opened_last[0] != inode or not self.is_open(inode):
            return None
        _, directory, entry = self._opened_last
        return None if entry.size == UNKNOWN_SIZE else (directory, entry)

    async def content(self, inode: int) -> tuple[Entry, RangedBytes]:
        """What a file holds now; the caller closes it."""
        directory, entry = await self._entry(inode)
        return entry, await self._content(inode, directory, entry, to_be_read=True)

    async def _content(self, inode: int, directory: Directory, entry: Entry, *, to_be_read: bool) -> RangedBytes:
        if entry.kind is Kind.DIRECTORY:
            raise IsADirectoryHere(f"{os.fsdecode(entry.name)} is a directory")
        content: RangedBytes
        if not to_be_read and self.is_open(inode) and entry.size != UNKNOWN_SIZE:
            # The reader who has it open knows that it is there.
            content = DeferredBytes(entry.size, partial(directory.open, entry))
        else:
            content = await directory.open(entry)
        if to_be_read:
            content = await self._readers.prepare(content)
        self.counters.opens += 1
        return content

    def close(self) -> None:
        """Give back all handles."""
        super().close()
        self._directories.clear()

    # -- changes in the store -----------------------------------------------------------------------------------------

    async def refresh(self, tell: Tell, unused: int | None = None) -> None:
        """Look for newer versions of all renewable directories; `tell` notifies the kernel of what it has to forget.

        `unused`: how many of the unused directories are looked at, where this is one of the rounds that are
        made every few seconds. One round at a time: a directory is moved from the version it has to a newer one, never
        from one it had.
        """
        async with self._round:
            self._turn += 1
            if unused is not None:
                self._tell = tell
            for use in self._uses.all() if unused is None else self._uses.due(unused):
                node = use.node
                is_shown = self._nodes.get(node.inode) is node
                if is_shown and node.directory.renewable and not node.held:
                    async with self.refreshing:
                        changes = await self._renewed(node, self._turn)
                    if changes:
                        await tell(changes)
            untold, self._untold = self._untold, []
            if untold:
                await tell(untold)

    async def keep_fresh(self, tell: Tell, seconds: float) -> None:
        """Look for changes in the store every so many seconds, until cancelled."""
        while True:
            await trio.sleep(seconds)
            await self.refresh(tell, unused_in(seconds))

    # -- which directories are in use ---------------------------------------------------------------------------------

    def _note_use(self, node: Node) -> None:
        """Give a node that was entered, or has another directory now, its use."""
        above = None if node.parent is None else node.parent.use
        if not node.directory.renewable:
            node.use = node.use or above
        elif node.use is None or node.use.node is not node:
            node.use = self._uses.of(node, above)

    async def _use(self, node: Node) -> None:
        """To be called for each request that concerns `node`: what rests is looked at before it is used again.

        The kernel may hold a directory that it would be told of until this request is answered, so it is told later.
        """
        use = _use_of(node)
        if self._uses.mark(use):
            for each in reversed(list(use.chain())):
                self._untold += await self._wake(each)

    async def reached(self, inode: int) -> None:
        """To be called when the kernel looks up a name and gets `inode`: from there it may go on by itself, so it is
        told before that. It holds the directory above at most.
        """
        node = self._nodes.get(inode)
        if node is not None and node.use is not None and node.use.node is node:
            self._uses.mark(node.use)
            changes = await self._wake(node.use)
            if changes and self._tell is not None:
                with trio.move_on_after(_WAKING_SECONDS):
                    await self._tell(changes)

    async def _wake(self, use: Use) -> Sequence[Invalidation]:
        if not use.rests or self.refreshing.statistics().owner is trio.lowlevel.current_task():
            return ()
        changes: Sequence[Invalidation] = ()
        with trio.move_on_after(_WAKING_SECONDS):
            async with self.refreshing:
                if use.rests and use.node.directory.renewable and not use.node.held:
                    self._woken += 1
                    changes = await self._renewed(use.node, -self._woken)
        use.rests = False
        return changes

    # -- moving -------------------------------------------------------------------------------------------------------

    async def move(self, node: Node, newer: Directory, *, elsewhere: bool = False) -> Sequence[Invalidation]:
        """Move a directory to another version, whatever its branch does; what the kernel has to forget then. The caller
        has `refreshing`. `elsewhere`: see Refresher.
        """
        while not (changes := await Refresher(self._nodes, self._turn).move(node, newer, elsewhere=elsewhere)):
            await trio.lowlevel.checkpoint()  # something was laid over a dataset in it meanwhile
        return self._noted(changes)

    def _noted(self, changes: Sequence[Invalidation]) -> Sequence[Invalidation]:
        for change in changes:
            node = self._nodes.get(change.inode)
            if node is not None:
                self._note_use(node)
        return changes

    def detach(self, inode: int) -> Node | None:
        """Take out a directory that was entered and that a move puts in another place, for `graft`."""
        return self._nodes.pop(inode, None)

    async def graft(self, node: Node, inode: int) -> Sequence[Invalidation]:
        """Put what `detach` took out, and what was entered below it, where `inode` is now: what is in it keeps its
        numbers. Returns and requires what `move` does.
        """
        parent = self._parent(inode)
        directory = await self._directory_at(parent, slot_of(inode))
        node.inode, node.parent, node.use = inode, parent, parent.use
        self._nodes[inode] = node
        return await self.move(node, directory, elsewhere=True)

    async def _renewed(self, node: Node, turn: int) -> Sequence[Invalidation]:
        try:
            changes = await Refresher(self._nodes, turn).renew(node)
        except (RiafsError, OSError) as error:
            if node.trouble != str(error):
                log.info("cannot look for a newer version: %s", error)
            node.trouble = str(error)
            return ()
        node.trouble = ""
        return self._noted(changes)


def _use_of(node: Node) -> Use:
    assert node.use is not None  # from the moment on that it is in the file system's tables
    return node.use


def _attributes(inode: int, entry: Entry, *, listed: bool = True) -> Attributes:
    return Attributes(inode, entry.kind, entry.size, entry.executable, entry.mtime_ns, listed)
