"""Merged listings; and the attributes of an inode from its row, its open file, or the tree below.

A listing has the entries of the tree below in their order, replaced by the rows that cover them, then the added rows.
Offsets stay valid while a directory changes: an entry of the tree below has its position, an added row its number, and
a name never moves from one part to the other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from riafs.overlay.inode_map import KINDS, OVERLAY, InodeMap
from riafs.overlay.lower import Lower, LowerEntry
from riafs.overlay.open_files import OpenFiles
from riafs.overlay.rows import DIRECTORY, WHITEOUT, Row, Rows
from riafs.overlay.stat import Stat
from riafs.tree.protocol import Entry

_PAGE = 256
_KINDS = {number: kind for kind, number in KINDS.items()}


class Listed(NamedTuple):
    """A name in a listing, with its row or entry, and the offset to continue from."""

    name: bytes
    offset: int
    inode: int
    row: Row | None
    entry: Entry | None


class Stats:
    """Makes the attributes of inodes."""

    def __init__(self, rows: Rows, inodes: InodeMap, handles: OpenFiles) -> None:
        self._rows = rows
        self._inodes = inodes
        self._handles = handles

    def below(self, found: LowerEntry) -> Stat:
        """Those of an entry of the tree below, or of its row."""
        if found.inode in self._inodes:  # a dataset's top with changes, or an entry that was copied up meanwhile
            row = self._inodes.row(found.inode)
            assert row is not None
            return self.row(row)
        entry, owner = found.entry, self._inodes.ownership
        when = entry.mtime_ns
        return Stat(found.inode, entry.kind, owner.mode(entry), 1, owner.uid, owner.gid, entry.size, when, when, when)

    def row(self, row: Row) -> Stat:
        """Those of a row that is no whiteout."""
        if row.record is not None:
            row = self._rows.content(row)
        inode = self._inodes.inode(row.id)
        size, mtime, ctime, links = row.size, row.mtime, row.ctime, 1
        if row.kind == DIRECTORY:
            touched = self._rows.touched.get(row.id)
            mtime, ctime = (mtime, ctime) if touched is None else (touched, touched)
            links = 1 if row.base is not None else 2 + self._rows.directories(row.id)
        elif row.parent is None:
            links = row.links
        opened = self._handles.dirty(inode)
        if opened is not None:
            size, mtime, ctime = opened.size, opened.mtime, opened.ctime
        kind = _KINDS[row.kind]
        return Stat(inode, kind, row.mode, links, row.uid, row.gid, size, row.atime, mtime, ctime, row.device)

    def listed(self, listed: Listed) -> Stat:
        """Those of a name in a listing."""
        if listed.row is not None:
            return self.row(listed.row)
        assert listed.entry is not None
        return self.below(LowerEntry(listed.inode, listed.entry))


class OpenDirectory:
    """A directory that is being listed."""

    def __init__(self, rows: Rows, inodes: InodeMap, lower: Lower, inode: int) -> None:
        self.inode = inode
        self._rows = rows
        self._inodes = inodes
        self._lower = lower
        self._covering: Mapping[bytes, Row] = {}
        self._turn = -1

    async def read(self, offset: int) -> Sequence[Listed]:
        """Some entries from `offset` on; none at the end."""
        row = self._inodes.row(self.inode)
        below = self.inode if row is None else await self._inodes.below(row)
        while below is not None and offset < OVERLAY:
            page = await self._lower.entries(below, offset)
            if not page:
                break
            listed = self._merged(page, offset)
            if listed:
                return listed
            offset += len(page)
        row = self._inodes.row(self.inode)
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
                listed.append(Listed(entry.name, position, self._inodes.inode_of(row), row, None))
        return listed

    def _covered(self) -> Mapping[bytes, Row]:
        row = self._inodes.row(self.inode)
        if row is not None and self._turn != self._rows.turn:
            self._turn = self._rows.turn
            self._covering = self._rows.covering(row.id)
        return self._covering

    def _added(self, row: int, after: int) -> list[Listed]:
        inode = self._inodes.inode_of
        return [
            Listed(each.name or b"", OVERLAY | each.id, inode(each), each, None)
            for each in self._rows.added(row, after, _PAGE)
        ]
