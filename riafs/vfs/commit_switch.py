"""Moving a dataset with changes to another commit, or back: the rows, the tree below, and what the kernel knows.

The kernel keeps using the inode numbers it has. A directory that is still there, wherever a rename has put it, and what
is still a change keep theirs, as a program may be in it or have it open (`inode_aliases`); so does what is in a renamed
directory (`FileSystem.graft`). Names of files that are as in the commit now are forgotten, and their numbers become
invalid: a request with one fails with ESTALE, and Linux then looks the path up anew.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from riafs.errors import NoSuchName, NotADirectoryHere, StaleHandle
from riafs.formats.names import joined
from riafs.overlay.changes import Carried, ChangeKind
from riafs.overlay.changes import Change as LocalChange
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.inode_map import OVERLAY
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import DIRECTORY, Row
from riafs.slices import Pauses, Sliced, in_slices
from riafs.tree.protocol import Committed, Directory, Entry, Kind
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.inode_aliases import InodeAliases
from riafs.vfs.lower_tree import LowerTree
from riafs.vfs.nodes import Node
from riafs.vfs.refreshing import Invalidation

if TYPE_CHECKING:
    from riafs.overlay.rebasing import Rebasing


@dataclass(frozen=True, slots=True)
class _Known:
    """A row as it was before the move."""

    row: Row
    path: bytes
    inode: int
    kernel: int
    """The kernel's number of it."""
    parent: int
    """The kernel's number of the directory it is in."""
    below: int | None
    """Of a directory: the inode that the tree below has of it."""

    @property
    def is_directory(self) -> bool:
        return self.row.kind == DIRECTORY

    @property
    def name(self) -> bytes:
        assert self.row.name is not None
        return self.row.name


