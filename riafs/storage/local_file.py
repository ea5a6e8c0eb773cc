"""A local file as a source of bytes.

Reads that the page cache can answer are done at once, on the event loop (preadv2 with RWF_NOWAIT: 2 µs instead of the
50-100 µs of a thread hop); all others in a worker thread under the store's deadline. After each read of a store's file
its status is read (1 µs), so that a reader notices when the file was changed between two reads.
"""

import errno
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from riafs.errors import RiafsError, ShortRead, StoreError
from riafs.storage.bytesource import Buffer, Extent, RangedBytes, StoredFile, Version, stored_file
from riafs.storage.deadline import Deadline

_TICK_NS = 20_000_000
"""More than the interval at which Linux updates the clock for times of files: up to 10 ms."""
_COARSE_TICK_NS = 2_000_000_000
"""The same for file systems that keep whole seconds."""
_TOKEN = struct.Struct("<QQqqq")


@dataclass(frozen=True, slots=True)
class LocalVersion(Version):
    """The status of a local file that changes with its content."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "LocalVersion":
        """The version in a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @property
    def token(self) -> bytes:
        """40 bytes, part of the formats of the record of verified content and of saved archive indexes."""
        unsigned = (1 << 64) - 1
        return _TOKEN.pack(self.device & unsigned, self.inode & unsigned, self.size, self.mtime_ns, self.ctime_ns)

    @property
    def modification(self) -> tuple[int, int]:
        """Size and time. A program that sets the time back makes a change of content look like none."""
        return self.size, self.mtime_ns

    def fresh_seconds(self) -> float:
        """Seconds until the clock for times of files has ticked since the last change."""
        tick = _TICK_NS if self.ctime_ns % 1_000_000_000 else _COARSE_TICK_NS
        age = time.time_ns() - self.ctime_ns
        return (tick - age) / 1e9 if -tick < age < tick else 0.0


class FileBytes(StoredFile):
    """A file by its descriptor `fd`, which it owns. Safe to read from any number of tasks and threads.

    Without a `deadline` (files of riafs on a local disk) every read is done on the event loop.
    """

    __slots__ = ("_deadline", "_fd", "_size", "name", "version")

    def __init__(
        self, fd: int, size: int, name: str, deadline: Deadline | None = None, version: LocalVersion | None = None
    ) -> None:
        self._fd = fd
        self._size = size
        self._deadline = deadline
        self.name = name
        self.version: LocalVersion | None = version

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def fileno(self) -> int:
        """The descriptor, for a child that reads the file by itself."""
        return self._fd

    @property
    def deadline(self) -> Deadline | None:
        """The store's, for threads that call `read_into`."""
        return self._deadline

    async def read(self, offset: int, length: int) -> Buffer:
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        if self._deadline is None:
            return self.read_blocking(offset, length)
        data = self._read_cached(offset, length)
        return (
            data if data is not None else await self._deadline.run_reading(length, self.read_blocking, offset, length)
        )

    def _read_cached(self, offset: int, length: int) -> Buffer | None:
        buffer = bytearray(length)
        try:
            count = os.preadv(self._fd, (buffer,), offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise self._failed(error) from error
        if count != length:
            return None
        self._look()
        return buffer

    async def look(self) -> None:
        self._look()

    def _look(self) -> None:
        known = self.version
        if known is None:
            return
        try:
            found = os.fstat(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        if found.st_ctime_ns != known.ctime_ns or found.st_mtime_ns != known.mtime_ns or found.st_size != known.size:
            self.version = LocalVersion.of(found)

    def read_blocking(self, offset: int, length: int) -> Buffer:
        """The same bytes as `read`, for worker threads. Raises ShortRead, StoreError."""
        length = min(length, self._size - offset)
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self._fd, length, offset)
            except OSError as error:
                raise self._failed(error) from error
            if not part:
                raise ShortRead(f"{self.name} ends at byte {offset}, but should have {self._size} bytes")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        self._look()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset` on, for worker threads. Raises ShortRead, StoreError."""
        while buffer:
            try:
                count = os.preadv(self._fd, (buffer,), offset)
            except OSError as error:
                raise self._failed(error) from error
            if not count:
                raise ShortRead(f"{self.name} ends at byte {offset}, but should have {self._size} bytes")
            offset += count
            buffer = buffer[count:]
        self._look()

    def _failed(self, error: OSError) -> RiafsError:
        return StoreError(f"{self.name} cannot be read: {error.strerror}")

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


BlockingRead = Callable[[int, memoryview], None]
"""(offset, buffer): fill the buffer with the bytes from offset on, all of which exist; raises what ``read`` raises."""


def blocking_read(source: RangedBytes) -> BlockingRead | None:
    """A function with which a thread reads from `source`, None where only the event loop can read."""
    if isinstance(source, FileBytes):
        return source.read_into
    if isinstance(source, Extent):
        below, start = blocking_read(source.source), source.offset
        return None if below is None else lambda offset, buffer: below(start + offset, buffer)
    return None


def deadline_of(source: RangedBytes) -> Deadline | None:
    """The deadline of the store that `source` is in; None for files of riafs, and without a descriptor."""
    file = stored_file(source)
    return file.deadline if isinstance(file, FileBytes) else None
