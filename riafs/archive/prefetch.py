"""Members decoded before they are asked for: readers of member after member find the next ones decoded already.

Owns, for one archive, how far the reader in order has come (there is one: with several, the last one counts), and how
much of each folder was asked for here and there: a reader that has asked for an eighth is assumed to want the rest.
At most `AHEAD` bytes behind a member are decoded, and the front of the next folder. A failure is told to the reader
that asks for the member.
"""

from collections.abc import Callable, Sequence

import trio
from cachetools import LRUCache

from riafs.archive.folder import DecodableFolder, Folders
from riafs.archive.members import MemberAssembler, PartialMember, stream_of
from riafs.archive.runs import Runs
from riafs.archive.scheduler import Scheduler, Wanted
from riafs.errors import RiafsError
from riafs.formats.sevenzip.header import Listing, Member
from riafs.tasks import start_detached

AHEAD = 16 << 20
"""Bytes decoded beyond the member that a reader has taken."""
_MOST_MEMBERS = 256
_MOST_BATCHES = 2
"""The second one keeps all workers busy while the first one ends."""
_LIKELY_ALL = 8
"""A reader that asked for one part in so many of a folder, here and there, is assumed to want all of it."""
_WORTH_IT = 8 << 20
"""A smaller folder is decoded soon enough by its readers."""
_FOLDERS = 1024


