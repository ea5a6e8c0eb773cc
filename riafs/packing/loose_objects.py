"""The loose objects of a dataset: finding them, reading them, and comparing them with their keys.

Names in a store are not trusted: symbolic links are not followed, nothing outside of ``annex/objects`` is read, and
only a regular file in the right directory for its key is an object. Content is checked more strictly than by readers:
the SHA-256 of content whose key has no digest (WORM, URL, encrypted) is kept, so that an archive's copy of it can be
compared with the loose one.
"""

import hashlib
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from riafs.errors import MalformedKey
from riafs.formats.annex import Layout, likely_path, object_directories
from riafs.formats.digests import DigestChecker, checker
from riafs.formats.keys import Key, parse_file_name
from riafs.storage.openat import DIRECTORY_FLAGS, PATH_FLAGS, open_beneath, open_plain, open_regular
from riafs.storage.posix import ABSENT, HeldDirectory, writing_to

PIECE = 1 << 20
"""Bytes that are read, and compressed, at once."""
_BLOCK = 512  # of st_blocks, whatever the file system's own blocks are


@dataclass(frozen=True, slots=True)
class LooseObject:
    """A key in a file. `path` is relative to ``annex/objects``; `member` is the name that ORA reads from an archive."""

    key: Key
    path: bytes
    member: bytes
    size: int
    on_disk: int
    """Bytes that the file system uses for the content."""
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class Loose:
    """The files below ``annex/objects``."""

    objects: tuple[LooseObject, ...]
    others: int
    """Number of files that are no objects: in the wrong directory, without a key's name, or links."""
    children: Counter[bytes]
    """Directory → number of entries in it."""

    def inodes_of(self, objects: Iterable[LooseObject]) -> int:
        """Number of files and directories that the removal of `objects` frees."""
        left = self.children.copy()
        count = 0
        for each in objects:
            path = each.path
            count += 1
            while b"/" in path:
                path = path.rpartition(b"/")[0]
                left[path] -= 1
                if left[path]:
                    break
                count += 1
        return count


def find_loose(directory: HeldDirectory, layout: Layout) -> Loose:
    """The objects below `directory`. Raises StoreDenied, StoreError."""
    objects: list[LooseObject] = []
    children: Counter[bytes] = Counter()
    others = 0
    if directory.descriptor == ABSENT:
        return Loose((), 0, children)
    with writing_to(directory.path):
        for path, status in _files(directory.descriptor, children):
            found = _object(path, status, layout)
            if found is None:
                others += 1
            else:
                objects.append(found)
    return Loose(tuple(objects), others, children)


