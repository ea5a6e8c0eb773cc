"""Verification: which bytes of a key are served, and when they are known to be right.

``auto``: content up to 16 MiB, and everything that was decrypted, is hashed whole before the first byte is served.
Larger content that lies in the store as it is gets hashed in the background while it is read in order; the last read
waits for the digest. Of random reads in large content only the size is checked. ``always``: nothing is
served before the whole key is verified. ``never``: sizes only. Members of archives that are named after their key check
themselves in the same way while they are decoded, and are not hashed here a second time. Verified content is remembered
by its evidence (`VerifiedMemory`). Files of the store are watched for changes while they are open (`WatchedBytes`).
"""

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cachetools import LRUCache

from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.content.verified_bytes import (
    BytesBeingHashed,
    ComparedBytes,
    Hashing,
    PartDigests,
    WatchedBytes,
    is_fresh,
    is_only_touched,
    version_of,
    versioned,
    wait_until_settled,
)
from riafs.counters import Counters
from riafs.errors import ChangedContent, CorruptContent
from riafs.formats.digests import verifiable
from riafs.formats.keys import Key
from riafs.storage.bytesource import Buffer, MemoryBytes, RangedBytes, Version
from riafs.storage.deadline import Deadline, leave_request
from riafs.storage.local_file import BlockingRead, blocking_read
from riafs.tasks import Background

log = logging.getLogger(__name__)

WHOLE_BEFORE_FIRST_BYTE = 16 << 20
IN_MEMORY = 128 << 10
"""Content up to this many bytes is served from the buffer it was hashed in, and not worth remembering."""
_CHUNK = 4 << 20
_HOP = 64 << 20  # bytes that a thread hashes in one call
_SLOWEST = 256 << 10  # bytes a second that a store may take on top of the deadline
_TRIES = 3
_SEALS = 64 << 20


