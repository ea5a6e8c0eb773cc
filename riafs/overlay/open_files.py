"""Open files of the overlay: their local ranges, bytes, base content and attributes, and the handles on them.

One OpenFile serves all handles of an inode. Size, times and `written` are kept here while a file is open, and reach the
row with the next commit (`store`). A byte is the data file's if it lies in an extent or at `based` and beyond, else the
base content's; nothing of that is fetched before it is read. What was removed while it was open keeps its row until its
last handle is given back.

Order on disk: bytes go to the data file before a row says that they are there; what is cut off goes after the row is
committed, and a file that is emptied gets another data file.
"""

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Set
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from riafs.errors import FileTooLarge, OverlayFailed, StaleHandle
from riafs.formats.digests import crc32
from riafs.overlay.data_files import Checksum, failure
from riafs.overlay.inode_map import InodeMap
from riafs.overlay.lower import Lower
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import Row
from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes, is_provisional, shown_version_of


class Ranges:
    """A set of offsets as half-open ranges."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> tuple[int, int]:
        """Add ``[start, end)``, which is not empty; returns the range that it is a part of now."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return start, end

    def clip(self, end: int) -> None:
        """Take out everything from `end` on."""
        kept = bisect_left(self._starts, end)
        del self._starts[kept:], self._ends[kept:]
        if kept and self._ends[-1] > end:
            self._ends[-1] = end

    def covers(self, start: int, end: int) -> bool:
        """Whether every offset of ``[start, end)`` is in."""
        place = bisect_right(self._starts, start) - 1
        return start >= end or (place >= 0 and self._ends[place] >= end)

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """``[start, end)`` cut into (start, end, whether it is in), in order."""
        place = bisect_right(self._ends, start)
        while start < end:
            if place == len(self._starts) or self._starts[place] >= end:
                yield start, end, False
                return
            if self._starts[place] > start:
                yield start, self._starts[place], False
                start = self._starts[place]
            stop = min(end, self._ends[place])
            yield start, stop, True
            start, place = stop, place + 1


# A thread costs 50 to 100 µs: as much as copying this many bytes into the page cache.
_INLINE = 128 << 10
MAX_SIZE = (1 << 63) - 1

Open = Callable[[], Awaitable[RangedBytes]]


