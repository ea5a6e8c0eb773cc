"""Nodes: the directories a mount has entered, and how their entries are numbered.

A node outlives the versions of its directory. When the directory is renewed, an entry whose version did not change
keeps its slot (and with it its inode number, and what the kernel has cached of it); a changed or new one gets the slot
that it has in every mount (see tree/slots), but never one that stands for something else in this mount, so that whoever
has the old one open keeps reading the old content.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from riafs.errors import StaleHandle
from riafs.tree.protocol import Directory, Entry, Versions
from riafs.tree.slots import Slots, another, own_slots
from riafs.vfs.numbers import hidden_slot, inode_of

if TYPE_CHECKING:
    from riafs.vfs.use import Use


@dataclass(frozen=True, slots=True)
class Retired:
    """An entry of an earlier version of a directory."""

    directory: Directory
    position: int
    meaning: tuple[bytes, bytes] | None
    """Its name and version; None for a directory."""


@dataclass(frozen=True, slots=True)
class Renumbering:
    """The slots of a directory that has been renewed at least once."""

    slots: tuple[int, ...]
    """position → slot, for the present version."""
    positions: Mapping[int, int]
    """slot → position, the inverse."""
    retired: Mapping[int, Retired]
    """slot → where its entry was, for slots no longer used."""


@dataclass(slots=True, eq=False)
class Node:
    """A directory with a number. `inode` is its own, `number` the one its entries' inodes are made with."""

    inode: int
    number: int
    directory: Directory
    parent: "Node | None"
    renumbering: Renumbering | None = None
    listed_last: int | None = None
    """Position of the directory in here that was listed last."""
    held: bool = False
    """Whether it stays at its version, as something lies over it."""
    use: "Use | None" = None
    """Its own where it may be renewed, else that of the next one above."""
    trouble: str = ""
    """Why no newer version could be looked for last time."""
    hidden: dict[int, Entry] = field(default_factory=dict)
    """Slot → what was looked up but is not listed."""
    hidden_slots: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    """Name and version of those → slot."""

    async def numbering(self) -> Slots | None:
        """The slots of the present version, as it is when this returns at the latest; None where they are positions."""
        if self.renumbering is not None:
            return Slots(self.renumbering.slots)
        return await own_slots(self.directory)

    async def slots(self, end: int | None = None) -> Sequence[int] | None:
        """position → slot, likewise, for positions below `end` at least."""
        numbering = await self.numbering()
        return None if numbering is None else await numbering.reach(end)

    def hide(self, entry: Entry) -> int:
        """The inode number for an entry that is not listed."""
        meaning = entry.name, entry.version
        slot = self.hidden_slots.get(meaning)
        if slot is None:
            slot = self.hidden_slots[meaning] = hidden_slot(crc32(entry.version, crc32(entry.name)), self.hidden)
            self.hidden[slot] = entry
        return inode_of(self.number, slot)

    def is_hidden(self, slot: int) -> bool:
        """Whether a slot is that of something that is not listed."""
        return slot in self.hidden

    def hidden_entry(self, slot: int) -> Entry:
        """What a slot for which `is_hidden` is true stands for."""
        return self.hidden[slot]

    async def entry(self, slot: int) -> tuple[Directory, Entry]:
        """What is at `slot`, and the version of the directory it belongs to. Raises StaleHandle."""
        if self.is_hidden(slot):
            return self.directory, self.hidden_entry(slot)
        directory, position = await self._place(slot)
        if position is not None:
            found = await directory.entries(position)
            if found:
                return directory, found[0]
        raise StaleHandle(f"inode {inode_of(self.number, slot)} is not in use")

    async def _place(self, slot: int) -> tuple[Directory, int | None]:
        directory, renumbering = self.directory, self.renumbering
        if renumbering is None:
            own = await own_slots(directory)
            return directory, slot if own is None else (await own.positions()).get(slot)
        position = renumbering.positions.get(slot)
        if position is not None:
            return directory, position
        retired = renumbering.retired.get(slot)
        return (retired.directory, retired.position) if retired else (directory, None)


def renumbered(
    node: Node, old: Versions, new: Versions, before: Sequence[int] | None, wanted: Sequence[int] | None
) -> tuple[Renumbering, frozenset[bytes]]:
    """New slots for `node` when its directory changes from `old` to `new`. `before`: those that the entries of `old`
    have; `wanted`: those that the ones of `new` would have in another mount.

    A directory that still is one keeps its slot whatever its version: it is the same place, and somebody may be in it.
    Returns the slots, and the names whose slot is another one now (or that have none any more).
    """
    slots_before = range(len(old.of)) if before is None else before
    slot_of = dict(zip(old.of, slots_before, strict=True))
    staying = {
        name
        for name, version in new.of.items()
        if old.of.get(name) == version or (name in old.directories and name in new.directories)
    }
    retired = {} if node.renumbering is None else dict(node.renumbering.retired)
    for position, name in enumerate(old.of):
        if name not in staying:
            meaning = None if name in old.directories else (name, old.of[name])
            retired[slot_of[name]] = Retired(node.directory, position, meaning)
    taken = set(slots_before) | retired.keys()
    slots = []
    for position, name in enumerate(new.of):
        if name in staying:
            slots.append(slot_of[name])
            continue
        slot = position if wanted is None else wanted[position]
        if name not in new.directories and slot in retired and retired[slot].meaning == (name, new.of[name]):
            del retired[slot]  # the same content is back; of a directory others may have an earlier version
        else:
            while slot in taken:
                slot = another(slot)
        taken.add(slot)
        slots.append(slot)
    positions = {slot: position for position, slot in enumerate(slots)}
    return Renumbering(tuple(slots), positions, retired), frozenset((old.of.keys() | new.of.keys()) - staying)
