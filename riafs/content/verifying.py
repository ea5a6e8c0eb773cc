"""Verification: which bytes of a key are served, and when they are known to be right.

``auto``: content up to 16 MiB, and everything that was decrypted, is hashed whole before the first byte is served.
Larger content that lies in the store as it is gets hashed beside a reader that goes through it in order; the reader's
last read waits for the digest. Reads here and there in large content are checked by size only. ``always``: nothing is
served before the whole key is verified. ``never``: sizes only. Members of archives that are named after their key check
themselves in the same way while they are decoded, and are not hashed here a second time. Verified content is remembered
by its evidence (see cache/verified).
"""

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.counters import Counters
from riafs.errors import CorruptContent, RiafsError
from riafs.storage.blocking import BlockingRead, blocking_read
from riafs.storage.patience import Patience
from riafs.storage.ranged import Buffer, MemoryBytes, RangedBytes
from riafs.tasks import Background, as_failure

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


class Verifier:
    """Admits content to readers. One per mount; `background` runs the hashing beside readers."""

    def __init__(
        self, policy: Verify, memory: VerifiedMemory, counters: Counters, patience: Patience, background: Background
    ) -> None:
        self._policy = policy
        self.memory = memory
        self.counters = counters
        self._background = background
        self._beside: dict[tuple[Evidence, bytes], _Hashing] = {}
        self._patience = patience

    async def admit(self, opened: Opened, claim: Claim) -> RangedBytes:
        """What to hand to the reader; takes over ``opened.source``. Raises CorruptContent, and what reading raises."""
        source, evidence = opened.source, opened.evidence
        try:
            if opened.checked_as == claim.key:
                return source
            checker = None if self._policy is Verify.NEVER else claim.new_checker()
            if checker is None:
                self.counters.keys_unverifiable += 1
                return source
            if source.size <= IN_MEMORY:
                return await self._small(opened, claim, checker)
            if evidence is not None and self.memory.is_good(evidence, claim.key):
                return source
            if evidence is None or source.size <= WHOLE_BEFORE_FIRST_BYTE or self._policy is Verify.ALWAYS:
                await self._whole(opened, claim, checker)
                return source
        except BaseException:
            source.close()
            raise
        return self._hashed_beside(opened, evidence, claim, checker)

    async def _small(self, opened: Opened, claim: Claim, checker: Checker) -> RangedBytes:
        data = bytes(await opened.source.read(0, opened.source.size))
        checker.update(data)
        self.conclude(opened, claim, checker)
        opened.source.close()
        return MemoryBytes(data)

    async def _whole(self, opened: Opened, claim: Claim, checker: Checker) -> None:
        size = opened.source.size
        for start in range(0, size, _HOP):
            await self.hash_part(opened.source, checker, start, min(start + _HOP, size))
        self.conclude(opened, claim, checker)

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
        await hashing.run()
        if self._beside.get(name) is hashing:
            del self._beside[name]


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
        self.source = opened.source
        self.ended = False
        self.good = False

    async def run(self) -> None:
        """Hash until the digest is known or nobody reads any more."""
        try:
            with as_failure(f"cannot verify {self._opened.place}"):
                if await self._hash_all():
                    self._verifier.conclude(self._opened, self._claim, self._checker)
                    self.good = True
        except RiafsError as problem:
            self._problem = problem
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
            position = end
        return True

    def _goal(self) -> int:
        """How far to hash for now: beyond the readers, but not much further than they have come themselves."""
        return min(self._front + min(self._front, _AHEAD), self.source.size)

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
        return not self._hashing.good

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises CorruptContent once the digest turned out to be wrong."""
        data = await self._hashing.source.read(offset, length)
        await self._hashing.passed(offset, offset + len(data))
        return data

    def close(self) -> None:
        """The hashing ends when its last reader is gone."""
        if not self._closed:
            self._closed = True
            self._hashing.leave()
