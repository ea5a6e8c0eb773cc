"""Content that is read where it lies in the store, and stays what it was when it was verified.

Others may write to a store's files while they are open here. `InPlace` notices by the file's version after each read,
and has the content proven again before any byte of the new version is served. `Sealed` compares the bytes themselves,
with digests taken of each part while the whole was verified (``verify=always``): it depends on no times of files.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from riafs.content.chunks import Chunks, ChunkVersions
from riafs.errors import ChangedContent, RiafsError
from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes, Version, stored_file
from riafs.storage.deadline import Deadline

_TRIES = 3
_AT_ONCE = 256 << 10  # bytes that are compared sooner than a thread is found

Prove = Callable[[object], Awaitable[tuple[object, bool]]]
Report = Callable[[RiafsError], RiafsError]
"""Makes of a failure the one that is raised."""


def _as_it_is(problem: RiafsError) -> RiafsError:
    return problem


class Versioned(Protocol):
    """What bytes are read from that others may change meanwhile."""

    @property
    def version(self) -> object:
        """The same object as long as all that was read belongs to one version."""


def versioned(source: RangedBytes) -> Versioned | None:
    """What tells whether `source` is still the same version; None for what nobody changes."""
    if isinstance(source, Chunks):
        return source
    file = stored_file(source)
    return None if file is None or file.version is None else file


def version_of(source: RangedBytes) -> object:
    """Which version of `source` was read last; None for what nobody changes."""
    file = versioned(source)
    return None if file is None else file.version


def is_fresh(source: RangedBytes) -> bool:
    """Whether what `source` lies in was changed in this moment, so that one more change may leave no trace."""
    file = stored_file(source)
    return file is not None and file.version is not None and file.version.fresh_seconds() > 0


async def rested(source: RangedBytes) -> None:
    """Wait until a change of what `source` lies in would leave a trace: no time at all, unless it was changed in this
    moment. Raises StoreError."""
    file = stored_file(source)
    while file is not None and file.version is not None and (seconds := file.version.fresh_seconds()) > 0:
        await trio.sleep(seconds)
        await file.look()


class InPlace:
    """RangedBytes over `source`, which it owns and whose bytes were found to be right while `file` was `version`.

    `prove` is told which version was known and finds out about the one that is there now: returns that, and whether it
    was proven or may merely be as before; raises CorruptContent, ChangedContent. `digested`: whether there is a digest
    at all.
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

    def reported(self, report: Report) -> "InPlace":
        """The same, with failures told in another way; takes over the source."""
        return InPlace(self._source, self._file, self._version, self._prove, digested=self._digested, report=report)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    @property
    def provisional(self) -> bool:
        """See Provisional."""
        return self._unproven

    @property
    def shown_version(self) -> object:
        """See Provisional."""
        return PROVEN if self._digested and not self._unproven else self._version

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises CorruptContent, ChangedContent where it is not what was proven any more."""
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


class Seal:
    """Digests of the parts of one content, taken in order as a Checker does."""

    PART = 128 << 10
    _LENGTH = 16

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
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


class Sealed:
    """RangedBytes over `source`, which it owns: no byte is served but those that `digests` were taken of."""

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
        """See RangedBytes. Raises ChangedContent where other bytes are there now."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        start = offset // Seal.PART * Seal.PART
        whole = min(-(-end // Seal.PART) * Seal.PART, self.size)
        data = await self._source.read(start, whole - start)
        if whole - start <= _AT_ONCE:
            same = Seal.fits(self._digests, start, data)
        else:
            same = await self._deadline.run(Seal.fits, self._digests, start, data)
        if not same:
            raise ChangedContent(f"{self._place} was changed since it was verified; open the file again")
        return memoryview(data)[offset - start : end - start]

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def is_only_touched(before: object, now: object) -> bool:
    """Whether a file was changed in nothing that concerns its content, as far as its times tell."""
    kinds = (Version, ChunkVersions)
    return isinstance(before, kinds) and isinstance(now, kinds) and before.modification == now.modification
