"""What differs between an overlay and the commit it lies over: the language in which an overlay speaks to a push.

A list of changes is sorted by path and is applied as follows. First everything that a RENAMED change has its content
from (`source`) is taken out of the base commit's tree; then the changes are applied in the list's order, so that what
stands in a renamed directory, or in the place of a removed one, comes after it. Paths are relative to the dataset's
root, without a slash at the end, and are those of the new tree; a `BaseEntry` has the path in the base commit.

Changes are tuples: there may be very many.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from riafs.tree.protocol import Origin


class ChangeKind(enum.Enum):
    """What was done to a path."""

    ADDED = "added"
    """There was nothing before: a file, a link, or a directory (which is told of only as long as it is empty)."""
    CHANGED = "changed"
    """Other content, or a file in the place of a link or a directory."""
    REMOVED = "removed"
    """A file, a link, or a directory with everything in it."""
    RENAMED = "renamed"
    """What was at `source`: a file, changed as well if there is content, or a directory with everything in it."""
    MODE = "mode"
    """The same content with another executable bit."""
    COPIED = "copied"
    """Another name of a file of the commit, which git has as a file of its own: what `base` is, with `content` if it
    was changed as well. Nothing is taken away from there."""
    SPECIAL = "special"
    """A fifo, a socket or a device, which git cannot have: it stays local. What it replaces is told as REMOVED."""


@dataclass(frozen=True, slots=True)
class BaseEntry:
    """An entry of the base commit."""

    path: bytes
    """In the base commit."""
    origin: Origin
    """What is there; of git its mode, the blob, tree or submodule's commit, and the key of annexed content."""


class LocalContent(NamedTuple):
    """A file or link as the overlay has it. A directory has none."""

    data: bytes
    """Absolute path of the local file with the bytes in `extents`; empty for a link and where nothing is local."""
    extents: tuple[tuple[int, int], ...]
    """(start, end) of the local ranges in bytes: sorted, disjoint, not empty. All else is the base entry's.

    Where the local file is shorter, or there is none, they are zeros.
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
    """One path that differs."""

    path: bytes
    kind: ChangeKind
    base: BaseEntry | None
    """What stood here, or at `source`, or what is copied; None for what is new."""
    content: LocalContent | None
    """The new content; None where there is none (removed), where it is the base's, and for directories.

    A change of mode has one, whose `executable` counts and whose `extents` are empty.
    """
    source: bytes | None
    """The path in the base commit that RENAMED has it from."""
    version: int
    """Grows whenever the entry is changed, so that the overlay can tell what was pushed from what came later."""


@dataclass(frozen=True, slots=True)
class Stood:
    """Where a row was when a list of changes was made."""

    path: bytes
    is_added: bool
    """Whether the base commit has nothing there."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a push carries, as it was when its list was made: things are renamed and replaced while it runs."""

    changes: Sequence[Change]
    """All, or those that were chosen."""
    rows: Mapping[int, Stood]
    """All rows of the dataset, by number."""


NOTHING = Carried((), {})


@dataclass(frozen=True, slots=True)
class Base:
    """What a dataset with local changes shows below them."""

    dataset: bytes
    """The dataset's id."""
    store: str
    """The store, as a source that names it."""
    ref: bytes | None
    """The branch that is followed (``refs/heads/main``), None where a commit is shown for itself."""
    commit: bytes
    """The version that the changes are made over: of a dataset the commit, in hex digits."""