class Prefetch:
    """What is decoded beforehand in one archive. Nothing takes longer than `seconds`."""

    def __init__(
        self, listing: Listing, assembler: MemberAssembler, scheduler: Scheduler, folders: Folders, seconds: float
    ) -> None:
        self._listing = listing
        self._assembler = assembler
        self._scheduler = scheduler
        self._folders = folders
        self._seconds = seconds
        self._runs = Runs(listing, assembler, scheduler)
        self._is_beginning_run = False
        self._last = -2
        self._in_order = 0
        self._entered = -1
        self._front_busy = False
        self._batches = 0
        self._under_way: set[int] = set()
        self._asked: LRUCache[int, int] = LRUCache(_FOLDERS)

    def follows(self, member: Member) -> bool:
        """Whether a member comes after the last one that was read."""
        return stream_of(member) == self._last + 1

    def read(self, member: Member) -> None:
        """A reader has got all of a member."""
        if stream_of(member) != self._last:
            self._in_order = self._in_order + member.size if self.follows(member) else 0
            self._last = stream_of(member)

    async def taken(self, member: Member) -> None:
        """A reader was served a member. If it was decoded before, the ones after those that were may be wanted."""
        if self.follows(member) and self._assembler.is_done(stream_of(member)):
            self.read(member)
            folder = await self._folders.of(member)
            self._scheduler.go_on(folder, member.offset + member.size, AHEAD)
            self.members_after(folder, member)

    async def apart(self, folder: DecodableFolder, member: Member, start: int, end: int) -> None:
        """A reader asks for a range of a member that does not follow the last one."""
        asked = self._asked[folder.number] = self._asked.get(folder.number, 0) + end - start
        if not asked * _LIKELY_ALL >= folder.folder.size >= _WORTH_IT:
            return
        if self._runs.are_worth_it(folder, 0) and await self._runs.decode_window(folder, member.offset + start):
            return
        self._begin(folder, self._following(folder, member))

    def rest_of(self, folder: DecodableFolder, partial: PartialMember, start: int, ahead: int) -> None:
        """A reader goes through a member: decode `ahead` bytes of it from `start` on."""
        member = partial.member
        self._scheduler.go_on(folder, member.offset + start, ahead)
        missing = partial.covered.missing(start, min(start + ahead, member.size))

        def rest() -> Sequence[Wanted]:
            if not self._is_free(folder):
                return ()
            return [(self._assembler.join(member), missing[0][0], missing[-1][1])]

        if missing:
            self._decode_behind(folder, member.offset + missing[0][0], ahead, self._in_order + start, rest)

    def members_after(self, folder: DecodableFolder, member: Member) -> None:
        """A reader in order has come to a member: decode the ones after it, and the front of the next folder."""
        end, first = member.offset + member.size, stream_of(member) + 1
        number = self._assembler.first_unfinished(range(first, min(first + _MOST_MEMBERS, folder.streams.stop)))
        offset = end + AHEAD if number is None else self._listing.member_of_stream(number).offset
        if offset < end + AHEAD:
            self._decode_behind(folder, offset, AHEAD, self._in_order, lambda: self._following(folder, member))
        following = folder.streams.stop
        if self._entered == folder.number or self._front_busy or following >= self._listing.stream_count:
            return
        self._entered = folder.number
        if not self._assembler.is_done(following):
            self._front_busy = True
            start_detached(self._decode_front, self._listing.member_of_stream(following))

    def _decode_behind(
        self, folder: DecodableFolder, offset: int, ahead: int, read: int, following: Callable[[], Sequence[Wanted]]
    ) -> None:
        """Decode `ahead` bytes behind `offset` for a reader that has read that many in order: as a run, or else what is
        `following` by single stretches."""
        if not self._runs.are_worth_it(folder, offset):
            self._begin(folder, following())
        elif not self._is_beginning_run and self._scheduler.run_at(folder, offset) is None:
            self._is_beginning_run = True
            start_detached(self._begin_run, folder, offset, ahead, read, following)

    async def _begin_run(
        self, folder: DecodableFolder, offset: int, ahead: int, read: int, following: Callable[[], Sequence[Wanted]]
    ) -> None:
        try:
            with trio.move_on_after(self._seconds):
                if not await self._runs.begin(folder, offset, ahead, 2 * read):
                    self._begin(folder, following())
        except RiafsError:
            return
        finally:
            self._is_beginning_run = False

    def _is_free(self, folder: DecodableFolder) -> bool:
        """Whether to decode more of a folder now. One stretch has one decoder, which goes on by itself."""
        return folder.is_divided and self._batches < _MOST_BATCHES

    def _following(self, folder: DecodableFolder, after: Member) -> Sequence[Wanted]:
        """The members after one that are not decoded yet, as far as it is worth it, each used once more."""
        following: list[Wanted] = []
        if not self._is_free(folder):
            return following
        first, end = stream_of(after) + 1, after.offset + after.size + AHEAD
        for number in range(first, min(first + _MOST_MEMBERS, folder.streams.stop)):
            if self._assembler.is_done(number) or number in self._under_way:
                continue
            member = self._listing.member_of_stream(number)
            if member.offset + member.size > end:
                break
            try:
                following.append((self._assembler.join(member), 0, member.size))
            except RiafsError:
                break
        return following

    def _begin(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> None:
        if wanted:
            self._batches += 1
            self._under_way.update(stream_of(partial.member) for partial, _, _ in wanted)
            start_detached(self._decode_batch, folder, wanted)

    async def _decode_batch(self, folder: DecodableFolder, wanted: Sequence[Wanted]) -> None:
        try:
            with trio.move_on_after(self._seconds):
                await self._scheduler.decode(folder, wanted)
        except RiafsError:
            return
        finally:
            self._batches -= 1
            self._under_way.difference_update(stream_of(partial.member) for partial, _, _ in wanted)
            for partial, _, _ in wanted:
                self._assembler.leave(partial)

    async def _decode_front(self, member: Member) -> None:
        try:
            with trio.move_on_after(self._seconds):
                folder = await self._folders.of(member)
                if not folder.stored:
                    await self._decode_member(folder, member)
        except RiafsError:
            return
        finally:
            self._front_busy = False

    async def _decode_member(self, folder: DecodableFolder, member: Member) -> None:
        partial = self._assembler.join(member)
        try:
            await self._scheduler.decode(folder, [(partial, 0, member.size)], AHEAD)
        finally:
            self._assembler.leave(partial)
