"""The tree below an overlay, as the overlay uses it: a read-only file system by inode number.

Invariant that the overlay relies on: while a dataset is pinned, its inodes keep their numbers and their content.
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


def packed(entry: Entry) -> bytes:
    """An entry of the tree below as it is kept in a row: mode, version, size, executable or not, content."""
    origin = entry.origin
    return b"%o %s %d %d %s" % (origin.mode, origin.version or b"-", entry.size, entry.executable, origin.content)


@dataclass(frozen=True, slots=True)
class Remembered:
    """An entry of the commit from a row."""

    origin: Origin
    size: int
    executable: bool

    @property
    def is_link(self) -> bool:
        """Whether the source has a link."""
        return self.origin.mode == LINK

    @property
    def content(self) -> bytes:
        """Equal for the same content: its name if it has one, as the version of a link to it may depend on the link's
        path.
        """
        return self.origin.content or self.origin.version


def unpacked(text: bytes) -> Remembered:
    """The inverse of `packed`. Raises ValueError."""
    mode, version, size, executable, content = text.split(b" ", 4)
    return Remembered(Origin(int(mode, 8), version, content), int(size), executable == b"1")
