"""Moving a dataset with changes to another commit, or back: the rows, the tree below, and what the kernel knows.

The kernel goes on with the inode numbers it has. What a row was made for may have another number afterwards: names of
files are forgotten, so that they are looked up anew; a directory that is still there keeps its name, as somebody may be
in it, and calls with its old number go to its successor.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from riafs.errors import NoSuchName, NotADirectoryHere
from riafs.overlay.changes import Change as Overlaid
from riafs.overlay.engine import Engine
from riafs.overlay.rows import DIRECTORY, Row
from riafs.overlay.store import Overlay
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.standing import OfCommit
from riafs.vfs.beneath import Beneath
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.refreshing import Change


@dataclass(frozen=True, slots=True)
class _Known:
    """A row as the kernel may know it."""

    row: int
    path: bytes
    parent: int
    name: bytes
    inode: int
    is_directory: bool


class Mover:
    """One move. `successors`: inode number of a directory → the one it has from now on."""

    def __init__(self, filesystem: FileSystem, beneath: Beneath, engine: Engine, overlay: Overlay) -> None:
        self._filesystem = filesystem
        self._beneath = beneath
        self._engine = engine
        self._overlay = overlay
        self.successors: dict[int, int] = {}
        self._staying: dict[int, set[bytes]] = {}
        """Inode of a directory, as the tree below has it → names of directories in it that have successors."""

    async def pushed(self, dataset: bytes, commit: bytes, changes: Sequence[Overlaid]) -> list[Change]:
        """See WritableFileSystem. Returns what the kernel has to forget."""
        top = self._beneath.pinned(dataset)
        assert isinstance(top.directory, OfCommit)
        newer = await top.directory.at_commit(commit)
        known = list(self._known(dataset))
        aliases = await self._aliases(top.inode, known)

        async def find(path: bytes) -> Entry | None:
            return await _entry_at(newer, path)

        await self._engine.pushed(dataset, commit, changes, find)
        told = list(await self._filesystem.move(top, newer))
        await self._settle(dataset)
        forgotten = await self._forgotten(top.inode, known)
        told = [replace(each, names=each.names - self._staying.get(each.inode, set())) for each in told]
        return [*also_of(told, aliases), *forgotten]

    async def restore(self, dataset: bytes, paths: Sequence[bytes]) -> list[Change]:
        """See WritableFileSystem. Returns what the kernel has to forget."""
        top = self._beneath.pinned(dataset)
        known = list(self._known(dataset))
        try:
            for path in paths:
                self._engine.restore(dataset, path)
        finally:
            await self._settle(dataset)
        return await self._forgotten(top.inode, known)

    async def _settle(self, dataset: bytes) -> None:
        """What has no changes any more follows its branch again."""
        await self._engine.attach()
        if dataset not in {base.dataset for base in self._overlay.datasets()}:
            self._beneath.unpin(dataset)

    # -- what the kernel knows ----------------------------------------------------------------------------------------

    def _known(self, dataset: bytes) -> Iterator[_Known]:
        rows = self._overlay.rows
        top = rows.get(self._overlay.area(dataset).top)
        assert top is not None
        waiting: list[tuple[Row, bytes]] = [(top, b"")]
        while waiting:
            directory, path = waiting.pop()
            inode = self._engine.inode_of(directory.id)
            for row in rows.children(directory.id):
                assert row.name is not None
                below = path + b"/" + row.name if path else row.name
                is_directory = row.kind == DIRECTORY
                yield _Known(row.id, below, inode, row.name, self._engine.inode_of(row.id), is_directory)
                if is_directory:
                    waiting.append((row, below))

    async def _aliases(self, top: int, known: Iterable[_Known]) -> dict[int, int]:
        """The kernel's number of a directory → the one that the tree below has."""
        found = {}
        for each in known:
            below = await self._below(top, each.path) if each.is_directory else None
            if below is not None and below != each.inode:
                found[each.inode] = below
        return found

    async def _below(self, top: int, path: bytes) -> int | None:
        """The inode of a path in the tree below."""
        inode = top
        for name in path.split(b"/"):
            try:
                found = await self._beneath.find(inode, name)
            except NotADirectoryHere:
                return None
            if found is None:
                return None
            inode = found.inode
        return inode

    async def _forgotten(self, top: int, known: Iterable[_Known]) -> list[Change]:
        """The names, and the content, of rows that are gone."""
        names: dict[int, set[bytes]] = {}
        contents: dict[int, list[int]] = {}
        for each in known:
            if self._overlay.rows.get(each.row) is not None:
                continue
            below = await self._below(top, each.path) if each.is_directory else None
            if below is None:
                names.setdefault(each.parent, set()).add(each.name)
                contents.setdefault(each.parent, []).append(each.inode)
            elif below != each.inode:
                self.successors[each.inode] = below
                parent = self._filesystem.parent(below).inode
                self._staying.setdefault(parent, set()).add(each.name)
        return [Change(each, frozenset(some), (), tuple(contents[each])) for each, some in names.items()]


def also_of(changes: Sequence[Change], successors: Mapping[int, int]) -> list[Change]:
    """`changes`, and the same for those who know a directory by an earlier number."""
    earlier: dict[int, list[int]] = {}
    for old, new in successors.items():
        earlier.setdefault(new, []).append(old)
    found = list(changes)
    for change in found:  # grows: a number may have had several before
        found += [replace(change, inode=inode) for inode in earlier.get(change.inode, ())]
        known = tuple(inode for each in change.directories for inode in earlier.get(each, ()))
        if known:
            found.append(replace(change, names=frozenset(), directories=known))
    return found


async def _entry_at(top: Directory, path: bytes) -> Entry | None:
    directory: Directory = top
    entry: Entry | None = None
    for name in path.split(b"/"):
        if entry is not None:
            if entry.kind is not Kind.DIRECTORY:
                return None
            directory = await directory.directory(entry)
        try:
            entry = (await directory.find(name)).entry
        except NoSuchName:
            return None
    return entry