class CommitSwitch:
    """One move."""

    def __init__(
        self,
        filesystem: FileSystem,
        lower: LowerTree,
        merged: OverlayFileSystem,
        overlay: Overlay,
        aliases: InodeAliases,
    ) -> None:
        self._filesystem = filesystem
        self._lower = lower
        self._merged = merged
        self._overlay = overlay
        self._aliases = aliases
        self._steps: dict[int, int | None] = {}
        """Give things their new numbers."""
        self._shown: dict[int, int] = {}
        """Inode of a directory that the tree below has and that still has a row → the kernel's number."""
        self._staying: dict[int, set[bytes]] = {}
        """Inode of a directory, as the tree below has it → names of directories in it that the kernel knows already."""
        self._made: list[tuple[_Known, int]] = []
        """Directories that were made here and are in the commit now, with the inodes that the tree below has."""
        self._told = _Told()
        self._prepared: tuple[Rebasing, Directory] | None = None
        """The move of the rows, and the top of the new commit."""

    async def prepare(self, dataset: bytes, commit: bytes, carried: Carried) -> None:
        """Look up the entries that `pushed` needs, which may take long, while requests are served. Those that change
        meanwhile are looked up again by `pushed`.
        """
        with contextlib.suppress(StaleHandle):  # another dataset is being moved
            await self._look(dataset, commit, carried)

    async def _look(self, dataset: bytes, commit: bytes, carried: Carried) -> None:
        top = self._lower.pinned(dataset)
        assert isinstance(top.directory, Committed)
        if any(_sets_mode(change) for change in carried.changes):
            top.directory.forget()
        newer = await top.directory.at_commit(commit)
        rebasing = self._merged.rebasing(dataset, commit, carried, _Commit(newer).find)
        self._prepared = rebasing, newer
        await rebasing.prepare()

    async def pushed(self, dataset: bytes, commit: bytes, carried: Carried) -> list[Invalidation]:
        """Move the rows and the tree below. Returns what the kernel has to forget."""
        if self._prepared is None or self._prepared[0].area != self._overlay.area(dataset):
            await self._look(dataset, commit, carried)
        assert self._prepared is not None
        rebasing, newer = self._prepared
        top = self._lower.pinned(dataset)
        known = await self._known(dataset, top)
        row = self._overlay.area(dataset).top
        self._steps |= await self._merged.pushed(rebasing)
        places = await in_slices(self._places(row, known))
        renamed = self._detached(known, places)
        changed = list(await self._filesystem.move(top, newer))
        inodes: dict[bytes, int | None] = {b"": top.inode}
        pauses = Pauses()
        for each in known:
            await pauses.pause()
            place = places[each.row.id] if each.is_directory or not each.inode & OVERLAY else None
            below = None if place is None else await self._below(place, inodes)
            if each.row.id in renamed and below is not None:
                changed += await self._filesystem.graft(renamed[each.row.id], below)
                inodes = {b"": top.inode}
            above = None if each.row.parent is None else places[each.row.parent]
            await self._place(each, below, in_place=above is not None and place == joined(above, each.name))
        await self._tell_of_added(known)
        await self._settle(dataset)
        await in_slices(self._aliases.move(self._steps))
        changed = [replace(each, names=each.names - self._staying.get(each.inode, set())) for each in changed]
        return [*self._aliases.told(changed, self._shown), *self._told.changes()]

    async def restore(self, dataset: bytes, paths: Sequence[bytes]) -> list[Invalidation]:
        """Move the rows and the tree below. Returns what the kernel has to forget."""
        top = self._lower.pinned(dataset)
        known = await self._known(dataset, top)
        try:
            self._steps |= await self._merged.restore(dataset, paths)
        finally:
            await self._settle(dataset)
            pauses = Pauses()
            for each in known:
                self._give_back(each)
                await pauses.pause()
            await in_slices(self._aliases.move(self._steps))
        return self._told.changes()

    async def _settle(self, dataset: bytes) -> None:
        """What has no changes any more follows its branch again."""
        await self._merged.attach()
        if dataset not in {base.dataset for base in self._overlay.datasets()}:
            self._lower.unpin(dataset)

    # -- before -------------------------------------------------------------------------------------------------------

    async def _known(self, dataset: bytes, top: Node) -> list[_Known]:
        """All rows, directories before what is in them."""
        inodes: dict[bytes, int | None] = {b"": top.inode}
        known, pauses = [], Pauses()
        for each in self._rows(dataset):
            if each.is_directory and each.row.base is not None:
                known.append(replace(each, below=await self._below(each.row.base, inodes)))
            else:
                known.append(each)
            await pauses.pause()
        return known

    def _rows(self, dataset: bytes) -> Iterator[_Known]:
        rows = self._overlay.rows
        top = rows.get(self._overlay.area(dataset).top)
        assert top is not None
        waiting: list[tuple[Row, bytes]] = [(top, b"")]
        while waiting:
            directory, path = waiting.pop()
            parent = self._aliases.given(self._merged.inode_of(directory))
            for row in rows.children(directory.id):
                assert row.name is not None
                below = joined(path, row.name)
                inode = self._merged.inode_of(row)
                yield _Known(row, below, inode, self._aliases.given(inode), parent, None)
                if row.kind == DIRECTORY:
                    waiting.append((row, below))

    async def _below(self, path: bytes, known: dict[bytes, int | None]) -> int | None:
        """The inode of a path in the tree below, None where nothing is. `known`: paths that were looked up, with the
        top's."""
        way = []
        while path not in known:
            way.append(path)
            path = path.rpartition(b"/")[0]
        inode = known[path]
        for each in reversed(way):
            inode = known[each] = None if inode is None else await self._in(inode, each.rpartition(b"/")[2])
        return inode

    async def _in(self, directory: int, name: bytes) -> int | None:
        try:
            found = await self._lower.find(directory, name)
        except NotADirectoryHere:
            return None
        return None if found is None else found.inode

    # -- after a push -------------------------------------------------------------------------------------------------

    def _places(self, top: int, known: Sequence[_Known]) -> Sliced[dict[int, bytes | None]]:
        """Row → where the new commit has what it is, or was. With what is renamed while a push runs, that may be
        somewhere else than where it is shown.
        """
        found: dict[int, bytes | None] = {top: b""}
        for each in known:
            assert each.row.parent is not None
            row, above = self._overlay.rows.get(each.row.id), found[each.row.parent]
            if row is not None and row.parent is not None and each.is_directory:
                found[each.row.id] = row.base
            else:
                found[each.row.id] = None if above is None else joined(above, each.name)
            yield
        return found

    def _detached(self, known: Sequence[_Known], places: Mapping[int, bytes | None]) -> dict[int, Node]:
        """Row → what was entered of a directory that the commit has under another name now."""
        found = {}
        for each in known:
            if each.below is not None and places[each.row.id] not in (None, each.row.base):
                node = self._filesystem.detach(each.below)
                if node is not None:
                    found[each.row.id] = node
        return found

    async def _place(self, each: _Known, below: int | None, *, in_place: bool) -> None:
        """What becomes of a row's number and name; the commit has `below` for it. `in_place`: under the same name."""
        row = self._overlay.rows.get(each.row.id)
        is_there = each.is_directory and below is not None and await self._is_directory(below)
        if is_there:
            assert below is not None
            if each.row.base is None:
                self._made.append((each, below))
            if row is None:
                self._steps[each.inode] = below
            else:
                self._shown[below] = each.kernel
            self._told.attributes(each.parent, each.kernel)
            if in_place:  # the kernel keeps the name
                self._staying.setdefault(self._filesystem.parent(below).inode, set()).add(each.name)
        elif row is None or row.parent is None:
            self._forget(each, gone=row is None and not self._has_other_names(each) and below != each.inode)

    def _has_other_names(self, each: _Known) -> bool:
        return each.row.record is not None and self._overlay.rows.get(each.row.record) is not None

    async def _is_directory(self, inode: int) -> bool:
        return (await self._filesystem.entry(inode)).kind is Kind.DIRECTORY

    def _forget(self, each: _Known, *, gone: bool) -> None:
        """The kernel forgets the name, and the content. `gone`: also what the number stood for."""
        if gone:
            self._steps[each.inode] = None
        self._told.name(each.parent, each.name, each.kernel)

    async def _tell_of_added(self, known: Sequence[_Known]) -> None:
        """In directories that were made here others may have put something, too."""
        names: dict[int | None, set[bytes]] = {}
        pauses = Pauses()
        for each in known:
            names.setdefault(each.row.parent, set()).add(each.name)
            await pauses.pause()
        for each, below in self._made:
            for name in await self._names(below) - names.get(each.row.id, set()):
                self._told.name(each.kernel, name)

    async def _names(self, inode: int) -> set[bytes]:
        names: set[bytes] = set()
        pauses = Pauses()
        while page := await self._lower.entries(inode, len(names)):
            names.update(each.entry.name for each in page)
            await pauses.pause()
        return names

    # -- after dropping changes ---------------------------------------------------------------------------------------

    def _give_back(self, each: _Known) -> None:
        """What becomes of a row that may have been dropped: the tree below has what it had."""
        if self._overlay.rows.get(each.row.id) is not None:
            return
        if each.below is not None:
            self._steps[each.inode] = each.below
        if self._has_other_names(each):
            self._forget(each, gone=False)
        elif each.below is None or each.row.base != each.path:
            self._forget(each, gone=each.inode != each.kernel and each.below is None)
        else:
            self._told.attributes(each.parent, each.kernel)


