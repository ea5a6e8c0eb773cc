"""An open file of the overlay: its local ranges, bytes, base content and attributes.

One OpenFile serves all handles of an inode. Size, times and `written` are kept here while a file is open, and written
to the row with the next commit (`store`). A byte is in the data file if it is in an extent or at `based` and beyond,
else in the base content, of which nothing is fetched before it is read.

Order on disk, so that a kill between two steps does no harm: bytes are written to the data file before the row has
their range; a data file is truncated after the shorter row is committed; a file truncated to no bytes gets another data
file.
"""

import contextlib
import os
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import trio

from riafs.errors import FileTooLarge, OverlayFailed
from riafs.formats.digests import crc32
from riafs.overlay.data_files import Checksum, failure
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
        """Add ``[start, end)``, which is not empty; returns the range of the set that contains it."""
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return start, end

    def clip(self, end: int) -> None:
        """Remove everything from `end` on."""
        kept = bisect_left(self._starts, end)
        del self._starts[kept:], self._ends[kept:]
        if kept and self._ends[-1] > end:
            self._ends[-1] = end

    def covers(self, start: int, end: int) -> bool:
        """Whether every offset of ``[start, end)`` is in."""
        place = bisect_right(self._starts, start) - 1
        return start >= end or (place >= 0 and self._ends[place] >= end)

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """``[start, end)`` in pieces (start, end, whether it is in the set), in order."""
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
    """An open file. `row`: None as long as it is unchanged. `open_base`: opens the base content. `dirty`: a set that it
    adds itself to while its row is outdated.
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
        """Whether the local bytes may change, so that they have no recorded checksum; whether the removal of that still
        has to be made durable.
        """
        self._crc = 0
        self._front = -1
        """`_crc` is the checksum of the first `_front` local bytes, while they are written in order; -1 afterwards."""
        self._extents = Ranges()
        self._lock = trio.Lock()
        if row is not None:
            self.copied_up(row)

    def copied_up(self, row: Row) -> None:
        """Use the row that the file has got."""
        self.row = row.id
        self.size, self.based, self.data, self.written = row.size, row.based, row.data, row.written
        self.mtime, self.ctime = row.mtime, row.ctime
        self._extents = Ranges(self._overlay.rows.extents(row.id)) if row.based else Ranges()

    def linked(self, record: Row) -> None:
        """Use `record`, which replaces the row as the file has got another name."""
        self.row = record.id
        self.ctime = max(self.ctime, record.ctime)

    # -- base content and data file -----------------------------------------------------------------------------------

    async def base(self) -> RangedBytes:
        """The base content, opened at the first call."""
        if self._base is None:
            opened = await self._open_base()
            known: RangedBytes | None = self._base  # another reader may have opened it meanwhile
            if known is not None:
                opened.close()
                return known
            self._base = opened
        return self._base

    @property
    def provisional(self) -> bool:
        """Whether bytes were read that are not verified yet; true before base content was opened."""
        return bool(self.based) and (self._base is None or is_provisional(self._base))

    @property
    def shown_version(self) -> object:
        """As `Provisional.shown_version`; PROVEN for local bytes."""
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
                os.ftruncate(self._descriptor, self.written)  # the rest of a write or truncation that was interrupted
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
        """Remove the recorded checksum before the bytes change. Not within a step, as this commits."""
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
        """One change of the bytes at a time; without a switch of tasks if there is no other."""
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
        """Note that bytes were written to the data file."""
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
        """Change the size; added bytes are zeros. Raises FileTooLarge, OverlayFull, OverlayFailed."""
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
        self._overlay.files.discard(self.data)
        self.data = self.written = 0
        self._changes = False

    # -- attributes ---------------------------------------------------------------------------------------------------

    def store(self) -> None:
        """Write size, times and ranges to the row, within a step."""
        self._dirty.discard(self)
        if self.row is not None:
            rows = self._overlay.rows
            rows.update(
                self.row, size=self.size, based=self.based, data=self.data, written=self.written, mtime=self.mtime,
                ctime=self.ctime, version=rows.next_version(),
            )  # fmt: skip

    async def sync(self) -> None:
        """Make the bytes, attributes and name durable. Raises OverlayFailed, OverlayFull.

        The data file and the log are synced at the same time, so that the file system can commit both at once. If a
        loss of power leaves a row without its bytes, it is corrected when the overlay is opened.
        """
        overlay = self._overlay
        if self.data and self._must_sync:  # else a loss of power could leave the checksum of the earlier bytes
            await overlay.durable()
            self._must_sync = False
        if not self.data:
            await overlay.durable()
            return
        try:
            await overlay.journal.durable(overlay.files.syncing(self.data, self._local()))
        except OSError as error:
            raise failure(error, f"{overlay.files.path}/{self.data:x}") from error

    def record_checksum(self) -> None:
        """Record the checksum of the local bytes, as the last handle is released; if they were not written in order,
        the inspector computes it later.
        """
        if self._changes and self.data and self.row is not None:
            if self._front == self.written and self._descriptor >= 0:
                status = os.fstat(self._descriptor)
                found = Checksum(self.data, self.written, self._crc, status.st_ino, status.st_ctime_ns)
                self._overlay.checksums.add(found)
            else:
                self._overlay.inspector.unknown[self.row] = self.data
        self._changes = False

    def close(self) -> None:
        """Close the data file and the base content."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._base is not None:
            self._base.close()
            self._base = None


def _read_all(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read into a buffer of zeros up to the end of the file; returns the number of bytes."""
    before = offset
    while buffer:
        got = os.preadv(descriptor, [buffer], offset)
        if not got:
            break
        buffer, offset = buffer[got:], offset + got
    return offset - before
