"""Where a directory stands in its dataset, for what may be changed over it: a protocol beside Directory."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from riafs.git.kept_objects import KeptObjects
from riafs.tree.protocol import Directory


@dataclass(frozen=True, slots=True)
class Standing:
    """A directory of a commit."""

    dataset: bytes
    """The dataset's id."""
    commit: bytes
    """Hex digits."""
    path: bytes
    """From the dataset's top; ``""`` for the top itself."""


@runtime_checkable
class OfCommit(Protocol):
    """A directory of a dataset at a commit."""

    @property
    def standing(self) -> Standing:
        """Which dataset, which commit, where in it."""

    async def branch(self) -> bytes | None:
        """The branch that changes here are for (``refs/heads/main``): the one that is followed, of a subdataset its
        HEAD's; None where there is none. Raises what reading refs raises.
        """

    def forget(self) -> None:
        """Read modes anew: those of locked files are their objects', which a push changes without a commit."""

    async def at_commit(self, commit: bytes) -> Directory:
        """The top of the same dataset at `commit`, to be renewed as this is. Raises MissingObject, …"""

    async def keep_in(self, kept: KeptObjects, name: bytes) -> None:
        """Keep what the commit consists of, as `name`. Raises as KeptObjects.keep."""


@runtime_checkable
class WithoutCommit(Protocol):
    """A dataset that has no commit to show, as a directory."""

    @property
    def waiting(self) -> bytes:
        """The dataset's id."""

    async def shown_at(self, commit: bytes) -> Directory:
        """The top of the dataset at `commit` all the same. Raises MissingObject, …"""
