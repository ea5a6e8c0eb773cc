"""The loose objects of a dataset: which there are, which are chosen, and what removing them would free.

Names in a store are whoever's: symbolic links are never followed, and only a regular file in a directory where its key
belongs counts as an object. Objects are looked at, not read.
"""

import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from riafs.errors import MalformedKey
from riafs.formats.annex import Layout, likely_path, object_directories
from riafs.formats.keys import Key, parse_file_name
from riafs.storage.openat import DIRECTORY_FLAGS, open_plain
from riafs.storage.posix import ABSENT, HeldDirectory, writing_to

_BLOCK = 512  # of st_blocks, whatever the file system's own blocks are
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class LooseObject:
    """A key in a file. `path` is relative to ``annex/objects``; `member` is the path that ORA asks an archive for."""

    key: Key
    path: bytes
    member: bytes
    size: int
    on_disk: int
    """Bytes that the file system uses for the content."""
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are meant: all, or those that fulfil everything given. Sizes in bytes, age by mtime in days."""

    older: float | None = None
    larger: int | None = None
    smaller: int | None = None

    def chooses(self, found: LooseObject, now: float) -> bool:
        """Whether `found` is meant; `now` in seconds since 1970."""
        return (
            (self.older is None or found.mtime_ns / 1e9 < now - self.older * _DAY)
            and (self.larger is None or found.size > self.larger)
            and (self.smaller is None or found.size < self.smaller)
        )


@dataclass(frozen=True, slots=True)
class Loose:
    """All that lies below ``annex/objects``."""

    objects: tuple[LooseObject, ...]
    others: int
    """Files that are no objects: wrong place, no key's name, links."""
    children: Counter[bytes]
    """Directory → entries in it."""

    def chosen(self, selection: Selection) -> list[LooseObject]:
        """The objects that are meant, in the order of their paths."""
        now = time.time()
        return [each for each in self.objects if selection.chooses(each, now)]

    def inodes_of(self, objects: Iterable[LooseObject]) -> int:
        """Files and directories that are gone once `objects` are."""
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
    """What lies four levels deep: two hash directories, the key's directory, the file; with its path."""
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
    """A directory's descriptor, and the names in it in their order; none of what is no directory or has gone."""
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
