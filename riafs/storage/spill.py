"""Temporary files for what is too large to be kept in memory: pages, see riafs.formats.columns.

A file has no name, so that it is gone with the process, however that ends. Nothing is mapped: a disk that fails must
not kill this process. Where there is no room for it, pages are kept in memory as far as that is allowed.
"""

import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Sequence

import trio

from riafs import memory
from riafs.errors import StoreError
from riafs.formats.columns import PAGE, GrowingColumn

log = logging.getLogger(__name__)

_IN_MEMORY = 64
TEXT_PIECE = 1 << 20


class SpillFile:
    """See Pages. Made when the first page comes, in `directory`. Written in one thread at a time, read in any."""

    def __init__(self, directory: bytes, what: str) -> None:
        self._directory = directory
        self._what = what
        self._descriptor = -1
        self._count = 0
        self._kept: dict[int, bytes] = {}
        """Pages for which the disk had no room."""
        self._read: dict[int, bytes] = {}
        """Pages that were read last. Each use of it is one step, so that threads do not disturb each other."""

    def write(self, data: bytes) -> int:
        """See Pages. Raises OutOfMemory."""
        memory.ensure(len(data), self._what)
        first = self._count
        self._count += len(data) // PAGE
        try:
            self._write(data, first * PAGE)
        except OSError as error:
            if not self._kept:
                log.warning("%s takes memory, as it cannot be written to disk: %s", self._what, error.strerror)
            self._kept.update({first + at // PAGE: data[at : at + PAGE] for at in range(0, len(data), PAGE)})
        return first

    def _write(self, data: bytes, offset: int) -> None:
        if self._descriptor < 0:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    @property
    def descriptors(self) -> Sequence[int]:
        """What has to stay open in a process that goes on with it."""
        return [self._descriptor] if self._descriptor >= 0 else []

    def page(self, number: int) -> bytes:
        """See Pages. Raises StoreError."""
        page = self._read.get(number) or self._kept.get(number)
        if page is None:
            page = self._load(number)
            if len(self._read) >= _IN_MEMORY:
                self._read.clear()
            self._read[number] = page
        return page

    def _load(self, number: int) -> bytes:
        try:
            page = os.pread(self._descriptor, PAGE, number * PAGE)
        except OSError as error:
            raise StoreError(f"{self._what} cannot be read from its temporary file: {error.strerror}") from error
        if len(page) != PAGE:
            raise StoreError(f"{self._what} cannot be read from its temporary file, which was cut short")
        return page

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class SpilledText:
    """A text that may be large, as it comes: its beginning in memory, the rest in a `SpillFile`. Belongs to one thread
    at a time."""

    def __init__(self, directory: bytes, what: str) -> None:
        self._file = SpillFile(directory, what)
        self._growing = GrowingColumn("B", self._file)

    def __len__(self) -> int:
        return len(self._growing)

    @property
    def descriptors(self) -> Sequence[int]:
        """See SpillFile."""
        return self._file.descriptors

    def append(self, data: bytes) -> None:
        """More of it. Raises OutOfMemory."""
        self._growing.extend(data)

    def piece(self, start: int, length: int) -> bytes:
        """A part of what there is. Raises StoreError."""
        return bytes(self._growing.settled()[start : start + length])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, `TEXT_PIECE` bytes at a time, read in a thread where it is on disk. Raises StoreError."""
        for start in range(0, len(self), TEXT_PIECE):
            if len(self) <= TEXT_PIECE:
                yield self.piece(start, TEXT_PIECE)
            else:
                yield await trio.to_thread.run_sync(self.piece, start, TEXT_PIECE)
