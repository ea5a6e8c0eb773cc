"""Nodes: the directories a mount has entered, and how their entries are numbered.

A node outlives the versions of its directory. When the directory is renewed, an entry whose version did not change
keeps its slot (and with it its inode number, and what the kernel has cached of it); a changed or new one gets a slot
that was never used, so that whoever has the old one open keeps reading the old content.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from riafs.errors import StaleHandle
from riafs.tree.protocol import Directory, Entry, Versions
from riafs.vfs.numbers import MAX_SLOT, inode_of

if TYPE_CHECKING:
    from riafs.vfs.use import Use


@dataclass(frozen=True, slots=True)
class Retired:
    """An entry of an earlier version of a directory."""

    directory: Directory
    position: int


@dataclass(frozen=True, slots=True)
class Renumbering:
    """The slots of a directory that has been renewed at least once."""

    slots: tuple[int, ...]
    """position → slot, for the present version."""
    positions: Mapping[int, int]
    """slot → position, the inverse."""
    retired: Mapping[int, Retired]
    """slot → where its entry was, for slots no longer used."""
    next_slot: int


@dataclass(slots=True, eq=False)
class Node:
    """A directory with a number. `inode` is its own, `number` the one its entries' inodes are made with."""

    inode: int
    number: int
    directory: Directory
    parent: "Node | None"
    renumbering: Renumbering | None = None
    listed_last: int | None = None
    """Slot of the directory in here that was listed last."""
    held: bool = False
    """Whether it stays at its version, as something lies over it."""
    use: "Use | None" = None
    """Its own where it may be renewed, else that of the next one above."""
    trouble: str = ""
    """Why no newer version could be looked for last time."""
    hidden: list[Entry] = field(default_factory=list)
    """What was looked up but is not listed; the slots count down from MAX_SLOT."""
    hidden_slots: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    """Name and version of those → slot."""

    def slot(self, position: int) -> int:
        """The slot of the entry at `position` of the present version."""
        return position if self.renumbering is None else self.renumbering.slots[position]

    def inode_at(self, position: int) -> int:
        """The inode number of the entry at `position` of the present version."""
        return inode_of(self.number, self.slot(position))

    def hide(self, entry: Entry) -> int:
        """The inode number for an entry that is not listed."""
        slot = self.hidden_slots.setdefault((entry.name, entry.version), MAX_SLOT - len(self.hidden))
        if slot == MAX_SLOT - len(self.hidden):
            self.hidden.append(entry)
        return inode_of(self.number, slot)

    def is_hidden(self, slot: int) -> bool:
        """Whether a slot is that of something that is not listed."""
        return MAX_SLOT - slot < len(self.hidden)

    def hidden_entry(self, slot: int) -> Entry:
        """What a slot for which `is_hidden` is true stands for."""
        return self.hidden[MAX_SLOT - slot]

    async def entry(self, slot: int) -> tuple[Directory, Entry]:
        """What is at `slot`, and the version of the directory it belongs to. Raises StaleHandle."""
        directory, position = self._place(slot)
        if position is not None:
            found = await directory.entries(position)
            if found:
                return directory, found[0]
        if self.is_hidden(slot):
            return directory, self.hidden_entry(slot)
        raise StaleHandle(f"inode {inode_of(self.number, slot)} is not in use")

    def _place(self, slot: int) -> tuple[Directory, int | None]:
        if self.renumbering is None:
            return self.directory, slot
        position = self.renumbering.positions.get(slot)
        if position is not None:
            return self.directory, position
        retired = self.renumbering.retired.get(slot)
        return (retired.directory, retired.position) if retired else (self.directory, None)


def renumbered(node: Node, old: Versions, new: Versions) -> tuple[Renumbering, frozenset[bytes]]:
    """New slots for `node` when its directory changes from `old` to `new`.

    A directory that still is one keeps its slot whatever its version: it is the same place, and somebody may be in it.
    Returns the slots, and the names whose slot is another one now (or that have none any more).
    """
    before = {name: position for position, name in enumerate(old.of)}
    staying = {
        name
        for name, version in new.of.items()
        if old.of.get(name) == version or (name in old.directories and name in new.directories)
    }
    known = node.renumbering
    following = len(old.of) if known is None else known.next_slot
    slots = []
    for name in new.of:
        if name in staying:
            slots.append(node.slot(before[name]))
        else:
            slots.append(following)
            following += 1
    retired = {} if known is None else dict(known.retired)
    for name in old.of.keys() - staying:
        retired[node.slot(before[name])] = Retired(node.directory, before[name])
    positions = {slot: position for position, slot in enumerate(slots)}
    return Renumbering(tuple(slots), positions, retired, following), frozenset(
        (old.of.keys() | new.of.keys()) - staying
    )
