"""Planning: from ranges of members to jobs for decoders, none larger than what its reader is likely to want.

Owns, for one archive, what is known of how its folders are read. A range that somebody waits for is cut into the
segments that hold it, and liblzma decodes several at once. Whoever wants much more than that gets a *run*: a stretch of
segments for one child of 7-Zip, whose decoder is faster, but takes some 50 ms to start. Readers in order get runs that
grow, begun behind what they are served; readers here and there only when they have asked for a part of the folder that
makes it likely that they want the rest, and one at a time for each processor. Invariant: a run that failed costs
nothing but time: its folder is decoded by segments from then on, which tell what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from riafs.archive.decoders import Resources
from riafs.archive.folder import LONG, DecodableFolder
from riafs.archive.members import MemberAssembler, PartialMember, stream_of
from riafs.archive.scheduler import Job, Scheduler
from riafs.formats.sevenzip.header import Listing
from riafs.formats.sevenzip.lzma2 import Segment

AHEAD = 16 << 20
"""Bytes decoded beyond what a reader in order has taken."""
_MOST_JOBS = 16
_FIRST_RUN = 32 << 20
_LONGEST_RUN = 256 << 20
_SCATTERED_RUN = 32 << 20
_LIKELY_ALL = 8
"""Who asked for one part in so many of a folder, here and there, is taken to want all of it."""
_LOOKED_AT = 4096
_FOLDERS = 1024

Wanted = tuple[PartialMember, int, int]
"""A range of a member that is being decoded."""


@dataclass(slots=True)
class _History:
    """How a folder was read: bytes asked for here and there, how long the last run in order was."""

    scattered: int = 0
    run: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next for a range: jobs, and by how many bytes to go on beyond them."""

    jobs: Sequence[Job]
    ahead: int
    is_run: bool = False


class Planner:
    """The plans for one archive, whose decoders are driven by `driver`."""

    def __init__(self, listing: Listing, assembler: MemberAssembler, driver: Scheduler, resources: Resources) -> None:
        self._listing = listing
        self._assembler = assembler
        self._driver = driver
        self._resources = resources
        self._histories: LRUCache[int, _History] = LRUCache(_FOLDERS)
        self._planned: list[Segment] = []

    def has_runs(self, folder: DecodableFolder) -> bool:
        """Whether 7-Zip can decode parts of a folder."""
        possible = folder.has_runs and not folder.encrypted and not self._driver.runs_fail(folder)
        return possible and self._resources.extractor.is_there

    def asked(self, folder: DecodableFolder, size: int) -> None:
        """Take note that somebody wants so many bytes that do not follow what was wanted before."""
        self._history(folder).scattered += size

    def _history(self, folder: DecodableFolder) -> _History:
        return self._histories.setdefault(folder.number, _History())

    async def plan(self, folder: DecodableFolder, wanted: Wanted, ahead: int) -> Plan:
        """What to do for a range of which bytes are missing; `ahead`: how many more will be wanted after it.

        Waits while as many runs are under way as there are processors, so look again what is missing if the plan has no
        jobs. Raises what reading the archive raises.
        """
        if self.has_runs(folder):
            plan = self._under_way(folder, wanted, ahead) if ahead else await self._scattered(folder, wanted)
            if plan is not None:
                return plan
        return Plan(await self.jobs(folder, [wanted]), 0 if folder.has_runs else ahead)

    async def jobs(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> Sequence[Job]:
        """One job a segment for what is missing, not more than are worth it before looking again."""
        jobs: dict[int, Job] = {}
        for partial, start, end in wanted:
            base = partial.member.offset
            for gap_start, gap_end in partial.covered.missing(start, end):
                offset = base + gap_start
                while offset < base + gap_end and len(jobs) < _MOST_JOBS:
                    segment = await folder.division.segment(offset)
                    job = jobs.setdefault(segment.start, Job(segment))
                    job.ranges.append((partial, offset - base, min(gap_end, segment.end - base)))
                    offset = segment.end
        return list(jobs.values())

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _under_way(self, folder: DecodableFolder, wanted: Wanted, ahead: int) -> Plan | None:
        segment = self._driver.coming_to(folder, _first_missing(wanted))
        return None if segment is None or not segment.is_run else _run_plan(segment, wanted, ahead)

    async def next_run(self, folder: DecodableFolder, offset: int) -> Segment | None:
        """The run for a reader in order who has come to `offset`, longer than the one before: from the first segment on
        that the reader has not begun. None where there is one, or not much is left. Raises what reading the archive
        raises.
        """
        segment = await folder.division.segment(offset)
        start = offset if offset == segment.start else segment.end
        history = self._history(folder)
        length = min(max(2 * history.run, _FIRST_RUN), _LONGEST_RUN)
        if folder.folder.size - start < LONG or self._driver.has_run(folder, offset, start):
            return None
        run = await folder.division.run(start, start + length)
        history.run = length
        return run

    async def _scattered(self, folder: DecodableFolder, wanted: Wanted) -> Plan | None:
        offset = _first_missing(wanted)
        likely = self._history(folder).scattered * _LIKELY_ALL >= folder.folder.size
        if not likely or self._driver.coming_to(folder, offset) is not None:
            return None
        end = min(self._end_of_gap(folder, wanted[0]), offset + 2 * _SCATTERED_RUN)
        if end - offset < LONG:
            return None
        run = await folder.division.run(offset, end)
        if await self._waited_for_others(run):
            return Plan((), 0)
        self._planned.append(run)
        return _run_plan(run, wanted, run.size)

    async def _waited_for_others(self, run: Segment) -> bool:
        """Wait while as many runs are decoded as may be at once; whether that took time."""
        passes, most, waited = self._resources.decoders, self._resources.workers.total_tokens, False
        while len({run, *passes.runs(self._driver), *self._planned}) > most:
            await passes.changed()
            waited = True
        return waited

    def done(self, plan: Plan) -> None:
        """A plan was carried out, or given up."""
        for job in plan.jobs:
            if job.segment in self._planned:
                self._planned.remove(job.segment)
                self._resources.decoders.tell()

    def _end_of_gap(self, folder: DecodableFolder, partial: PartialMember) -> int:
        """Up to where decoding from a member on makes more of what was not decoded yet than of what was."""
        end, new, known = partial.member.offset + partial.member.size, partial.member.size, 0
        first = stream_of(partial.member) + 1
        for stream in range(first, min(first + _LOOKED_AT, folder.streams.stop)):
            member = self._listing.member_of_stream(stream)
            if self._assembler.is_done(stream):
                known += member.size
            else:
                new += member.size
                end = member.offset + member.size
            if new >= _SCATTERED_RUN or known > new:
                break
        return end


def _first_missing(wanted: Wanted) -> int:
    """Where in the folder the first byte is that a range lacks."""
    partial, start, end = wanted
    return partial.member.offset + partial.covered.missing(start, end)[0][0]


def _run_plan(run: Segment, wanted: Wanted, ahead: int) -> Plan:
    partial, start, end = wanted
    job = Job(run, [(partial, start, min(end, run.end - partial.member.offset))])
    return Plan([job], ahead, is_run=True)
