"""A tree below an overlay: a directory of this machine that nobody changes, as one dataset."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from riafs.errors import StaleHandle
from riafs.overlay.changes import Base
from riafs.overlay.lower import Home, LowerEntry
from riafs.storage.bytesource import Buffer, RangedBytes
from riafs.tree.protocol import Entry, Kind

BASE = Base(b"study", "ria+file:///srv/store", b"refs/heads/main", b"a" * 40)
TOP = 1 << 24
KINDS = {stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.LINK, stat.S_IFREG: Kind.FILE}


class CountedBytes:
    """The content of a file; counts what is read of it."""

    def __init__(self, path: bytes, lower: "DiskLower") -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._lower = lower
        self.size = os.fstat(self._file).st_size

    async def read(self, offset: int, length: int) -> Buffer:
        data = os.pread(self._file, length, offset)
        self._lower.bytes_read += len(data)
        return data

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class DiskLower:
    """`root` as a Lower, three entries a page."""

    def __init__(self, root: bytes, base: Base = BASE, page: int = 3) -> None:
        self._base = base
        self._root = root
        self._page = page
        self._paths = [b""]
        self._inodes = {b"": TOP}
        self.bytes_read = self.opened = 0
        self.pinned: list[int] = []
        self._contents: dict[bytes, bytes] = {}

    def _inode(self, path: bytes) -> int:
        if path not in self._inodes:
            self._inodes[path] = TOP + len(self._paths)
            self._paths.append(path)
        return self._inodes[path]

    def _path(self, inode: int) -> bytes:
        return self._paths[inode - TOP]

    def _entry(self, path: bytes) -> LowerEntry | None:
        try:
            found = os.lstat(os.path.join(self._root, path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        kind = KINDS[stat.S_IFMT(found.st_mode)]
        size = 0 if kind is Kind.DIRECTORY else found.st_size
        executable = kind is Kind.DIRECTORY or bool(found.st_mode & 0o100)
        version = path if kind is Kind.DIRECTORY else self._content_of(path, kind)
        entry = Entry(os.path.basename(path), kind, size, executable, found.st_mtime_ns, version)
        return LowerEntry(self._inode(path), entry)

    def _content_of(self, path: bytes, kind: Kind) -> bytes:
        """As in git: what has the same content has the same, wherever it is."""
        if path not in self._contents:
            place = os.path.join(self._root, path)
            content = os.readlink(place) if kind is Kind.LINK else Path(os.fsdecode(place)).read_bytes()
            self._contents[path] = hashlib.sha1(content, usedforsecurity=False).digest()
        return self._contents[path]

    def at(self, path: bytes) -> LowerEntry | None:
        """What there is at a path."""
        return self._entry(path)

    async def find(self, parent: int, name: bytes) -> LowerEntry | None:
        return self._entry(os.path.join(self._path(parent), name))

    async def entries(self, inode: int, start: int) -> Sequence[LowerEntry]:
        path = self._path(inode)
        names = sorted(os.listdir(os.path.join(self._root, path)))[start : start + self._page]
        return [found for name in names if (found := self._entry(os.path.join(path, name)))]

    async def entry(self, inode: int) -> LowerEntry:
        found = self._entry(self._path(inode))
        if found is None:
            raise StaleHandle("gone")
        return found

    async def open(self, inode: int) -> RangedBytes:
        self.opened += 1
        return CountedBytes(os.path.join(self._root, self._path(inode)), self)

    async def target(self, inode: int) -> bytes:
        return os.readlink(os.path.join(self._root, self._path(inode)))

    async def home(self, inode: int) -> Home | None:
        path = self._path(inode)
        return Home(self._base, b"study", path, self._inode(os.path.dirname(path)))

    def parent(self, inode: int) -> int:
        return self._inode(os.path.dirname(self._path(inode)))

    async def top(self, base: Base, entrance: bytes) -> int:
        assert (base, entrance) == (self._base, b"study")
        return TOP

    def pin(self, top: int) -> None:
        self.pinned.append(top)
