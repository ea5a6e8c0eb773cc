"""From an overlay's changes to a tree's: what needs no content is settled here, what does is listed.

Renames come out as one tree entry taken from one place and put in another. Only where the target lies deeper or less
deep than the source, the links of locked files are written anew, since their text counts the directories above.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from riafs.errors import PushRefused
from riafs.formats.annexlinks import locked_target, pointer_text
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK
from riafs.formats.gitwriting import Item, item
from riafs.formats.keys import Key
from riafs.formats.names import git_takes
from riafs.formats.paths import parents_of
from riafs.formats.pointers import MAX_POINTER, parse_pointer
from riafs.formats.text import shown
from riafs.git.repository import Repository
from riafs.overlay.changes import BaseEntry, Change, ChangeKind
from riafs.push.trees import TreeEditor

_LINK_MODE = b"%o" % LINK
_SHOWN = 20


@dataclass(slots=True)
class Plan:
    """What a push has to do."""

    edits: dict[bytes, Item | None] = field(default_factory=dict)
    """Path → what comes to stand there, None for nothing. Files of `contents` are missing yet."""
    contents: list[Change] = field(default_factory=list)
    """Files with new content."""
    keys: dict[bytes, Key] = field(default_factory=dict)
    """Path → key of those files that were annexed."""
    pointers: dict[bytes, Key] = field(default_factory=dict)
    """Path → key of new links that are those of a locked file."""
    modes: list[Change] = field(default_factory=list)
    """Locked files whose executable bit changes: git has none for them, their objects do."""
    empty: list[bytes] = field(default_factory=list)
    """Empty directories, which git cannot hold: they stay in the overlay."""
    special: list[bytes] = field(default_factory=list)
    """Fifos, sockets and devices, which stay there as well."""


class Planner:
    """Makes a plan; new blobs go to `trees`."""

    def __init__(self, repository: Repository, trees: TreeEditor) -> None:
        self._repository = repository
        self._trees = trees
        self._plan = Plan()
        self._expanded = False
        self._taken: dict[bytes, set[bytes]] = {}

    async def plan(self, changes: Sequence[Change]) -> Plan:
        """The plan for changes in their order. Raises PushRefused for a name git cannot hold, MissingObject, …"""
        _check_names(changes)
        for change in changes:
            if change.source is not None:
                self._plan.edits[change.source] = None
        self._taken = _taken_out_of_renamed(changes)
        for change in changes:
            await self._add(change)
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

    def _set(self, path: bytes, entry: Item | None) -> None:
        """Whatever was to stand below goes."""
        if self._expanded:
            below = path + b"/"
            for each in [each for each in self._plan.edits if each.startswith(below)]:
                del self._plan.edits[each]
        self._plan.edits[path] = entry

    def blob(self, mode: int, data: bytes) -> Item:
        """A new blob, and the entry for it."""
        return item(mode, self._trees.add(b"blob", data))

    # -- renames ------------------------------------------------------------------------------------------------------

    async def _move(self, change: Change) -> None:
        base = change.base
        assert base is not None
        if base.mode == DIRECTORY:
            await self._move_directory(change, base)
            return
        entry = item(base.mode, base.oid)
        if base.key is not None and base.mode == LINK and _depth(base.path) != _depth(change.path):
            entry = self.blob(LINK, locked_target(base.key, change.path))
        self._set(change.path, entry)
        if change.content is not None:
            self._change_mode(change)

    async def _move_directory(self, change: Change, base: BaseEntry) -> None:
        assert change.source is not None
        entry = item(DIRECTORY, base.oid)
        taken = self._taken.get(change.source, set())
        if _depth(change.source) == _depth(change.path):
            self._set(change.path, entry)
            self._plan.edits.update(dict.fromkeys(change.path + b"/" + name for name in taken))
            return
        self._set(change.path, None)
        self._expanded = True
        leaves = {name: each for name, each in (await self._trees.leaves(entry)).items() if not _is_in(name, taken)}
        links = await self._rewritten(change.path, [(name, each) for name, each in leaves.items() if _is_link(each)])
        for name, each in leaves.items():
            self._plan.edits[change.path + b"/" + name] = links.get(name, each)

    async def _rewritten(self, top: bytes, links: Sequence[tuple[bytes, Item]]) -> dict[bytes, Item]:
        """Name below `top` → new link, of those links that are locked files'."""
        requests = [b"contents " + each.oid.hex().encode() for _, each in links]
        found = await self._repository.objects(requests, MAX_POINTER) if requests else []
        new: dict[bytes, Item] = {}
        for (name, _), blob in zip(links, found, strict=True):
            key = None if blob is None else parse_pointer(blob.data)
            if key is not None:
                new[name] = self.blob(LINK, locked_target(key, top + b"/" + name))
        return new

    # -- modes --------------------------------------------------------------------------------------------------------

    def _change_mode(self, change: Change) -> None:
        base, content = change.base, change.content
        assert base is not None
        assert content is not None
        if base.mode == LINK:
            self._plan.modes.append(change)
        else:
            self._set(change.path, item(EXECUTABLE if content.executable else FILE, base.oid))

    def unlocked(self, change: Change) -> Item:
        """A locked file as an unlocked one: where its executable bit has no other place."""
        assert change.base is not None
        assert change.base.key is not None
        assert change.content is not None
        return self.blob(EXECUTABLE if change.content.executable else FILE, pointer_text(change.base.key))


def _check_names(changes: Sequence[Change]) -> None:
    refused = sorted({top for change in changes if (top := _refused(change)) is not None})
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
    is_link = target is not None or (change.content is None and change.base is not None and change.base.mode == LINK)
    for path in (*parents_of(change.path), change.path):
        if not git_takes(path.rpartition(b"/")[2], is_link=is_link and path == change.path):
            return path
    return None


def _same_content(change: Change) -> bool:
    """Whether a renamed annexed file has new attributes at most."""
    base, content = change.base, change.content
    if base is None or base.key is None or content is None or content.target is not None:
        return False
    return not content.extents and content.size > 0 and content.size == base.key.size


def _taken_out_of_renamed(changes: Iterable[Change]) -> dict[bytes, set[bytes]]:
    """Source of a renamed directory → what other changes took out of it, by the path in it."""
    sources = {change.source for change in changes if change.source is not None}
    taken: dict[bytes, set[bytes]] = {}
    for source in sources:
        for above in parents_of(source):
            if above in sources:
                taken.setdefault(above, set()).add(source[len(above) + 1 :])
    return taken


def _is_in(name: bytes, directories: Set[bytes]) -> bool:
    """Whether `name` is one of these paths, or below one."""
    return name in directories or not directories.isdisjoint(parents_of(name))


def _is_link(entry: Item) -> bool:
    return entry.mode == _LINK_MODE


def _depth(path: bytes) -> int:
    return path.count(b"/")
