"""The overlay's data files: one for each file with local bytes, sparse, named by its number; and a CRC32 of each.

Invariants: numbers grow, so that the file with the greater one was made later; a file is removed only after the rows
that no longer name it are durable (`doom`, then `purge`); what lies beyond the end of the data reads as zeros.

A CRC32 finds every flipped bit, and other damage but for one case in four thousand million. It is computed where that
is cheapest: while a file is written from its front to its end, else in the background when the file is not open. A push
compares before it carries anything. The record of a file is removed, and that is committed, before the file is changed
again, so a record holds whatever ends the process. It counts as long as the row has as many bytes as the record
(`length`), so cutting a row invalidates it. After a loss of power only records hold whose file has the inode and ctime
of that time: what changed since was lost. Holes are not read: the checksum of zeros follows from their number (as in
zlib's crc32_combine).
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
    """The directory `path`, which exists."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._prefix = os.fsencode(path)
        self._doomed: list[int] = []
        self._last = self._named = 0
        """The file that was made last; up to which file names survive the loss of power."""

    def name(self, number: int) -> bytes:
        """Absolute path of a data file."""
        return b"%s/%x" % (self._prefix, number)

    def create(self, number: int) -> int:
        """A descriptor of a new data file. Raises OverlayFull, OverlayFailed."""
        descriptor = self._open(number, _FLAGS | os.O_CREAT | os.O_EXCL)
        self._last = max(self._last, number)
        return descriptor

    def syncing(self, number: int, descriptor: int) -> Callable[[], None]:
        """What makes a data file survive the loss of power, its name once. It blocks, and raises OSError."""
        if number <= self._named:
            return partial(os.fdatasync, descriptor)
        return partial(self._sync_with_name, descriptor, max(self._last, number))

    def _sync_with_name(self, descriptor: int, last: int) -> None:
        os.fdatasync(descriptor)
        os.fsync(self.directory)
        self._named = max(self._named, last)

    def open(self, number: int) -> int:
        """A descriptor of a data file. Raises OverlayFailed, also for what was put in the place of one."""
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
    def doomed(self) -> int:
        """How many files `purge` would remove."""
        return len(self._doomed)

    @property
    def doomed_numbers(self) -> list[int]:
        """Those."""
        return list(self._doomed)

    def doom(self, number: int) -> None:
        """No row names this file any more, once what is pending is durable."""
        if number:
            self._doomed.append(number)

    def take_doomed(self, most: int | None = None) -> list[int]:
        """The files to remove, after the rows have been made durable; not more than `most` of them."""
        rest = len(self._doomed) if most is None else most
        taken, self._doomed = self._doomed[:rest], self._doomed[rest:]
        return taken

    def purge(self, numbers: list[int]) -> None:
        """Remove files."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{number:x}", dir_fd=self.directory)

    def status(self, number: int) -> os.stat_result | None:
        """Of a data file; None where there is none, or where what is there is not a regular file of this user."""
        try:
            found = os.stat(f"{number:x}", dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found if is_ours(found) else None

    def numbers(self) -> set[int]:
        """Of all there are, whatever they are."""
        found = set()
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(ValueError):
                    found.add(int(entry.name, 16))
        return found

    def close(self) -> None:
        """Give back the directory's descriptor."""
        os.close(self.directory)


def is_ours(status: os.stat_result) -> bool:
    """Whether that may be a data file: a regular one of this user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def failure(error: OSError, path: str) -> RiafsError:
    """What an error of the overlay's file system is to a program."""
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
    """Of the first `length` bytes of the data file `data`, which had this inode number and ctime (ns) then."""

    data: int
    length: int
    crc: int
    inode: int
    ctime: int

    def is_of(self, status: os.stat_result) -> bool:
        """Whether nothing touched the file since, as far as its file system tells."""
        return (status.st_ino, status.st_ctime_ns) == (self.inode, self.ctime)


class Checksums:
    """The table. What is found out is stored with the next commit."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._new: dict[int, Checksum] = {}
        self._known = journal.one("SELECT 1 FROM checksum LIMIT 1") is not None
        if journal.one("SELECT count(DISTINCT value) FROM setting WHERE name IN ('commits', 'seen')") != (1,):
            self.forget_all()  # another riafs changed files since

    def add(self, found: Checksum) -> None:
        """Remember what a file has in it, to which nobody writes."""
        self._new[found.data] = found

    def find(self, data: int) -> Checksum | None:
        """What is known of a data file."""
        if data in self._new:
            return self._new[data]
        row = self._journal.one("SELECT * FROM checksum WHERE data = ?", (data,)) if self._known else None
        return None if row is None else Checksum._make(row)

    def withdraw(self, data: int) -> None:
        """The file is about to be changed. Raises OverlayFull, OverlayFailed: then it must not be."""
        found = self.find(data)
        if found is None:
            return
        self._new.pop(data, None)
        with self._journal.single:
            self._journal.run("DELETE FROM checksum WHERE data = ?", (data,))
        self._journal.commit()

    @property
    def is_behind(self) -> bool:
        """Whether there is something that `store` would write."""
        return bool(self._new)

    def store(self) -> None:
        """Write what was found out. Belongs into a group."""
        if self._new:
            self._journal.run_each(_INSERT, self._new.values())
            self._new.clear()
            self._known = True

    def forget_all(self) -> None:
        """Nothing of it counts any more."""
        self._journal.begin()
        self._journal.run("DELETE FROM checksum")

    def forget(self, numbers: list[int]) -> None:
        """These files are not needed any more."""
        for data in numbers:
            self._new.pop(data, None)
        if self._known and numbers:
            self._journal.begin()
            self._journal.run_each("DELETE FROM checksum WHERE data = ?", ((data,) for data in numbers))


def taken(descriptor: int, data: int, length: int) -> Checksum | None:
    """The checksum of a data file, None where it changes meanwhile or is shorter. Blocks. Raises OSError."""
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
            return offset  # a file system that does not know of holes
        return os.fstat(descriptor).st_size


def crc32_of_zeros(count: int, crc: int) -> int:
    """The CRC32 after `count` zero bytes that follow on what has `crc`."""
    power, square = _ONE, _ONE >> 8  # x to the 0th, and to the 8th: one byte
    while count:
        if count & 1:
            power = _product(square, power)
        square = _product(square, square)
        count >>= 1
    return _product(power, crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _product(first: int, second: int) -> int:
    """Of two polynomials modulo that of CRC32; the highest bit is the coefficient of 1."""
    product, bit = 0, _ONE
    while bit:
        if first & bit:
            product ^= second
        bit >>= 1
        second = second >> 1 ^ (_POLYNOMIAL if second & 1 else 0)
    return product
