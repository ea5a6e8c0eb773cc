"""Members while they are decoded: which bytes are there, where they are kept, and how complete members are checked.

Bytes are kept in memory for small members, in an unlinked file for large ones, and for small ones while too many are
being read. A complete member is checked, and if it is right, put into the block cache, whether a reader asked for it or
a decoder merely passed it.

Rules for shared state (one event loop; threads see only arguments): a partial member is in `_partials` as long as it
has users or a decoder may add to it; a reader is one of its users before anything is decoded for it. A thread stores
and checks only partial members that have users, so nothing is closed under it. `_sizes` are the bytes of all in
`_partials`, by whether they are in memory. `covered` are disjoint rising ranges that were stored; they change only in
the event loop's thread, after the bytes were stored; checks have taken in the bytes from 0 to `_checked`, in order.
"""

import contextlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import trio

from riafs.archive.blocks import Checks, Naming
from riafs.archive.decoders import Resources
from riafs.archive.folder import DecodableFolder
from riafs.errors import EncryptedArchive, OutOfMemory, ProgramKilled, RiafsError, StoreError, TooLarge
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.lzma2 import Stretch
from riafs.storage.temporary import temporary_file

IN_MEMORY = 16 << 20
"""Members up to this many bytes are decoded wholly before their first byte is served, and kept in memory meanwhile."""
_PIECE = 1 << 20


class Ranges:
    """Disjoint ranges of numbers, rising, none empty, none next to each other."""

    __slots__ = ("ranges",)

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Add a range, which may overlap others."""
        if start >= end:
            return
        before = [each for each in self.ranges if each[1] < start]
        after = [each for each in self.ranges if each[0] > end]
        touched = self.ranges[len(before) : len(self.ranges) - len(after)]
        merged = (min([start, *(each[0] for each in touched)]), max([end, *(each[1] for each in touched)]))
        self.ranges = [*before, merged, *after]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of a range is not there."""
        gaps = []
        for there_from, there_to in self.ranges:
            if there_to <= start or there_from >= end:
                continue
            if there_from > start:
                gaps.append((start, there_from))
            start = there_to
        return [*gaps, (start, end)] if start < end else gaps

    def front(self) -> int:
        """Up to where everything from 0 on is there."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0


class PartialMember:
    """One member while it is decoded.

    `users`: open readers, and decoders that store or will store its bytes. `settled`: all bytes are there and were
    checked, or `problem` says why they cannot be.
    """

    def __init__(self, member: Member, checks: Checks, directory: bytes, *, may_take_memory: bool = True) -> None:
        self.member = member
        self.checks = checks
        self.covered = Ranges()
        self.users = 0
        self.problem: RiafsError | None = None
        self.settled = trio.Event()
        self._memory = _memory(member.size) if may_take_memory and member.size <= IN_MEMORY else None
        self._descriptor = -1
        self._checked = 0
        self._checking = threading.Lock()
        if self._memory is None:
            self._descriptor = _unlinked_file(directory, member.size)

    @property
    def in_memory(self) -> bool:
        """Whether it takes memory and not disk."""
        return self._memory is not None

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.covered.front() >= self.member.size

    @property
    def unchecked(self) -> bool:
        """Whether bytes from the front on are there that `check` has not seen."""
        return self.covered.front() > self._checked

    def settle(self, problem: RiafsError | None) -> None:
        """Tell the outcome to the readers that wait for it."""
        self.problem = problem
        self.settled.set()

    def store(self, offset: int, data: memoryview) -> None:
        """Put bytes in place, and check them if it is their turn. In any thread. Raises StoreError."""
        if self._memory is not None:
            self._memory[offset : offset + len(data)] = data
        else:
            self._write(offset, data)
        with self._checking:
            if self._checked == offset:
                self.checks.update(data)
                self._checked += len(data)

    def _write(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                offset, data = offset + count, data[count:]
        except OSError as error:
            raise StoreError(f"no room for a decoded archive member: {error.strerror}") from error

    def check(self, end: int) -> None:
        """Check the bytes up to `end`, all of which are stored. In any thread. Raises StoreError."""
        with self._checking:
            while self._checked < end:
                data = self.read(self._checked, min(_PIECE, end - self._checked))
                self.checks.update(data)
                self._checked += len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that are stored. Raises StoreError."""
        if self._memory is not None:
            return bytes(memoryview(self._memory)[offset : offset + length])
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise StoreError(f"a decoded archive member cannot be read: {error.strerror}") from error
        if len(data) != min(length, self.member.size - offset):
            raise StoreError("a decoded archive member is not there any more")
        return data

    def close(self) -> None:
        """Give up the bytes, which have no user any more."""
        self._memory = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _memory(size: int) -> bytearray:
    try:
        return bytearray(size)
    except MemoryError as error:
        raise OutOfMemory("out of memory for a decoded archive member") from error