class _Told:
    """What the kernel has to forget, with its numbers, by directory."""

    def __init__(self) -> None:
        self._names: dict[int, set[bytes]] = {}
        self._directories: dict[int, list[int]] = {}
        self._contents: dict[int, list[int]] = {}

    def name(self, parent: int, name: bytes, *contents: int) -> None:
        """A name, and content that the kernel may have of it."""
        self._names.setdefault(parent, set()).add(name)
        self._contents.setdefault(parent, []).extend(contents)

    def attributes(self, parent: int, directory: int) -> None:
        """Attributes of a directory."""
        self._names.setdefault(parent, set())
        self._directories.setdefault(parent, []).append(directory)

    def changes(self) -> list[Invalidation]:
        """All of it."""
        return [
            Invalidation(
                parent,
                frozenset(names),
                tuple(self._directories.get(parent, ())),
                tuple(self._contents.get(parent, ())),
            )
            for parent, names in self._names.items()
        ]


def _sets_mode(change: LocalChange) -> bool:
    """Whether the object of a locked file may have got another mode."""
    return change.kind is ChangeKind.MODE or (change.content is not None and change.content.executable)


class _Commit:
    """What a commit has at which path, asked for mostly in the order of a walk. `top`: its root."""

    def __init__(self, top: Directory) -> None:
        self._directories: dict[bytes, Directory | None] = {b"": top}

    async def find(self, path: bytes) -> Entry | None:
        """What is at a path, None where nothing is."""
        above, _, name = path.rpartition(b"/")
        return await _in(await self._directory(above), name)

    async def _directory(self, path: bytes) -> Directory | None:
        way = []
        while path not in self._directories:
            way.append(path)
            path = path.rpartition(b"/")[0]
        directory = self._directories[path]
        for each in reversed(way):
            entry = await _in(directory, each.rpartition(b"/")[2])
            if directory is None or entry is None or entry.kind is not Kind.DIRECTORY:
                directory = None
            else:
                directory = await directory.directory(entry)
            self._directories[each] = directory
        return directory


async def _in(directory: Directory | None, name: bytes) -> Entry | None:
    try:
        return None if directory is None else (await directory.find(name)).entry
    except NoSuchName:
        return None
