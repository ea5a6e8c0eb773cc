"""A digest made beside readers who go through large content in order, and what they get meanwhile."""

from collections.abc import Awaitable, Callable

import trio

from riafs.content.inplace import is_only_touched, version_of
from riafs.errors import ChangedContent, RiafsError
from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes
from riafs.tasks import as_failure

_HOP = 64 << 20  # bytes hashed at most in one visit to a thread
_AHEAD = 16 << 20
_OUT_OF_ORDER = 8 << 20
"""The kernel's read-ahead sends its requests slightly out of order; within this many bytes a reader counts as in
order."""


class Hashing:
    """One digest made beside any number of readers of the same bytes.

    Invariants: `front` is how far readers have come in order; the task hashes a bit beyond `front` and then waits.
    The source, found in `place`, is closed when the last reader has gone and the task is not using it.
    `take` hashes the bytes between two positions, `conclude` raises CorruptContent if the digest is wrong; it is told
    whether what is there is still the same version.
    """

    def __init__(
        self, source: RangedBytes, place: str, take: Callable[[int, int], Awaitable[None]],
        conclude: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self._place = place
        self._take = take
        self._conclude = conclude
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
        """Hash until the digest is known or nobody reads any more."""
        try:
            with as_failure(f"cannot verify {self._place}"):
                if await self._hash_all():
                    self._conclude(not self._touched)
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
            await self._take(position, end)
            self.look()
            position = end
        return True

    def _goal(self) -> int:
        """How far to hash for now: beyond the readers, but not much further than they have come themselves."""
        return min(self._front + min(self._front, _AHEAD), self.source.size)

    def look(self) -> None:
        """See whether what was read is still the same version. Raises ChangedContent."""
        now = version_of(self.source)
        if now is self._version:
            return
        if not is_only_touched(self._version, now):
            raise ChangedContent(f"{self._place} was changed while it was open; open the file again")
        self._version, self._touched = now, True

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
        """See Provisional."""
        return not self._hashing.proven

    @property
    def shown_version(self) -> object:
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
