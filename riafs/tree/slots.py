"""Slots: the number that each entry has in its directory, the same in every mount as long as the entry is the same.

A slot is a checksum of the name, and for what is no directory of the version too. So it does not change with what else
is in the directory, and programs that recognise files by inode number (backups) find those that did not change. Of
entries with one checksum the first keeps it, and the others get further ones. Nothing of this is kept: it follows from
the listing.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache
from typing import Protocol, cast, runtime_checkable
from zlib import crc32

from riafs.formats.gitobjects import DIRECTORY, SUBMODULE, Tree
from riafs.slices import Sliced, in_slices
from riafs.tree.protocol import Directory, Entry, Kind, Versions

_RUN = 4096
_FIRST = 256
"""Entries whose slots are found out at once."""
SLOT_BITS = 32
LISTED_SLOTS = (1 << SLOT_BITS) - (1 << 20)
"""Listed entries have slots below this; names that are only looked up have the others."""


class Slots:
    """Those of one version of a directory, found out from the first entry on as far as they are asked for.

    So the first names of a large directory are shown before the slots of all are known.
    """

    __slots__ = ("_all_wanted", "_count", "_positions", "_seen", "_wanted", "of")

    def __init__(self, of: Sequence[int]) -> None:
        self.of = of
        """position → slot, of the first entries at least."""
        self._count = len(of)
        self._wanted: Checksums | None = None
        self._seen: set[int] = set()
        self._all_wanted: set[int] | None = None
        self._positions: Mapping[int, int] | None = None

    @classmethod
    def awaited(cls, count: int, wanted: "Checksums") -> "Slots":
        """The slots of `count` entries, none found out yet; `wanted`: checksums from one position to another."""
        slots = cls(array("I"))
        slots._count, slots._wanted = count, wanted
        return slots

    @property
    def has_positions(self) -> bool:
        """Whether `positions` was asked for, which takes memory."""
        return self._positions is not None

    async def reach(self, end: int | None = None) -> Sequence[int]:
        """`of`, with the slots of all entries up to position `end`, or of all."""
        if len(self.of) < (self._count if end is None else min(end, self._count)):
            await in_slices(self._reaching(self._count if end is None else min(end, self._count)))
        return self.of

    def _reaching(self, end: int) -> Sliced[None]:
        while (start := len(self.of)) < end:  # two may be here at once
            assert isinstance(self.of, array)
            assert self._wanted is not None
            # The first names are shown soon. They seldom need what the others would have; one of 4096 does.
            run = self._wanted(start, start + (_RUN if start else _FIRST))
            values = set(run)
            if len(values) < len(run) or max(run) >= LISTED_SLOTS or not self._seen.isdisjoint(values):
                if self._all_wanted is None:
                    self._all_wanted = yield from self._checksums()
                    continue
                make_distinct(run, self._seen, self._all_wanted)
            self.of.extend(run)
            if len(self.of) == self._count:
                self._wanted, self._all_wanted, self._seen = None, None, set()
            else:
                self._seen.update(run)
            yield

    def _checksums(self) -> Sliced[set[int]]:
        found: set[int] = set()
        for start in range(0, self._count, _RUN):
            if self._wanted is not None:  # else another task has come to the end meanwhile
                found.update(self._wanted(start, start + _RUN))
            yield
        return found

    async def positions(self) -> Mapping[int, int]:
        """slot → position."""
        if self._positions is None:
            of = await self.reach()
            self._positions = await in_slices(_inverse(of))
        return self._positions


Checksums = Callable[[int, int], "array[int]"]


def _inverse(of: Sequence[int]) -> Sliced[Mapping[int, int]]:
    found: dict[int, int] = {}
    for start in range(0, len(of), _RUN):
        run = of[start : start + _RUN]
        found.update(zip(run, range(start, start + len(run)), strict=True))
        yield
    return found


@runtime_checkable
class Numbered(Protocol):
    """A directory that has them; in others a slot is the position."""

    async def slots(self) -> Slots | None:
        """Those of this version; None where a slot is the position."""


async def own_slots(directory: Directory) -> Slots | None:
    """The slots of a version of a directory; None where a slot is the position."""
    if not _is_numbered(type(directory)):
        return None
    return await cast("Numbered", directory).slots()


@cache
def _is_numbered(kind: type[Directory]) -> bool:
    """Asked once a class: to ask for each directory takes as long as all else that a look-up does."""
    return issubclass(kind, Numbered)


def slots_of_entries(count: int, entries: Callable[[int, int], Sequence[Entry]]) -> Slots:
    """The slots of `count` entries, which `entries` makes from one position to another."""
    directory = Kind.DIRECTORY

    def wanted(start: int, end: int) -> "array[int]":
        return array("I", [
            crc32(each.name) if each.kind is directory else crc32(each.version, crc32(each.name))
            for each in entries(start, end)
        ])  # fmt: skip

    return Slots.awaited(count, wanted)


def slots_by_versions(versions: Versions) -> Slots:
    """The slots of entries by their names and versions."""
    directories = versions.directories
    wanted = array("I", [
        crc32(name) if name in directories else crc32(version, crc32(name)) for name, version in versions.of.items()
    ])  # fmt: skip
    return Slots(distinct(wanted))


def slots_of_tree(tree: Tree) -> Slots:
    """The slots of a git tree, by names and object names; quick for many."""

    def wanted(start: int, end: int) -> "array[int]":
        names, modes = tree.names[start:end], tree.modes[start:end]
        found = array("I", map(crc32, tree.oids[start:end], map(crc32, names)))
        if DIRECTORY in modes or SUBMODULE in modes:
            for position, mode in enumerate(modes):
                if mode in (DIRECTORY, SUBMODULE):
                    found[position] = crc32(names[position])
        return found

    return Slots.awaited(len(tree.names), wanted)


def distinct(wanted: "array[int]") -> "array[int]":
    """`wanted` with another slot where an earlier entry has the same, or none may have it."""
    all_wanted = set(wanted)
    if len(all_wanted) < len(wanted) or max(wanted, default=0) >= LISTED_SLOTS:
        make_distinct(wanted, set(), all_wanted)
    return wanted


def make_distinct(wanted: "array[int]", seen: set[int], all_wanted: Set[int]) -> None:
    """Give entries another slot where an earlier one has the same, or none may have it. `seen`: the slots of those
    before `wanted`, to which theirs are added; `all_wanted`: what all of the directory would have.
    """
    for position, slot in enumerate(wanted):
        if slot in seen or slot >= LISTED_SLOTS:
            wanted[position] = another(slot)
            while wanted[position] in seen or wanted[position] in all_wanted:
                wanted[position] = another(wanted[position])
        seen.add(wanted[position])


def another(slot: int) -> int:
    """The slot to try after `slot`, in an order that reaches all of them."""
    while True:  # a linear congruential generator of full period (Numerical Recipes)
        slot = (slot * 1_664_525 + 1_013_904_223) & ((1 << SLOT_BITS) - 1)
        if slot < LISTED_SLOTS:
            return slot
