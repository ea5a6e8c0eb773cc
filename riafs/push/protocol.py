"""The push protocol, the same for every kind of source: the request, the report, and `Pusher`.

A push is planned first, without writing anything, so that refusals and conflicts are found early. `open_pusher` chooses
the implementation by the source.
"""

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.formats.gitobjects import Stamp
from riafs.formats.keys import Key
from riafs.overlay.changes import Base, Change
from riafs.watching import Watcher


class Prefer(enum.Enum):
    """The treatment of a path that was changed on both sides."""

    NEITHER = "neither"
    """It is a conflict."""
    OURS = "ours"
    """The local change replaces the store's."""
    THEIRS = "theirs"
    """The local change is dropped."""


@dataclass(frozen=True, slots=True)
class PushRequest:
    """The options of a push. `search_path`: as in ``$PATH``."""

    message: bytes
    author: Stamp
    committer: Stamp
    search_path: str
    branch: bytes | None = None
    """Full name of the branch to push to; None for the one that the mount follows."""
    as_branch: bytes | None = None
    """Full name of a new branch on top of the base commit of the changes."""
    prefer: Prefer = Prefer.NEITHER
    dry_run: bool = False
    unfiltered: bool = False
    """Push files for which ``.gitattributes`` demands a filter without filtering them."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """The result of a push; for a dry run the expected one, as far as that is known without hashing all files."""

    dataset: str
    ref: bytes
    before: bytes | None
    """Previous commit of the ref, in hex."""
    commit: bytes
    """Commit with the changes; `before` if nothing had to be committed."""
    changed: int
    """Paths that are new, changed or removed in the commit."""
    annexed: int
    in_git: int
    """Files with new content in the annex and in git."""
    objects_written: int
    bytes_written: int
    empty_directories: tuple[bytes, ...]
    """Not in the commit, as git cannot store them."""
    overruled: tuple[bytes, ...]
    """Paths changed on both sides for which one side was preferred."""
    converted: tuple[bytes, ...]
    """Files that git stores with other bytes, by a conversion in ``.gitattributes``."""
    pointers: tuple[tuple[bytes, Key], ...]
    """Files and links whose content is that of a pointer of git-annex, so that the content of the key is shown there.
    """
    special_files: tuple[bytes, ...] = ()
    """Not in the commit, as git has no fifos, sockets and devices."""


Announce = Callable[[bytes], Awaitable[None]]
"""Called with the commit (hex) right before the branch moves to it; again if another commit is tried."""


async def unannounced(_: bytes) -> None:
    """For pushes whose commit need not be recorded beforehand."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a push for one dataset. `name`: unique, and shown to users."""

    name: bytes
    base: Base
    changes: Sequence[Change]
    """Changes against `base`, in an overlay's order."""
    above: bytes | None = None
    """Name of the share of its superdataset; None without one, or if that is not to be changed."""
    path: bytes = b""
    """The path of the subdataset in its superdataset."""
    may_empty: bool = True
    """Whether the push may remove all files of the dataset."""
    announce: Announce = unannounced


class PlannedPush(Protocol):
    """A push without conflicts, as far as that is known before anything is written."""

    async def push(self) -> None:
        """Push; for a dry run only fill in `result`. Raises RiafsError of many kinds.

        If it fails, the shares in `result` are pushed; the same push can be repeated, and skips them.
        """

    @property
    def result(self) -> Mapping[bytes, PushReport]:
        """The reports of the shares that were pushed, by their names."""


class Pusher(Protocol):
    """An open source that can be pushed to."""

    async def check(self, dataset: bytes | None = None) -> str:
        """The reason why new files cannot be pushed to `dataset` (its id; None: the one that the source names), "" if
        none is known. Raises the failure if nothing at all can be pushed.
        """

    async def plan(self, shares: Sequence[Share], request: PushRequest, watcher: Watcher) -> PlannedPush:
        """Check and plan the push of several datasets, without writing anything.

        Raises PushConflict, PushRefused, SourceNotFound, StoreTimeout, StoreError, GitError, …
        """

    async def is_published(self, base: Base, commit: bytes) -> bool:
        """Whether the branch of `base` has `commit` (hex) in its history. Raises SourceNotFound, GitError, …"""
