"""What stat shows of an inode: from its row, from the open file where that is ahead of the row, or from below."""

from typing import NamedTuple

from riafs.overlay.handles import Handles
from riafs.overlay.listing import Listed
from riafs.overlay.lower import LowerEntry
from riafs.overlay.places import KINDS, Places
from riafs.overlay.rows import DIRECTORY, Row, Rows
from riafs.tree.protocol import Kind

_KINDS = {number: kind for kind, number in KINDS.items()}


class Stat(NamedTuple):
    """What stat shows. A tuple, as one is made for each entry of a listing."""

    inode: int
    kind: Kind
    mode: int
    """Permission bits."""
    links: int
    """1 for a directory with a part below: their number is not known."""
    uid: int
    gid: int
    size: int
    """UNKNOWN_SIZE where only reading tells."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    device: int = 0
    """Of a device: its number."""


class Stats:
    """Makes them. Reads, and changes nothing."""

    def __init__(self, rows: Rows, places: Places, handles: Handles) -> None:
        self._rows = rows
        self._places = places
        self._handles = handles

    def below(self, found: LowerEntry) -> Stat:
        """Of an entry of the tree below, or of the row that it has got meanwhile."""
        if found.inode in self._places:  # a dataset's top with changes, or what was copied up meanwhile
            row = self._places.row(found.inode)
            assert row is not None
            return self.row(row)
        entry, owner = found.entry, self._places.ownership
        when = entry.mtime_ns
        return Stat(found.inode, entry.kind, owner.mode(entry), 1, owner.uid, owner.gid, entry.size, when, when, when)

    def row(self, row: Row) -> Stat:
        """Of a row that is no whiteout."""
        if row.record is not None:
            row = self._rows.content(row)
        inode = self._places.inode(row.id)
        size, mtime, ctime, links = row.size, row.mtime, row.ctime, 1
        if row.kind == DIRECTORY:
            touched = self._rows.touched.get(row.id)
            mtime, ctime = (mtime, ctime) if touched is None else (touched, touched)
            links = 1 if row.base is not None else 2 + self._rows.directories(row.id)
        elif row.parent is None:
            links = row.links
        opened = self._handles.ahead(inode)
        if opened is not None:
            size, mtime, ctime = opened.size, opened.mtime, opened.ctime
        kind = _KINDS[row.kind]
        return Stat(inode, kind, row.mode, links, row.uid, row.gid, size, row.atime, mtime, ctime, row.device)

    def listed(self, listed: Listed) -> Stat:
        """Of a name in a listing."""
        if listed.row is not None:
            return self.row(listed.row)
        assert listed.entry is not None
        return self.below(LowerEntry(listed.inode, listed.entry))
