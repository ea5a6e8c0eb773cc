"""Decoding: from "this member, that range" to bytes that were decoded once, checked, and kept as blocks.

Owns, for one archive, which members are in the making (`Partial`) and what drives decoders on. A decoder goes front to
back through a segment as far as somebody needs; every member that it passes is checked when it is complete and put
into the block cache. While one piece is decoded in a worker thread, the piece before is stored and checked in another.

Rules for shared state (one event loop; threads see only arguments): a partial is in `_partials` as long as it has users
or a decoder may go on with it, and whoever needs bytes is one of its users before anything is decoded for him; so
what a decoder passes is never decoded a second time for somebody who waits. What a decoder made is stored before its
lock is given up. Invariant: bytes of a complete member are given out only if its checks passed.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

import trio
from cachetools import LRUCache

from riafs.archive.blocks import MemberBlocks
from riafs.archive.checks import Naming
from riafs.archive.divisions import AtResets
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import Extractor
from riafs.archive.folders import DecodableFolder, open_folder
from riafs.archive.partial import Partial
from riafs.archive.passes import Pass, PassPool
from riafs.archive.walks import SavedWalks
from riafs.counters import Counters
from riafs.errors import (
    DecodeFailed,
    EncryptedArchive,
    MalformedArchive,
    RiafsError,
    StoreError,
    StoreTimeout,
    TooLarge,
)
from riafs.formats.lzma2 import Segment
from riafs.formats.sevenzip import Listing, Member
from riafs.storage.ranged import RangedBytes

log = logging.getLogger(__name__)

_STEP = 2 << 20
_LEAST_STEP = 256 << 10
_DENSE = 4 << 20
_AHEAD = 8 << 20
_MOST_JOBS = 16
_MEMORY = 64 << 20
_FOLDERS = 256
_LASTING = (DecodeFailed, MalformedArchive)
"""What is wrong with an archive will be wrong tomorrow; other failures are the store's, or this machine's."""


class Workshop:
    """What all archives of a mount decode with. `spill`: bytes of disk for large members in the making, in the
    extractor's directory; `memory`: bytes of all decoders' dictionaries; `workers`: threads that decode at once."""

    def __init__(
        self, extractor: Extractor, blocks: MemberBlocks, counters: Counters, spill: int, memory: int, workers: int
    ) -> None:
        self.extractor = extractor
        self.blocks = blocks
        self.counters = counters
        self.spill = spill
        self.workers = trio.CapacityLimiter(workers)
        self.storing = trio.CapacityLimiter(workers)
        self.passes = PassPool(memory)


class Decoding:
    """The decoded members of one archive, which lies in `source`."""

    def __init__(
        self, source: RangedBytes, listing: Listing, naming: Naming, workshop: Workshop, unlocker: Unlocker,
        walks: SavedWalks, shown: str,
    ) -> None:  # fmt: skip
        self.workshop = workshop
        self.naming = naming
        self._source = source
        self._listing = listing
        self._unlocker = unlocker
        self._walks = walks
        self._shown = shown
        self._folders: LRUCache[int, DecodableFolder] = LRUCache(_FOLDERS)
        self._opening = trio.Lock()
        self._starting = trio.Lock()
        self._partials: OrderedDict[int, Partial] = OrderedDict()
        self._problems: dict[int, RiafsError] = {}
        self._failures: dict[tuple[int, int], tuple[int, RiafsError]] = {}
        self._kept = bytearray(listing.stream_count)
        self._any_good = False
        self._last_complete = -2

    # -- members in the making ----------------------------------------------------------------------------------------

    def join(self, member: Member) -> Partial:
        """The partial of a member, with a user more. Raises what is wrong with the member, TooLarge, StoreError."""
        stream = _stream(member)
        if stream in self._problems:
            raise _again(self._problems[stream])
        if member.size > self.workshop.spill:
            raise TooLarge(f"archive member of {member.size} bytes; {self.workshop.spill} are allowed while decoding")
        partial = self._partials.get(stream) or self._add(member)
        partial.users += 1
        return partial

    def _add(self, member: Member) -> Partial:
        partial = Partial(member, self.naming.checks(member), self.workshop.extractor.directory)
        self._partials[_stream(member)] = partial
        self._trim()
        return partial

    def leave(self, partial: Partial) -> None:
        """A user less."""
        partial.users -= 1
        lost = self._partials.get(_stream(partial.member)) is not partial
        if not partial.users and (lost or partial.settled.is_set()):
            self._drop(partial)

    def _drop(self, partial: Partial) -> None:
        if self._partials.get(_stream(partial.member)) is partial:
            del self._partials[_stream(partial.member)]
        if not partial.users:
            partial.close()

    def _trim(self) -> None:
        """Give up the oldest that nobody needs, until the others fit."""
        for in_memory, bound in ((True, _MEMORY), (False, self.workshop.spill)):
            idle = [each for each in self._partials.values() if each.in_memory is in_memory]
            used = sum(each.member.size for each in idle)
            for each in [each for each in idle if not each.users][:-1]:
                if used <= bound:
                    break
                used -= each.member.size
                self._drop(each)

    async def cover(self, partial: Partial, start: int, end: int) -> None:
        """See to it that a range of a member's bytes is there; if then all are, that they are right.

        Raises CorruptContent, DecodeFailed, EncryptedArchive, StoreTimeout, …
        """
        seconds = self.workshop.extractor.deadline
        with trio.move_on_after(seconds):
            await self._cover(partial, start, end)
            return
        raise StoreTimeout(f"decoding an archive member took more than {seconds:g} s")

    async def _cover(self, partial: Partial, start: int, end: int) -> None:
        member = partial.member
        assert member.folder is not None
        folder = await self._folder(member.folder)
        while partial.problem is None and partial.covered.missing(start, end):
            before = list(partial.covered.ranges)
            ahead = self._following(folder, partial)
            try:
                jobs = await self._jobs(
                    folder, [(partial, start, end), *((each, 0, each.member.size) for each in ahead)]
                )
                problem = await self._drive_all(member.folder, folder, jobs)
            finally:
                for each in ahead:
                    self.leave(each)
            if partial.covered.ranges == before and partial.problem is None:
                raise problem or StoreError("a decoder passed an archive member without making it")
        if partial.complete:
            await partial.settled.wait()
            self._last_complete = _stream(member)
        if partial.problem is not None:
            raise _again(partial.problem)

    def _following(self, folder: DecodableFolder, partial: Partial) -> list[Partial]:
        """The members after one that is read after the one before it, each used once more: what decodes in many small
        segments is decoded in several of them at once."""
        stream, size = _stream(partial.member), partial.member.size
        following: list[Partial] = []
        if not isinstance(folder.division, AtResets) or stream != self._last_complete + 1:
            return following
        for number in range(stream + 1, folder.streams.stop):
            member = self._listing.member_of_stream(number)
            size += member.size
            if size > _AHEAD or self._kept[number] or number in self._problems:
                break
            following.append(self.join(member))
        return following

    async def _jobs(
        self, folder: DecodableFolder, wanted: Sequence[tuple[Partial, int, int]]
    ) -> list[tuple[Segment, int, int]]:
        """The next parts to decode of what is missing of members, each part in one segment, not more than are worth it
        before looking again."""
        jobs: dict[int, tuple[Segment, int, int]] = {}
        for partial, start, end in wanted:
            base = partial.member.offset
            for gap_start, gap_end in partial.covered.missing(start, end):
                offset = base + gap_start
                while offset < base + gap_end and len(jobs) < _MOST_JOBS:
                    segment = await folder.division.segment(offset)
                    _, first, _ = jobs.get(segment.start, (segment, offset, 0))
                    jobs[segment.start] = (segment, first, min(base + gap_end, segment.end))
                    offset = segment.end
        return list(jobs.values())

    async def _folder(self, number: int) -> DecodableFolder:
        async with self._opening:
            found: DecodableFolder | None = self._folders.get(number)
            if found is None:
                found = await open_folder(self._source, self._listing, number, self._unlocker, self._walks)
                self._folders[number] = found
            return found

    # -- driving decoders ---------------------------------------------------------------------------------------------

    async def _drive_all(
        self, number: int, folder: DecodableFolder, jobs: Sequence[tuple[Segment, int, int]]
    ) -> RiafsError | None:
        """Decode parts, in as many segments at once as there are workers. Returns the failure that ended it, if any."""
        problems: list[RiafsError] = []
        waiting = list(reversed(jobs))

        async def work() -> None:
            while waiting and not problems:
                try:
                    await self._drive(number, folder, *waiting.pop())
                except RiafsError as problem:
                    problems.append(problem)

        if len(jobs) == 1:
            await work()
        else:
            async with trio.open_nursery() as nursery:
                for _ in range(min(len(jobs), int(self.workshop.workers.total_tokens))):
                    nursery.start_soon(work)
        return problems[0] if problems else None

    async def _drive(self, number: int, folder: DecodableFolder, segment: Segment, start: int, end: int) -> None:
        """Decode a part of a segment, from `start` at the latest."""
        while True:
            failed_at, failure = self._failures.get((number, segment.start), (segment.end, None))
            if failure is not None and end > failed_at:
                raise _again(failure)
            used = await self._pass(number, folder, segment, start)
            try:
                async with used.lock:
                    if not used.closed:
                        await self._advance(folder, used, end)
                        return
            except RiafsError as problem:
                self.workshop.passes.close(used)
                raise self._noted(problem, folder, used) from problem
            finally:
                await self.workshop.passes.leave(used)

    async def _pass(self, number: int, folder: DecodableFolder, segment: Segment, offset: int) -> Pass:
        """A decoder that has not passed `offset`, used once more: one under way if possible."""
        pool = self.workshop.passes
        async with self._starting:
            found = pool.find(self, number, segment, offset)
            if found is not None:
                found.users += 1
                return found
            return await pool.open(
                self, number, segment, folder.memory,
                lambda: folder.start(segment, self.workshop.workers, self.workshop.extractor),
            )  # fmt: skip

    def _noted(self, problem: RiafsError, folder: DecodableFolder, used: Pass) -> RiafsError:
        """What to tell of a failed decoder, remembered if it will fail again."""
        if not isinstance(problem, _LASTING):
            return problem
        if folder.folder.is_encrypted and not self._any_good:
            problem = EncryptedArchive("the password of the archive is wrong, or the archive is damaged")
        log.error("%s: %s; this copy is not used", self._shown, problem)
        self._failures[used.folder, used.segment.start] = (used.position, problem)
        return problem

    async def _advance(self, folder: DecodableFolder, used: Pass, end: int) -> None:
        """Go on to `end`: decode a piece while the one before it is delivered."""
        problem: RiafsError | None = None
        delivered = trio.Event()
        delivered.set()
        async with trio.open_nursery() as nursery:
            while used.position < end and used.problem is None:
                rest = max(end - used.position, _LEAST_STEP)
                try:
                    data = await used.producer.produce(min(_STEP, rest, used.segment.end - used.position))
                except RiafsError as failure:
                    problem = failure
                    break
                with trio.CancelScope(shield=True):  # what was decoded must not get lost
                    await delivered.wait()
                delivered = trio.Event()
                nursery.start_soon(self._deliver, folder, used, used.position, data, delivered)
                used.position += len(data)
        problem = problem or used.problem
        if problem is not None:
            raise problem

    # -- delivering ---------------------------------------------------------------------------------------------------

    async def _deliver(
        self, folder: DecodableFolder, used: Pass, offset: int, data: bytes, delivered: trio.Event
    ) -> None:
        """Give decoded bytes of a folder to the members they belong to."""
        parts: list[_Part] = []
        with trio.CancelScope(shield=True):
            try:
                parts = self._parts(folder, used.segment, offset, memoryview(data))
                await trio.to_thread.run_sync(_store, parts, limiter=self.workshop.storing)
                for partial, start, part in parts:
                    partial.covered.add(start, start + len(part))
                for partial, _, _ in parts:
                    await self._check(partial)
            except RiafsError as problem:
                used.problem = problem
                for partial, _, _ in parts:
                    self._fail(partial, problem)
            finally:
                delivered.set()

    def _fail(self, partial: Partial, problem: RiafsError) -> None:
        """Give a member up, for now; whoever asks for it again begins anew."""
        if not partial.settled.is_set():
            partial.settle(problem)
            self._drop(partial)

    def _parts(self, folder: DecodableFolder, segment: Segment, offset: int, data: memoryview) -> "list[_Part]":
        """(member, where in it, bytes) for each member that bytes of a folder belong to."""
        parts: list[_Part] = []
        end = offset + len(data)
        for stream in range(self._listing.stream_at(folder.streams, offset), folder.streams.stop):
            partial = self._partials.get(stream)
            member = self._listing.member_of_stream(stream) if partial is None else partial.member
            if member.offset >= end:
                break
            if partial is None and self._worth_keeping(member, segment, offset):
                with contextlib.suppress(StoreError):  # no room for what nobody asked for
                    partial = self._add(member)
            if partial is not None and not partial.settled.is_set():
                start = max(offset, member.offset)
                stop = min(end, member.offset + member.size)
                parts.append((partial, start - member.offset, data[start - offset : stop - offset]))
        return parts

    def _worth_keeping(self, member: Member, segment: Segment, offset: int) -> bool:
        """Whether to begin to keep a member that nobody asked for, of which bytes come from `offset` of the folder on.

        Its front is worth it, since the decoder may go on there; what is left of one from the segment before is, where
        decoding it again would take long.
        """
        stream = _stream(member)
        if self._kept[stream] or stream in self._problems or member.size > self.workshop.spill:
            return False
        return member.offset >= offset or (offset == segment.start and segment.end - segment.start > _DENSE)

    async def _check(self, partial: Partial) -> None:
        """Check what is there; when all of it is, conclude and keep it."""
        while partial.unchecked:  # while one stretch is checked, the next one may come
            front = partial.covered.front()
            await trio.to_thread.run_sync(partial.check, front, limiter=self.workshop.storing)
        if not partial.complete or partial.settled.is_set():
            return
        partial.users += 1
        partial.settle(self._verdict(partial))
        if partial.problem is None:
            await self._keep(partial)
        self.leave(partial)

    def _verdict(self, partial: Partial) -> RiafsError | None:
        """Whether the bytes of a complete member are right; what is wrong with them is remembered."""
        counters, checks, member = self.workshop.counters, partial.checks, partial.member
        problem: RiafsError | None = checks.verdict()
        counters.members_decoded += 1
        if problem is None:
            self._any_good = True
            counters.keys_verified += checks.key is not None
            counters.bytes_verified += member.size if checks.key is not None else 0
            return None
        counters.keys_corrupt += checks.key is not None
        if self._listing.folder(member.folder or 0).is_encrypted and not self._any_good:
            problem = EncryptedArchive("the password of the archive is wrong, or the archive is damaged")
        log.error("%s: %s; this copy is not used", self._shown, problem)
        self._problems[_stream(member)] = problem
        return problem

    async def _keep(self, partial: Partial) -> None:
        blocks, size = self.workshop.blocks, partial.member.size
        for index in range(-(-size // blocks.size)):
            await blocks.put(partial.checks.content, index, partial.read(index * blocks.size, blocks.size))
        self._kept[_stream(partial.member)] = 1

    def close(self) -> None:
        """End decoders that nobody uses."""
        self.workshop.passes.close_idle(self)


_Part = tuple[Partial, int, memoryview]


def _store(parts: Sequence[_Part]) -> None:
    """Store and check bytes, in a worker thread."""
    for partial, start, part in parts:
        partial.store(start, part)


def _stream(member: Member) -> int:
    assert member.stream is not None
    return member.stream


def _again(problem: RiafsError) -> RiafsError:
    """The same failure for another reader."""
    return type(problem)(*problem.args)
