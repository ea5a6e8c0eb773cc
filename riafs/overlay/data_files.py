"""The overlay's data files: one for each file with local bytes, sparse, named by its number; and a CRC32 of each.

Invariants: numbers grow, so that the file with the larger one was made later; a file is removed only after the removal
of its rows is durable (`discard`, then `remove`); bytes beyond the end of a data file read as zeros.

A CRC32 detects every flipped bit, and other damage but for one case in 2^32. It is computed where that is cheapest:
while a file is written from front to end, else in the background when the file is closed. A push compares it before it
sends anything. The record is removed, and that committed, before its file is changed again, so that a record is right
even if the process is killed. It is valid only for the length that it was computed for, so truncation invalidates it,
and after a loss of power only for the same inode and ctime. Holes are not read: the checksum of zeros is computed from
their number (as in zlib's crc32_combine).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from riafs.errors import FileTooLarge, OverlayFailed, OverlayFull, RiafsError
from riafs.formats.digests import crc32
from riafs.overlay.journal import Journal

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class DataFiles:
    """The data files in the existing directory `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._prefix = os.fsencode(path)
        self._discarded: list[int] = []
        self._last = self._named = 0
        """The largest number; the largest number up to which names of files survive a loss of power."""

    def name(self, number: int) -> bytes:
        """Absolute path of a data file."""
        return b"%s/%x" % (self._prefix, number)

    def create(self, number: int) -> int:
        """A descriptor of a new data file. Raises OverlayFull, OverlayFailed."""
        descriptor = self._open(number, _FLAGS | os.O_CREAT | os.O_EXCL)
        self._last = max(self._last, number)
        return descriptor

    def syncing(self, number: int, descriptor: int) -> Callable[[], None]:
        """A function that makes a data file durable, and its name if that is new. It blocks, and raises OSError."""
        if number <= self._named:
            return partial(os.fdatasync, descriptor)
        return partial(self._sync_with_name, descriptor, max(self._last, number))

    def _sync_with_name(self, descriptor: int, last: int) -> None:
        os.fdatasync(descriptor)
        os.fsync(self.directory)
        self._named = max(self._named, last)

    def open(self, number: int) -> int:
        """A descriptor of a data file. Raises OverlayFailed, also if it is not a regular file of this user."""
        descriptor = self._open(number, _FLAGS)
        if not is_ours(os.fstat(descriptor)):
            os.close(descriptor)
            raise OverlayFailed(
                f"{self.path}/{number:x} cannot be used: it is not a regular file of user {os.geteuid()}, so something "
                "else was put in its place"
            )
        return descriptor

    def _open(self, number: int, flags: int) -> int:
        try:
            return os.open(f"{number:x}", flags, 0o600, dir_fd=self.directory)
        except OSError as error:
            raise failure(error, f"{self.path}/{number:x}") from error

    @property
    def discarded(self) -> int:
        """The number of discarded files."""
        return len(self._discarded)

    @property
    def discarded_numbers(self) -> list[int]:
        """The numbers of discarded files."""
        return list(self._discarded)

    def discard(self, number: int) -> None:
        """Note that a file can be removed once the pending steps are durable."""
        if number:
            self._discarded.append(number)

    def take_discarded(self, most: int | None = None) -> list[int]:
        """Discarded files, `most` at most, for `remove` after the rows have been made durable."""
        rest = len(self._discarded) if most is None else most
        taken, self._discarded = self._discarded[:rest], self._discarded[rest:]
        return taken

    def remove(self, numbers: list[int]) -> None:
        """Remove files."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{number:x}", dir_fd=self.directory)

    def status(self, number: int) -> os.stat_result | None:
        """The status of a data file; None if there is none, or if it is not a regular file of this user."""
        try:
            found = os.stat(f"{number:x}", dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found if is_ours(found) else None

    def numbers(self) -> set[int]:
        """The numbers of all files, of whatever kind."""
        found = set()
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(ValueError):
                    found.add(int(entry.name, 16))
        return found

    def close(self) -> None:
        """Close the directory's descriptor."""
        os.close(self.directory)


def is_ours(status: os.stat_result) -> bool:
    """Whether a file can be a data file: a regular one of this user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def failure(error: OSError, path: str) -> RiafsError:
    """The failure for an error of the overlay's file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OverlayFull(f"no room left for {path}")
    if error.errno == errno.EFBIG:
        return FileTooLarge(f"{path} cannot get that large on its file system")
    return OverlayFailed(f"{path} cannot be used: {error.strerror}")


_PIECE = 1 << 20
_ONE = 1 << 31
_POLYNOMIAL = 0xEDB88320
_INSERT = "INSERT OR REPLACE INTO checksum VALUES (?, ?, ?, ?, ?)"


class Checksum(NamedTuple):
    """The checksum of the first `length` bytes of the data file `data`, and its inode number and ctime (ns) then."""

    data: int
    length: int
    crc: int
    inode: int
    ctime: int

    def is_of(self, status: os.stat_result) -> bool:
        """Whether the file is unchanged since, by its inode number and ctime."""
        return (status.st_ino, status.st_ctime_ns) == (self.inode, self.ctime)


class Checksums:
    """The table of checksums. New ones are written with the next commit."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._new: dict[int, Checksum] = {}
        self._known = journal.one("SELECT 1 FROM checksum LIMIT 1") is not None
        if journal.one("SELECT count(DISTINCT value) FROM setting WHERE name IN ('commits', 'seen')") != (1,):
            # An earlier riafs, which does not know the table, has changed files since.
            self._journal.begin()
            self._journal.run("DELETE FROM checksum")

    def add(self, found: Checksum) -> None:
        """Record the checksum of a file that is not being written."""
        self._new[found.data] = found

    def find(self, data: int) -> Checksum | None:
        """The valid checksum of a data file, if there is one."""
        if data in self._new:
            return self._new[data]
        row = self._journal.one("SELECT * FROM checksum WHERE data = ?", (data,)) if self._known else None
        return None if row is None else Checksum._make(row)

    def withdraw(self, data: int) -> None:
        """Remove the checksum, before its file is changed. If this raises OverlayFull or OverlayFailed, the file must
        not be changed.
        """
        found = self.find(data)
        if found is None:
            return
        self._new.pop(data, None)
        with self._journal.single:
            self._journal.run("DELETE FROM checksum WHERE data = ?", (data,))
        self._journal.commit()

    @property
    def has_pending(self) -> bool:
        """Whether `store` would write anything."""
        return bool(self._new)

    def store(self) -> None:
        """Write new checksums, within a group."""
        if self._new:
            self._journal.run_each(_INSERT, self._new.values())
            self._new.clear()
            self._known = True

    def forget(self, numbers: list[int]) -> None:
        """Remove the checksums of files that are not needed any more."""
        for data in numbers:
            self._new.pop(data, None)
        if self._known and numbers:
            self._journal.begin()
            self._journal.run_each("DELETE FROM checksum WHERE data = ?", ((data,) for data in numbers))


def compute(descriptor: int, data: int, length: int) -> Checksum | None:
    """The checksum of a data file, None if it changes meanwhile or is shorter. Blocks. Raises OSError."""
    before = os.fstat(descriptor)
    if before.st_size < length:
        return None
    crc = checksum(descriptor, length)
    after = os.fstat(descriptor)
    same = (before.st_ctime_ns, before.st_size) == (after.st_ctime_ns, after.st_size)
    return Checksum(data, length, crc, after.st_ino, after.st_ctime_ns) if same else None


def checksum(descriptor: int, length: int) -> int:
    """The CRC32 of the first `length` bytes of a file. Blocks. Raises OSError."""
    crc = offset = 0
    while offset < length:
        start = min(_next_data(descriptor, offset), length)
        if start > offset:
            crc = crc32_of_zeros(start - offset, crc)
        if start == length:
            break
        data = os.pread(descriptor, min(_PIECE, length - start), start)
        if not data:
            raise OSError(errno.EIO, "it is shorter than what was written")
        crc, offset = crc32(data, crc), start + len(data)
    return crc


def _next_data(descriptor: int, offset: int) -> int:
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            return offset  # a file system that does not report holes
        return os.fstat(descriptor).st_size


def crc32_of_zeros(count: int, crc: int) -> int:
    """The CRC32 of bytes whose CRC32 is `crc`, with `count` zero bytes appended."""
    power, square = _ONE, _ONE >> 8  # x to the 0th, and to the 8th: one byte
    while count:
        if count & 1:
            power = _product(square, power)
        square = _product(square, square)
        count >>= 1
    return _product(power, crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _product(first: int, second: int) -> int:
    """The product of two polynomials modulo that of CRC32; the highest bit is the coefficient of 1."""
    product, bit = 0, _ONE
    while bit:
        if first & bit:
            product ^= second
        bit >>= 1
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return product
