"""From an overlay's changes to edits of a tree: changes without new content become edits, files with it are listed.

A rename moves one tree entry from one path to another. Only if the new path has another depth, links of locked files
are written again, as their targets contain one ``..`` for each directory above.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import trio

from riafs.errors import PushRefused
from riafs.formats.annex import MAX_POINTER, locked_target, parse_pointer, pointer_text
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, TreeEntry, tree_entry
from riafs.formats.keys import Key
from riafs.formats.names import git_takes, is_in_one, parents_of
from riafs.formats.text import shown
from riafs.git.repository import Repository
from riafs.overlay.changes import BaseEntry, Change, ChangeKind
from riafs.push.rules import annexed_key
from riafs.push.trees import TreeEditor
from riafs.slices import Pauses, Sliced, in_slices

_LINK_MODE = b"%o" % LINK
_SHOWN = 20
_LINKS_AT_ONCE = 500


@dataclass(slots=True)
class Plan:
    """The work of a push."""

    edits: dict[bytes, TreeEntry | None] = field(default_factory=dict)
    """Path → new entry, None for a removal. Files of `contents` are added when they were written."""
    contents: list[Change] = field(default_factory=list)
    """Files with new content."""
    keys: dict[bytes, Key] = field(default_factory=dict)
    """Path → key of those files that were annexed."""
    pointers: dict[bytes, Key] = field(default_factory=dict)
    """Path → key of new links that are links of a locked file."""
    modes: list[Change] = field(default_factory=list)
    """Locked files whose executable bit changes: it is that of their object, as git has none for them."""
    empty: list[bytes] = field(default_factory=list)
    """Empty directories, which git cannot store: they stay in the overlay."""
    special: list[bytes] = field(default_factory=list)
    """Fifos, sockets and devices, which stay in the overlay as well."""


class Planner:
    """Makes a plan; new blobs are added to `trees`."""

    def __init__(self, repository: Repository, trees: TreeEditor) -> None:
        self._repository = repository
        self._trees = trees
        self._plan = Plan()
        self._below: dict[bytes, set[bytes]] = {}
        """Directory → paths in it that have an edit, or such directories."""
        self._taken: dict[bytes, set[bytes]] = {}

    async def plan(self, changes: Sequence[Change]) -> Plan:
        """The plan for changes in their order. Raises PushRefused for a name that git refuses, MissingObject, …"""
        await in_slices(_check_names(changes))
        pauses = Pauses()
        for change in changes:
            if change.source is not None:
                self._put(change.source, None)
            await pauses.pause()
        self._taken = await in_slices(_taken_out_of_renamed(changes))
        for change in changes:
            await self._add(change)
            await pauses.pause()
        return self._plan

    async def _add(self, change: Change) -> None:
        match change.kind:
            case ChangeKind.REMOVED:
                self._set(change.path, None)
            case ChangeKind.SPECIAL:
                self._plan.special.append(change.path)
            case ChangeKind.RENAMED | ChangeKind.COPIED if change.content is None or _same_content(change):
                await self._move(change)
            case ChangeKind.MODE:
                self._change_mode(change)
            case _ if change.content is None:
                self._plan.empty.append(change.path)
            case _ if change.content.target is not None:
                key = parse_pointer(change.content.target)
                if key is not None:
                    self._plan.pointers[change.path] = key
                self._set(change.path, self.blob(LINK, change.content.target))
            case _:
                self._set(change.path, None)
                self._plan.contents.append(change)

    def _set(self, path: bytes, entry: TreeEntry | None) -> None:
        """Set an edit, and drop all edits below its path."""
        waiting = list(self._below.pop(path, ()))
        while waiting:
            each = waiting.pop()
            self._plan.edits.pop(each, None)
            waiting += self._below.pop(each, ())
        self._put(path, entry)

    def _put(self, path: bytes, entry: TreeEntry | None) -> None:
        self._plan.edits[path] = entry
        while path:
            above = path.rpartition(b"/")[0]
            known = self._below.setdefault(above, set())
            if path in known:
                break
            known.add(path)
            path = above

    def blob(self, mode: int, data: bytes) -> TreeEntry:
        """A new blob, and the entry for it."""
        return tree_entry(mode, self._trees.add(b"blob", data))

    # -- renames ------------------------------------------------------------------------------------------------------

    async def _move(self, change: Change) -> None:
        base = change.base
        assert base is not None
        if base.origin.mode == DIRECTORY:
            await self._move_directory(change, base)
            return
        entry, key = tree_entry(base.origin.mode, base.origin.version), annexed_key(base)
        if key is not None and base.origin.mode == LINK and _depth(base.path) != _depth(change.path):
            entry = self.blob(LINK, locked_target(key, change.path))
        self._set(change.path, entry)
        if change.content is not None:
            self._change_mode(change)

    async def _move_directory(self, change: Change, base: BaseEntry) -> None:
        assert change.source is not None
        entry = tree_entry(DIRECTORY, base.origin.version)
        taken = self._taken.get(change.source, set())
        if _depth(change.source) == _depth(change.path):
            self._set(change.path, entry)
            for name in taken:
                self._put(change.path + b"/" + name, None)
            return
        self._set(change.path, None)
        leaves = await self._trees.leaves(entry)
        links = await self._rewritten(change.path, leaves, taken)
        pauses = Pauses()
        for name, each in leaves.items():
            if not is_in_one(name, taken):
                self._put(change.path + b"/" + name, links.get(name, each))
            await pauses.pause()

    async def _rewritten(
        self, top: bytes, leaves: Mapping[bytes, TreeEntry], but: Set[bytes]
    ) -> Mapping[bytes, TreeEntry]:
        """Name below `top` → new entry, for the links of locked files that are not among, or in, `but`."""
        new: dict[bytes, TreeEntry] = {}
        links = [(name, each) for name, each in leaves.items() if each.mode == _LINK_MODE]
        for start in range(0, len(links), _LINKS_AT_ONCE):
            part = [link for link in links[start : start + _LINKS_AT_ONCE] if not is_in_one(link[0], but)]
            requests = [b"contents " + each.oid.hex().encode() for _, each in part]
            found = await self._repository.objects(requests, MAX_POINTER) if requests else []
            for (name, _), blob in zip(part, found, strict=True):
                key = None if blob is None else parse_pointer(blob.data)
                if key is not None:
                    new[name] = self.blob(LINK, locked_target(key, top + b"/" + name))
            await trio.lowlevel.checkpoint()
        return new

    # -- modes --------------------------------------------------------------------------------------------------------

    def _change_mode(self, change: Change) -> None:
        base, content = change.base, change.content
        assert base is not None
        assert content is not None
        if base.origin.mode == LINK:
            self._plan.modes.append(change)
        else:
            self._set(change.path, tree_entry(EXECUTABLE if content.executable else FILE, base.origin.version))

    def unlocked(self, change: Change) -> TreeEntry:
        """The entry of a locked file as an unlocked one, if its object's executable bit cannot be changed."""
        assert change.base is not None
        assert change.content is not None
        key = annexed_key(change.base)
        assert key is not None
        return self.blob(EXECUTABLE if change.content.executable else FILE, pointer_text(key))


