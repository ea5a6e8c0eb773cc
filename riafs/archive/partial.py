"""A member while it is decoded: which bytes are there, kept where, checked how far.

Owns the bytes until they are complete: in memory for small members, in an unlinked file for large ones, and for small
ones where too many are being read at once. Invariants:
`covered` are disjoint rising ranges that were stored; checks have taken in the bytes from 0 to `_checked` in order;
`covered`, and so everything a reader sees, changes only in the event loop's thread, after the bytes were stored.
"""

import os
import threading

import trio

from riafs.archive.checks import Checks
from riafs.errors import OutOfMemory, RiafsError, StoreError
from riafs.formats.sevenzip.header import Member
from riafs.storage.temporary import temporary_file

IN_MEMORY = 16 << 20
"""Members up to this many bytes are decoded wholly before their first byte is served, and kept in memory meanwhile."""
_PIECE = 1 << 20


class Ranges:
    """Disjoint ranges of numbers, rising, none empty, none next to each other."""

    __slots__ = ("ranges",)

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Add a range, which may overlap others."""
        if start >= end:
            return
        before = [each for each in self.ranges if each[1] < start]
        after = [each for each in self.ranges if each[0] > end]
        touched = self.ranges[len(before) : len(self.ranges) - len(after)]
        merged = (min([start, *(each[0] for each in touched)]), max([end, *(each[1] for each in touched)]))
        self.ranges = [*before, merged, *after]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """What of a range is not there."""
        gaps = []
        for there_from, there_to in self.ranges:
            if there_to <= start or there_from >= end:
                continue
            if there_from > start:
                gaps.append((start, there_from))
            start = there_to
        return [*gaps, (start, end)] if start < end else gaps

    def front(self) -> int:
        """Up to where everything from 0 on is there."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 0 else 0


class Partial:
    """One member in the making.

    `users`: open readers, and whoever else counts on its bytes. `settled`: all bytes are there and were checked, or
    `problem` says why they cannot be.
    """

    def __init__(self, member: Member, checks: Checks, directory: bytes, *, may_take_memory: bool = True) -> None:
        self.member = member
        self.checks = checks
        self.covered = Ranges()
        self.users = 0
        self.problem: RiafsError | None = None
        self.settled = trio.Event()
        self._memory = _memory(member.size) if may_take_memory and member.size <= IN_MEMORY else None
        self._descriptor = -1
        self._checked = 0
        self._checking = threading.Lock()
        if self._memory is None:
            self._descriptor = _unlinked_file(directory, member.size)

    @property
    def in_memory(self) -> bool:
        """Whether it takes memory and not disk."""
        return self._memory is not None

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.covered.front() >= self.member.size

    @property
    def unchecked(self) -> bool:
        """Whether bytes from the front on are there that `check` has not seen."""
        return self.covered.front() > self._checked

    def settle(self, problem: RiafsError | None) -> None:
        """Let those go on who wait for the outcome."""
        self.problem = problem
        self.settled.set()

    def store(self, offset: int, data: memoryview) -> None:
        """Put bytes in place, and check them if it is their turn. In any thread. Raises StoreError."""
        if self._memory is not None:
            self._memory[offset : offset + len(data)] = data
        else:
            self._write(offset, data)
        with self._checking:
            if self._checked == offset:
                self.checks.update(data)
                self._checked += len(data)

    def _write(self, offset: int, data: memoryview) -> None:
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                offset, data = offset + count, data[count:]
        except OSError as error:
            raise StoreError(f"no room for a decoded archive member: {error.strerror}") from error

    def check(self, end: int) -> None:
        """Check the bytes up to `end`, all of which are stored. In any thread. Raises StoreError."""
        with self._checking:
            while self._checked < end:
                data = self.read(self._checked, min(_PIECE, end - self._checked))
                self.checks.update(data)
                self._checked += len(data)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that are stored. Raises StoreError."""
        if self._memory is not None:
            return bytes(memoryview(self._memory)[offset : offset + length])
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise StoreError(f"a decoded archive member cannot be read: {error.strerror}") from error
        if len(data) != min(length, self.member.size - offset):
            raise StoreError("a decoded archive member is not there any more")
        return data

    def close(self) -> None:
        """Give up the bytes; nobody uses them any more."""
        self._memory = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def _memory(size: int) -> bytearray:
    try:
        return bytearray(size)
    except MemoryError as error:
        raise OutOfMemory("out of memory for a decoded archive member") from error


def _unlinked_file(directory: bytes, size: int) -> int:
    try:
        with temporary_file(directory, size) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise StoreError(f"no room for a decoded archive member: {error.strerror}") from error
