"""Decoding: from "this member, that range" to bytes that were decoded once and checked.

Owns, for one archive, the folders that are being decoded, and the decision what to decode beside what is asked for: who
reads member after member finds the next ones decoded already. Invariant: bytes of a complete member are given out only
if its checks passed.
"""

import trio

from riafs.archive.blocks import Naming
from riafs.archive.decoders import Resources
from riafs.archive.encryption import Unlocker
from riafs.archive.folder import DecodableFolder, Folders
from riafs.archive.index import SavedWalks
from riafs.archive.members import MemberAssembler, PartialMember, again
from riafs.archive.planning import AHEAD, Planner
from riafs.archive.prefetch import Prefetch
from riafs.archive.scheduler import Scheduler
from riafs.errors import StoreError, StoreTimeout
from riafs.formats.sevenzip.header import Listing, Member
from riafs.storage.bytesource import RangedBytes


class Decoding:
    """The decoded members of one archive, which lies in `source`."""

    def __init__(
        self, source: RangedBytes, listing: Listing, naming: Naming, resources: Resources, unlocker: Unlocker,
        walks: SavedWalks, shown: str,
    ) -> None:  # fmt: skip
        self.resources = resources
        self.naming = naming
        self.assembler = MemberAssembler(listing, naming, resources, shown)
        self._driver = Scheduler(self.assembler, resources)
        self._planner = Planner(listing, self.assembler, self._driver, resources)
        self._folders = Folders(source, listing, unlocker, walks)
        self._ahead = Prefetch(listing, self.assembler, self._planner, self._driver, resources, self._folders)

    async def cover(self, partial: PartialMember, start: int, end: int, ahead: int = 0) -> None:
        """See to it that a range of a member's bytes is there; if then all are, that they are right.

        `ahead`: how many bytes more will be wanted. Raises CorruptContent, DecodeFailed, EncryptedArchive,
        StoreTimeout, …
        """
        seconds = self.resources.extractor.deadline
        with trio.move_on_after(seconds):
            await self._cover(partial, start, end, ahead)
            return
        raise StoreTimeout(f"decoding an archive member took more than {seconds:g} s")

    async def _cover(self, partial: PartialMember, start: int, end: int, ahead: int) -> None:
        folder = await self._folders.of(partial.member)
        in_order = self._ahead.follows(partial.member)
        if partial.covered.missing(start, end):
            self._begin_beside(folder, partial, end, ahead, in_order=in_order)
            if not ahead and not in_order:
                self._planner.asked(folder, end - start)
            await self._make(folder, partial, start, end, max(ahead, AHEAD if in_order else 0))
        if partial.complete:
            await partial.settled.wait()
            self._ahead.read(partial.member)
        if ahead or in_order:
            self._ahead.run_from(folder, partial.member.offset + end)
        if partial.problem is not None:
            raise again(partial.problem)

    def _begin_beside(
        self, folder: DecodableFolder, partial: PartialMember, end: int, ahead: int, *, in_order: bool
    ) -> None:
        """Let be decoded what will be wanted beside a range."""
        if ahead:
            self._ahead.rest_of(folder, partial, end, ahead)
        elif in_order:
            self._ahead.members_after(folder, partial.member)
        if in_order:
            self._ahead.next_folder(folder)

    async def _make(self, folder: DecodableFolder, partial: PartialMember, start: int, end: int, ahead: int) -> None:
        """Decode until a range is there, or it is known what is wrong. Raises what makes that impossible."""
        while partial.problem is None and partial.covered.missing(start, end):
            before = list(partial.covered.ranges)
            plan = await self._planner.plan(folder, (partial, start, end), ahead)
            try:
                problem = await self._driver.drive_all(folder, plan.jobs, plan.ahead)
            finally:
                self._planner.done(plan)
            idle = partial.covered.ranges == before and partial.problem is None and bool(plan.jobs)
            if isinstance(problem, StoreTimeout):
                raise problem
            if plan.is_run and (problem is not None or idle):
                self._driver.give_up_runs(folder)
            elif idle:
                raise problem or StoreError("a decoder passed an archive member without making it")

    async def taken(self, member: Member) -> None:
        """A reader was served a member."""
        await self._ahead.taken(member)

    def close(self) -> None:
        """End decoders that nobody uses."""
        self._driver.close()
