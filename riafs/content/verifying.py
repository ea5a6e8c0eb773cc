"""Verification: which bytes of a key are served, and when they are known to be right.

``auto``: content up to 16 MiB, and everything that was decrypted, is hashed whole before the first byte is served.
Larger content that lies in the store as it is gets hashed beside a reader that goes through it in order; the reader's
last read waits for the digest. Reads here and there in large content are checked by size only. ``always``: nothing is
served before the whole key is verified. ``never``: sizes only. Members of archives that are named after their key check
themselves in the same way while they are decoded, and are not hashed here a second time. Verified content is remembered
by its evidence (see cache/verified). What is read in place is watched while it is open (see content/inplace).
"""

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import trio
from cachetools import LRUCache

from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.content.inplace import InPlace, Seal, Sealed, is_fresh, is_only_touched, rested, versioned
from riafs.counters import Counters
from riafs.errors import ChangedContent, CorruptContent, RiafsError, StoreError
from riafs.storage.blocking import BlockingRead, blocking_read
from riafs.storage.files import Identity
from riafs.storage.patience import Patience, of_no_request
from riafs.storage.ranged import PROVEN, Buffer, MemoryBytes, RangedBytes

log = logging.getLogger(__name__)

WHOLE_BEFORE_FIRST_BYTE = 16 << 20
IN_MEMORY = 128 << 10
"""Content up to this many bytes is served from the buffer it was hashed in, and not worth remembering."""
_CHUNK = 4 << 20
_HOP = 64 << 20  # bytes hashed at most in one visit to a thread
_SLOWEST = 256 << 10  # bytes a second that a store may take on top of the deadline
_AHEAD = 16 << 20
_OUT_OF_ORDER = 8 << 20
"""The kernel's read-ahead sends its requests slightly out of order; within this many bytes a reader counts as in
order."""
_TRIES = 3
_SEALS = 64 << 20


class Verify(enum.Enum):
    """The mount's policy."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Checker(Protocol):
    """A digest in the making."""

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""

    def matches(self) -> bool:
        """Whether what was taken in is the key's content."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Content found in a place, not verified yet."""

    source: RangedBytes
    place: str
    evidence: Evidence | None
    """None for what was decoded for this reader alone."""
    checked_as: bytes | None = None
    """The key whose digest the source itself checks its bytes against, before it gives out those that complete them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the bytes are supposed to be: the key as messages and the memory call it, and how to check it."""

    key: bytes
    new_checker: Callable[[], Checker | None]


class _Sealing:
    """A checker that seals what it checks."""

    def __init__(self, checker: Checker, seal: Seal) -> None:
        self._checker = checker
        self._seal = seal

    def update(self, data: Buffer) -> None:
        self._checker.update(data)
        self._seal.update(data)

    def matches(self) -> bool:
        return self._checker.matches()


