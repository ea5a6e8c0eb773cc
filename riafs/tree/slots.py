"""Slots: the number that each entry has in its directory, the same in every mount as long as the entry is the same.

A slot is a checksum of the name, and for what is no directory of the version too. So it does not change with what else
is in the directory, and programs that recognise files by inode number (backups) find those that did not change. Of
entries with one checksum the first keeps it, and the others get further ones. Nothing of this is kept: it follows from
the listing.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Protocol, cast, runtime_checkable
from zlib import crc32

from riafs.tree.protocol import Directory, Versions

SLOT_BITS = 32
LISTED_SLOTS = (1 << SLOT_BITS) - (1 << 20)
"""Listed entries have slots below this; names that are only looked up have the others."""


class Slots:
    """Those of one version of a directory; `of`: position → slot."""

    __slots__ = ("_positions", "of")

    def __init__(self, of: Sequence[int]) -> None:
        self.of = of
        self._positions: Mapping[int, int] | None = None

    @property
    def positions(self) -> Mapping[int, int]:
        """slot → position."""
        if self._positions is None:
            self._positions = dict(zip(self.of, range(len(self.of)), strict=True))
        return self._positions


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


def slots_by_versions(versions: Versions) -> Slots:
    """The slots of entries by their names and versions."""
    directories = versions.directories
    return Slots(
        distinct(
            array("I", [
                crc32(name) if name in directories else crc32(version, crc32(name))
                for name, version in versions.of.items()
            ])
        )
    )  # fmt: skip


def slots_of_tree(names: Sequence[bytes], oids: Sequence[bytes], directories: Iterable[int]) -> Slots:
    """The slots of a git tree, by names and object names; `directories`: positions of those. Quick for many."""
    wanted = array("I", map(crc32, oids, map(crc32, names)))
    for position in directories:
        wanted[position] = crc32(names[position])
    return Slots(distinct(wanted))


def distinct(wanted: "array[int]") -> "array[int]":
    """`wanted` with another slot where an earlier entry has the same, or none may have it."""
    all_wanted = set(wanted)
    if len(all_wanted) == len(wanted) and max(wanted, default=0) < LISTED_SLOTS:
        return wanted
    seen: set[int] = set()
    for position, slot in enumerate(wanted):
        if slot in seen or slot >= LISTED_SLOTS:
            wanted[position] = another(slot)
            while wanted[position] in seen or wanted[position] in all_wanted:
                wanted[position] = another(wanted[position])
        seen.add(wanted[position])
    return wanted


def another(slot: int) -> int:
    """The slot to try after `slot`, in an order that comes to all of them."""
    while True:  # a linear congruential generator of full period (Numerical Recipes)
        slot = (slot * 1_664_525 + 1_013_904_223) & ((1 << SLOT_BITS) - 1)
        if slot < LISTED_SLOTS:
            return slot
