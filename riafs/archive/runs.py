"""Runs: many stretches of a folder in a row, decoded by one child of 7-Zip in several threads, for readers of much.

7-Zip needs half of liblzma's time, but some 50 ms to start. So a reader in order gets runs that begin behind what it is
served, each about twice as long as what it has read so far; and readers that have asked for much here and there get
what is left of the window around the byte that they ask for next, and wait while other readers' window is decoded. A
run that fails costs nothing but time: its folder is decoded by single stretches from then on.
"""

import trio

from riafs.archive.folder import LONG, DecodableFolder
from riafs.archive.members import MemberAssembler
from riafs.archive.scheduler import Scheduler
from riafs.errors import RiafsError
from riafs.formats.sevenzip.header import Listing
from riafs.formats.sevenzip.lzma2 import Stretch

_SHORTEST = 32 << 20
_LONGEST = 256 << 20
_WINDOW = 64 << 20


class Runs:
    """The runs of one archive."""

    def __init__(self, listing: Listing, assembler: MemberAssembler, scheduler: Scheduler) -> None:
        self._listing = listing
        self._assembler = assembler
        self._scheduler = scheduler
        self._windows = trio.Lock()

    def are_worth_it(self, folder: DecodableFolder, offset: int) -> bool:
        """Whether 7-Zip can decode runs of a folder, and enough is left behind `offset`."""
        return folder.folder.size - offset >= LONG and self._scheduler.may_have_runs(folder)

    async def begin(self, folder: DecodableFolder, offset: int, ahead: int, length: int) -> bool:
        """Begin a run of `length` bytes, within limits, behind `offset` of a folder, unless one comes there; it decodes
        `ahead` bytes before readers come. Whether there is one now. Raises what reading the archive raises."""
        first = await folder.seek_points.stretch(offset)
        start = offset if offset == first.start else first.end  # the reader is decoding the one it has begun
        if self._scheduler.run_at(folder, start) is not None:
            return True
        if not self.are_worth_it(folder, start):
            return False
        end = start + min(max(length, _SHORTEST), _LONGEST)
        run = await folder.seek_points.stretch(start, min(end, folder.folder.size))
        return await self._start(folder, run, start + ahead)

    async def decode_window(self, folder: DecodableFolder, offset: int) -> bool:
        """Begin to decode what is left of the window around a byte, if a run is worth it. Whether that byte comes."""
        async with self._windows:
            while (other := self._scheduler.window_under_way(folder)) and not other.comes_to(offset):
                await other.progress()
            if other is None:
                run = await self._window(folder, offset)
                return run is not None and await self._start(folder, run, run.end)
            return True

    async def _window(self, folder: DecodableFolder, offset: int) -> Stretch | None:
        size = folder.folder.size
        start = offset - offset % _WINDOW
        end = min(start + _WINDOW, size)
        first, last = (self._listing.stream_at(folder.streams, each) for each in (start, end - 1))
        left = self._assembler.unfinished(range(first, last + 1))
        if not left:
            return None
        first_left, last_left = (self._listing.member_of_stream(each) for each in (left.start, left.stop - 1))
        start, end = max(start, first_left.offset), min(end, last_left.offset + last_left.size)
        return await folder.seek_points.stretch(start, end) if end - start >= LONG else None

    async def _start(self, folder: DecodableFolder, run: Stretch, goal: int) -> bool:
        """Whether a run was started: not if it is a single stretch, or its last stretch makes it too long to copy."""
        if not run.is_run or run.size > 2 * _LONGEST:
            return False
        try:
            await self._scheduler.begin_run(folder, run, goal)
        except RiafsError:
            self._scheduler.give_up_runs(folder)
            return False
        return True