class Verifier:
    """Admits content to readers. One per mount; `background` runs the hashing beside readers."""

    def __init__(
        self, policy: Verify, memory: VerifiedMemory, counters: Counters, patience: Patience, background: trio.Nursery
    ) -> None:
        self._policy = policy
        self.memory = memory
        self.counters = counters
        self._background = background
        self._beside: dict[tuple[Evidence, bytes], _Hashing] = {}
        self._patience = patience
        self._seals: LRUCache[bytes, bytes] = LRUCache(_SEALS, getsizeof=len)

    async def admit(self, opened: Opened, claim: Claim) -> RangedBytes:
        """What to hand to the reader; takes over ``opened.source``. Raises CorruptContent, and what reading raises."""
        try:
            return await self._admitted(opened, claim)
        except BaseException:
            opened.source.close()
            raise

    async def _admitted(self, opened: Opened, claim: Claim) -> RangedBytes:
        if opened.checked_as == claim.key:
            return opened.source
        checker = None if self._policy is Verify.NEVER else claim.new_checker()
        if checker is None:
            self.counters.keys_unverifiable += 1
            await rested(opened.source)
            return self._in_place(opened, claim, _identity(opened.source), digested=False)
        if opened.source.size <= IN_MEMORY:
            return await self._small(opened, claim, checker)
        if self._policy is Verify.ALWAYS:
            return await self._sealed(opened, claim)
        evidence = opened.evidence
        if evidence is not None and self._is_good(opened, evidence, claim):
            return self._in_place(opened, claim, evidence.identity)
        if self._is_whole_first(opened):
            return self._in_place(opened, claim, await self._whole(opened, claim))
        assert evidence is not None
        await rested(opened.source)
        return self._hashed_beside(opened, evidence, claim, checker)

    @staticmethod
    def _is_whole_first(opened: Opened) -> bool:
        return opened.evidence is None or opened.source.size <= WHOLE_BEFORE_FIRST_BYTE

    def _is_good(self, opened: Opened, evidence: Evidence, claim: Claim) -> bool:
        """Whether this version is remembered as verified; the file may be an archive's, open for longer."""
        file = versioned(opened.source)
        return (file is None or file.identity == evidence.identity) and self.memory.is_good(evidence, claim.key)

    def _in_place(self, opened: Opened, claim: Claim, identity: object, *, digested: bool = True) -> RangedBytes:
        """The source, watched if others can change it. `identity`: the version that is known."""
        file = versioned(opened.source)
        if file is None:
            return opened.source

        async def prove(before: object) -> tuple[object, bool]:
            if digested and self._is_whole_first(opened):
                return await self._whole(opened, claim), True
            now = file.identity
            if not is_only_touched(before, now):
                raise ChangedContent(f"{opened.place} was changed while it was open; open the file again")
            return now, False

        return InPlace(opened.source, file, identity, prove, digested=digested)

    async def _sealed(self, opened: Opened, claim: Claim) -> RangedBytes:
        """Verified here and now, unless this mount did that before; what this memory knows of earlier ones does not
        count."""
        evidence, digests = opened.evidence, self._seals.get(claim.key)
        if digests is None or evidence is None or not self._is_good(opened, evidence, claim):
            seal = Seal()
            await self._whole(opened, claim, seal)
            digests = seal.end()
            if len(digests) <= _SEALS:
                self._seals[claim.key] = digests
        if versioned(opened.source) is None:
            return opened.source
        return Sealed(opened.source, digests, self._patience, opened.place)

    async def _small(self, opened: Opened, claim: Claim, checker: Checker) -> RangedBytes:
        """Content that is served from where it was hashed. What is being written just now is looked at once more."""
        source = opened.source
        for _ in range(_TRIES):
            identity, fresh = _identity(source), is_fresh(source)
            data = bytes(await source.read(0, source.size))
            checker.update(data)
            if checker.matches() or (_identity(source) is identity and not fresh):
                self.conclude(opened, claim, checker)
                source.close()
                return MemoryBytes(data)
            await rested(source)
            checker = claim.new_checker() or checker
        raise ChangedContent(f"{opened.place} is being changed; try again when that has ended")

    async def _whole(self, opened: Opened, claim: Claim, seal: Seal | None = None) -> object:
        """Hash everything; which version of it was found to be right. Raises CorruptContent, ChangedContent, …"""
        size = opened.source.size
        for _ in range(_TRIES):
            await rested(opened.source)
            identity = _identity(opened.source)
            checker = claim.new_checker()
            assert checker is not None
            if seal is not None:
                checker = _Sealing(checker, seal)
            for start in range(0, size, _HOP):
                await self.hash_part(opened.source, checker, start, min(start + _HOP, size))
            if _identity(opened.source) is identity:
                self.conclude(_at(opened, identity), claim, checker)
                return identity
            if seal is not None:
                seal.clear()
        raise ChangedContent(f"{opened.place} is being changed; try again when that has ended")

    async def hash_part(self, source: RangedBytes, checker: Checker, start: int, end: int) -> None:
        """Take the bytes from `start` to `end` into `checker`, in a thread, as hashing takes milliseconds a chunk.

        Raises StoreTimeout, and what reading raises.
        """
        read = blocking_read(source)
        if read is not None:
            await self._patience.run_longer((end - start) / _SLOWEST, _hash, read, checker, start, end)
            return
        for offset in range(start, end, _CHUNK):
            data = await source.read(offset, min(_CHUNK, end - offset))
            await self._patience.run(checker.update, data)

    def conclude(self, opened: Opened, claim: Claim, checker: Checker) -> None:
        """Count and remember the outcome. Raises CorruptContent."""
        size = opened.source.size
        if checker.matches():
            self.counters.keys_verified += 1
            self.counters.bytes_verified += size
            if opened.evidence is not None and size > IN_MEMORY:
                self.memory.remember_good(opened.evidence, claim.key)
            return
        self.counters.keys_corrupt += 1
        if opened.evidence is not None:
            self.memory.remember_bad(opened.evidence, claim.key)
        key = claim.key.decode(errors="replace")
        log.error(
            "content of key %s in %s is damaged: its digest does not match; this copy is not used", key, opened.place
        )
        raise CorruptContent(f"the copy of key {key} in {opened.place} is damaged")

    def _hashed_beside(self, opened: Opened, evidence: Evidence, claim: Claim, checker: Checker) -> "HashedBeside":
        hashing = self._beside.get((evidence, claim.key))
        if hashing is None or hashing.ended:
            hashing = _Hashing(self, opened, claim, checker)
            self._beside[evidence, claim.key] = hashing
            self._background.start_soon(self._hash, hashing, (evidence, claim.key))
        else:
            opened.source.close()
        return HashedBeside(hashing)

    async def _hash(self, hashing: "_Hashing", name: tuple[Evidence, bytes]) -> None:
        of_no_request()
        await hashing.run()
        if self._beside.get(name) is hashing:
            del self._beside[name]