class Verify(enum.Enum):
    """The mount's policy."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Checker(Protocol):
    """A digest that is being computed."""

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""

    def matches(self) -> bool:
        """Whether the bytes so far are the content of the key."""


@dataclass(frozen=True, slots=True)
class UnverifiedContent:
    """Content found at a location, not verified yet."""

    source: RangedBytes
    location: str
    evidence: Evidence | None
    """By which it is remembered as verified; None for content that was decoded for this reader alone."""
    checked_as: bytes | None = None
    """The key by which the source itself checks its bytes, before it returns the last of them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The key that bytes are supposed to be the content of, serialised, and how to check them."""

    key: bytes
    new_checker: Callable[[], Checker | None]


class _PartwiseChecker:
    """A checker that computes digests of the parts as well."""

    def __init__(self, checker: Checker, seal: PartDigests) -> None:
        self._checker = checker
        self._seal = seal

    def update(self, data: Buffer) -> None:
        self._checker.update(data)
        self._seal.update(data)

    def matches(self) -> bool:
        return self._checker.matches()


class Verifier:
    """Admits content to readers. One per mount; `background` runs the hashing of large content."""

    def __init__(
        self, policy: Verify, memory: VerifiedMemory, counters: Counters, deadline: Deadline, background: Background
    ) -> None:
        self._policy = policy
        self.memory = memory
        self.counters = counters
        self._background = background
        self._beside: dict[tuple[Evidence, bytes], Hashing] = {}
        self._deadline = deadline
        self._seals: LRUCache[bytes, bytes] = LRUCache(_SEALS, getsizeof=len)

    async def admit(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes:
        """The bytes for the reader; takes over ``opened.source``. Raises CorruptContent, and what reading raises."""
        try:
            return await self._admitted(opened, claim)
        except BaseException:
            opened.source.close()
            raise

    async def _admitted(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes:
        if opened.checked_as == claim.key:
            return opened.source
        checker = None if self._policy is Verify.NEVER else claim.new_checker()
        if checker is None:
            self.counters.keys_unverifiable += 1
            await wait_until_settled(opened.source)
            return self._in_place(opened, claim, version_of(opened.source), digested=False)
        if opened.source.size <= IN_MEMORY:
            return await self._small(opened, claim, checker)
        if self._policy is Verify.ALWAYS:
            return await self._sealed(opened, claim)
        evidence = opened.evidence
        if evidence is not None and await self._is_good(opened, evidence, claim):
            return self._in_place(opened, claim, evidence.version)
        if self._is_whole_first(opened):
            return self._in_place(opened, claim, await self._whole(opened, claim))
        assert evidence is not None
        await wait_until_settled(opened.source)
        return self._hashed_beside(opened, evidence, claim, checker)

    def proves_whole(self, key: Key, size: int) -> bool:
        """Whether a loose object of `key` with `size` bytes is verified whole before any byte is served."""
        whole = self._policy is Verify.ALWAYS or (self._policy is Verify.AUTO and size <= WHOLE_BEFORE_FIRST_BYTE)
        return whole and key.backend != b"VURL" and verifiable(key)

    @staticmethod
    def _is_whole_first(opened: UnverifiedContent) -> bool:
        return opened.evidence is None or opened.source.size <= WHOLE_BEFORE_FIRST_BYTE

    async def _is_good(self, opened: UnverifiedContent, evidence: Evidence, claim: Claim) -> bool:
        """Whether this version is remembered as verified. An archive may have been open for longer than that."""
        if not await self.memory.is_good(evidence, claim.key):
            return False
        file = versioned(opened.source)
        return file is None or file.version == evidence.version

    def _in_place(
        self, opened: UnverifiedContent, claim: Claim, version: object, *, digested: bool = True
    ) -> RangedBytes:
        """The source, watched if others can change it. `version`: the verified one."""
        file = versioned(opened.source)
        if file is None:
            return opened.source

        async def prove(before: object) -> tuple[object, bool]:
            if digested and self._is_whole_first(opened):
                return await self._whole(opened, claim), True
            now = file.version
            if not is_only_touched(before, now):
                raise ChangedContent(f"{opened.location} was changed while it was open; open the file again")
            return now, False

        return WatchedBytes(opened.source, file, version, prove, digested=digested)

    async def _sealed(self, opened: UnverifiedContent, claim: Claim) -> RangedBytes:
        """Verified now, unless this mount has done so before; verifications of earlier mounts do not count."""
        evidence, digests = opened.evidence, self._seals.get(claim.key)
        if digests is None or evidence is None or not await self._is_good(opened, evidence, claim):
            seal = PartDigests()
            await self._whole(opened, claim, seal)
            digests = seal.end()
            if len(digests) <= _SEALS:
                self._seals[claim.key] = digests
        if versioned(opened.source) is None:
            return opened.source
        return ComparedBytes(opened.source, digests, self._deadline, opened.location)

    async def _small(self, opened: UnverifiedContent, claim: Claim, checker: Checker) -> RangedBytes:
        """Content that is served from the buffer it was hashed in; hashed again if it was being written just now."""
        source = opened.source
        for _ in range(_TRIES):
            version, fresh = version_of(source), is_fresh(source)
            data = bytes(await source.read(0, source.size))
            checker.update(data)
            if checker.matches() or (version_of(source) is version and not fresh):
                self.conclude(opened, claim, checker)
                source.close()
                return MemoryBytes(data)
            await wait_until_settled(source)
            checker = claim.new_checker() or checker
        raise ChangedContent(f"{opened.location} is being changed; try again when that has ended")

    async def _whole(self, opened: UnverifiedContent, claim: Claim, seal: PartDigests | None = None) -> object:
        """Hash everything; returns the version that was verified. Raises CorruptContent, ChangedContent, …"""
        size = opened.source.size
        for _ in range(_TRIES):
            await wait_until_settled(opened.source)
            version = version_of(opened.source)
            checker = claim.new_checker()
            assert checker is not None
            if seal is not None:
                checker = _PartwiseChecker(checker, seal)
            for start in range(0, size, _HOP):
                await self.hash_part(opened.source, checker, start, min(start + _HOP, size))
            if version_of(opened.source) is version:
                self.conclude(_at(opened, version), claim, checker)
                return version
            if seal is not None:
                seal.clear()
        raise ChangedContent(f"{opened.location} is being changed; try again when that has ended")

    async def hash_part(self, source: RangedBytes, checker: Checker, start: int, end: int) -> None:
        """Hash the bytes from `start` to `end`, in a thread, as hashing takes milliseconds a chunk.

        Raises StoreTimeout, and what reading raises.
        """
        read = blocking_read(source)
        if read is not None:
            await self._deadline.run_longer((end - start) / _SLOWEST, _hash, read, checker, start, end)
            return
        for offset in range(start, end, _CHUNK):
            data = await source.read(offset, min(_CHUNK, end - offset))
            await self._deadline.run(checker.update, data)

    def conclude(self, opened: UnverifiedContent, claim: Claim, checker: Checker) -> None:
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
            "content of key %s in %s is damaged: its digest does not match; this copy is not used", key, opened.location
        )
        raise CorruptContent(f"the copy of key {key} in {opened.location} is damaged")

    def _hashed_beside(
        self, opened: UnverifiedContent, evidence: Evidence, claim: Claim, checker: Checker
    ) -> BytesBeingHashed:
        hashing = self._beside.get((evidence, claim.key))
        if hashing is None or hashing.ended or hashing.failed:

            async def take(start: int, end: int) -> None:
                await self.hash_part(opened.source, checker, start, end)

            def conclude(same: bool) -> None:  # noqa: FBT001  # after a change it is verified for these readers only
                self.conclude(opened if same else replace(opened, evidence=None), claim, checker)

            def restart() -> None:
                nonlocal checker
                checker = claim.new_checker() or checker

            hashing = Hashing(opened.source, opened.location, take, conclude, restart)
            self._beside[evidence, claim.key] = hashing
            self._background.start_soon(self._hash, hashing, (evidence, claim.key))
        else:
            opened.source.close()
        return BytesBeingHashed(hashing)

    async def _hash(self, hashing: Hashing, name: tuple[Evidence, bytes]) -> None:
        leave_request()
        await hashing.run()
        if self._beside.get(name) is hashing:
            del self._beside[name]


def _at(opened: UnverifiedContent, version: object) -> UnverifiedContent:
    """`opened`, with evidence of the version that was read."""
    if opened.evidence is None or not isinstance(version, Version):
        return opened
    return replace(opened, evidence=replace(opened.evidence, version=version))


def _hash(read: BlockingRead, checker: Checker, start: int, end: int) -> None:
    """In large chunks, as a thread may wait for the interpreter after each; in one buffer, as new ones get zeroed."""
    buffer = memoryview(bytearray(min(_CHUNK, end - start)))
    for offset in range(start, end, _CHUNK):
        part = buffer[: end - offset]
        read(offset, part)
        checker.update(part)