def _unlinked_file(directory: bytes, size: int) -> int:
    try:
        with temporary_file(directory, size) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise StoreError(f"no room for a decoded archive member: {error.strerror}") from error


log = logging.getLogger(__name__)

_MEMORY = 64 << 20
_MOST_MEMORY = 256 << 20  # also of members that are being read; others are in files
_DENSE = 4 << 20
_MOST_PARTS = 256  # what is done with them between two looks at other tasks takes some 10 ms

Part = tuple[PartialMember, int, memoryview]
"""Bytes of a member, and where in it they belong."""


class MemberAssembler:
    """The members that are being decoded of the archive that messages call `shown`."""

    def __init__(self, listing: Listing, naming: Naming, resources: Resources, shown: str) -> None:
        self.shown = shown
        self.any_good = False
        self._listing = listing
        self._naming = naming
        self._resources = resources
        self._partials: OrderedDict[int, PartialMember] = OrderedDict()
        self._sizes = {True: 0, False: 0}
        self._problems: dict[int, RiafsError] = {}
        self._kept = bytearray(listing.stream_count)

    # -- users --------------------------------------------------------------------------------------------------------

    def join(self, member: Member) -> PartialMember:
        """The partial of a member, with a user more. Raises what is wrong with the member, TooLarge, StoreError."""
        self.refuse_bad(member)
        if member.size > self._resources.spill:
            raise TooLarge(f"archive member of {member.size} bytes; {self._resources.spill} are allowed while decoding")
        partial = self._partials.get(stream_of(member)) or self._add(member)
        partial.users += 1
        return partial

    def refuse_bad(self, member: Member) -> None:
        """Raise what was found to be wrong with a member, if anything."""
        problem = self._problems.get(stream_of(member))
        if problem is not None:
            raise again(problem)

    def leave(self, partial: PartialMember) -> None:
        """A user less."""
        partial.users -= 1
        lost = self._partials.get(stream_of(partial.member)) is not partial
        if not partial.users and (lost or partial.settled.is_set() or not partial.covered.ranges):
            self._drop(partial)

    def is_done(self, stream: int) -> bool:
        """Whether a member was kept, or found to be wrong."""
        return bool(self._kept[stream]) or stream in self._problems

    def first_unfinished(self, streams: range) -> int | None:
        """The first of `streams` that was not kept."""
        found = self._kept.find(0, streams.start, streams.stop)
        return None if found < 0 else found

    def unfinished(self, streams: range) -> range:
        """From the first to the last of `streams` that was not kept; empty if more than half of these were."""
        first, last = (find(0, streams.start, streams.stop) for find in (self._kept.find, self._kept.rfind))
        left = range(first, last + 1)
        return left if first >= 0 and 2 * self._kept.count(0, first, last + 1) >= len(left) else range(0)

    def is_good(self, stream: int) -> bool:
        """Whether a member was kept."""
        return bool(self._kept[stream])

    def _add(self, member: Member) -> PartialMember:
        room = self._sizes[True] + member.size <= _MOST_MEMORY
        directory = self._resources.extractor.directory
        partial = PartialMember(member, self._naming.checks(member), directory, may_take_memory=room)
        self._partials[stream_of(member)] = partial
        self._sizes[partial.in_memory] += member.size
        self._trim(partial)
        return partial

    def _drop(self, partial: PartialMember) -> None:
        if self._partials.get(stream_of(partial.member)) is partial:
            del self._partials[stream_of(partial.member)]
            self._sizes[partial.in_memory] -= partial.member.size
        if not partial.users:
            partial.close()

    def _trim(self, added: PartialMember) -> None:
        """Give up the oldest without users, until the others fit where one was `added`."""
        in_memory = added.in_memory
        bound = _MEMORY if in_memory else self._resources.spill
        if self._sizes[in_memory] <= bound:
            return
        idle = [each for each in self._partials.values() if each.in_memory is in_memory and not each.users]
        for each in idle:
            if each is not added and self._sizes[in_memory] > bound:
                self._drop(each)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def parts(
        self, folder: DecodableFolder, stretch: Stretch, offset: int, data: memoryview
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
            partial = partial or self._begun(member, stretch, offset)
            start, stop = max(offset, member.offset), min(end, member.offset + member.size)
            if partial is not None and not partial.settled.is_set() and start < stop:
                parts.append((partial, start - member.offset, data[start - offset : stop - offset]))
            # An archive may claim any number of empty streams.
            stream = stream + 1 if member.size else max(stream + 1, self._listing.stream_at(streams, member.offset))
        return parts, max(offset, min(end, member.offset + member.size))

    def _begun(self, member: Member, stretch: Stretch, offset: int) -> PartialMember | None:
        """A member that no reader has asked for, if it is worth keeping and there is room."""
        if member.size and self._worth_keeping(member, stretch, offset):
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

    def _worth_keeping(self, member: Member, stretch: Stretch, offset: int) -> bool:
        """Whether to begin to keep a member without a reader, of which bytes come from `offset` of the folder on.

        Its front is worth it, since the decoder may go on there; what is left of one from the stretch before is, where
        decoding it again would take long.
        """
        if self.is_done(stream_of(member)) or member.size > self._resources.spill:
            return False
        return member.offset >= offset or (offset == stretch.start and stretch.end - stretch.start > _DENSE)

    async def store(self, parts: Sequence[Part]) -> None:
        """Put bytes into their members. Raises StoreError."""
        await trio.to_thread.run_sync(_store, parts, limiter=self._resources.storing)
        for partial, start, part in parts:
            partial.covered.add(start, start + len(part))

    async def check(self, partial: PartialMember) -> None:
        """Check what is there of a member; when all of it is, conclude and keep it. Raises StoreError."""
        while partial.unchecked:  # while one stretch is checked, the next one may come
            front = partial.covered.front()
            await trio.to_thread.run_sync(partial.check, front, limiter=self._resources.storing)
        if not partial.complete or partial.settled.is_set():
            return
        partial.settle(self._verdict(partial))
        if partial.problem is None:
            await self._keep(partial)

    def fail(self, partial: PartialMember, problem: RiafsError) -> None:
        """Give a member up for now; it is decoded anew when a reader asks for it again."""
        if not partial.settled.is_set():
            partial.settle(problem)
            self._drop(partial)

    def _verdict(self, partial: PartialMember) -> RiafsError | None:
        """Whether the bytes of a complete member are right; what is wrong with them is remembered."""
        counters, checks, member = self._resources.counters, partial.checks, partial.member
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

    async def _keep(self, partial: PartialMember) -> None:
        blocks, size = self._resources.blocks, partial.member.size
        for index, offset in enumerate(range(0, size, blocks.block_size)):
            await blocks.put(partial.checks.content, index, partial.read(offset, blocks.block_size))
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
