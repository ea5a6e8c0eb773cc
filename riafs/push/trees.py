"""Editing the tree of a commit: only directories above a changed path are read and written.

All trees of one level are read in one batch. So one new key on the git-annex branch of a dataset with 100,000 keys
costs three small reads, and ten thousand new keys three large ones. Entries with names that cannot be shown as files
stay in their trees.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from riafs.errors import MalformedObject, MissingObject
from riafs.formats.gitobjects import (
    DIRECTORY,
    NewObject,
    TreeEntry,
    encode_item,
    object_name,
    place,
    read_tree_entries,
    tree_entry,
)
from riafs.git.repository import Repository
from riafs.slices import Pauses, Sliced, in_slices, listing, sorting

_LARGE = 1 << 18
"""Bytes of a tree that is read and hashed in a thread."""

Items = Mapping[bytes, TreeEntry]
Edits = Mapping[bytes, TreeEntry | None]
"""Path → its new entry, None for a removal."""
_MOST_LEAVES = 5_000_000


@dataclass(slots=True)
class _Node:
    """A directory above changed paths, or a changed path."""

    children: dict[bytes, "_Node"] = field(default_factory=dict)
    given: bool = False
    item: TreeEntry | None = None
    """The entry, before the edits of the children."""
    items: dict[bytes, TreeEntry] = field(default_factory=dict)


class TreeEditor:
    """Reads trees of `repository`, and collects new trees and other objects to be written."""

    def __init__(self, repository: Repository, digits: int) -> None:
        self._repository = repository
        self._digits = digits
        self._read: dict[bytes, Items] = {}
        self._new: dict[bytes, NewObject] = {}
        self.new_bytes = 0
        """Bytes of new objects that `take` has not returned yet."""

    def add(self, kind: bytes, data: bytes) -> bytes:
        """Add a new object to be written. Returns its name in hex."""
        name = object_name(kind, data, self._digits)
        if name not in self._new:
            self._new[name] = NewObject(kind, data)
            self.new_bytes += len(data)
        return name

    def is_new(self, name: bytes) -> bool:
        """Whether an object (hex) was added, and not returned by `take` yet."""
        return name in self._new

    def take(self) -> list[NewObject]:
        """All new objects, for writing; they are forgotten here."""
        new, self._new, self.new_bytes = list(self._new.values()), {}, 0
        return new

    # -- reading ------------------------------------------------------------------------------------------------------

    async def items(self, oids: Iterable[bytes]) -> None:
        """Read trees (raw names) in one batch. Raises MissingObject, MalformedObject, GitError."""
        wanted = [oid for oid in dict.fromkeys(oids) if oid not in self._read]
        names = [oid.hex().encode() for oid in wanted]
        found = await self._repository.objects([b"contents " + name for name in names]) if names else []
        pauses = Pauses()
        for oid, name, each in zip(wanted, names, found, strict=True):
            if each is None:
                raise MissingObject(f"tree {name.decode()} is missing in {self._repository.name}")
            if each.kind != b"tree":
                raise MalformedObject(f"{name.decode()} of {self._repository.name} is no tree")
            is_large = len(each.data) > _LARGE
            read = partial(read_tree_entries, each.data, self._digits // 2)
            self._read[oid] = await trio.to_thread.run_sync(read) if is_large else read()
            await pauses.pause()

    async def tree(self, oid: bytes) -> Items:
        """The items of one tree (raw name)."""
        await self.items([oid])
        return self._read[oid]

    async def look_up(self, root: bytes, paths: Iterable[bytes]) -> dict[bytes, TreeEntry | None]:
        """The entry at each path below the tree `root` (hex), None if there is none."""
        wanted = dict.fromkeys(paths)
        top = await in_slices(_trie(wanted, given=False))
        await self._descend(top, tree_entry(DIRECTORY, root))
        return dict(await in_slices(listing((path, _at(top, path)) for path in wanted)))

    async def leaves(self, tree: TreeEntry) -> dict[bytes, TreeEntry]:
        """Path → entry of all files in a directory, at any depth. Raises MalformedObject if there are too many."""
        found: dict[bytes, TreeEntry] = {}
        level, pauses = {b"": tree.oid}, Pauses()
        while level:
            await self.items(level.values())
            below: dict[bytes, bytes] = {}
            for path, oid in level.items():
                await pauses.pause()
                for name, each in self._read[oid].items():
                    if each.is_tree:
                        below[path + name + b"/"] = each.oid
                    else:
                        found[path + name] = each
            if len(found) > _MOST_LEAVES:
                raise MalformedObject(f"a directory of {self._repository.name} with more than {_MOST_LEAVES} files")
            level = below
        return found

    async def _descend(self, top: _Node, root: TreeEntry) -> list[list[_Node]]:
        """Set the entries of the nodes; returns those with children, level by level."""
        top.item = root
        level, levels, pauses = [top], [], Pauses()
        while level:
            levels.append(level)
            trees = [node.item.oid for node in level if node.item is not None and node.item.is_tree]
            await self.items(trees)
            for node in level:
                if node.item is not None and node.item.is_tree:
                    node.items = dict(self._read[node.item.oid])
                await in_slices(_hand_down(node))
                await pauses.pause()
            level = [child for node in level for child in node.children.values() if child.children]
        return levels

    async def blob(self, entry: TreeEntry, limit: int) -> bytes | None:
        """The content of a blob, new or not; None if it cannot be read or has more than `limit` bytes."""
        name = entry.oid.hex().encode()
        new = self._new.get(name)
        if new is not None:
            return new.data
        [found] = await self._repository.objects([b"contents " + name], limit)
        return None if found is None or found.kind != b"blob" else found.data

    # -- writing ------------------------------------------------------------------------------------------------------

    async def edit(self, root: bytes, edits: Edits, *, keep: bool = True) -> bytes:
        """The tree (hex) of `root` with `edits`, in which entries of an edited directory come after it.

        Without `keep`, it can be read from this editor, but will not be written.
        """
        top = await in_slices(_trie(edits, given=True))
        levels = await self._descend(top, tree_entry(DIRECTORY, root))
        pauses = Pauses()
        for level in reversed(levels):
            for node in level:
                await self._finish(node, is_root=node is top, keep=keep)
                await pauses.pause()
        assert top.item is not None
        return top.item.oid.hex().encode()

    async def _finish(self, node: _Node, *, is_root: bool, keep: bool) -> None:
        """Make the node's tree from its children. git has no empty directories."""
        await in_slices(_hand_up(node))
        if not node.items and not is_root:
            was_file = node.item is not None and not node.item.is_tree
            node.item = node.item if was_file else None  # a file stays if no entry replaces it
            return
        data = await in_slices(_encoded(node.items))
        add = partial(self.add, b"tree", data) if keep else partial(object_name, b"tree", data, self._digits)
        name = await trio.to_thread.run_sync(add) if len(data) > _LARGE else add()
        node.item = tree_entry(DIRECTORY, name)
        self._read[node.item.oid] = node.items


def _trie(edits: Mapping[bytes, TreeEntry | None], *, given: bool) -> Sliced[_Node]:
    top = _Node()
    for path in (yield from sorting(list(edits), key=bytes)):
        node = top
        for name in path.split(b"/"):
            node = node.children.setdefault(name, _Node())
        node.given, node.item = given, edits[path]
        yield
    return top


def _hand_down(node: _Node) -> Sliced[None]:
    for name, child in node.children.items():
        if not child.given:
            child.item = node.items.get(name)
        yield


def _hand_up(node: _Node) -> Sliced[None]:
    for name, child in node.children.items():
        if child.item is None:
            node.items.pop(name, None)
        else:
            node.items[name] = child.item
        yield


def _encoded(items: Items) -> Sliced[bytes]:
    """The object of a tree, as `encode_tree`, in slices."""
    ordered = yield from sorting(list(items.items()), key=place)
    return b"".join((yield from listing(map(encode_item, ordered))))


def _at(top: _Node, path: bytes) -> TreeEntry | None:
    node = top
    for name in path.split(b"/"):
        node = node.children[name]
    return node.item
