"""Three-way merge of changes against a base commit with a later commit; and the registrations of subdatasets.

A path that only one side changed is taken from that side. The same change on both sides is no conflict; so a push that
was killed after its last step finds nothing left to do when it is repeated. A path that both sides changed in different
ways is a conflict; files are not merged inside.

``.gitmodules`` and gitlinks have to change in the same commit. As commits of other users may move or remove
subdatasets, ``.gitmodules`` is changed after the merge, from the merged version. As ``git mv`` and ``git rm`` do, the
path in a section is changed, or the section is removed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from riafs.errors import PushRefused
from riafs.formats.gitobjects import FILE, SUBMODULE, TreeEntry, tree_entry
from riafs.formats.gitrepository import submodule_sections
from riafs.formats.names import parents_of
from riafs.git.config import MAX_CONFIG, change_config, parse_config
from riafs.overlay.changes import Change, ChangeKind
from riafs.push.destination import Destination
from riafs.push.protocol import Prefer
from riafs.push.trees import Edits, TreeEditor
from riafs.slices import Pauses, Sliced, in_slices, sorting

MODULES = b".gitmodules"
_GITLINK = b"%o" % SUBMODULE


@dataclass(slots=True)
class Merged:
    """The edits of the later commit, and the paths of conflicts."""

    edits: dict[bytes, TreeEntry | None] = field(default_factory=dict)
    conflicts: set[bytes] = field(default_factory=set)


async def merge(trees: TreeEditor, base: bytes, tip: bytes, edits: Edits, prefer: Prefer) -> Merged:
    """Merge `edits` of the tree `base` with the tree `tip` (both in hex)."""
    if base == tip:
        return Merged(dict(edits))
    groups = await in_slices(_by_outermost_path(edits))
    before = await trees.look_up(base, groups)
    theirs = await trees.look_up(tip, groups)
    ours = await trees.look_up(await trees.edit(base, edits, keep=False), groups)
    merged, pauses = Merged(), Pauses()
    for path, inside in groups.items():
        await pauses.pause()
        await _merge_one(trees, merged, path, _Sides(before[path], theirs[path], ours[path], inside), prefer)
    await _find_files_above(trees, merged, base, tip, prefer)
    return merged


def _by_outermost_path(edits: Edits) -> Sliced[dict[bytes, Edits]]:
    """Path of an edit → that edit and those of paths below it, as only all of them give the entry there."""
    found: dict[bytes, dict[bytes, TreeEntry | None]] = {}
    for path, one in edits.items():
        top = next((parent for parent in parents_of(path) if parent in edits), path)
        found.setdefault(top, {})[path] = one
        yield
    return dict(found)


@dataclass(frozen=True, slots=True)
class _Sides:
    """The entries of a path in the base commit, in the store's commit, and with the local `edits`."""

    base: TreeEntry | None
    theirs: TreeEntry | None
    ours: TreeEntry | None
    edits: Edits

    @property
    def is_clean(self) -> bool:
        """Whether at most one side changed it, or both in the same way."""
        return self.theirs in (self.base, self.ours) or self.ours == self.base

    @property
    def divisible(self) -> bool:
        """Whether all are directories, so that their entries can be merged one by one."""
        return all(each is None or each.is_tree for each in (self.base, self.theirs, self.ours))


async def _merge_one(trees: TreeEditor, merged: Merged, path: bytes, sides: _Sides, prefer: Prefer) -> None:
    if sides.is_clean:
        if sides.ours != sides.base:
            merged.edits.update(sides.edits)
    elif sides.divisible:
        await _merge_inside(trees, merged, path, sides, prefer)
    else:
        _conflict(merged, path, sides, prefer)


async def _merge_inside(trees: TreeEditor, merged: Merged, path: bytes, sides: _Sides, prefer: Prefer) -> None:
    base, theirs, ours = [
        {} if each is None else await trees.leaves(each) for each in (sides.base, sides.theirs, sides.ours)
    ]
    pauses = Pauses()
    for name in await in_slices(sorting(list({*base, *ours}), key=bytes)):
        await pauses.pause()
        below = path + b"/" + name
        one = _Sides(base.get(name), theirs.get(name), ours.get(name), {below: ours.get(name)})
        if not one.is_clean:
            _conflict(merged, below, one, prefer)
        elif one.ours != one.base:
            merged.edits.update(one.edits)


def _conflict(merged: Merged, path: bytes, sides: _Sides, prefer: Prefer) -> None:
    merged.conflicts.add(path)
    if prefer is Prefer.OURS:
        merged.edits.update(sides.edits)


async def _find_files_above(trees: TreeEditor, merged: Merged, base: bytes, tip: bytes, prefer: Prefer) -> None:
    """Add the conflicts of edits below a path that the store's commit has made a file: that file is the conflict."""
    below: dict[bytes, list[bytes]] = {}
    pauses = Pauses()
    for path, ours in merged.edits.items():
        await pauses.pause()
        if ours is not None:
            for parent in parents_of(path):
                below.setdefault(parent, []).append(path)
    before, theirs = await trees.look_up(base, below), await trees.look_up(tip, below)
    for parent, paths in below.items():
        other = theirs[parent]
        is_file = other is not None and not other.is_tree
        if is_file and other != before[parent] and parent not in merged.edits:
            merged.conflicts.add(parent)
            if prefer is Prefer.THEIRS:
                for path in paths:
                    merged.edits.pop(path, None)


# -- registrations of subdatasets --------------------------------------------------------------------------------------