class OpenFile:
    """An open file. `row`: None as long as nothing of it was changed. `open_base`: opens the base content.
    `dirty`: where a file is put whose row is behind.
    """

    __slots__ = (
        "_base", "_changes", "_crc", "_descriptor", "_dirty", "_extents", "_front", "_lock", "_must_sync", "_open_base",
        "_overlay", "based", "ctime", "data", "handles", "inode", "mtime", "row", "size", "writers", "written",
    )  # fmt: skip

    def __init__(
        self, overlay: Overlay, dirty: "set[OpenFile]", inode: int, row: Row | None, size: int, open_base: Open
    ) -> None:
        self._overlay = overlay
        self.inode = inode
        self.handles = self.writers = 0
        self.size = self.based = size
        self.row: int | None = None
        self.data = self.written = self.mtime = self.ctime = 0
        self._dirty = dirty
        self._open_base = open_base
        self._base: RangedBytes | None = None
        self._descriptor = -1
        self._changes = self._must_sync = False
        """Whether the local bytes change, so that no checksum of them is recorded; whether that is not durable yet."""
        self._crc = 0
        self._front = -1
        """`_crc` is that of the first `_front` local bytes, as long as they are written one after the other."""
        self._extents = Ranges()
        self._lock = trio.Lock()
        if row is not None:
            self.copied_up(row)

    def copied_up(self, row: Row) -> None:
        """The file has a row now."""
        self.row = row.id
        self.size, self.based, self.data, self.written = row.size, row.based, row.data, row.written
        self.mtime, self.ctime = row.mtime, row.ctime
        self._extents = Ranges(self._overlay.rows.extents(row.id)) if row.based else Ranges()

    def linked(self, record: Row) -> None:
        """The file has another name, and `record` in the place of its row."""
        self.row = record.id
        self.ctime = max(self.ctime, record.ctime)

    # -- the two places of bytes --------------------------------------------------------------------------------------

    async def base(self) -> RangedBytes:
        """The base content, opened at the first call."""
        if self._base is None:
            opened = await self._open_base()
            if self._has_base():  # another reader was faster
                opened.close()
            else:
                self._base = opened
        assert self._base is not None
        return self._base

    def _has_base(self) -> bool:
        return self._base is not None

    @property
    def provisional(self) -> bool:
        """Whether bytes read so far may turn out to be wrong. Nothing is known before base content was read."""
        return bool(self.based) and (self._base is None or is_provisional(self._base))

    @property
    def shown_version(self) -> object:
        """What tells this content from another one of the same file; PROVEN for local bytes."""
        return PROVEN if not self.based or self._base is None else shown_version_of(self._base)

    def _local(self) -> int:
        """The data file's descriptor."""
        if self._descriptor < 0:
            self._descriptor = self._overlay.files.open(self.data)
            size = os.fstat(self._descriptor).st_size
            if size < self.written:
                os.close(self._descriptor)
                self._descriptor = -1
                raise self._too_short(size)
            if size > self.written:
                os.ftruncate(self._descriptor, self.written)  # what a write or a cut that was not finished left
        return self._descriptor

    def _too_short(self, size: int) -> OverlayFailed:
        place = f"{self._overlay.files.path}/{self.data:x}"
        return OverlayFailed(f"{place} has {size} bytes instead of {self.written}: the rest was lost")

    def _make_local(self) -> int:
        if not self.data:
            number = self._overlay.rows.next_data()
            self._descriptor = self._overlay.files.create(number)
            self.data = number
            self._changes, self._crc, self._front = True, 0, 0
        self._begin_changing()
        return self._local()

    def _begin_changing(self) -> None:
        """No checksum holds any more: before anything is changed, and not in a step, as it is committed."""
        if self.data and not self._changes:
            known = self._overlay.checksums.find(self.data)
            if known is not None:
                self._overlay.checksums.withdraw(self.data)
                self._must_sync = True
                if known.length == self.written:
                    self._crc, self._front = known.crc, known.length
            self._changes = True

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One change of the bytes at a time; without a turn of the event loop where nobody else is at it."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, offset: int, length: int) -> Buffer:
        """Bytes from `offset` on; fewer than `length` only at the end. Raises what the base content raises."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        if offset >= self.based:
            return await self._read_local(offset, end)
        if end <= self.based and not self.data:
            return await (await self.base()).read(offset, end - offset)
        return b"".join([bytes(piece) async for piece in self._read_pieces(offset, end)])

    async def _read_pieces(self, offset: int, end: int) -> AsyncIterator[Buffer]:
        edge = min(end, self.based)
        for start, stop, local in list(self._extents.pieces(offset, edge)):
            yield await (self._read_local(start, stop) if local else (await self.base()).read(start, stop - start))
        if edge < end:
            yield await self._read_local(edge, end)

    async def _read_local(self, start: int, end: int) -> Buffer:
        if not self.data:
            return bytes(end - start)
        descriptor = self._local()
        buffer = bytearray(end - start)
        try:
            got = os.preadv(descriptor, [buffer], start, os.RWF_NOWAIT)
        except OSError:  # not in the page cache, or a file system that cannot tell
            got = 0
        if got < len(buffer) and start + got < self.written:
            filled = await self._overlay.deadline.run(_read_all, descriptor, memoryview(buffer)[got:], start + got)
            if got + filled < min(end, self.written) - start:
                raise self._too_short(os.fstat(descriptor).st_size)
        return buffer

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self, offset: int, data: Buffer, now: int) -> int:
        """Write, and return how many bytes were written. Raises FileTooLarge, OverlayFull, OverlayFailed."""
        if offset + len(data) > MAX_SIZE:
            raise FileTooLarge(f"no file can have a byte at {offset + len(data)}")
        if not len(data):
            return 0
        if not self._lock.locked() and len(data) <= _INLINE:
            return self._written(offset, self._put(self._make_local(), data, offset), now)
        async with self._alone():
            count = await self._overlay.deadline.run(self._put, self._make_local(), data, offset)
            return self._written(offset, count, now)

    def _put(self, descriptor: int, data: Buffer, offset: int) -> int:
        try:
            count = os.pwrite(descriptor, data, offset)
        except OSError as error:
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_size > self.written:
                    os.ftruncate(descriptor, self.written)
            raise failure(error, f"{self._overlay.files.path}/{self.data:x}") from error
        if offset == self._front:
            self._crc = crc32(memoryview(data)[:count], self._crc)
            self._front += count
        else:
            self._front = -1
        return count

    def _written(self, offset: int, count: int, now: int) -> int:
        """Bytes are in the data file: say so."""
        end = offset + count
        self.written = max(self.written, end)
        if self.based and offset < self.based:
            self._add_extent(offset, min(end, self.based))
        self.size = max(self.size, end)
        self.mtime = self.ctime = now
        self._dirty.add(self)
        return count

    def _add_extent(self, start: int, end: int) -> None:
        rows, row = self._overlay.rows, self.row
        assert row is not None
        start, end = self._extents.add(start, end)
        with self._overlay.journal.step:
            if (start, end) == (0, self.based):
                self.based = 0
                self._extents = Ranges()
                rows.clear_extents(row)
                self.store()
            else:
                rows.add_extent(row, start, end)

    async def truncate(self, size: int, now: int) -> None:
        """Change the size. What is added reads as zeros. Raises FileTooLarge, OverlayFull, OverlayFailed."""
        if size > MAX_SIZE:
            raise FileTooLarge(f"no file can have {size} bytes")
        async with self._alone():
            self._truncate(size, now)

    def _truncate(self, size: int, now: int) -> None:
        overlay, row = self._overlay, self.row
        assert row is not None
        if size:
            self._begin_changing()
        self._front = -1
        shrinks = size < self.written
        with overlay.journal.step if size else overlay.journal.freeing:
            if size < self.based:
                self.based = size
                self._extents.clip(size)
                overlay.rows.clip_extents(row, size)
            if size == 0:
                self._drop_data()
            elif size > self.size:
                os.truncate(self._make_local(), size)
                self.written = size
            self.size = size
            self.written = min(self.written, size)
            self.mtime = self.ctime = now
            self.store()
        if shrinks and self.data:
            overlay.journal.commit()
            overlay.journal.failpoint("before cut")
            os.ftruncate(self._local(), size)

    def _drop_data(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._overlay.files.doom(self.data)
        self.data = self.written = 0
        self._changes = False

    # -- attributes ---------------------------------------------------------------------------------------------------

    def store(self) -> None:
        """Put into the row what is kept here. Belongs into a step."""
        self._dirty.discard(self)
        if self.row is not None:
            rows = self._overlay.rows
            rows.update(
                self.row, size=self.size, based=self.based, data=self.data, written=self.written, mtime=self.mtime,
                ctime=self.ctime, version=rows.next_version(),
            )  # fmt: skip

    async def sync(self) -> None:
        """Make the bytes, attributes and name survive the loss of power. Raises OverlayFailed, OverlayFull.

        Both at once, so that the file system below makes one commit of it. Rows that are durable before their bytes are
        what a loss of power may leave of any file, and are put right when the overlay is opened.
        """
        overlay = self._overlay
        if self.data and self._must_sync:  # or a checksum of other bytes could be there after a loss of power
            await overlay.durable()
            self._must_sync = False
        if not self.data:
            await overlay.durable()
            return
        try:
            await overlay.journal.durable(overlay.files.syncing(self.data, self._local()))
        except OSError as error:
            raise failure(error, f"{overlay.files.path}/{self.data:x}") from error

    def conclude(self) -> None:
        """Nobody writes any more: let the checksum of the local bytes be known, which mostly is known already."""
        if self._changes and self.data and self.row is not None:
            if self._front == self.written and self._descriptor >= 0:
                status = os.fstat(self._descriptor)
                found = Checksum(self.data, self.written, self._crc, status.st_ino, status.st_ctime_ns)
                self._overlay.checksums.add(found)
            else:
                self._overlay.inspector.unknown[self.row] = self.data
        self._changes = False

    def close(self) -> None:
        """Give back descriptors."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._base is not None:
            self._base.close()
            self._base = None


