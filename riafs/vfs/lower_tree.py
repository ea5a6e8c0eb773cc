"""The mount's tree as the lower layer of an overlay, and the commits below changes, kept beside the changes.

Invariants: a dataset that is asked about (`home`) stays at its commit for the next HOLD_SECONDS, and one that is pinned
until `unpin`; so what an overlay decides after an await is about the commit that it then pins.

A store may prune a commit once its branch is rewritten, so a commit is copied to the overlay right before the first
change of its dataset is made, which waits for that for a moment; large ones (a hundred thousand files), and the commits
that datasets are moved to by pushes, are copied in the background.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import trio

from riafs.errors import NoSuchName, NotADirectoryHere, OverlayFailed, RiafsError, StaleHandle
from riafs.git.kept_objects import KeptObjects
from riafs.overlay.changes import Base
from riafs.overlay.lower import Home, LowerEntry
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Committed, Directory, Kind, Unborn
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.nodes import ROOT, Node, slot_of

HOLD_SECONDS = 60.0


log = logging.getLogger(__name__)

_FIRST_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_FORGET_SECONDS = 120.0


class BaseKeeper:
    """Keeps commits in `kept`."""

    def __init__(self, kept: KeptObjects) -> None:
        self._kept = kept
        self._known = kept.names()
        self._asked: dict[bytes, float] = {}
        """Name of a commit → when its dataset was going to be changed."""
        self._lock = trio.Lock()

    async def before_change(self, directory: Committed) -> None:
        """Something is going to be changed over this commit."""
        name = _name(directory)
        if name in self._asked or name in self._known:
            return
        self._asked[name] = trio.current_time()
        with trio.move_on_after(_FIRST_SECONDS):
            await self._keep(directory)

    async def _keep(self, directory: Committed) -> None:
        name = _name(directory)
        async with self._lock:
            if name in self._known:
                return
            try:
                await directory.keep_in(self._kept, name)
            except RiafsError as error:
                log.info("the commit below changes is not kept: %s", error)
                return
            self._known.add(name)

    async def run(self, changed: Callable[[], Iterable[Committed]]) -> None:
        """Keep the commits of all datasets that have changes, and no others, until cancelled."""
        failed: set[bytes] = set()
        while True:
            await trio.sleep(_LOOK_SECONDS)
            wanted = {_name(each): each for each in changed()}
            for name in wanted.keys() - self._known - failed:
                await self._keep(wanted[name])
                if name not in self._known:
                    failed.add(name)
            self._forget(set(wanted))

    def _forget(self, wanted: set[bytes]) -> None:
        now = trio.current_time()
        self._asked = {name: since for name, since in self._asked.items() if now - since < _FORGET_SECONDS}
        if not self._known <= wanted | self._asked.keys():
            self._known &= wanted | self._asked.keys()
            try:
                self._kept.forget_all_but(self._known)
            except OSError as error:
                log.info("what is kept of commits that nothing lies over any more stays: %s", error)


def _name(directory: Committed) -> bytes:
    return directory.dataset_position.dataset.hex().encode() + b"-" + directory.dataset_position.commit


class LowerTree:
    """`filesystem` as a Lower; `store`: the store, as a source that names it."""

    def __init__(self, filesystem: FileSystem, store: str, keeper: BaseKeeper | None = None) -> None:
        self._keeper = keeper
        self._filesystem = filesystem
        self._store = store
        self._held: dict[int, tuple[Node, float]] = {}
        self._tops: dict[int, Node] = {}
        self._pinned: dict[bytes, Node] = {}
        self._sizes: dict[int, int] = {}

    # -- looking ------------------------------------------------------------------------------------------------------

    async def find(self, parent: int, name: bytes) -> LowerEntry | None:
        """The entry of a name, None if there is none."""
        self._filesystem.counters.lookups += 1
        try:
            inode, entry = await self._filesystem.find(parent, name)
        except NoSuchName:
            return None
        return LowerEntry(inode, entry)

    async def entries(self, inode: int, start: int) -> Sequence[LowerEntry]:
        """Some entries of a directory from a position on."""
        page = await self._filesystem.page(inode, start)
        return [LowerEntry(page.inode_at(position), entry) for position, entry in enumerate(page.entries, start)]

    async def entry(self, inode: int) -> LowerEntry:
        """The entry of an inode. Raises StaleHandle."""
        entry = await self._filesystem.entry(inode)
        if entry.size == UNKNOWN_SIZE and inode in self._sizes:
            entry = replace(entry, size=self._sizes[inode])
        return LowerEntry(inode, entry)

    async def has_unknown_size(self, inode: int) -> bool:
        """Whether only its content can tell how long a file is."""
        found = (await self.entry(inode)).entry
        return found.kind is Kind.FILE and found.size == UNKNOWN_SIZE

    async def learn_size(self, inode: int) -> None:
        """Find out how long a file is before something is laid over it. Raises what opening raises."""
        if await self.has_unknown_size(inode):
            content = await self.open(inode)
            self._sizes[inode] = content.size
            content.close()

    async def open(self, inode: int) -> RangedBytes:
        """The content of a file."""
        return (await self._filesystem.content(inode))[1]

    async def target(self, inode: int) -> bytes:
        """The text of a symbolic link."""
        return await self._filesystem.readlink(inode)

    # -- datasets -----------------------------------------------------------------------------------------------------

    async def home(self, inode: int) -> Home | None:
        """Where an inode is in its dataset, None where nothing can be changed. Raises StaleHandle for what a dataset no
        longer shows.
        """
        top = await self._top_above(inode)
        if top is None:
            return None
        self._hold(top)  # from here on nothing below it is replaced
        if self._keeper is not None and isinstance(top.directory, Committed):
            await self._keeper.before_change(top.directory)
        return await self._home_in(top, inode)

    def parent(self, inode: int) -> int:
        """Inode of the directory that an inode is in."""
        return self._filesystem.parent(inode).inode

    async def _home_in(self, top: Node, inode: int) -> Home | None:
        directory = top.directory
        assert isinstance(directory, Committed)
        entrance = await self._entrance(top)
        if entrance is None:
            return None
        path = await self._path(inode, top)
        if path is None:
            return None
        parent = inode if inode == top.inode else self._filesystem.parent(inode).inode
        return Home(await self._base(directory), entrance, path, parent)

    async def _top_above(self, inode: int) -> Node | None:
        """The top of the dataset that an inode is in, None where that is none."""
        is_directory = (await self._filesystem.entry(inode)).kind is Kind.DIRECTORY
        node: Node | None = await self._filesystem.node(inode) if is_directory else self._filesystem.parent(inode)
        while node is not None and not _is_top(node):
            node = node.parent
        return node

    async def _path(self, inode: int, top: Node) -> bytes | None:
        """The path of an inode from a top above it; None below a name that is not listed."""
        names: list[bytes] = []  # backwards
        while inode != top.inode:
            node = self._filesystem.parent(inode)
            if node.is_hidden(slot_of(inode)):
                return None
            directory, entry = await node.entry(slot_of(inode))
            if directory is not node.directory:
                raise StaleHandle(f"{os.fsdecode(entry.name)} was replaced in the store")
            names.append(entry.name)
            inode = node.inode
        return b"/".join(reversed(names))

    async def _entrance(self, top: Node) -> bytes | None:
        """The path from the root to a dataset's top; None below a name that is not listed."""
        names: list[bytes] = []
        inode = top.inode
        while inode != ROOT:
            node = self._filesystem.parent(inode)
            if node.is_hidden(slot_of(inode)):
                return None
            names.insert(0, (await node.entry(slot_of(inode)))[1].name)
            inode = node.inode
        return b"/".join(names)

    async def _base(self, directory: Committed) -> Base:
        position = directory.dataset_position
        return Base(position.dataset, self._store, await directory.branch(), position.commit)

    async def top(self, base: Base, entrance: bytes) -> int | None:
        """Inode of a dataset's top, which is pinned to its commit, None where nothing is shown. Raises OverlayFailed
        where another store or dataset is shown there.
        """
        if base.store != self._store:
            raise not_here(base, entrance)
        if base.dataset in self._pinned:
            return self._pinned[base.dataset].inode
        node = await self._filesystem.node(ROOT)
        try:
            for name in entrance.split(b"/") if entrance else ():
                inode, _ = await self._filesystem.find(node.inode, name)
                node = await self._filesystem.node(inode)
        except (NoSuchName, NotADirectoryHere):
            return None
        directory = node.directory
        if isinstance(directory, Unborn) and directory.dataset_id == base.dataset:  # its branch was deleted
            directory = node.directory = await directory.shown_at(base.commit)
        if not isinstance(directory, Committed):
            raise not_here(base, entrance)
        if directory.dataset_position.dataset != base.dataset or directory.dataset_position.path:
            raise not_here(base, entrance)
        if directory.dataset_position.commit != base.commit:
            node.directory = await directory.at_commit(base.commit)
        node.held = True
        self._pinned[base.dataset] = node
        return node.inode

    async def above(self, inode: int) -> tuple[Home, int] | None:
        """Where the dataset with the top `inode` is registered, and the top of the dataset that does so; None where no
        dataset does, or does so any more.
        """
        node = self._filesystem.parent(inode)
        if inode == ROOT or (top := await self._top_above(node.inode)) is None:
            return None
        within = await self._home_in(top, node.inode)
        if within is None:
            return None
        directory, entry = await node.entry(slot_of(inode))
        if directory is not node.directory:
            return None
        path = within.path + b"/" + entry.name if within.path else entry.name
        return replace(within, path=path), top.inode

    # -- holding ------------------------------------------------------------------------------------------------------

    def _hold(self, top: Node) -> None:
        self._tops[top.inode] = top
        if not top.held or top.inode in self._held:
            top.held = True
            self._held[top.inode] = top, trio.current_time() + HOLD_SECONDS

    def pin(self, top: int) -> None:
        """Keep showing the commit that the dataset with this top shows now."""
        self._held.pop(top, None)
        node = self._tops[top]
        node.held = True
        assert isinstance(node.directory, Committed)
        self._pinned[node.directory.dataset_position.dataset] = node

    def pinned(self, dataset: bytes) -> Node:
        """The top of a dataset that is pinned."""
        return self._pinned[dataset]

    def is_pinned(self, dataset: bytes) -> bool:
        """Whether a dataset stays at its commit; one with changes does unless it is not shown any more."""
        return dataset in self._pinned

    def pinned_directories(self) -> list[Committed]:
        """The tops of all datasets that are pinned."""
        return [node.directory for node in self._pinned.values() if isinstance(node.directory, Committed)]

    def unpin(self, dataset: bytes) -> None:
        """Let a dataset follow its branch again."""
        self._pinned.pop(dataset).held = False

    def unpin_all_but(self, datasets: Collection[bytes]) -> None:
        """Let all other datasets follow their branches again."""
        for dataset in self._pinned.keys() - set(datasets):
            self.unpin(dataset)

    def let_go(self) -> None:
        """Let datasets that were asked about, but not pinned, follow their branches again."""
        now = trio.current_time()
        for inode, (node, until) in list(self._held.items()):
            if until <= now:
                node.held = False
                del self._held[inode]


def _is_top(node: Node) -> bool:
    directory: Directory = node.directory
    return isinstance(directory, Committed) and not directory.dataset_position.path


def not_here(base: Base, entrance: bytes) -> OverlayFailed:
    """The failure of an overlay that belongs to something else."""
    shown = entrance.decode(errors="replace")
    return OverlayFailed(
        f"the overlay has changes of dataset {base.dataset.decode(errors='replace')} of {base.store} at /{shown}, "
        "which is not what this source shows there; mount the source that they were made in"
    )
