"""The attributes of an inode, and what decides those of files that come from a store.

Apart from `listing` and `inode_map`, so that a read-only mount imports nothing else of the overlay.
"""

from dataclasses import dataclass
from typing import NamedTuple

from riafs.tree.protocol import Entry, Kind


@dataclass(frozen=True, slots=True)
class Ownership:
    """Owner and permission bits of what comes from a store."""

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
    listed: bool = True
    """Whether the kernel will be told of a change of the name. What is only looked up may change without that."""