def _read_all(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill the buffer, and return how many bytes there were; what lies beyond the data is zero already."""
    before = offset
    while buffer:
        got = os.preadv(descriptor, [buffer], offset)
        if not got:
            break
        buffer, offset = buffer[got:], offset + got
    return offset - before


class OpenFiles:
    """The open files of one engine."""

    def __init__(self, overlay: Overlay, places: InodeMap, lower: Lower) -> None:
        self._overlay = overlay
        self._places = places
        self._lower = lower
        self._open: dict[int, OpenFile] = {}
        self._handles: dict[int, OpenFile] = {}
        self._writing: set[int] = set()
        self._last = 0
        self._dirty: set[OpenFile] = set()

    # -- which are open -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[OpenFile]:
        """Those that are open now."""
        return iter(list(self._open.values()))

    def is_open(self, inode: int) -> bool:
        """Whether somebody has a handle on it."""
        return inode in self._open

    def at(self, inode: int) -> OpenFile | None:
        """The open file of an inode, None where nobody has one."""
        return self._open.get(inode)

    def ahead(self, inode: int) -> OpenFile | None:
        """The same, None where its row says all there is to say."""
        opened = self._open.get(inode)
        return opened if opened is not None and opened in self._dirty else None

    def written(self) -> Set[int | None]:
        """The rows whose files somebody has open to write."""
        return frozenset(opened.row for opened in self._open.values() if opened.writers)

    def file(self, handle: int) -> OpenFile:
        """What a handle is on. Raises StaleHandle."""
        try:
            return self._handles[handle]
        except KeyError:
            raise StaleHandle(f"handle {handle} is not open") from None

    # -- opening ------------------------------------------------------------------------------------------------------

    def opened(self, inode: int, row: Row | None, size: int) -> OpenFile:
        """The open file of an inode, made now if nobody has it open. `size`: what it has below, without a row."""
        if inode not in self._open:

            async def open_base() -> RangedBytes:
                now = self._places.row(opened.inode)
                below = opened.inode if now is None else await self._places.below(now)
                assert below is not None
                return await self._lower.open(below)

            opened = self._open[inode] = OpenFile(self._overlay, self._dirty, inode, row, size, open_base)
        return self._open[inode]

    def renumber(self, changed: Mapping[int, int]) -> None:
        """Inodes have other numbers from now on: before → after."""
        for before, now in changed.items():
            if before in self._open:
                opened = self._open[now] = self._open.pop(before)
                opened.inode = now

    def created(self, inode: int, row: Row) -> int:
        """A handle to write a file that was made just now."""
        opened = self._open[inode] = OpenFile(self._overlay, self._dirty, inode, row, 0, _no_base)
        return self.give(opened, writes=True)

    def give(self, opened: OpenFile, *, writes: bool) -> int:
        """A new handle on an open file."""
        opened.handles += 1
        self._last += 1
        self._handles[self._last] = opened
        if writes:
            self._writing.add(self._last)
            opened.writers += 1
        return self._last

    # -- giving back --------------------------------------------------------------------------------------------------

    def release(self, handle: int) -> None:
        """Give a handle back. Never fails: what cannot be stored is reported by the next commit."""
        opened = self._handles.pop(handle, None)
        if opened is not None:
            if handle in self._writing:
                self._writing.discard(handle)
                opened.writers -= 1
            self.let_go(opened)

    def let_go(self, opened: OpenFile) -> None:
        """One handle fewer on an open file."""
        opened.handles -= 1
        if opened.handles:
            return
        opened.conclude()
        opened.close()
        if opened in self._dirty:
            with self._overlay.journal.single:
                opened.store()
        del self._open[opened.inode]
        # Copied up, by a rename or since it was removed, while it was open to be read: then only its place knows.
        row = self._places.number(opened.inode) if opened.row is None else opened.row
        if row is not None and row in self._overlay.rows.orphans:
            self._remove(row)

    def _remove(self, number: int) -> None:
        """Remove what was kept because it was open."""
        rows = self._overlay.rows
        rows.orphans.discard(number)
        rows.superseded.discard(number)
        row = rows.get(number)
        if row is not None:
            with self._overlay.journal.freeing:
                rows.delete(row)
            self._overlay.files.doom(row.data)

    def store(self) -> None:
        """Bring all rows up to date, those of new files and of directories included."""
        rows, checksums = self._overlay.rows, self._overlay.checksums
        if self._overlay.journal.is_apart:
            return  # what is late is stored with the next commit
        if self._dirty or rows.is_behind or checksums.is_behind:
            self._overlay.journal.begin()
            for each in list(self._dirty):
                each.store()
            rows.store()
            checksums.store()

    def close(self) -> None:
        """Give back all handles; what they wrote is stored."""
        for handle in list(self._handles):
            self.release(handle)


async def _no_base() -> NoReturn:
    raise StaleHandle("a new file has no base content")
