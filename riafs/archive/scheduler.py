"""The scheduler: from ranges of members to decoders that go on until these ranges are there.

Ranges are cut into the stretches of their folder that hold them, and as many stretches are decoded at once as there are
workers. Each decoder has one task, which decodes a piece while the piece before is stored and checked. It goes on as
far as a reader wanted, so a reader that gives up costs others nothing; when no reader waits any more, it stops after
the time that readers would have waited, so that an archive that claims to be endless is not decoded for ever. The task
is detached, as it belongs to no reader; the readers that wait for its decoder are told how it failed.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from riafs.archive.decoders import Resources, RunningDecoder
from riafs.archive.extractor import Engine
from riafs.archive.folder import DecodableFolder
from riafs.archive.members import MemberAssembler, Part, PartialMember, again
from riafs.children import ATTEMPTS
from riafs.errors import (
    DecodeFailed,
    DecoderDied,
    MalformedArchive,
    MissingProgram,
    ProgramKilled,
    RiafsError,
    StoreTimeout,
    UnsupportedArchive,
)
from riafs.formats.sevenzip.lzma2 import Stretch
from riafs.storage.deadline import DeadlineLock
from riafs.tasks import as_failure, start_detached

log = logging.getLogger(__name__)

Wanted = tuple[PartialMember, int, int]
"""A range of a member."""

_MOST_JOBS = 16
_STEP = 2 << 20
_LEAST_STEP = 64 << 10
_LASTING = (DecodeFailed, MalformedArchive, UnsupportedArchive, MissingProgram)
"""What an engine cannot decode it will not decode tomorrow; other failures are the store's, or this machine's."""
_DEATHS = {DecoderDied: 2, ProgramKilled: ATTEMPTS}
"""How often a child may end so in one stretch, without having come any further, until that is an answer."""
_KILLED_SECONDS = 5.0
"""How long that is the answer where others ended it: they may leave the next one alone."""


@dataclass(slots=True)
class _Failures:
    """How far each engine came in one stretch that it could not decode; `problem` once none is left, `until` then."""

    reached: dict[Engine | None, int] = field(default_factory=dict)
    problems: dict[Engine | None, RiafsError] = field(default_factory=dict)
    deaths: dict[Engine | None, tuple[int, int]] = field(default_factory=dict)
    """How often an engine's child was ended by a signal in a row, and how far it had come then at most."""
    problem: RiafsError | None = None
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class _Job:
    """What is wanted of one stretch."""

    stretch: Stretch
    ranges: list[Wanted] = field(default_factory=list)

    def start(self) -> int | None:
        """Where in the folder the first byte is that is still missing, None if there is none."""
        missing = [
            partial.member.offset + gap[0]
            for partial, start, end in self.ranges
            if partial.problem is None
            for gap in partial.covered.missing(start, end)[:1]
        ]
        return min(missing, default=None)

    @property
    def end(self) -> int:
        """Where in the folder the last wanted byte ends."""
        return max(partial.member.offset + end for partial, _, end in self.ranges)


