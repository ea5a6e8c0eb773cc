"""Decoding: from "this member, that range" to bytes that were decoded once and checked.

Owns, for one archive, the folders that are being decoded, and the decision what to decode beside what is asked for: who
reads member after member finds the next ones decoded already. Invariant: bytes of a complete member are given out only
if its checks passed.
"""

from collections.abc import Sequence

import trio
from cachetools import LRUCache

from riafs.archive.checks import Naming
from riafs.archive.divisions import AtResets
from riafs.archive.driving import Driver, Job
from riafs.archive.encryption import Unlocker
from riafs.archive.folders import DecodableFolder, open_folder
from riafs.archive.making import Making, again, stream_of
from riafs.archive.partial import Partial
from riafs.archive.walks import SavedWalks
from riafs.archive.workshop import Workshop
from riafs.errors import RiafsError, StoreError, StoreTimeout
from riafs.formats.sevenzip import Listing, Member
from riafs.storage.ranged import RangedBytes

_AHEAD = 16 << 20
_MOST_AHEAD = 256
_MOST_JOBS = 16
_FOLDERS = 256

_Wanted = tuple[Partial, int, int]
"""A range of a member in the making."""


class Decoding:
    """The decoded members of one archive, which lies in `source`."""

    def __init__(
        self, source: RangedBytes, listing: Listing, naming: Naming, workshop: Workshop, unlocker: Unlocker,
        walks: SavedWalks, shown: str,
    ) -> None:  # fmt: skip
        self.workshop = workshop
        self.naming = naming
        self.making = Making(listing, naming, workshop, shown)
        self._driver = Driver(self.making, workshop)
        self._source = source
        self._listing = listing
        self._unlocker = unlocker
        self._walks = walks
        self._folders: LRUCache[int, DecodableFolder] = LRUCache(_FOLDERS)
        self._opening = trio.Lock()
        self._last_complete = -2
        self._going_ahead = False

    async def cover(self, partial: Partial, start: int, end: int, ahead: int = 0) -> None:
        """See to it that a range of a member's bytes is there; if then all are, that they are right.

        `ahead`: how many bytes more will be wanted. Raises CorruptContent, DecodeFailed, EncryptedArchive,
        StoreTimeout, …
        """
        seconds = self.workshop.extractor.deadline
        with trio.move_on_after(seconds):
            await self._cover(partial, start, end, ahead)
            return
        raise StoreTimeout(f"decoding an archive member took more than {seconds:g} s")

    async def _cover(self, partial: Partial, start: int, end: int, ahead: int) -> None:
        member = partial.member
        folder = await self._folder(member)
        in_order = stream_of(member) == self._last_complete + 1
        self._go_ahead(folder, partial, end, ahead, in_order=in_order)
        undivided = 0 if isinstance(folder.division, AtResets) else max(ahead, _AHEAD if in_order else 0)
        while partial.problem is None and partial.covered.missing(start, end):
            before = list(partial.covered.ranges)
            jobs = await self._jobs(folder, [(partial, start, end)])
            problem = await self._driver.drive_all(folder, jobs, undivided)
            if partial.covered.ranges == before and partial.problem is None:
                raise problem or StoreError("a decoder passed an archive member without making it")
        if partial.complete:
            await partial.settled.wait()
            self._last_complete = stream_of(member)
        if partial.problem is not None:
            raise again(partial.problem)

    async def _jobs(self, folder: DecodableFolder, wanted: Sequence[_Wanted]) -> Sequence[Job]:
        """What to decode for what is missing: one job a segment, not more than are worth it before looking again."""
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

    async def _folder(self, member: Member) -> DecodableFolder:
        number = member.folder
        assert number is not None
        async with self._opening:
            found: DecodableFolder | None = self._folders.get(number)
            if found is None:
                found = await open_folder(self._source, self._listing, number, self._unlocker, self._walks)
                self._folders[number] = found
            return found

    # -- going ahead of readers ---------------------------------------------------------------------------------------

    async def taken(self, member: Member) -> None:
        """A reader was served a member. If it was decoded in passing, the ones after those that were may be wanted."""
        stream = stream_of(member)
        in_order = stream == self._last_complete + 1 and self.making.is_done(stream)
        if not in_order:
            return
        self._last_complete = stream
        folder = await self._folder(member)
        if not self._going_ahead and isinstance(folder.division, AtResets):
            self._begin(folder, [(each, 0, each.member.size) for each in self._following(folder, member)])

    def _go_ahead(self, folder: DecodableFolder, partial: Partial, end: int, ahead: int, *, in_order: bool) -> None:
        """Where decoding can begin at many places, decode what comes next beside what is asked for, at several."""
        if self._going_ahead or not isinstance(folder.division, AtResets):
            return
        if ahead:
            partial.users += 1
            wanted = [(partial, end, min(end + ahead, partial.member.size))]
        else:
            following = self._following(folder, partial.member) if in_order else []
            wanted = [(each, 0, each.member.size) for each in following]
        self._begin(folder, wanted)

    def _begin(self, folder: DecodableFolder, wanted: Sequence[_Wanted]) -> None:
        if wanted:
            self._going_ahead = True
            trio.lowlevel.spawn_system_task(self._cover_ahead, folder, wanted)

    def _following(self, folder: DecodableFolder, after: Member) -> Sequence[Partial]:
        """The members after one that are not decoded yet, as far as it is worth it, each used once more."""
        following: list[Partial] = []
        size = 0
        first = stream_of(after) + 1
        for number in range(first, min(first + _MOST_AHEAD, folder.streams.stop)):
            member = self._listing.member_of_stream(number)
            size += member.size
            if size > _AHEAD:
                break
            if self.making.is_done(number):
                continue
            try:
                following.append(self.making.join(member))
            except RiafsError:
                break
        return following

    async def _cover_ahead(self, folder: DecodableFolder, wanted: Sequence[_Wanted]) -> None:
        """Decode what may be wanted. What goes wrong is told to whoever asks for it."""
        try:
            with trio.move_on_after(self.workshop.extractor.deadline):
                await self._driver.drive_all(folder, await self._jobs(folder, wanted), 0)
        except RiafsError:
            return
        finally:
            self._going_ahead = False
            for partial, _, _ in wanted:
                self.making.leave(partial)

    def close(self) -> None:
        """End decoders that nobody uses."""
        self._driver.close()