def _identity(source: RangedBytes) -> object:
    """Which version of `source` was read last; None for what nobody changes."""
    file = versioned(source)
    return None if file is None else file.identity


def _at(opened: Opened, identity: object) -> Opened:
    """`opened`, as the version that was looked at."""
    if opened.evidence is None or not isinstance(identity, Identity):
        return opened
    return replace(opened, evidence=replace(opened.evidence, identity=identity))


def _hash(read: BlockingRead, checker: Checker, start: int, end: int) -> None:
    """In large chunks, as a thread may wait for the interpreter after each; in one buffer, as new ones get zeroed."""
    buffer = memoryview(bytearray(min(_CHUNK, end - start)))
    for offset in range(start, end, _CHUNK):
        part = buffer[: end - offset]
        read(offset, part)
        checker.update(part)


class _Hashing:
    """One digest made beside any number of readers of the same bytes.

    Invariants: `front` is how far readers have come in order; the task hashes a bit beyond `front` and then waits.
    The source is closed when the last reader has gone and the task is not using it.
    """

    def __init__(self, verifier: Verifier, opened: Opened, claim: Claim, checker: Checker) -> None:
        self._verifier = verifier
        self._opened = opened
        self._claim = claim
        self._checker = checker
        self._front = 0
        self._wake = trio.Event()
        self._concluded = trio.Event()
        self._readers = 0
        self._problem: RiafsError | None = None
        self._identity = _identity(opened.source)
        self._touched = False
        self.source = opened.source
        self.ended = False
        self.good = False

    async def run(self) -> None:
        """Hash until the digest is known or nobody reads any more."""
        try:
            if await self._hash_all():
                # What may have changed meanwhile is right for these readers, and nothing is known of what is there now.
                opened = replace(self._opened, evidence=None) if self._touched else self._opened
                self._verifier.conclude(opened, self._claim, self._checker)
                self.good = True
        except RiafsError as problem:
            self._problem = problem
        except (OSError, RuntimeError, MemoryError) as error:  # no thread, no memory: this reader's trouble alone
            self._problem = StoreError(f"cannot verify {self._opened.place}: {error}")
        finally:
            self.ended = True
            self._concluded.set()
            if self._readers == 0:
                self.source.close()

    async def _hash_all(self) -> bool:
        position = 0
        while position < self.source.size:
            while position >= self._goal() and self._readers:
                self._wake = trio.Event()
                await self._wake.wait()
            if not self._readers:
                return False
            end = min(self._goal(), position + _HOP)
            await self._verifier.hash_part(self.source, self._checker, position, end)
            self.look()
            position = end
        return True

    def _goal(self) -> int:
        """How far to hash for now: beyond the readers, but not much further than they have come themselves."""
        return min(self._front + min(self._front, _AHEAD), self.source.size)

    def look(self) -> None:
        """See whether what was read is still the same version. Raises ChangedContent."""
        now = _identity(self.source)
        if now is self._identity:
            return
        if not is_only_touched(self._identity, now):
            raise ChangedContent(f"{self._opened.place} was changed while it was open; open the file again")
        self._identity, self._touched = now, True

    @property
    def proven(self) -> bool:
        """Whether everything that was handed out is known to be right."""
        return self.good and not self._touched

    def join(self) -> None:
        """A reader more."""
        self._readers += 1

    def leave(self) -> None:
        """A reader less."""
        self._readers -= 1
        self._wake.set()
        if self._readers == 0 and self.ended:
            self.source.close()

    async def passed(self, offset: int, end: int) -> None:
        """A reader has the bytes up to `end`; waits for the digest where these are the last ones of a reader in order.

        Raises CorruptContent.
        """
        if offset <= self._front + _OUT_OF_ORDER and end > self._front:
            self._front = end
            self._wake.set()
        if end >= self.source.size and self._front >= self.source.size:
            await self._concluded.wait()
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args)


class HashedBeside:
    """RangedBytes whose last bytes are held back until the digest of all of them is known."""

    __slots__ = ("_closed", "_hashing")

    def __init__(self, hashing: _Hashing) -> None:
        self._hashing = hashing
        self._closed = False
        hashing.join()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._hashing.source.size

    @property
    def provisional(self) -> bool:
        """See Provisional."""
        return not self._hashing.proven

    @property
    def version(self) -> object:
        """See Provisional. Readers of one hashing may share what a cache has."""
        return PROVEN if self._hashing.proven else self._hashing

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises CorruptContent once the digest turned out to be wrong."""
        data = await self._hashing.source.read(offset, length)
        self._hashing.look()
        await self._hashing.passed(offset, offset + len(data))
        return data

    def close(self) -> None:
        """The hashing ends when its last reader is gone."""
        if not self._closed:
            self._closed = True
            self._hashing.leave()
