"""Merged listings: the entries below in their order, with what stands in their places, then those that were added.

Offsets stay valid while a directory is open, whatever happens in it: an entry below has its position, an added one the
number of its row, and a name never changes from one part to the other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from riafs.overlay.lower import Lower, LowerEntry
from riafs.overlay.places import OVERLAY, Places
from riafs.overlay.rows import WHITEOUT, Row, Rows
from riafs.tree.protocol import Entry

_PAGE = 256


class Listed(NamedTuple):
    """A name in a listing: what it is, and the offset to go on from. Either `row` or `entry` is there."""

    name: bytes
    offset: int
    inode: int
    row: Row | None
    entry: Entry | None


class OpenDirectory:
    """A directory that is being listed."""

    def __init__(self, rows: Rows, places: Places, lower: Lower, inode: int) -> None:
        self.inode = inode
        self._rows = rows
        self._places = places
        self._lower = lower
        self._covering: Mapping[bytes, Row] = {}
        self._turn = -1

    async def read(self, offset: int) -> Sequence[Listed]:
        """Some entries from `offset` on; none at the end."""
        row = self._places.row(self.inode)
        below = self.inode if row is None else await self._places.below(row)
        while below is not None and offset < OVERLAY:
            page = await self._lower.entries(below, offset)
            if not page:
                break
            listed = self._merged(page, offset)
            if listed:
                return listed
            offset += len(page)
        row = self._places.row(self.inode)
        if row is None:
            return ()
        return self._added(row.id, offset ^ OVERLAY if offset & OVERLAY else 0)

    def _merged(self, page: Sequence[LowerEntry], offset: int) -> list[Listed]:
        covering = self._covered()
        listed = []
        for position, (inode, entry) in enumerate(((each.inode, each.entry) for each in page), offset + 1):
            row = covering.get(entry.name)
            if row is None:
                listed.append(Listed(entry.name, position, inode, None, entry))
            elif row.kind != WHITEOUT:
                listed.append(Listed(entry.name, position, self._places.inode_of(row), row, None))
        return listed

    def _covered(self) -> Mapping[bytes, Row]:
        row = self._places.row(self.inode)
        if row is not None and self._turn != self._rows.turn:
            self._turn = self._rows.turn
            self._covering = self._rows.covering(row.id)
        return self._covering

    def _added(self, row: int, after: int) -> list[Listed]:
        inode = self._places.inode_of
        return [
            Listed(each.name or b"", OVERLAY | each.id, inode(each), each, None)
            for each in self._rows.added(row, after, _PAGE)
        ]
