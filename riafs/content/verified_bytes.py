"""What the verifier hands to readers: bytes that lie in the store, and are served only as what was verified.

Others may write to a store's files while they are open here. `WatchedBytes` notices by the file's version after each
read, and has the content proven again before any byte of the new version is served. `ComparedBytes` compares the bytes
themselves, with digests taken of each part while the whole was verified (``verify=always``): it depends on no times of
files. `BytesBeingHashed` serves large content while its digest is computed in the background, and holds back the last
bytes until that is known.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from riafs.content.chunks import Chunks, ChunkVersions
from riafs.errors import ChangedContent, RiafsError, StoreError, StoreTimeout
from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes, Version, stored_file
from riafs.storage.deadline import Deadline
from riafs.tasks import as_failure

_TRIES = 3
_AT_ONCE = 256 << 10  # bytes that take less time to compare than to find a thread

Prove = Callable[[object], Awaitable[tuple[object, bool]]]
Report = Callable[[RiafsError], RiafsError]
"""Logs and counts a failure; returns the one to raise."""


def _as_it_is(problem: RiafsError) -> RiafsError:
    return problem


class Versioned(Protocol):
    """A source that others may change while it is read."""

    @property
    def version(self) -> object:
        """The same object as long as all that was read belongs to one version."""


def versioned(source: RangedBytes) -> Versioned | None:
    """The part of `source` that has a version; None if nobody can change it."""
    if isinstance(source, Chunks):
        return source
    file = stored_file(source)
    return None if file is None or file.version is None else file


def version_of(source: RangedBytes) -> object:
    """The version of `source` that was read last; None if nobody can change it."""
    file = versioned(source)
    return None if file is None else file.version


def is_fresh(source: RangedBytes) -> bool:
    """Whether the file of `source` was changed just now, so that one more change might not change its version."""
    file = stored_file(source)
    return file is not None and file.version is not None and file.version.fresh_seconds() > 0


async def wait_until_settled(source: RangedBytes) -> None:
    """Wait until any further change of the file of `source` changes its version: no time at all, unless it was changed
    just now. Raises StoreError."""
    file = stored_file(source)
    while file is not None and file.version is not None and (seconds := file.version.fresh_seconds()) > 0:
        await trio.sleep(seconds)
        await file.look()


class WatchedBytes:
    """RangedBytes over `source`, which it owns and which was verified when `file` had `version`.

    `prove` is given the version before, and returns the version now, and whether that was verified or only seems
    unchanged; raises CorruptContent, ChangedContent. `digested`: whether there is a digest at all.
    """

    __slots__ = ("_digested", "_file", "_prove", "_proving", "_report", "_source", "_unproven", "_version")

    def __init__(
        self, source: RangedBytes, file: Versioned, version: object, prove: Prove, *, digested: bool,
        report: Report = _as_it_is,
    ) -> None:  # fmt: skip
        self._source = source
        self._file = file
        self._version = version
        self._prove = prove
        self._proving = trio.Lock()
        self._report = report
        self._digested = digested
        self._unproven = False

    def reported(self, report: Report) -> "WatchedBytes":
        """The same bytes with `report` for failures; takes over the source."""
        return WatchedBytes(
            self._source, self._file, self._version, self._prove, digested=self._digested, report=report
        )

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    @property
    def provisional(self) -> bool:
        return self._unproven

    @property
    def shown_version(self) -> object:
        return PROVEN if self._digested and not self._unproven else self._version

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises CorruptContent, ChangedContent if the file is not what was verified any more."""
        try:
            data = await self._source.read(offset, length)
            if self._file.version is not self._version:
                data = await self._read_again(offset, length)
        except RiafsError as problem:
            raise self._report(problem) from problem
        return data

    async def _read_again(self, offset: int, length: int) -> Buffer:
        for _ in range(_TRIES):
            async with self._proving:
                if self._file.version is not self._version:
                    self._version, proven = await self._prove(self._version)
                    self._unproven |= not proven
            data = await self._source.read(offset, length)
            if self._file.version is self._version:
                return data
        raise ChangedContent("the file in the store is being changed; try again when that has ended")

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class PartDigests:
    """Digests of the parts of one content, which are given in order, as to a Checker."""

    PART = 128 << 10
    _LENGTH = 16

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start again."""
        self._digests = bytearray()
        self._digest = hashlib.blake2b(digest_size=self._LENGTH)
        self._missing = self.PART

    def update(self, data: Buffer) -> None:
        """The next bytes."""
        view = memoryview(data)
        while view:
            piece, view = view[: self._missing], view[self._missing :]
            self._digest.update(piece)
            self._missing -= len(piece)
            if not self._missing:
                self._end_part()

    def _end_part(self) -> None:
        self._digests += self._digest.digest()
        self._digest = hashlib.blake2b(digest_size=self._LENGTH)
        self._missing = self.PART

    def end(self) -> bytes:
        """The digests, after the last byte."""
        if self._missing < self.PART:
            self._end_part()
        return bytes(self._digests)

    @classmethod
    def fits(cls, digests: bytes, offset: int, data: Buffer) -> bool:
        """Whether `data`, whole parts from `offset` on, is what `digests` were taken of."""
        taken = cls()
        taken.update(data)
        return digests.startswith(taken.end(), offset // cls.PART * cls._LENGTH)


class ComparedBytes:
    """RangedBytes over `source`, which it owns: each part is compared with its digest before it is served."""

    __slots__ = ("_deadline", "_digests", "_place", "_source")

    def __init__(self, source: RangedBytes, digests: bytes, deadline: Deadline, place: str) -> None:
        self._source = source
        self._digests = digests
        self._deadline = deadline
        self._place = place

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises ChangedContent if the bytes differ from those that were verified."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        start = offset // PartDigests.PART * PartDigests.PART
        whole = min(-(-end // PartDigests.PART) * PartDigests.PART, self.size)
        data = await self._source.read(start, whole - start)
        if whole - start <= _AT_ONCE:
            same = PartDigests.fits(self._digests, start, data)
        else:
            same = await self._deadline.run(PartDigests.fits, self._digests, start, data)
        if not same:
            raise ChangedContent(f"{self._place} was changed since it was verified; open the file again")
        return memoryview(data)[offset - start : end - start]

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def is_only_touched(before: object, now: object) -> bool:
    """Whether only names, links or permissions of a file have changed, judged by its times."""
    kinds = (Version, ChunkVersions)
    return isinstance(before, kinds) and isinstance(now, kinds) and before.modification == now.modification


_HOP = 64 << 20  # bytes hashed at most in one visit to a thread
_AHEAD = 16 << 20
_OUT_OF_ORDER = 8 << 20
"""The kernel's read-ahead sends its requests slightly out of order; within this many bytes a reader counts as in
order."""


class Hashing:
    """A digest that is computed in the background while any number of readers read the same bytes.

    Invariants: `front` is how far readers have come in order; the task hashes a bit beyond `front` and then waits.
    The source, found in `place`, is closed when the last reader has gone and the task is not using it.
    `take` hashes the bytes between two positions, `conclude` raises CorruptContent if the digest is wrong; it is told
    whether what is there is still the same version. `restart` begins a new digest: a failure of the store, such as an
    outage, is told to the readers of that time, and hashing begins again when one of them goes on.
    """

    def __init__(
        self, source: RangedBytes, place: str, take: Callable[[int, int], Awaitable[None]],
        conclude: Callable[[bool], None], restart: Callable[[], None],
    ) -> None:  # fmt: skip
        self._place = place
        self._take = take
        self._conclude = conclude
        self._restart = restart
        self._front = 0
        self._wake = trio.Event()
        self._concluded = trio.Event()
        self._readers = 0
        self._problem: RiafsError | None = None
        self._version = version_of(source)
        self._touched = False
        self.source = source
        self.ended = False
        self.good = False

    async def run(self) -> None:
        """Hash until the digest is known or no reader is left."""
        try:
            while await self._fails_for_now():
                self._concluded.set()
                while self._problem is not None and self._readers:
                    self._wake = trio.Event()
                    await self._wake.wait()
                self._restart()
        finally:
            self.ended = True
            self._concluded.set()
            if self._readers == 0:
                self.source.close()

    async def _fails_for_now(self) -> bool:
        """Hash; whether the store failed, and hashing may succeed later."""
        try:
            with as_failure(f"cannot verify {self._place}"):
                if await self._hash_all():
                    self._conclude(not self._touched)
                    self.good = True
        except RiafsError as problem:
            self._problem = problem
            return isinstance(problem, StoreError | StoreTimeout) and self._readers > 0
        return False

    async def _hash_all(self) -> bool:
        position = 0
        while position < self.source.size:
            while position >= self._goal() and self._readers:
                self._wake = trio.Event()
                await self._wake.wait()
            if not self._readers:
                return False
            end = min(self._goal(), position + _HOP)
            await self._take(position, end)
            self.look()
            position = end
        return True

    def _goal(self) -> int:
        """How far to hash for now: as far as the readers have come, and up to as much again."""
        return min(self._front + min(self._front, _AHEAD), self.source.size)

    def look(self) -> None:
        """Raise ChangedContent if the file is not the same version any more."""
        now = version_of(self.source)
        if now is self._version:
            return
        if not is_only_touched(self._version, now):
            raise ChangedContent(f"{self._place} was changed while it was open; open the file again")
        self._version, self._touched = now, True

    @property
    def failed(self) -> bool:
        """Whether it has ended with a failure, or waits for a reader to begin again after one."""
        return self._problem is not None

    @property
    def proven(self) -> bool:
        """Whether all bytes that were served are verified."""
        return self.good and not self._touched

    def join(self) -> None:
        """Count a reader."""
        self._readers += 1

    def leave(self) -> None:
        """Do not count a reader any more."""
        self._readers -= 1
        self._wake.set()
        if self._readers == 0 and self.ended:
            self.source.close()

    async def passed(self, offset: int, end: int) -> None:
        """A reader has got the bytes up to `end`. For the last bytes of a reader in order, waits for the digest.

        Raises CorruptContent, and what the store fails with.
        """
        if self._problem is not None and not self.ended:
            self._problem, self._concluded = None, trio.Event()
            self._wake.set()
        if offset <= self._front + _OUT_OF_ORDER and end > self._front:
            self._front = end
            self._wake.set()
        if end >= self.source.size and self._front >= self.source.size:
            concluded = None
            while concluded is not self._concluded:  # another reader may have begun anew
                concluded = self._concluded
                await concluded.wait()
        if self._problem is not None:
            raise type(self._problem)(*self._problem.args)


class BytesBeingHashed:
    """RangedBytes whose last bytes are served only once the digest is known."""

    __slots__ = ("_closed", "_hashing")

    def __init__(self, hashing: Hashing) -> None:
        self._hashing = hashing
        self._closed = False
        hashing.join()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._hashing.source.size

    @property
    def provisional(self) -> bool:
        return not self._hashing.proven

    @property
    def shown_version(self) -> object:
        """A cache may serve the same bytes to all readers of one hashing."""
        return PROVEN if self._hashing.proven else self._hashing

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises CorruptContent once the digest is known to be wrong."""
        data = await self._hashing.source.read(offset, length)
        self._hashing.look()
        await self._hashing.passed(offset, offset + len(data))
        return data

    def close(self) -> None:
        """The hashing ends when its last reader is gone."""
        if not self._closed:
            self._closed = True
            self._hashing.leave()
