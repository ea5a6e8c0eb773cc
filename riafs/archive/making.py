"""Members in the making: who waits for which, what decoders pass of them, and what becomes of complete ones.

Owns, for one archive, the partials, and what is known to be wrong with members. A complete member is checked, and if it
is right, put into the block cache, whether somebody asked for it or a decoder merely passed it.

Rules for shared state (one event loop; threads see only arguments): a partial is in `_partials` as long as it has users
or a decoder may go on with it; whoever needs bytes is one of its users before anything is decoded for him. A thread
stores and checks only what somebody uses, so nothing is closed under it. `_sizes` are the bytes of all in `_partials`,
by whether they are in memory.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import trio

from riafs.archive.checks import Naming
from riafs.archive.folders import DecodableFolder
from riafs.archive.partial import Partial
from riafs.archive.workshop import Workshop
from riafs.errors import EncryptedArchive, ProgramKilled, RiafsError, StoreError, TooLarge
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.lzma2 import Segment

log = logging.getLogger(__name__)

_MEMORY = 64 << 20
_MOST_MEMORY = 256 << 20  # also of members that are being read; others are in files
_DENSE = 4 << 20
_MOST_PARTS = 256  # what is done with them between two looks at other tasks takes some 10 ms

Part = tuple[Partial, int, memoryview]
"""Bytes of a member, and where in it they belong."""


class Making:
    """The members in the making of the archive that messages call `shown`."""

    def __init__(self, listing: Listing, naming: Naming, workshop: Workshop, shown: str) -> None:
        self.shown = shown
        self.any_good = False
        self._listing = listing
        self._naming = naming
        self._workshop = workshop
        self._partials: OrderedDict[int, Partial] = OrderedDict()
        self._sizes = {True: 0, False: 0}
        self._problems: dict[int, RiafsError] = {}
        self._kept = bytearray(listing.stream_count)

    # -- users --------------------------------------------------------------------------------------------------------

    def join(self, member: Member) -> Partial:
        """The partial of a member, with a user more. Raises what is wrong with the member, TooLarge, StoreError."""
        self.refuse_bad(member)
        if member.size > self._workshop.spill:
            raise TooLarge(f"archive member of {member.size} bytes; {self._workshop.spill} are allowed while decoding")
        partial = self._partials.get(stream_of(member)) or self._add(member)
        partial.users += 1
        return partial

    def refuse_bad(self, member: Member) -> None:
        """Raise what was found to be wrong with a member, if anything."""
        problem = self._problems.get(stream_of(member))
        if problem is not None:
            raise again(problem)

    def leave(self, partial: Partial) -> None:
        """A user less."""
        partial.users -= 1
        lost = self._partials.get(stream_of(partial.member)) is not partial
        if not partial.users and (lost or partial.settled.is_set() or not partial.covered.ranges):
            self._drop(partial)

    def is_done(self, stream: int) -> bool:
        """Whether a member was kept, or found to be wrong."""
        return bool(self._kept[stream]) or stream in self._problems

    def is_good(self, stream: int) -> bool:
        """Whether a member was kept."""
        return bool(self._kept[stream])

    def _add(self, member: Member) -> Partial:
        room = self._sizes[True] + member.size <= _MOST_MEMORY
        directory = self._workshop.extractor.directory
        partial = Partial(member, self._naming.checks(member), directory, may_take_memory=room)
        self._partials[stream_of(member)] = partial
        self._sizes[partial.in_memory] += member.size
        self._trim(partial)
        return partial

    def _drop(self, partial: Partial) -> None:
        if self._partials.get(stream_of(partial.member)) is partial:
            del self._partials[stream_of(partial.member)]
            self._sizes[partial.in_memory] -= partial.member.size
        if not partial.users:
            partial.close()

    def _trim(self, added: Partial) -> None:
        """Give up the oldest that nobody needs, until the others fit where one was `added`."""
        in_memory = added.in_memory
        bound = _MEMORY if in_memory else self._workshop.spill
        if self._sizes[in_memory] <= bound:
            return
        idle = [each for each in self._partials.values() if each.in_memory is in_memory and not each.users]
        for each in idle:
            if each is not added and self._sizes[in_memory] > bound:
                self._drop(each)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def parts(
        self, folder: DecodableFolder, segment: Segment, offset: int, data: memoryview
    ) -> tuple[Sequence[Part], int]:
        """(member, where in it, bytes) for members that bytes from `offset` of a folder belong to, and up to where.

        Looks at some members only, so that many small ones are dealt with bit by bit.
        """
        parts: list[Part] = []
        end, streams = offset + len(data), folder.streams
        stream = self._listing.stream_at(streams, offset)
        for _ in range(_MOST_PARTS):
            if stream >= streams.stop:
                return parts, end
            partial = self._partials.get(stream)
            member = self._listing.member_of_stream(stream) if partial is None else partial.member
            if member.offset >= end:
                return parts, end
            partial = partial or self._begun(member, segment, offset)
            start, stop = max(offset, member.offset), min(end, member.offset + member.size)
            if partial is not None and not partial.settled.is_set() and start < stop:
                parts.append((partial, start - member.offset, data[start - offset : stop - offset]))
            # An archive may claim any number of empty streams.
            stream = stream + 1 if member.size else max(stream + 1, self._listing.stream_at(streams, member.offset))
        return parts, max(offset, min(end, member.offset + member.size))

    def _begun(self, member: Member, segment: Segment, offset: int) -> Partial | None:
        """A member that nobody asked for, if it is worth keeping and there is room."""
        if member.size and self._worth_keeping(member, segment, offset):
            with contextlib.suppress(StoreError):
                return self._add(member)
        return None

    @contextlib.contextmanager
    def using(self, parts: Sequence[Part]) -> Iterator[None]:
        """The members of parts have a user more meanwhile."""
        for partial, _, _ in parts:
            partial.users += 1
        try:
            yield
        finally:
            for partial, _, _ in parts:
                self.leave(partial)

    def _worth_keeping(self, member: Member, segment: Segment, offset: int) -> bool:
        """Whether to begin to keep a member that nobody asked for, of which bytes come from `offset` of the folder on.

        Its front is worth it, since the decoder may go on there; what is left of one from the segment before is, where
        decoding it again would take long.
        """
        if self.is_done(stream_of(member)) or member.size > self._workshop.spill:
            return False
        return member.offset >= offset or (offset == segment.start and segment.end - segment.start > _DENSE)

    async def store(self, parts: Sequence[Part]) -> None:
        """Put bytes into their members. Raises StoreError."""
        await trio.to_thread.run_sync(_store, parts, limiter=self._workshop.storing)
        for partial, start, part in parts:
            partial.covered.add(start, start + len(part))

    async def check(self, partial: Partial) -> None:
        """Check what is there of a member; when all of it is, conclude and keep it. Raises StoreError."""
        while partial.unchecked:  # while one stretch is checked, the next one may come
            front = partial.covered.front()
            await trio.to_thread.run_sync(partial.check, front, limiter=self._workshop.storing)
        if not partial.complete or partial.settled.is_set():
            return
        partial.settle(self._verdict(partial))
        if partial.problem is None:
            await self._keep(partial)

    def fail(self, partial: Partial, problem: RiafsError) -> None:
        """Give a member up, for now; whoever asks for it again begins anew."""
        if not partial.settled.is_set():
            partial.settle(problem)
            self._drop(partial)

    def _verdict(self, partial: Partial) -> RiafsError | None:
        """Whether the bytes of a complete member are right; what is wrong with them is remembered."""
        counters, checks, member = self._workshop.counters, partial.checks, partial.member
        problem: RiafsError | None = checks.verdict()
        counters.members_decoded += 1
        if problem is None:
            self.any_good = True
            counters.keys_verified += checks.key is not None
            counters.bytes_verified += member.size if checks.key is not None else 0
            return None
        counters.keys_corrupt += checks.key is not None
        problem = self.explained(problem, encrypted=self._listing.folder(member.folder or 0).is_encrypted)
        self._problems[stream_of(member)] = problem
        return problem

    def explained(self, problem: RiafsError, *, encrypted: bool) -> RiafsError:
        """What to tell of bytes that are wrong; logged."""
        if encrypted and not self.any_good and not isinstance(problem, ProgramKilled):
            problem = EncryptedArchive("the password of the archive is wrong, or the archive is damaged")
        log.error("%s: %s; this copy is not used", self.shown, problem)
        return problem

    async def _keep(self, partial: Partial) -> None:
        blocks, size = self._workshop.blocks, partial.member.size
        for index in range(-(-size // blocks.size)):
            await blocks.put(partial.checks.content, index, partial.read(index * blocks.size, blocks.size))
        self._kept[stream_of(partial.member)] = 1


def _store(parts: Sequence[Part]) -> None:
    """Store and check bytes, in a worker thread."""
    for partial, start, part in parts:
        partial.store(start, part)


def stream_of(member: Member) -> int:
    """The number of a member's stream, which members with content have."""
    assert member.stream is not None
    return member.stream


def again(problem: RiafsError) -> RiafsError:
    """The same failure for another reader."""
    return type(problem)(*problem.args)
