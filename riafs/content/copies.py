"""The copies of keys and git objects, read to the end: what ``riafs verify`` counts.

Nothing remembered is believed here, so the verifier given must remember nothing and verify always.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from riafs.content.annex import AnnexContents
from riafs.content.parts import Copy, CopyState, state_of
from riafs.content.places import ArchivePlace, Place
from riafs.content.verifying import Claim, Opened, Verifier
from riafs.errors import NotInStore, RiafsError
from riafs.formats.keys import Key
from riafs.git.repository import Repository
from riafs.storage.bytesource import RangedBytes

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class KeyPart:
    """A key of the dataset called `dataset`: see Part."""

    contents: AnnexContents
    dataset: bytes
    key: Key
    kind: str = "key"

    @property
    def name(self) -> bytes:
        """See Part."""
        return self.key.serialised

    @property
    def identity(self) -> bytes:
        """See Part."""
        return self.dataset + b"\0" + self.key.serialised

    @property
    def size(self) -> int | None:
        """See Part."""
        return self.key.size

    def wanted(self, copies: int | None) -> int | None:
        """See Part: a store says nothing of copies."""
        return copies

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """See Part. Chunked and encrypted forms are looked at where there is no plain copy, or for `every`."""
        claim = await self.contents.claim(self.key)
        found = await self._look(self.contents.stored_places(self.key), claim, every=every)
        if every or not any(copy.state.usable for copy in found):
            found += await self._look(await self.contents.special_places(self.key), claim, every=every)
        return found

    async def _look(self, places: Iterable[Place], claim: Claim, *, every: bool) -> list[Copy]:
        found: list[Copy] = []
        for place in places:
            copy = await look_at(place, self.key.size, claim, self.contents.verifier)
            if copy is not None:
                found.append(copy)
                if copy.state.usable and not every:
                    break
        return found


async def look_at(place: Place, size: int | None, claim: Claim, verifier: Verifier) -> Copy | None:
    """The copy in `place`, read to its end; None where there is none. `size`: bytes it must have, if known."""
    archive = isinstance(place, ArchivePlace)
    try:
        opened = await place.open()
    except NotInStore:
        return None
    except RiafsError as problem:
        return Copy(place.name, state_of(problem), str(problem), archive)
    if size not in (None, opened.source.size):
        opened.source.close()
        return Copy(opened.place, CopyState.DAMAGED, f"has {opened.source.size} bytes", archive)
    try:
        await _read(opened, claim, verifier)
    except RiafsError as problem:
        return Copy(opened.place, state_of(problem), str(problem), archive)
    return Copy(opened.place, CopyState.SIZED if claim.new_checker() is None else CopyState.GOOD, archive=archive)


async def _read(opened: Opened, claim: Claim, verifier: Verifier) -> None:
    """Raises CorruptContent, and what reading raises."""
    content = await verifier.admit(opened, claim)
    try:
        if opened.checked_as == claim.key or claim.new_checker() is None:  # nobody has read it to its end yet
            await read_all(content)
    finally:
        content.close()


async def read_all(content: RangedBytes) -> None:
    """Read `content` from its beginning to its end. Raises what reading raises."""
    for offset in range(0, content.size, _CHUNK):
        await content.read(offset, _CHUNK)


@dataclass(frozen=True, slots=True)
class BlobPart:
    """A file that git holds: see Part. `oid` in hex, `size` in bytes."""

    repository: Repository
    dataset: bytes
    oid: bytes
    size: int | None
    kind: str = "git object"

    @property
    def name(self) -> bytes:
        """See Part."""
        return self.oid

    @property
    def identity(self) -> bytes:
        """See Part."""
        return self.dataset + b"\0" + self.oid

    def wanted(self, copies: int | None) -> int | None:
        """See Part: git keeps one, whatever is asked for."""
        return None

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """See Part. git knows one copy at most; its name is the digest of what is read."""
        place = f"git repository of {self.repository.name}"
        if self.size is None:
            return ()
        try:
            content = await self.repository.open_blob(self.oid, self.size)
        except RiafsError as problem:
            return (Copy(place, state_of(problem), str(problem)),)
        content.close()
        return (Copy(place, CopyState.GOOD),)
