"""Lists of changes between an overlay and its base commit, from which a push makes a commit.

A list is sorted by path. To apply it, first remove the `source` of each RENAMED change from the base commit's tree;
then apply the changes in the list's order: changes in a renamed directory, or in a new one that replaces a removed one,
come after it. Paths are relative to the dataset's root, without a slash at the end, and are those of the new tree; a
`BaseEntry` has the path in the base commit.

Changes are tuples, as there may be very many.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from riafs.tree.protocol import Origin


class ChangeKind(enum.Enum):
    """The kind of a change."""

    ADDED = "added"
    """A new file, link, or empty directory (one that is not empty follows from its files)."""
    CHANGED = "changed"
    """Other content, or a file that replaces a link or a directory."""
    REMOVED = "removed"
    """A file, a link, or a directory with everything in it."""
    RENAMED = "renamed"
    """The entry from `source`: a file, changed as well if there is content, or a directory with everything in it."""
    MODE = "mode"
    """The same content with another executable bit."""
    COPIED = "copied"
    """Another name (hard link) of a file of the commit, which is a second file for git: the entry `base`, changed as
    well if there is `content`. `base` stays at its path.
    """
    SPECIAL = "special"
    """A fifo, a socket or a device, which git cannot store: it stays local. An entry that it replaces is REMOVED."""


@dataclass(frozen=True, slots=True)
class BaseEntry:
    """An entry of the base commit."""

    path: bytes
    """Path in the base commit."""
    origin: Origin
    """The entry in the source; for git its mode, the blob, tree or submodule's commit, and the key of annexed
    content.
    """


class LocalContent(NamedTuple):
    """The local content of a file or link. A directory has none."""

    data: bytes
    """Absolute path of the local file with the bytes in `extents`; empty for a link and where nothing is local."""
    extents: tuple[tuple[int, int], ...]
    """(start, end) of the local ranges in bytes: sorted, disjoint, not empty. All other bytes are the base entry's.

    Local bytes beyond the end of the local file are zeros.
    """
    size: int
    """Bytes of the content, or of the link's target."""
    target: bytes | None
    """Of a symbolic link; None for a file."""
    executable: bool
    written: int = 0
    """Bytes that the local file has at least."""

    @property
    def is_whole(self) -> bool:
        """Whether all bytes of a file are local."""
        return self.size == 0 or self.extents == ((0, self.size),)


class Change(NamedTuple):
    """The change of one path."""

    path: bytes
    kind: ChangeKind
    base: BaseEntry | None
    """The commit's entry here, or at `source`, or that is copied; None for a new one."""
    content: LocalContent | None
    """The new content; None if it is removed or still the base's, and for directories.

    That of a change of mode has no `extents`; its `executable` is the new one.
    """
    source: bytes | None
    """The old path, in the base commit, of RENAMED."""
    version: int
    """Grows with each change of the entry, so that later changes are distinguished from pushed ones."""


@dataclass(frozen=True, slots=True)
class RowPosition:
    """The position of a row when a list of changes was made."""

    path: bytes
    is_added: bool
    """Whether the base commit has no entry there."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The changes that a push publishes, at the time of its list: files may be renamed and replaced while it runs."""

    changes: Sequence[Change]
    """All changes, or chosen ones."""
    rows: Mapping[int, RowPosition]
    """All rows of the dataset, by number."""


NOTHING = Carried((), {})


@dataclass(frozen=True, slots=True)
class Base:
    """The base of a dataset's local changes."""

    dataset: bytes
    """The dataset's id."""
    store: str
    """The store, as a source that names it."""
    ref: bytes | None
    """The branch that is followed (``refs/heads/main``), None for a fixed commit."""
    commit: bytes
    """The version that the changes are made over: of a dataset the commit, in hex digits."""
