"""What a push is asked to do, and what it reports."""

from dataclasses import dataclass

from riafs.formats.gitobjects import Stamp
from riafs.formats.keys import Key
from riafs.push.merging import Prefer


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
