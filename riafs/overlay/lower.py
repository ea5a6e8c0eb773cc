"""What an overlay needs of the tree below it: a file system that is only read, by inode number.

Invariant the overlay relies on: as long as a dataset is pinned, its inodes keep their numbers and their content.
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
    """Where an inode is in its dataset."""

    base: Base
    """The dataset as it is shown there."""
    entrance: bytes
    """Path from the mount's root to the dataset's top."""
    path: bytes
    """From the dataset's top; ``""`` for the top itself."""
    parent: int
    """Inode of the directory it is in; of a top, itself."""


class Lower(Protocol):
    """The tree below."""

    async def find(self, parent: int, name: bytes) -> LowerEntry | None:
        """The entry `name` of a directory, None if there is none."""

    async def entries(self, inode: int, start: int) -> Sequence[LowerEntry]:
        """Some entries of a directory from position `start` on, at least one unless that is the end."""

    async def entry(self, inode: int) -> LowerEntry:
        """The entry an inode stands for. Raises StaleHandle."""

    async def open(self, inode: int) -> RangedBytes:
        """The content of a file."""

    async def target(self, inode: int) -> bytes:
        """The text of a symbolic link."""

    async def home(self, inode: int) -> Home | None:
        """Where an inode is, None where nothing can be changed: outside of datasets, and in ``NAME@REF``."""

    def parent(self, inode: int) -> int:
        """Inode of the directory that an inode is in, which is no top of a dataset."""

    async def top(self, base: Base, entrance: bytes) -> int | None:
        """Inode of the top of the dataset at `entrance`, which from now on shows ``base.commit``, whatever its ref
        does; None where nothing is shown any more. Raises NoSuchVersion, …
        """

    def pin(self, top: int) -> None:
        """Keep showing the commit that the dataset with this top shows now."""


_MARKS = {b"f": FILE, b"x": EXECUTABLE, b"d": DIRECTORY, b"s": SUBMODULE}


def is_subdataset(entry: Entry) -> bool:
    """Whether an entry is the place of a subdataset."""
    return isinstance(entry, GitEntry) and entry.registered


def packed(entry: Entry) -> bytes:
    """What an overlay remembers of an entry of the commit: git's mode, object name, size, executable or not, key."""
    if isinstance(entry, GitEntry):
        mode = _MARKS[entry.version[-1:]] if len(entry.version) & 1 else LINK
        oid, key = entry.oid, entry.key or b""
    else:
        mode = {Kind.DIRECTORY: DIRECTORY, Kind.LINK: LINK}.get(entry.kind, EXECUTABLE if entry.executable else FILE)
        oid, key = entry.version.hex().encode(), b""
    return b"%o %s %d %d %s" % (mode, oid or b"-", entry.size, entry.executable, key)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What `packed` kept."""

    mode: int
    oid: bytes
    size: int
    executable: bool
    key: bytes

    def base_entry(self, path: bytes) -> BaseEntry:
        """As changes tell it."""
        return BaseEntry(path, self.mode, self.oid, parse_key(self.key) if self.key else None)


def unpacked(text: bytes) -> Remembered:
    """The inverse of `packed`. Raises ValueError."""
    mode, oid, size, executable, key = text.split(b" ", 4)
    return Remembered(int(mode, 8), oid, int(size), executable == b"1", key)
