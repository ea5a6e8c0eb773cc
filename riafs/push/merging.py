"""Changes made over one commit, put onto a later one.

What only one side changed is taken from that side; what both made the same is no conflict, which also is how a push
that was killed after its last step finds out that nothing is left to do. A conflict is a path that both sides changed
in different ways; nothing is merged inside of files.
"""

import enum
from dataclasses import dataclass, field

from riafs.formats.gitobjects import TreeEntry
from riafs.formats.names import parents_of
from riafs.push.trees import Edits, TreeEditor
from riafs.slices import Pauses, Sliced, in_slices, sorting


class Prefer(enum.Enum):
    """What becomes of a path that both sides changed."""

    NEITHER = "neither"
    """It is a conflict."""
    OURS = "ours"
    """The local change replaces the store's."""
    THEIRS = "theirs"
    """The local change is left out, and given up."""


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
    """What stands at a path: in the common version, in the store, and here, where `edits` make it."""

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
