"""The directories a mount has entered: their inode numbers, which of them are in use, how their entries are numbered.

Inode numbers are computed, not stored. A directory that has been entered gets a number, made from its own inode number,
and keeps it for the life of the mount. Whatever is in it has the inode number ``number << 32 | slot`` (slots:
tree/slots). So inode numbers are the same in every mount, a mount remembers the directories it showed, not the files,
and what the kernel forgets costs nothing.

A mount that has been up for weeks has entered thousands of datasets, and to ask all of them every few seconds would
keep a file server busy for nothing. So directories that were not used for some rounds are asked in turn, a few in each
round; those left out in the last round *rest*, and are asked before they are used again. Using a directory counts as
using everything above it, too. The kernel answers much by itself: it is told to look directories' names up again after
PATIENT_ROUNDS, so that nothing is reached by a path without our being asked once it rests.

A node outlives the versions of its directory. When the directory is renewed, an entry whose version did not change
keeps its slot (and with it its inode number, and what the kernel has cached of it); a changed or new one gets the slot
that it has in every mount, but never one that means something else in this mount, so that a program that has the
old one open keeps reading the old content.
"""

import heapq
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from zlib import crc32

from riafs.errors import StaleHandle
from riafs.tree.protocol import Directory, Entry, Versions
from riafs.tree.slots import LISTED_SLOTS, SLOT_BITS, Slots, another, own_slots

MAX_SLOT = (1 << SLOT_BITS) - 1
MAX_NUMBER = (1 << 29) - 1
"""Inode numbers stay below 2**61."""
ROOT = 1
_FIRST = 2  # the root's inode number is in directory 0, what is in the root in directory 1


def inode_of(number: int, slot: int) -> int:
    """The inode number of what is at `slot` in the directory with that number."""
    return number << SLOT_BITS | slot


def number_of(inode: int) -> int:
    """The number of the directory that an inode is in; 0 for the root itself."""
    return inode >> SLOT_BITS


def slot_of(inode: int) -> int:
    """The slot of an inode in its directory."""
    return inode & MAX_SLOT


def new_number(inode: int, taken: Container[int]) -> int:
    """A number for the directory with that inode number. Which one is a matter of the order in which directories are
    entered only where two would have the same: one of 100,000 pairs of directories among half a million entered.
    """
    count = MAX_NUMBER - _FIRST + 1
    place = int.from_bytes(blake2b(inode.to_bytes(8, "big"), digest_size=8).digest(), "big") % count
    while place + _FIRST in taken:
        place = (place + 1) % count
    return place + _FIRST


def hidden_slot(digest: int, taken: Container[int]) -> int:
    """A slot for a name that is not listed, whose checksum is `digest`."""
    count = MAX_SLOT + 1 - LISTED_SLOTS
    place = digest % count
    while LISTED_SLOTS + place in taken:
        place = (place + 1) % count
    return LISTED_SLOTS + place


PATIENT_ROUNDS = 4
"""For so many rounds the kernel may go on with the name of a directory."""
_ROUNDS_IN_USE = PATIENT_ROUNDS + 2  # a round of manual refreshing may fall between


@dataclass(slots=True, eq=False)
class Use:
    """How the directory of `node` is used, with all that is below it. `above`: of the next one that may be renewed."""

    node: "Node"
    above: "Use | None"
    round: int = 0
    """In which it was used last."""
    handles: int = 0
    """How many are open."""
    asked: int = 0
    """The round in which it was asked last."""
    rests: bool = False
    """Whether it was left out in the last round."""

    def chain(self) -> Iterator["Use"]:
        """This one and those above it."""
        use: Use | None = self
        while use is not None:
            yield use
            use = use.above

    def opened(self, count: int) -> None:
        """So many handles more are open."""
        for use in self.chain():
            use.handles += count


class Uses:
    """Those of one mount, by the rounds of refreshing that it makes by itself."""

    def __init__(self) -> None:
        self._uses: list[Use] = []
        self._round = 0

    def of(self, node: "Node", above: Use | None) -> Use:
        """The use of a node that was entered or moved just now."""
        use = Use(node, above, self._round)
        self._uses.append(use)
        return use

    def mark(self, use: Use) -> bool:
        """It is used now. Whether it, or one above it, rests."""
        rests = False
        current: Use | None = use
        while current is not None:  # no generator: this is done for each request
            current.round = self._round
            rests = rests or current.rests
            current = current.above
        return rests

    def all(self) -> list[Use]:
        """Each of them, to be asked; none of them rests then."""
        self._drop_left()
        for use in self._uses:
            use.rests = False
        return list(self._uses)

    def due(self, unused: int) -> list[Use]:
        """Those that a new round asks: what is in use, the mount's root, and `unused` of the others."""
        self._round += 1
        self._drop_left()
        oldest = self._round - _ROUNDS_IN_USE
        asked: list[Use] = []
        others: list[Use] = []
        for use in self._uses:
            in_use = use.handles > 0 or use.round > oldest or use.above is None
            (asked if in_use else others).append(use)
            use.rests = not in_use
        for use in heapq.nsmallest(unused, others, key=lambda use: use.asked):
            use.rests = False
            asked.append(use)
        for use in asked:
            use.asked = self._round
        return asked

    def _drop_left(self) -> None:
        """Forget the uses of nodes that have another one now."""
        self._uses = [use for use in self._uses if use.node.use is use]


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
        """The entry of a slot for which `is_hidden` is true."""
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

    A directory that still is one keeps its slot whatever its version: it is the same place, and a program may be in it.
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
