"""The loose objects of a dataset: which there are, which are chosen, and what removing them would free.

Names in a store are whoever's: symbolic links are never followed, and only a regular file in a directory where its key
belongs counts as an object. Objects are looked at, not read.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from riafs.errors import MalformedKey
from riafs.formats.hashdirs import likely_path, object_directories
from riafs.formats.keys import Key, parse_file_name
from riafs.formats.layout import Layout
from riafs.storage.failures import writing

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


def find_loose(directory: bytes, layout: Layout) -> Loose:
    """The objects below the directory `directory`. Raises StoreDenied, StoreError."""
    objects: list[LooseObject] = []
    children: Counter[bytes] = Counter()
    others = 0
    with writing(directory):
        for path, entry in _files(directory, children):
            found = _object(path, entry, layout)
            if found is None:
                others += 1
            else:
                objects.append(found)
    return Loose(tuple(objects), others, children)


def _files(directory: bytes, children: Counter[bytes]) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """What lies four levels deep: two hash directories, the key's directory, the file; with its path."""
    for first in _entries(directory, b"", children):
        for second in _entries(directory, first.name, children, first):
            below = first.name + b"/" + second.name
            for key in _entries(directory, below, children, second):
                place = below + b"/" + key.name
                for file in _entries(directory, place, children, key):
                    yield place + b"/" + file.name, file


def _entries(
    directory: bytes, path: bytes, children: Counter[bytes], this: os.DirEntry[bytes] | None = None
) -> list[os.DirEntry[bytes]]:
    """The entries of a directory in the order of their names, none of what is no directory or has gone."""
    if this is not None and not this.is_dir(follow_symlinks=False):
        return []
    try:
        with os.scandir(directory + b"/" + path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    children[path] = len(found)
    return found


def _object(path: bytes, entry: os.DirEntry[bytes], layout: Layout) -> LooseObject | None:
    directory, name, file = path.rsplit(b"/", 2)
    if name != file or not entry.is_file(follow_symlinks=False):
        return None
    try:
        key = parse_file_name(name)
        status = entry.stat(follow_symlinks=False)
    except (MalformedKey, FileNotFoundError):
        return None
    if key.file_name != name or directory not in object_directories(key, layout):
        return None
    likely = likely_path(key.file_name, layout)
    member = path if path == likely else likely
    on_disk = status.st_blocks * _BLOCK
    return LooseObject(key, path, member, status.st_size, on_disk, status.st_mtime_ns, status.st_mode & 0o777)