class Scheduler:
    """Drives the decoders of one archive."""

    def __init__(self, assembler: MemberAssembler, resources: Resources) -> None:
        self._assembler = assembler
        self._resources = resources
        self._starting = DeadlineLock()
        self._failures: dict[tuple[int, int], _Failures] = {}
        self._without_runs: set[int] = set()

    async def decode(self, folder: DecodableFolder, wanted: Sequence[Wanted], ahead: int = 0) -> RiafsError | None:
        """Decode what is missing of ranges of members, or the first stretches of it; look again what is missing then.

        The decoder of a folder that is one stretch, or of a run, goes on for `ahead` bytes. Returns the failure that
        ended it, if any. Raises what reading the archive raises.
        """
        jobs = await self._jobs(folder, wanted)
        problems: list[RiafsError] = []
        waiting = list(reversed(jobs))

        async def work() -> None:
            while waiting and not problems:
                try:
                    await self._drive(folder, waiting.pop(), ahead)
                except RiafsError as problem:
                    problems.append(problem)

        if len(jobs) == 1:
            await work()
        else:
            async with trio.open_nursery() as nursery:
                for _ in range(min(len(jobs), int(self._resources.workers.total_tokens))):
                    nursery.start_soon(work)
        return problems[0] if problems else None

    async def _jobs(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> Sequence[_Job]:
        """One job a stretch for what is missing, not more than are worth it before looking again."""
        jobs: dict[int, _Job] = {}
        for partial, start, end in wanted:
            base = partial.member.offset
            for gap_start, gap_end in partial.covered.missing(start, end):
                offset = base + gap_start
                while offset < base + gap_end and len(jobs) < _MOST_JOBS:
                    stretch = await folder.seek_points.stretch(offset)
                    job = jobs.setdefault(stretch.start, _Job(stretch))
                    job.ranges.append((partial, offset - base, min(gap_end, stretch.end - base)))
                    offset = stretch.end
        return list(jobs.values())

    async def _drive(self, folder: DecodableFolder, job: _Job, ahead: int) -> None:
        """Wait until nothing that a job wants is missing any more, with one engine after the other where these fail."""
        while job.start() is not None:
            used = await self._decoder(folder, job)
            if used is None:
                continue
            try:
                self._want(folder, used, job.end + (ahead if used.stretch.is_run or not folder.is_divided else 0))
                await used.progress()
            finally:
                self._resources.decoders.leave(used)
            if used.problem is None or job.start() is None:
                continue
            others_may_do = used.stretch.is_run or isinstance(used.problem, (*_LASTING, *_DEATHS))
            if not others_may_do:
                raise again(used.problem)

    def go_on(self, folder: DecodableFolder, offset: int, ahead: int) -> None:
        """A reader in order has come to `offset` of a folder: go on for `ahead` bytes with the decoder before it."""
        found = self._resources.decoders.just_beyond(self, folder.number, offset, ahead)
        if found is not None:
            self._want(folder, found, offset + ahead)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run_at(self, folder: DecodableFolder, offset: int) -> RunningDecoder | None:
        """A run that has delivered the byte at `offset` of a folder, or will soon."""
        return self._resources.decoders.run(self, folder.number, offset)

    def window_under_way(self, folder: DecodableFolder) -> RunningDecoder | None:
        """A run of a folder that is being decoded to its end."""
        return self._resources.decoders.finishing_run(self, folder.number)

    async def begin_run(self, folder: DecodableFolder, run: Stretch, goal: int) -> RunningDecoder:
        """Have 7-Zip decode a run up to `goal`, from where it goes on when readers come there. Raises what starting it
        raises."""
        resources = self._resources
        used = await resources.decoders.open(
            self, folder.number, run, folder.memory, Engine.SEVENZIP,
            lambda: folder.start(Engine.SEVENZIP, run, resources.workers, resources.extractor),
        )  # fmt: skip
        self._want(folder, used, goal)
        resources.decoders.leave(used)
        return used

    def may_have_runs(self, folder: DecodableFolder) -> bool:
        """Whether 7-Zip can decode runs of a folder, and has not failed to."""
        return folder.has_runs and folder.number not in self._without_runs and self._resources.extractor.is_there

    def give_up_runs(self, folder: DecodableFolder) -> None:
        """A run failed: decode by single stretches, which tell what is wrong."""
        self._without_runs.add(folder.number)

    # -- one decoder --------------------------------------------------------------------------------------------------

    async def _decoder(self, folder: DecodableFolder, job: _Job) -> RunningDecoder | None:
        """A decoder that has not delivered the start of a job, used once more: one under way if possible.

        None if the job was done while this task waited, or an engine turned out to be of no use. Raises what is wrong
        where no engine is left.
        """
        pool, stretch, resources = self._resources.decoders, job.stretch, self._resources
        async with self._starting.held():
            start = job.start()
            if start is None:
                return None
            found = pool.find(self, folder.number, start)
            if found is not None:
                found.users += 1
                return found
            engine = self._engine(folder, stretch, start)
            try:
                return await pool.open(
                    self, folder.number, stretch, folder.memory, engine,
                    lambda: folder.start(engine, stretch, resources.workers, resources.extractor),
                )  # fmt: skip
            except _LASTING as problem:
                if engine is Engine.SEVENZIP and isinstance(problem, MissingProgram):
                    raise
                self._note(problem, folder, stretch, engine, stretch.start)
                return None

    def _engine(self, folder: DecodableFolder, stretch: Stretch, start: int) -> Engine | None:
        """The first engine that may still come to the byte at `start` of a folder. Raises what is wrong otherwise."""
        failures = self._failures.get((folder.number, stretch.start), _Failures())
        if trio.current_time() > failures.until:
            failures = self._failures[folder.number, stretch.start] = _Failures()
        engines = self._engines(folder, stretch)
        for engine in engines:
            if start < failures.reached.get(engine, stretch.end):
                return engine
        raise again(failures.problem or failures.problems[engines[0]])

    def _engines(self, folder: DecodableFolder, stretch: Stretch) -> Sequence[Engine | None]:
        return folder.engines(stretch, seven_zip=self._resources.extractor.is_there)

    def _want(self, folder: DecodableFolder, used: RunningDecoder, end: int) -> None:
        used.goal = max(used.goal, min(end, used.stretch.end))
        used.wanted_until = trio.current_time() + self._resources.extractor.deadline
        if not used.running and used.problem is None:
            used.running = True
            used.users += 1
            start_detached(self._run, folder, used)

    async def _run(self, folder: DecodableFolder, used: RunningDecoder) -> None:
        """Decode up to the goal, which may move on meanwhile. However that ends, waiting readers are told."""
        try:
            with as_failure("an archive member cannot be decoded"):
                await self._go_on_to_goal(folder, used)
        except RiafsError as problem:
            await used.idle.wait()
            used.problem = used.problem or problem
        used.running = False
        try:
            if used.problem is not None:
                self._resources.decoders.close(used)
        finally:
            self._resources.decoders.leave(used)
            used.tell()

    async def _go_on_to_goal(self, folder: DecodableFolder, used: RunningDecoder) -> None:
        try:
            await self._go_to_goal(folder, used)
        except RiafsError as problem:
            await used.idle.wait()
            used.problem = self._noted(problem, folder, used)
        await used.idle.wait()
        if used.position >= used.stretch.end and (failures := self._failures.get((folder.number, used.stretch.start))):
            failures.deaths.pop(used.engine, None)

    async def _go_to_goal(self, folder: DecodableFolder, used: RunningDecoder) -> None:
        while used.position < used.goal and used.problem is None and not used.closed and self._is_wanted(used):
            rest = max(used.goal - used.position, _LEAST_STEP)
            data = await self._produced(used, min(_STEP, rest, used.stretch.end - used.position))
            await used.idle.wait()
            used.idle = trio.Event()
            start_detached(self._deliver, folder, used, data)
            used.position += len(data)

    def _is_wanted(self, used: RunningDecoder) -> bool:
        """Whether a reader waits for a decoder, or did so a short while ago and may come back."""
        return used.users > 1 or trio.current_time() < used.wanted_until

    async def _produced(self, used: RunningDecoder, most: int) -> bytes:
        """Some more bytes. Raises what decoding them raises, StoreTimeout."""
        seconds = self._resources.extractor.deadline
        with trio.move_on_after(seconds):
            return await used.decoder.decode(most)
        raise StoreTimeout(f"a decoder made nothing for {seconds:g} s")

    async def _deliver(self, folder: DecodableFolder, used: RunningDecoder, data: bytes) -> None:
        """Give decoded bytes of a folder to the members they belong to."""
        end = used.delivered + len(data)
        try:
            while used.delivered < end:
                left = memoryview(data)[used.delivered - end :]
                with as_failure("decoded archive members cannot be kept"):
                    parts, stop = self._assembler.parts(folder, used.stretch, used.delivered, left)
                with self._assembler.using(parts):
                    await self._deliver_parts(used, parts, stop)
        except RiafsError as problem:
            used.problem = problem
        finally:
            used.idle.set()

    async def _deliver_parts(self, used: RunningDecoder, parts: Sequence[Part], stop: int) -> None:
        """Store and check parts, up to `stop` in the folder. Raises StoreError."""
        try:
            with as_failure("decoded archive members cannot be kept"):
                await self._assembler.store(parts)
                used.delivered = stop
                used.tell()
                for partial, _, _ in parts:
                    await self._assembler.check(partial)
        except RiafsError as problem:
            for partial, _, _ in parts:
                self._assembler.fail(partial, problem)
            raise

    def _noted(self, problem: RiafsError, folder: DecodableFolder, used: RunningDecoder) -> RiafsError:
        """What to tell of a failed decoder; remembered if it will fail again."""
        if used.closed:
            return problem
        if used.stretch.is_run:
            self.give_up_runs(folder)
        elif isinstance(problem, (*_LASTING, *_DEATHS)):
            return self._note(problem, folder, used.stretch, used.engine, used.position)
        return problem

    def _note(
        self, problem: RiafsError, folder: DecodableFolder, stretch: Stretch, engine: Engine | None, reached: int
    ) -> RiafsError:
        """Remember how far an engine came; a child that was killed gets another chance. Returns what to tell."""
        failures = self._failures.setdefault((folder.number, stretch.start), _Failures())
        if type(problem) in _DEATHS:
            before, furthest = failures.deaths.get(engine, (0, reached))
            times = 1 if reached > furthest else before + 1
            failures.deaths[engine] = times, max(reached, furthest)
            if times < _DEATHS[type(problem)]:
                log.warning("%s: %s; it is tried again", self._assembler.shown, problem)
                return problem
        if isinstance(problem, ProgramKilled):
            failures.until = trio.current_time() + _KILLED_SECONDS
        failures.reached[engine], failures.problems[engine] = reached, problem
        engines = self._engines(folder, stretch)
        if failures.problem is None and all(each in failures.reached for each in engines):
            told = next((each for each in engines if each is not Engine.SEVENZIP), engines[-1])
            failures.problem = self._assembler.explained(failures.problems[told], encrypted=folder.encrypted)
        return failures.problem or problem

    def close(self) -> None:
        """End the decoders that no reader waits for."""
        self._resources.decoders.close_idle(self)