def _check_names(changes: Iterable[Change]) -> Sliced[None]:
    found = set()
    for change in changes:
        top = _refused(change)
        if top is not None:
            found.add(top)
        yield
    refused = sorted(found)
    if refused:
        it = "it" if len(refused) == 1 else "them"
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        listed = ", ".join(map(shown, refused[:_SHOWN])) + more
        raise PushRefused(
            f"git takes no files called {listed}; rename {it} or remove {it}, or name what else is to be pushed"
        )


def _refused(change: Change) -> bytes | None:
    """The path of the outermost directory, or of the file, that git would not check out."""
    if change.kind is ChangeKind.REMOVED:
        return None
    target = change.content.target if change.content is not None else None
    is_link = target is not None or (
        change.content is None and change.base is not None and change.base.origin.mode == LINK
    )
    for path in (*parents_of(change.path), change.path):
        if not git_takes(path.rpartition(b"/")[2], is_link=is_link and path == change.path):
            return path
    return None


def _same_content(change: Change) -> bool:
    """Whether a renamed annexed file has at most new attributes."""
    base, content = change.base, change.content
    key = None if base is None else annexed_key(base)
    if key is None or content is None or content.target is not None:
        return False
    return not content.extents and content.size > 0 and content.size == key.size


def _taken_out_of_renamed(changes: Iterable[Change]) -> Sliced[dict[bytes, set[bytes]]]:
    """Source of a renamed directory → paths in it that other changes have renamed."""
    sources = {change.source for change in changes if change.source is not None}
    taken: dict[bytes, set[bytes]] = {}
    for source in sources:
        for above in parents_of(source):
            if above in sources:
                taken.setdefault(above, set()).add(source[len(above) + 1 :])
        yield
    return taken


def _depth(path: bytes) -> int:
    return path.count(b"/")
