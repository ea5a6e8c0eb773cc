"""What the data files of an overlay had in them when they were written last: a CRC32 of each.

It finds every flipped bit, and other damage but for one case in four thousand million. It is found out where that is
cheapest: while a file is written from its front to its end, else in the background when nobody has the file open. A
push compares before it carries anything.

The record of a file goes, and that is committed, before the file is changed again. So one that is there holds, whatever
ends the process. It counts as long as the row has as many bytes as it has (`length`), so cutting a row invalidates it.
After a loss of power only records hold whose file has the inode and ctime of that time: what changed since was lost.

Holes are not read: the checksum of zeros follows from their number (as in zlib's crc32_combine).
"""

import errno
import os
from typing import NamedTuple

from riafs.formats.digests import crc32
from riafs.overlay.journal import Journal

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
