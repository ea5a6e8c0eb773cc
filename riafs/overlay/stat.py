"""The attributes of an inode, and the owner and modes of files from a store.

A module of its own, so that a read-only mount imports nothing else of the overlay.
"""

from dataclasses import dataclass
from typing import NamedTuple

from riafs.tree.protocol import Entry, Kind


@dataclass(frozen=True, slots=True)
class Ownership:
    """Owner and permission bits of entries from a store."""

    uid: int
    gid: int
    file: int = 0o644
    executable: int = 0o755
    directory: int = 0o755

    def mode(self, entry: Entry) -> int:
        """The permission bits of an entry."""
        if entry.kind is Kind.DIRECTORY:
            return self.directory
        if entry.kind is Kind.LINK:
            return 0o777
        return self.executable if entry.executable else self.file


class Stat(NamedTuple):
    """The result of stat. A tuple, as one is made for each entry of a listing."""

    inode: int
    kind: Kind
    mode: int
    """Permission bits."""
    links: int
    """1 for a directory with entries of the tree below, whose number of directories is not known."""
    uid: int
    gid: int
    size: int
    """UNKNOWN_SIZE if only reading determines it."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    device: int = 0
    """Number of a device."""
    listed: bool = True
    """Whether the kernel is notified when the name changes. Names that are only looked up may change without that."""
