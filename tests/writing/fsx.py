"""Random changes of one file, beside the same in memory: writes, reads, cuts, mappings, closing and opening.

``python -m tests.writing.fsx FILE OPERATIONS [SEED]`` runs it by hand; FILE has to exist.
"""

import collections.abc
import mmap
import os
import random
import sys

Way = collections.abc.Callable[[], None]
MAX_SIZE = 300_000
MAX_LENGTH = 60_000


class Exerciser:
    """Changes `path`, and compares. `mapped`: also through mappings."""

    def __init__(self, path: str, seed: int, *, mapped: bool) -> None:
        self._path = path
        self._random = random.Random(seed)
        with open(path, "rb") as file:
            self._expected = bytearray(file.read())
        self._file = os.open(path, os.O_RDWR)
        plain = [self._read] * 4 + [self._write] * 4 + [self._append, self._truncate, self._reopen, self._sync]
        plain += [self._read_apart, self._write_apart]
        maps = [self._read_mapping] * 2 + [self._write_mapping] * 2
        self._ways: list[Way] = [*plain, *(maps if mapped else [])]

    def run(self, operations: int) -> None:
        """Raises AssertionError with the number of the operation and what it was."""
        for number in range(operations):
            way = self._random.choice(self._ways)
            try:
                way()
                assert os.fstat(self._file).st_size == len(self._expected), "the size differs"
            except (AssertionError, OSError) as error:
                raise AssertionError(f"operation {number}, {way.__name__}: {error}") from error
        self._compare()
        os.close(self._file)

    def _compare(self) -> None:
        with open(self._path, "rb") as file:
            assert file.read() == self._expected, "the content differs in the end"

    def _range(self) -> tuple[int, int]:
        start = self._random.randrange(len(self._expected) + 1)
        return start, min(start + self._random.randrange(1, MAX_LENGTH), len(self._expected))

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice((1, 100, 4096, self._random.randrange(1, MAX_LENGTH))))

    def _same(self, found: bytes, start: int) -> None:
        expected = self._expected[start : start + len(found)]
        if found != expected:
            where = next(i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1])
            raise AssertionError(f"byte {start + where} differs, size {len(self._expected)}")

    def _read(self) -> None:
        start, end = self._range()
        found = os.pread(self._file, end - start, start)
        assert len(found) == end - start, "too few bytes"
        self._same(found, start)

    def _read_apart(self) -> None:
        """Through a descriptor of its own."""
        start, end = self._range()
        other = os.open(self._path, os.O_RDONLY)
        self._same(os.pread(other, end - start, start), start)
        os.close(other)

    def _put(self, file: int, start: int, data: bytes) -> None:
        assert os.pwrite(file, data, start) == len(data), "not everything was written"
        if start > len(self._expected):
            self._expected += bytes(start - len(self._expected))
        self._expected[start : start + len(data)] = data

    def _write(self) -> None:
        start = self._random.randrange(min(len(self._expected) + 10_000, MAX_SIZE))
        self._put(self._file, start, self._bytes())

    def _write_apart(self) -> None:
        other = os.open(self._path, os.O_WRONLY)
        self._put(other, self._range()[0], self._bytes())
        os.close(other)

    def _append(self) -> None:
        if len(self._expected) > MAX_SIZE:
            return
        data = self._bytes()
        other = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(other, data)
        os.close(other)
        self._expected += data

    def _truncate(self) -> None:
        size = self._random.randrange(MAX_SIZE)
        os.ftruncate(self._file, size)
        del self._expected[size:]
        self._expected += bytes(size - len(self._expected))

    def _sync(self) -> None:
        os.fsync(self._file)

    def _reopen(self) -> None:
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR)

    def _read_mapping(self) -> None:
        start, end = self._range()
        if not self._expected or start == end:
            return
        with mmap.mmap(self._file, 0, prot=mmap.PROT_READ) as mapping:
            self._same(mapping[start:end], start)

    def _write_mapping(self) -> None:
        start, end = self._range()
        if not self._expected or start == end:
            return
        data = self._random.randbytes(end - start)
        with mmap.mmap(self._file, 0) as mapping:
            mapping[start:end] = data
            if self._random.random() < 0.5:
                mapping.flush()
        self._expected[start:end] = data


if __name__ == "__main__":
    for with_mappings in (False, True):
        Exerciser(sys.argv[1], int((sys.argv[3:] or ["1"])[0]), mapped=with_mappings).run(int(sys.argv[2]))
