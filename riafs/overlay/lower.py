"""What an overlay needs of the tree below it: a file system that is only read, by inode number.

Invariant the overlay relies on: as long as a dataset is pinned, its inodes keep their numbers and their content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.overlay.changes import Base
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import Entry, Origin

LINK = 0o120000
"""The mode of an Origin that is a link."""


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


def packed(entry: Entry) -> bytes:
    """What a row remembers of an entry below: mode, version, size, executable or not, content."""
    origin = entry.origin
    return b"%o %s %d %d %s" % (origin.mode, origin.version or b"-", entry.size, entry.executable, origin.content)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What `packed` kept."""

    origin: Origin
    size: int
    executable: bool

    @property
    def is_link(self) -> bool:
        """Whether the source has a link there."""
        return self.origin.mode == LINK

    @property
    def content(self) -> bytes:
        """What tells two contents apart: the content's own name, as the version of a link to it may depend on where
        the link is.
        """
        return self.origin.content or self.origin.version


def unpacked(text: bytes) -> Remembered:
    """The inverse of `packed`. Raises ValueError."""
    mode, version, size, executable, content = text.split(b" ", 4)
    return Remembered(Origin(int(mode, 8), version, content), int(size), executable == b"1")
