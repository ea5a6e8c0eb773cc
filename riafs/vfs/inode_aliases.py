"""Inode numbers that the kernel has, where what they stand for has another one by now.

A move to another commit gives things other numbers; the kernel keeps using those it has. It keeps names by inode, so
two inodes for one directory would come to differ. Invariants: one number for one thing, one thing for one number,
however many moves there were; and the number of what is gone is never that of something else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from riafs.overlay.inode_map import OVERLAY
from riafs.slices import Sliced
from riafs.vfs.refreshing import Invalidation

GONE = OVERLAY
"""The number of a row that there never is."""
_SPARE = 1 << 61
"""Above the numbers of the tree below, and never an overlay's."""


class InodeAliases:
    """`now` for what the kernel asks, `given` for what it is told; nothing is kept of numbers that are the same."""

    def __init__(self) -> None:
        self._now: dict[int, int] = {}
        self._given: dict[int, int] = {}
        self._spares = 0

    def now(self, number: int) -> int:
        """The present number for one of the kernel's; GONE if it is of nothing any more."""
        return self._now.get(number, number)

    def given(self, number: int) -> int:
        """The kernel's number for something."""
        if not self._now:
            return number
        known = self._given.get(number)
        if known is not None:
            return known
        if number not in self._now:
            return number
        self._spares += 1  # the kernel has that number for something else
        spare = _SPARE | self._spares
        self._now[spare], self._given[number] = number, spare
        return spare

    def move(self, steps: Mapping[int, int | None]) -> Sliced[None]:
        """Things have other numbers from now on: before → after, None for what is gone. All at once, as two may have
        changed places: no request may ask about them until it ends.
        """
        known = []
        for before, after in steps.items():
            known.append((self._given.pop(before, before), after))
            yield
        for number, _ in known:
            self._now.pop(number, None)
            yield
        for number, after in known:
            yield
            if after is None:
                self._end(number)
            else:
                self._put(number, after)

    def _put(self, number: int, after: int) -> None:
        """The kernel's `number` means `after`."""
        earlier = self._given.pop(after, None)
        if earlier is not None:  # what was removed, in whose place this is
            self._end(earlier)
        if number == after:
            return
        self._now[number], self._given[after] = after, number
        if not after & OVERLAY:
            self._now.setdefault(after, GONE)  # likewise, known to the kernel by its first number

    def _end(self, number: int) -> None:
        self._now.pop(number, None)
        if not number & OVERLAY:  # a row that is gone says so itself
            self._now[number] = GONE

    def told(self, changes: Sequence[Invalidation], also: Mapping[int, int] | None = None) -> list[Invalidation]:
        """`changes`, with the kernel's numbers. `also`: further ones, number → the kernel's."""
        known = {**self._given, **(also or {})}
        return [
            replace(
                each,
                inode=known.get(each.inode, each.inode),
                directories=tuple(known.get(inode, inode) for inode in each.directories),
            )
            for each in changes
        ]
