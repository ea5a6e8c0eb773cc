"""Going ahead of readers: who takes member after member finds the next ones decoded already.

Owns, for one archive, how far the reader in order has come (there is one: with several, the last one counts), and what
is decoded that nobody has asked for yet. It costs at most what was taken before: one stretch beyond the last
member, and the front of the next folder. What goes wrong is told to whoever asks for it.
"""

from collections.abc import Sequence

import trio

from riafs.archive.decoders import Resources
from riafs.archive.folder import AtResets, DecodableFolder, Folders
from riafs.archive.members import MemberAssembler, PartialMember, stream_of
from riafs.archive.planning import AHEAD, Planner, Wanted
from riafs.archive.scheduler import Scheduler
from riafs.errors import RiafsError
from riafs.formats.sevenzip.header import Listing, Member
from riafs.tasks import start_detached

_MOST_MEMBERS = 256


class Prefetch:
    """What is decoded beforehand in one archive."""

    def __init__(
        self, listing: Listing, assembler: MemberAssembler, planner: Planner, driver: Scheduler, resources: Resources,
        folders: Folders,
    ) -> None:  # fmt: skip
        self._listing = listing
        self._assembler = assembler
        self._planner = planner
        self._driver = driver
        self._resources = resources
        self._folders = folders
        self._last = -2
        self._entered = -1
        self._run_busy = False
        self._segments_busy = False
        self._folder_busy = False

    def follows(self, member: Member) -> bool:
        """Whether a member comes after the last one that was read."""
        return stream_of(member) == self._last + 1

    def read(self, member: Member) -> None:
        """A reader has got all of a member."""
        self._last = stream_of(member)

    async def taken(self, member: Member) -> None:
        """A reader was served a member. If it was decoded in passing, the ones after those that were may be wanted."""
        if not (self.follows(member) and self._assembler.is_done(stream_of(member))):
            return
        self.read(member)
        folder = await self._folders.of(member)
        end = member.offset + member.size
        self._driver.go_on(folder, end, AHEAD)
        self.run_from(folder, end)
        self.members_after(folder, member)
        self.next_folder(folder)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run_from(self, folder: DecodableFolder, offset: int) -> None:
        """A reader in order has come to `offset` of a folder: begin a run behind it, where there is none."""
        if offset < folder.folder.size and self._planner.has_runs(folder) and not self._run_busy:
            wanted = self._not_done(folder, offset)
            if wanted is not None:
                self._run_busy = True
                start_detached(self._begin_run, folder, wanted)

    def _not_done(self, folder: DecodableFolder, offset: int) -> int | None:
        """From where on a reader at `offset` will soon want what is not decoded yet; None if it is far from there."""
        first = self._listing.stream_at(folder.streams, offset)
        for stream in range(first, min(first + _MOST_MEMBERS, folder.streams.stop)):
            member = self._listing.member_of_stream(stream)
            if member.offset - offset > AHEAD:
                break
            if not self._assembler.is_done(stream):
                return max(offset, member.offset)
        return None

    async def _begin_run(self, folder: DecodableFolder, offset: int) -> None:
        try:
            run = await self._planner.next_run(folder, offset)
            if run is not None:
                await self._driver.begin(folder, run, AHEAD)
        except RiafsError:
            self._driver.give_up_runs(folder)
        finally:
            self._run_busy = False

    # -- segments, where runs are not possible ------------------------------------------------------------------------

    def rest_of(self, folder: DecodableFolder, partial: PartialMember, start: int, ahead: int) -> None:
        """Where runs do not, decode `ahead` bytes of a member from `start` on beside what is being asked for."""
        end = min(start + ahead, partial.member.size)
        if self._is_free(folder) and start < end:
            partial.users += 1
            self._begin(folder, [(partial, start, end)])

    def members_after(self, folder: DecodableFolder, member: Member) -> None:
        """Where runs do not, decode the members after one beside what is being asked for."""
        if self._is_free(folder):
            following = self._following(folder, member)
            if following:
                self._begin(folder, [(each, 0, each.member.size) for each in following])

    def _is_free(self, folder: DecodableFolder) -> bool:
        divided = isinstance(folder.division, AtResets) and not self._planner.has_runs(folder)
        return divided and not self._segments_busy

    def _begin(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> None:
        self._segments_busy = True
        start_detached(self._decode_segments, folder, wanted)

    def _following(self, folder: DecodableFolder, after: Member) -> Sequence[PartialMember]:
        """The members after one that are not decoded yet, as far as it is worth it, each used once more."""
        following: list[PartialMember] = []
        size = 0
        first = stream_of(after) + 1
        for number in range(first, min(first + _MOST_MEMBERS, folder.streams.stop)):
            member = self._listing.member_of_stream(number)
            size += member.size
            if size > AHEAD:
                break
            if self._assembler.is_done(number):
                continue
            try:
                following.append(self._assembler.join(member))
            except RiafsError:
                break
        return following

    async def _decode_segments(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> None:
        try:
            with trio.move_on_after(self._resources.extractor.deadline):
                await self._driver.drive_all(folder, await self._planner.jobs(folder, wanted), 0)
        except RiafsError:
            return
        finally:
            self._segments_busy = False
            for partial, _, _ in wanted:
                self._assembler.leave(partial)

    # -- the next folder ----------------------------------------------------------------------------------------------

    def next_folder(self, folder: DecodableFolder) -> None:
        """A reader in order is in a folder: decode the front of the next one beside it, once."""
        following = folder.streams.stop
        if self._entered == folder.number or self._folder_busy or following >= self._listing.stream_count:
            return
        self._entered = folder.number
        if not self._assembler.is_done(following):
            self._folder_busy = True
            start_detached(self._decode_front, self._listing.member_of_stream(following))

    async def _decode_front(self, member: Member) -> None:
        try:
            with trio.move_on_after(self._resources.extractor.deadline):
                await self._decode_member(await self._folders.of(member), member)
        except RiafsError:
            return
        finally:
            self._folder_busy = False

    async def _decode_member(self, folder: DecodableFolder, member: Member) -> None:
        partial = self._assembler.join(member)
        try:
            if not folder.stored and partial.covered.missing(0, member.size):
                plan = await self._planner.plan(folder, (partial, 0, member.size), AHEAD)
                await self._driver.drive_all(folder, plan.jobs, plan.ahead)
        finally:
            self._assembler.leave(partial)
