"""Parts that the content of files consists of (a key, a git object, a block of Keep), and the copies of each part.

A reader needs one good copy; ``riafs verify`` counts all of them. Parts of equal identity are the same. Copies are read
to their end, and nothing that is remembered is trusted: the verifier that is given must remember nothing and verify
always.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.content.annex import AnnexContents
from riafs.content.locations import ArchivedObject, Location
from riafs.content.verifying import Claim, UnverifiedContent, Verifier
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
from riafs.formats.keys import Key
from riafs.git.repository import Repository
from riafs.storage.bytesource import RangedBytes

_ABSENT = (NotInStore, MissingObject)
_REFUSED = (OversizedArchive, UnsupportedRepository)
_DAMAGE = (CorruptContent, DecodeFailed, GitError, LinkLoop, MalformedArchive, NotAnArchive, ShortRead)


class CopyState(enum.Enum):
    """The state of one copy."""

    GOOD = "good"
    SIZED = "size only"
    """The size is right, and there is no digest to check."""
    ABSENT = "absent"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"
    """It could not be read to its end."""

    @property
    def usable(self) -> bool:
        """Whether readers get it."""
        return self in (CopyState.GOOD, CopyState.SIZED)


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of a part in one place, named for messages. `problem` says what is wrong with it, if anything."""

    place: str
    state: CopyState
    problem: str = ""
    archive: bool = False
    """Whether the place has many parts, as an archive does."""


def state_of(problem: RiafsError) -> CopyState:
    """The state of a copy that could not be read because of `problem`.

    Damage is what the place itself would have to mend. Rights, passwords, programs and codecs that are lacking here are
    not, nor is what nobody looked at: links that lead out of the store, what is over the bounds.
    """
    if isinstance(problem, _ABSENT):
        return CopyState.ABSENT
    damaged = isinstance(problem, _DAMAGE) and not isinstance(problem, _REFUSED)
    return CopyState.DAMAGED if damaged else CopyState.UNREACHABLE


class Part(Protocol):
    """Content that is stored and verified as a whole."""

    @property
    def kind(self) -> str:
        """``key``, ``git object`` or ``block``."""

    @property
    def name(self) -> bytes:
        """The key, the object's name, or the locator without hints."""

    @property
    def identity(self) -> bytes:
        """Equal for two parts with the same content and the same places."""

    @property
    def size(self) -> int | None:
        """Bytes; None if it has to be read to know that."""

    def wanted(self, copies: int | None) -> int | None:
        """How many copies there should be, where `copies` are asked for by whoever checks; None if it does not matter.

        Where nobody asks, what the source itself says counts.
        """

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """Read the places that have this part in the order readers do: up to the first good copy, or `every` one.

        Every byte comes from the store, whatever is cached or remembered. Places that do not have it may be left out.
        What is wrong with a place is the state of its copy; raises only what concerns no place (RiafsError).
        """


_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A Part: a key of the dataset called `dataset`."""

    contents: AnnexContents
    dataset: bytes
    key: Key
    kind: str = "key"

    @property
    def name(self) -> bytes:
        return self.key.serialised

    @property
    def identity(self) -> bytes:
        return self.dataset + b"\0" + self.key.serialised

    @property
    def size(self) -> int | None:
        return self.key.size

    def wanted(self, copies: int | None) -> int | None:
        """No other number than the one asked for: a store does not have one."""
        return copies

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """Locations of special remotes are read if there is no plain copy, or for `every`."""
        claim = await self.contents.claim(self.key)
        found = await self._look(self.contents.stored_locations(self.key), claim, every=every)
        if every or not any(copy.state.usable for copy in found):
            found += await self._look(await self.contents.special_locations(self.key), claim, every=every)
        return found

    async def _look(self, locations: Iterable[Location], claim: Claim, *, every: bool) -> list[Copy]:
        found: list[Copy] = []
        for location in locations:
            copy = await read_copy(location, self.key.size, claim, self.contents.verifier)
            if copy is not None:
                found.append(copy)
                if copy.state.usable and not every:
                    break
        return found


async def read_copy(location: Location, size: int | None, claim: Claim, verifier: Verifier) -> Copy | None:
    """The copy at `location`, read to its end; None where there is none. `size`: bytes it must have, if known."""
    archive = isinstance(location, ArchivedObject)
    try:
        opened = await location.open()
    except NotInStore:
        return None
    except RiafsError as problem:
        return Copy(location.name, state_of(problem), str(problem), archive)
    if size not in (None, opened.source.size):
        opened.source.close()
        return Copy(opened.location, CopyState.DAMAGED, f"has {opened.source.size} bytes", archive)
    try:
        await _read(opened, claim, verifier)
    except RiafsError as problem:
        return Copy(opened.location, state_of(problem), str(problem), archive)
    return Copy(opened.location, CopyState.SIZED if claim.new_checker() is None else CopyState.GOOD, archive=archive)


async def _read(opened: UnverifiedContent, claim: Claim, verifier: Verifier) -> None:
    """Raises CorruptContent, and what reading raises."""
    content = await verifier.admit(opened, claim)
    try:
        if opened.checked_as == claim.key or claim.new_checker() is None:  # it was not read to its end yet
            await read_all(content)
    finally:
        content.close()


async def read_all(content: RangedBytes) -> None:
    """Read `content` from its beginning to its end. Raises what reading raises."""
    for offset in range(0, content.size, _CHUNK):
        await content.read(offset, _CHUNK)


@dataclass(frozen=True, slots=True)
class BlobPart:
    """A Part: a git object with the content of a file. `oid` in hex, `size` in bytes."""

    repository: Repository
    dataset: bytes
    oid: bytes
    size: int | None
    kind: str = "git object"

    @property
    def name(self) -> bytes:
        return self.oid

    @property
    def identity(self) -> bytes:
        return self.dataset + b"\0" + self.oid

    def wanted(self, copies: int | None) -> int | None:
        """None: git has one copy, whatever number is asked for."""
        return None

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """One copy at most. Its name is the digest of the bytes that are read."""
        place = f"git repository of {self.repository.name}"
        if self.size is None:
            return ()
        try:
            content = await self.repository.open_blob(self.oid, self.size)
        except RiafsError as problem:
            return (Copy(place, state_of(problem), str(problem)),)
        content.close()
        return (Copy(place, CopyState.GOOD),)