class Moves:
    """The new paths of directories that `changes` rename."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._targets = {
            change.source: change.path
            for change in changes
            if change.kind is ChangeKind.RENAMED and change.source is not None
        }

    def __bool__(self) -> bool:
        return bool(self._targets)

    def place(self, path: bytes) -> bytes:
        """The new path of the base commit's entry at `path`."""
        for source in (path, *reversed(parents_of(path))):
            if source in self._targets:
                return self._targets[source] + path[len(source) :]
        return path


class Registrations:
    """Updates ``.gitmodules`` in the commits of one push."""

    def __init__(self, destination: Destination, trees: TreeEditor, base: bytes, moves: Moves) -> None:
        """`base`: the root (hex) of the changes' base commit."""
        self._to = destination
        self._trees = trees
        self._base = base
        self._moves = moves
        self._brought: list[list[bytes]] = []
        """Sections that others have removed, for subdatasets that stay since our side is preferred."""

    async def update(self, root: bytes, merged: Merged, prefer: Prefer) -> None:
        """Add the edit of ``.gitmodules`` to `merged`, which has edits of `root` (hex). Subdatasets that were moved
        here and moved or removed by others become conflicts.

        Raises PushRefused if a subdataset would stay without a section in ``.gitmodules``.
        """
        before = await self._text(root)
        if not before and not await self._text(self._base):
            return
        sections = await self._sections(before)
        await self._meet_others(root, sections, merged, prefer)
        after = await self._trees.edit(root, merged.edits, keep=False)
        text = await self._text(after)
        wanted = await self._wanted(root, after, sections, await self._sections(text))
        commands = [*_commands(wanted), *self._brought]
        if commands:
            text = await change_config(self._to.gits, text or b"", commands)
            merged.edits[MODULES] = tree_entry(FILE, self._trees.add(b"blob", text))

    async def _text(self, root: bytes) -> bytes | None:
        """``.gitmodules`` in a tree, None if there is none. Raises PushRefused if it cannot be read."""
        found = (await self._trees.look_up(root, [MODULES]))[MODULES]
        if found is None:
            return None
        blob = await self._trees.blob(found, MAX_CONFIG) if found.mode in (b"100644", b"100755") else None
        if blob is None:
            raise PushRefused(f"{self._to.dataset.name}: {os.fsdecode(MODULES)} must be a file that git can read")
        return blob

    async def _sections(self, text: bytes | None) -> dict[bytes, bytes]:
        return submodule_sections(await parse_config(self._to.gits, text)) if text else {}

    async def _gitlinks(self, root: bytes, paths: Sequence[bytes]) -> dict[bytes, TreeEntry]:
        found = await self._trees.look_up(root, paths) if paths else {}
        return {path: one for path, one in found.items() if one is not None and one.mode == _GITLINK}

    async def _wanted(
        self, root: bytes, after: bytes, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes | None]:
        """Section → its new path, None for one to remove."""
        old = await self._gitlinks(root, list({*before.values(), *now.values()}))
        places = {path: self._moves.place(path) for path in old}
        new = await self._gitlinks(after, [*old, *places.values(), *now.values()])
        wanted: dict[bytes, bytes | None] = {}
        for section, path in now.items():
            if path in old and path not in new:
                wanted[section] = places[path] if places[path] in new and places[path] not in now.values() else None
        named = {wanted.get(section, path) for section, path in now.items()}
        left = [path for path in before.values() if path in old for path in (path, places[path]) if path in new]
        lost = sorted({path for path in left if path not in named})
        if lost:
            raise PushRefused(
                f"{self._to.dataset.name}: .gitmodules has no section for {', '.join(map(os.fsdecode, lost))} any "
                "more, which would stay a subdataset: bring the section back (riafs restore .gitmodules), or remove "
                "the subdataset's directory as well"
            )
        return wanted

    async def _meet_others(self, root: bytes, sections: dict[bytes, bytes], merged: Merged, prefer: Prefer) -> None:
        """Find conflicts: subdatasets that were moved here, and moved or removed in the store's commit."""
        if not self._moves or root == self._base:
            return
        known = await self._gitlinks(self._base, list((await self._sections(await self._text(self._base))).values()))
        moved = {path: self._moves.place(path) for path in known if self._moves.place(path) != path}
        theirs = await self._gitlinks(root, list(moved))
        ours = await self._gitlinks(await self._trees.edit(root, merged.edits, keep=False), list(moved.values()))
        for path, place in moved.items():
            if place in ours and (path not in theirs or path not in sections.values()):
                merged.conflicts.add(path)
                if prefer is not Prefer.OURS:
                    merged.edits[place] = None
                elif path not in sections.values():
                    self._brought += await self._brought_back(path, place)

    async def _brought_back(self, path: bytes, place: bytes) -> list[list[bytes]]:
        """Commands that add the base commit's section for `path` again, with the path `place`."""
        items = await parse_config(self._to.gits, await self._text(self._base) or b"")
        [name, *_] = [name for name, known in submodule_sections(items).items() if known == path]
        prefix = b"submodule." + name + b"."
        return [
            [b"--add", key, place if key == prefix + b"path" else value]
            for key, value in items
            if key.startswith(prefix) and value is not None
        ]


def _commands(wanted: Mapping[bytes, bytes | None]) -> list[list[bytes]]:
    return [
        [b"--remove-section", b"submodule." + section]
        if path is None
        else [b"--replace-all", b"submodule." + section + b".path", path]
        for section, path in wanted.items()
    ]
