"""Changes made over one commit, put onto a later one, with the registrations of subdatasets.

A change of only one side is taken from that side; where both sides made the same change there is no conflict, which is
also how a push that was killed after its last step finds that nothing is left to do. A conflict is a path that both
sides changed in different ways; nothing is merged inside of files.

``.gitmodules`` and gitlinks change together. Which subdatasets were moved or removed is only known once changes are
merged with the commits of other users: so ``.gitmodules`` is written then, from the version that the new commit would
have otherwise. As ``git mv`` and ``git rm`` do, only the path of a section changes, or the section goes.
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
    """Local changes as they apply to the later commit, and the paths that both sides changed."""

    edits: dict[bytes, TreeEntry | None] = field(default_factory=dict)
    conflicts: set[bytes] = field(default_factory=set)


async def merge(trees: TreeEditor, base: bytes, tip: bytes, edits: Edits, prefer: Prefer) -> Merged:
    """`edits` of the tree `base`, to be made in the tree `tip` (both in hex)."""
    if base == tip:
        return Merged(dict(edits))
    together = await in_slices(_together(edits))
    before = await trees.look_up(base, together)
    theirs = await trees.look_up(tip, together)
    ours = await trees.look_up(await trees.edit(base, edits, keep=False), together)
    merged, pauses = Merged(), Pauses()
    for path, inside in together.items():
        await pauses.pause()
        await _merge_one(trees, merged, path, _Sides(before[path], theirs[path], ours[path], inside), prefer)
    await _look_above(trees, merged, base, tip, prefer)
    return merged


def _together(edits: Edits) -> Sliced[dict[bytes, Edits]]:
    """Path of an edit → that edit, and those of what comes to stand below it: only together they say what is there."""
    found: dict[bytes, dict[bytes, TreeEntry | None]] = {}
    for path, one in edits.items():
        top = next((parent for parent in parents_of(path) if parent in edits), path)
        found.setdefault(top, {})[path] = one
        yield
    return dict(found)


@dataclass(frozen=True, slots=True)
class _Sides:
    """The entries of a path: in the common version, in the store, and here, where `edits` make it."""

    base: TreeEntry | None
    theirs: TreeEntry | None
    ours: TreeEntry | None
    edits: Edits

    @property
    def settled(self) -> bool:
        """Whether at most one side changed it, or both in the same way."""
        return self.theirs in (self.base, self.ours) or self.ours == self.base

    @property
    def divisible(self) -> bool:
        """Whether there are nothing but directories, so that what is in them can be looked at one by one."""
        return all(each is None or each.is_tree for each in (self.base, self.theirs, self.ours))


async def _merge_one(trees: TreeEditor, merged: Merged, path: bytes, sides: _Sides, prefer: Prefer) -> None:
    if sides.settled:
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
        if not one.settled:
            _conflict(merged, below, one, prefer)
        elif one.ours != one.base:
            merged.edits.update(one.edits)


def _conflict(merged: Merged, path: bytes, sides: _Sides, prefer: Prefer) -> None:
    merged.conflicts.add(path)
    if prefer is Prefer.OURS:
        merged.edits.update(sides.edits)


async def _look_above(trees: TreeEditor, merged: Merged, base: bytes, tip: bytes, prefer: Prefer) -> None:
    """Where something comes to stand below what they made a file of, that file is the conflict."""
    below: dict[bytes, list[bytes]] = {}
    pauses = Pauses()
    for path, ours in merged.edits.items():
        await pauses.pause()
        if ours is not None:
            for parent in parents_of(path):
                below.setdefault(parent, []).append(path)
    before, theirs = await trees.look_up(base, below), await trees.look_up(tip, below)
    for parent, paths in below.items():
        if _is_file(theirs[parent]) and theirs[parent] != before[parent] and parent not in merged.edits:
            merged.conflicts.add(parent)
            if prefer is Prefer.THEIRS:
                for path in paths:
                    merged.edits.pop(path, None)


def _is_file(one: TreeEntry | None) -> bool:
    return one is not None and not one.is_tree


# -- registrations of subdatasets --------------------------------------------------------------------------------------


class Moves:
    """Where the directories that are renamed in `changes` are now."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._targets = {
            change.source: change.path
            for change in changes
            if change.kind is ChangeKind.RENAMED and change.source is not None
        }

    def __bool__(self) -> bool:
        return bool(self._targets)

    def place(self, path: bytes) -> bytes:
        """Where what the base commit has at `path` is now."""
        for source in (path, *reversed(parents_of(path))):
            if source in self._targets:
                return self._targets[source] + path[len(source) :]
        return path


class Registrations:
    """Keeps ``.gitmodules`` right in the commits of one push."""

    def __init__(self, destination: Destination, trees: TreeEditor, base: bytes, moves: Moves) -> None:
        """`base`: the root (hex) of the commit that the changes were made over."""
        self._to = destination
        self._trees = trees
        self._base = base
        self._moves = moves
        self._brought: list[list[bytes]] = []
        """Sections that others have removed, for subdatasets that stay since our side is preferred."""

    async def settle(self, root: bytes, merged: Merged, prefer: Prefer) -> None:
        """Add the edit of ``.gitmodules`` that belongs to `merged`, which are edits of `root` (hex); paths of
        subdatasets that were moved here, and by others removed or moved too, become conflicts.

        Raises PushRefused where a subdataset would stay that ``.gitmodules`` says nothing of any more.
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
        """``.gitmodules`` in a tree, None where there is none. Raises PushRefused where it cannot be read."""
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
        """Section → its new path, None for those that go."""
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
                f"{self._to.dataset.name}: .gitmodules says nothing of {', '.join(map(os.fsdecode, lost))} any more, "
                "which would stay a subdataset: bring its section back (riafs restore .gitmodules), or remove the "
                "subdataset's directory as well"
            )
        return wanted

    async def _meet_others(self, root: bytes, sections: dict[bytes, bytes], merged: Merged, prefer: Prefer) -> None:
        """Subdatasets that were moved here, but are not where they were in the store any more."""
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
        """Commands for the section that the base commit has for `path`, for another place."""
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
