"""A local file as a source of bytes.

Reads that the page cache can answer are done at once, on the event loop (preadv2 with RWF_NOWAIT: 2 µs instead of the
50-100 µs of a thread hop); all others in a worker thread under the store's deadline. After each read of a store's file
its status is read (1 µs), so that a reader who needs the bytes of one version can tell.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from riafs.errors import RiafsError, ShortRead, StoreError
from riafs.storage.bytesource import Buffer, Extent, RangedBytes
from riafs.storage.deadline import Deadline

_TICK_NS = 20_000_000
"""More than the steps in which Linux takes times for files: up to 10 ms."""
_COARSE_TICK_NS = 2_000_000_000
"""The same where a file system keeps whole seconds."""


@dataclass(frozen=True, slots=True)
class FileVersion:
    """What a file was when it was looked at: it stays equal as long as nobody wrote to or replaced the file."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileVersion":
        """The identity in a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_touched(self, other: "FileVersion") -> bool:
        """Whether only what says nothing of the content has changed: renamed, linked, unlinked, other permissions.

        Somebody who sets the time of modification back makes a change of content look like that.
        """
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)

    def fresh_seconds(self) -> float:
        """Seconds for which a change of the file may still leave no trace, as its clock has not moved on since the last
        one; 0 if that is over."""
        tick = _TICK_NS if self.ctime_ns % 1_000_000_000 else _COARSE_TICK_NS
        age = time.time_ns() - self.ctime_ns
        return (tick - age) / 1e9 if -tick < age < tick else 0.0


class FileBytes:
    """RangedBytes over the descriptor `fd`, which it owns. Safe to read from any number of tasks and threads.

    `name` stands in messages. Without `patience` (files of our own on a local disk) every read is done at once.
    `identity`: what the file was after the last read; None for files that nobody else changes. As long as it is the
    same object, all bytes that were read belong to one version of the file.
    """

    __slots__ = ("_fd", "_patience", "_size", "identity", "name")

    def __init__(
        self, fd: int, size: int, name: str, patience: Deadline | None = None, identity: FileVersion | None = None
    ) -> None:
        self._fd = fd
        self._size = size
        self._patience = patience
        self.name = name
        self.identity = identity

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def fileno(self) -> int:
        """The descriptor, for a child that reads the file by itself."""
        return self._fd

    @property
    def patience(self) -> Deadline | None:
        """What to be patient with, for threads that call `read_into`."""
        return self._patience

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes."""
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        if self._patience is None:
            return self.read_blocking(offset, length)
        data = self._read_cached(offset, length)
        return (
            data if data is not None else await self._patience.run_reading(length, self.read_blocking, offset, length)
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
        self.look()
        return buffer

    def look(self) -> None:
        """See what the file is now. Raises StoreError."""
        known = self.identity
        if known is None:
            return
        try:
            found = os.fstat(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        if found.st_ctime_ns != known.ctime_ns or found.st_mtime_ns != known.mtime_ns or found.st_size != known.size:
            self.identity = FileVersion.of(found)

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
        self.look()
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
        self.look()

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
    """How a thread can read from `source` by itself, None where only the event loop can."""
    if isinstance(source, FileBytes):
        return source.read_into
    if isinstance(source, Extent):
        below, start = blocking_read(source.source), source.offset
        return None if below is None else lambda offset, buffer: below(start + offset, buffer)
    return None


def file_of(source: RangedBytes) -> FileBytes | None:
    """The file that `source` lies in as it is, if it does."""
    while isinstance(source, Extent):
        source = source.source
    return source if isinstance(source, FileBytes) else None


def deadline_of(source: RangedBytes) -> Deadline | None:
    """The patience with the store that `source` lies in; None for what lies on a disk of our own, or nowhere."""
    file = file_of(source)
    return None if file is None else file.patience