def _files(root: int, children: Counter[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """The files at level four, with their paths: two hash directories, the key's directory, the file."""
    with _entries(root, b"", b".", children) as (_, names):
        for first in names:
            with _entries(root, first, first, children) as (above, seconds):
                for second in seconds:
                    with _entries(above, first + b"/" + second, second, children) as (key_place, keys):
                        for key in keys:
                            yield from _files_of_key(key_place, b"/".join((first, second, key)), key, children)


def _files_of_key(
    above: int, path: bytes, name: bytes, children: Counter[bytes]
) -> Iterator[tuple[bytes, os.stat_result]]:
    with _entries(above, path, name, children) as (directory, files):
        for file in files:
            with suppress(FileNotFoundError):
                yield path + b"/" + file, os.stat(file, dir_fd=directory, follow_symlinks=False)


@contextmanager
def _entries(above: int, path: bytes, name: bytes, children: Counter[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """A directory's descriptor, and its names in order; none for a file, or if it was removed meanwhile."""
    try:
        descriptor = open_plain(above, name, DIRECTORY_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        yield ABSENT, []
        return
    try:
        names = sorted(map(os.fsencode, os.listdir(descriptor)))
        children[path] = len(names)
        yield descriptor, names
    finally:
        os.close(descriptor)


def _object(path: bytes, status: os.stat_result, layout: Layout) -> LooseObject | None:
    directory, name, file = path.rsplit(b"/", 2)
    if name != file or not stat.S_ISREG(status.st_mode):
        return None
    try:
        key = parse_file_name(name)
    except MalformedKey:
        return None
    if key.file_name != name or directory not in object_directories(key, layout):
        return None
    likely = likely_path(key.file_name, layout)
    member = path if path == likely else likely
    on_disk = status.st_blocks * _BLOCK
    return LooseObject(key, path, member, status.st_size, on_disk, status.st_mtime_ns, status.st_mode & 0o777)


# -- content -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of reading bytes for a key. `sha256` is None if the key's own digest was checked instead."""

    size: int
    crc: int
    sha256: bytes | None
    problem: str
    """The reason why they are not the key's content; empty if none is known."""


class ContentCheck:
    """Checks the bytes of a key, which it is given in order."""

    __slots__ = ("_checker", "_crc", "_key", "_sha256", "_size")

    def __init__(self, key: Key) -> None:
        self._key = key
        self._checker: DigestChecker | None = checker(key)
        self._sha256 = None if self._checker else hashlib.sha256()
        self._size = 0
        self._crc = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._checker is not None:
            self._checker.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def result(self) -> Checked:
        """The result for the bytes so far."""
        digest = None if self._sha256 is None else self._sha256.digest()
        return Checked(self._size, self._crc, digest, self._problem())

    def _problem(self) -> str:
        expected = expected_size(self._key)
        if expected is not None and expected != self._size:
            return f"has {self._size} bytes, its key says {expected}"
        if self._checker is not None and not self._checker.matches():
            return "does not have the digest of its key"
        return ""


def expected_size(key: Key) -> int | None:
    """The size of the key's object, that of the chunk for a chunk's key; None if the key has no size."""
    if key.chunk_size is None or key.chunk_number is None:
        return key.size
    return key.chunk_length(key.chunk_size, key.chunk_number)


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is not the key's, or cannot be read. `place`: a path below the dataset."""

    key: bytes
    place: str
    reason: str


# -- reading -----------------------------------------------------------------------------------------------------------


class BadObject(Exception):
    """An object that cannot be packed; the argument is the reason."""


class ObjectReader:
    """Reads loose objects below `directory`, and nothing outside of it."""

    def __init__(self, directory: HeldDirectory) -> None:
        self._directory = directory.descriptor

    def exists(self, path: bytes) -> bool:
        """Whether something is at `path`."""
        try:
            os.close(open_beneath(self._directory, path, PATH_FLAGS | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def pieces(self, path: bytes, check: ContentCheck) -> Iterator[bytes]:
        """The bytes at `path` in order, added to `check`. Raises BadObject, at the end if they are not the key's."""
        try:
            file = self.open(path)
        except OSError as error:
            raise BadObject(f"cannot be read: {error.strerror}") from error
        try:
            yield from _pieces(file, check)
        except OSError as error:
            raise BadObject(f"cannot be read: {error.strerror}") from error
        finally:
            os.close(file)
        problem = check.result().problem
        if problem:
            raise BadObject(problem)

    def open(self, path: bytes) -> int:
        """A descriptor of the regular file at `path`. Raises OSError."""
        return open_regular(self._directory, path, os.O_RDONLY)


def _pieces(file: int, check: ContentCheck) -> Iterator[bytes]:
    """Pieces of exactly PIECE bytes, but for the last."""
    while True:
        parts: list[bytes] = []
        wanted = PIECE
        while wanted and (part := os.read(file, wanted)):
            parts.append(part)
            wanted -= len(part)
        piece = b"".join(parts)
        if piece:
            check.update(piece)
            yield piece
        if wanted:
            return


def read_object(reader: ObjectReader, key: Key, path: bytes) -> Checked | None:
    """Read and check the bytes at `path`; None if they cannot be read or are not the content of `key`."""
    check = ContentCheck(key)
    try:
        for _ in reader.pieces(path, check):
            pass
    except BadObject:
        return None
    return check.result()
