"""Parts: what the content of files is made of in a store (a key, a git object, a block), and how its copies are found.

Readers want one good copy; whoever keeps a store wants to know of all of them. Parts of equal identity are the same.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.errors import (
    CorruptContent,
    DecodeFailed,
    GitError,
    LinkLoop,
    MalformedArchive,
    MissingObject,
    NotAnArchive,
    NotInStore,
    OversizedArchive,
    RiafsError,
    ShortRead,
    UnsupportedRepository,
)

_ABSENT = (NotInStore, MissingObject)
_REFUSED = (OversizedArchive, UnsupportedRepository)
_DAMAGE = (CorruptContent, DecodeFailed, GitError, LinkLoop, MalformedArchive, NotAnArchive, ShortRead)


class CopyState(enum.Enum):
    """What was found in one place."""

    GOOD = "good"
    SIZED = "size only"
    """There is no digest to check: only the size is right."""
    ABSENT = "absent"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"
    """It could not be read to its end, so nothing is known."""

    @property
    def usable(self) -> bool:
        """Whether readers are served from it."""
        return self in (CopyState.GOOD, CopyState.SIZED)


@dataclass(frozen=True, slots=True)
class Copy:
    """What one place has of a part. `place` is as messages call it; `problem` says what is wrong, if anything is."""

    place: str
    state: CopyState
    problem: str = ""
    archive: bool = False
    """Whether the place holds many parts, as an archive does."""


def state_of(problem: RiafsError) -> CopyState:
    """What a place has of a part that could not be read there.

    Damage is what the place itself would have to mend. Rights, passwords, programs and codecs that are lacking here are
    not, nor is what nobody looked at: links that lead out of the store, what is over the bounds.
    """
    if isinstance(problem, _ABSENT):
        return CopyState.ABSENT
    damaged = isinstance(problem, _DAMAGE) and not isinstance(problem, _REFUSED)
    return CopyState.DAMAGED if damaged else CopyState.UNREACHABLE


class Part(Protocol):
    """Content that is stored as a whole."""

    @property
    def kind(self) -> str:
        """``key``, ``git object`` or ``block``."""

    @property
    def name(self) -> bytes:
        """The key, the object's name, or the locator without hints."""

    @property
    def identity(self) -> bytes:
        """Equal for two parts that are the same content in the same places."""

    @property
    def size(self) -> int | None:
        """Bytes, None where only reading tells."""

    def wanted(self, copies: int | None) -> int | None:
        """How many copies there should be, where `copies` are asked for by whoever checks; None if it does not matter.

        Where nobody asks, what the source itself says counts.
        """

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """Read the places that have this part in the order readers do: up to the first good copy, or `every` one.

        Every byte comes from the store, whatever is cached or remembered. Places that do not have it may be left out.
        What is wrong with a place is the state of its copy; raises only what concerns no place (RiafsError).
        """
