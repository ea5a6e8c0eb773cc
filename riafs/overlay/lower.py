"""The tree below an overlay, as the overlay uses it: a read-only file system by inode number.

Invariant that the overlay relies on: while a dataset is pinned, its inodes keep their numbers and their content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, SUBMODULE
from riafs.formats.keys import parse_key
from riafs.overlay.changes import Base, BaseEntry
from riafs.storage.bytesource import RangedBytes
from riafs.tree.listing import GitEntry
from riafs.tree.protocol import Entry, Kind


@dataclass(frozen=True, slots=True)
class LowerEntry:
    """An entry of the tree below, and its inode number (below 2**62)."""

    inode: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Home:
    """The position of an inode in its dataset."""

    base: Base
    """The dataset, with the commit that is shown there."""
    entrance: bytes
    """Path from the mount's root to the dataset's top."""
    path: bytes
    """From the dataset's top; ``""`` for the top itself."""
    parent: int
    """Inode of its directory; the top's own for a top."""


class Lower(Protocol):
    """The tree below."""

    async def find(self, parent: int, name: bytes) -> LowerEntry | None:
        """The entry `name` of a directory, None if there is none."""

    async def entries(self, inode: int, start: int) -> Sequence[LowerEntry]:
        """Some entries of a directory from position `start` on; none at the end."""

    async def entry(self, inode: int) -> LowerEntry:
        """The entry of an inode. Raises StaleHandle."""

    async def open(self, inode: int) -> RangedBytes:
        """The content of a file."""

    async def target(self, inode: int) -> bytes:
        """The text of a symbolic link."""

    async def home(self, inode: int) -> Home | None:
        """The position of an inode, None where files cannot be changed: outside of datasets, and in ``NAME@REF``."""

    def parent(self, inode: int) -> int:
        """Inode of the directory of an inode, which is no top of a dataset."""

    async def top(self, base: Base, entrance: bytes) -> int | None:
        """Inode of the top of the dataset at `entrance`, pinned to ``base.commit``; None if the dataset is not shown
        there any more. Raises NoSuchVersion, …
        """

    def pin(self, top: int) -> None:
        """Keep the dataset with this top at the commit that it shows now, also when its branch moves."""


_MARKS = {b"f": FILE, b"x": EXECUTABLE, b"d": DIRECTORY, b"s": SUBMODULE}


def is_subdataset(entry: Entry) -> bool:
    """Whether an entry is a registered subdataset."""
    return isinstance(entry, GitEntry) and entry.registered


def packed(entry: Entry) -> bytes:
    """An entry of the commit as it is kept in a row: git's mode, object name, size, executable or not, key."""
    if isinstance(entry, GitEntry):
        mode = _MARKS[entry.version[-1:]] if len(entry.version) & 1 else LINK
        oid, key = entry.oid, entry.key or b""
    else:
        mode = {Kind.DIRECTORY: DIRECTORY, Kind.LINK: LINK}.get(entry.kind, EXECUTABLE if entry.executable else FILE)
        oid, key = entry.version.hex().encode(), b""
    return b"%o %s %d %d %s" % (mode, oid or b"-", entry.size, entry.executable, key)


@dataclass(frozen=True, slots=True)
class Remembered:
    """An entry of the commit from a row."""

    mode: int
    oid: bytes
    size: int
    executable: bool
    key: bytes

    def base_entry(self, path: bytes) -> BaseEntry:
        """The entry in a list of changes."""
        return BaseEntry(path, self.mode, self.oid, parse_key(self.key) if self.key else None)


def unpacked(text: bytes) -> Remembered:
    """The inverse of `packed`. Raises ValueError."""
    mode, oid, size, executable, key = text.split(b" ", 4)
    return Remembered(int(mode, 8), oid, int(size), executable == b"1", key)
