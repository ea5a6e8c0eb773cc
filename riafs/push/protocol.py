"""What pushes to any kind of source have in common: the request, the report, and the protocol `Pusher`.

A push is planned first, with nothing written: refusals and conflicts are found then. `open_pusher` chooses the
implementation by the source.
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
    """What becomes of a path that both sides changed."""

    NEITHER = "neither"
    """It is a conflict."""
    OURS = "ours"
    """The local change replaces the store's."""
    THEIRS = "theirs"
    """The local change is left out, and given up."""


@dataclass(frozen=True, slots=True)
class PushRequest:
    """How to push. `search_path`: where programs are found."""

    message: bytes
    author: Stamp
    committer: Stamp
    search_path: str
    branch: bytes | None = None
    """Full name of the branch to push to; None for the one that is followed."""
    as_branch: bytes | None = None
    """Full name of a branch that is made, on top of the commit that the changes lie over."""
    prefer: Prefer = Prefer.NEITHER
    dry_run: bool = False
    unfiltered: bool = False
    """Push files as they are for which ``.gitattributes`` asks for a filter."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What was done; of a dry run what would be, as far as that can be told without hashing everything."""

    dataset: str
    ref: bytes
    before: bytes | None
    """Commit that the ref named, in hex."""
    commit: bytes
    """Commit that shows the changes; `before` where nothing had to be committed."""
    changed: int
    """Paths in the commit that are new, changed or gone."""
    annexed: int
    in_git: int
    """Files with new content, by where it went."""
    objects_written: int
    bytes_written: int
    empty_directories: tuple[bytes, ...]
    """Not in the commit, as git cannot hold them."""
    overruled: tuple[bytes, ...]
    """Paths changed on both sides for which one side was preferred."""
    converted: tuple[bytes, ...]
    """Files that went into git with other bytes than they had, as ``.gitattributes`` asks for it."""
    pointers: tuple[tuple[bytes, Key], ...]
    """Files and links that read like git-annex's own, so that the content of these keys is shown there."""
    special_files: tuple[bytes, ...] = ()
    """Not in the commit, as git has no fifos, sockets and devices."""


Announce = Callable[[bytes], Awaitable[None]]
"""Called with the commit (hex) that the branch is going to move to; maybe again, with another one."""


async def unannounced(_: bytes) -> None:
    """Nothing depends on the new commit."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a push that belongs to one dataset. `name`: any that tells the shares apart, also to users."""

    name: bytes
    base: Base
    changes: Sequence[Change]
    """These lie over `base`, in an overlay's order."""
    above: bytes | None = None
    """Name of the share of the dataset that registers it; None where none does, or where that is not to be changed."""
    path: bytes = b""
    """Where it is registered there."""
    may_empty: bool = True
    """Whether the dataset may have no files any more after the push."""
    announce: Announce = unannounced


class PlannedPush(Protocol):
    """A push that is known to have no conflict, as far as that can be known before."""

    async def push(self) -> None:
        """Push, or find out what a push would do if the request is a dry run. Raises RiafsError of many kinds.

        When it is stopped, the shares in `result` are pushed already, and the same push run again finds them so.
        """

    @property
    def result(self) -> Mapping[bytes, PushReport]:
        """The reports of the shares that were pushed, by their names."""


class Pusher(Protocol):
    """A source that can be pushed to, open."""

    async def check(self, dataset: bytes | None = None) -> str:
        """What stops pushes of new files to `dataset` (its id; None: the one that the source names), "" if nothing does
        that can be known before. Raises what stops every push.
        """

    async def plan(self, shares: Sequence[Share], request: PushRequest, watcher: Watcher) -> PlannedPush:
        """Find out whatever can be found out with nothing written, of datasets that are pushed together.

        Raises PushConflict, PushRefused, SourceNotFound, StoreTimeout, StoreError, GitError, …
        """

    async def is_published(self, base: Base, commit: bytes) -> bool:
        """Whether the branch of `base` has come to `commit` (hex). Raises SourceNotFound, GitError, StoreError, …"""
