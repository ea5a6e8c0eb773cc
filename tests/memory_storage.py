"""A store in memory without any optional capability: what a static HTTP server would give, without the server.

It cannot list, knows no links (it follows them, as such a server does) and no modes, and is no directory of this
machine. git reads a private copy of each repository, which `CopiedRepositories` makes.

``python -m tests.memory_storage COPIES mount STORE …`` is the command line with all stores read into memory.
"""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from riafs.cli import main
from riafs.counters import Counters
from riafs.errors import NotAFile, NotInStore, TooLarge
from riafs.formats.sources import RiaUrl
from riafs.git.object_source import RepositoryPlace
from riafs.storage.bytesource import Buffer, StoredFile, Version
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import FileStatus, ItemKind, Storage
from riafs.tree import source as source_module
from riafs.tree.store import Store
from riafs.tree.tools import StoreTools

_GIT = ("HEAD", "config", "packed-refs", "refs", "objects")


@dataclass(frozen=True, slots=True)
class MemoryVersion(Version):
    """A version as an ETag tells it: by the content alone."""

    etag: bytes

    @property
    def token(self) -> bytes:
        return b"memory " + self.etag

    @property
    def modification(self) -> object:
        return self.etag

    def fresh_seconds(self) -> float:
        return 0.0


class MemoryFile(StoredFile):
    """A file of the store, as it was when it was opened."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.version = MemoryVersion(hashlib.sha256(data).digest())
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    async def read(self, offset: int, length: int) -> Buffer:
        await trio.lowlevel.checkpoint()
        return self._data[offset : offset + length] if length > 0 else b""

    async def look(self) -> None:
        pass

    def close(self) -> None:
        pass


class MemoryStorage:
    """The files below `root`, as they were when it was made."""

    listing = None
    links = None
    modes = None
    local = None
    ahead = None

    def __init__(self, root: Path) -> None:
        self.name = "memory store"
        self.root = root
        self.files: dict[bytes, bytes] = {}
        self._directories: set[bytes] = {b""}
        for above, _, names in os.walk(os.fsencode(root), followlinks=True):
            path = os.path.relpath(above, os.fsencode(root))
            below = b"" if path == b"." else path + b"/"
            self._directories.add(below.rstrip(b"/"))
            for name in names:
                if stat.S_ISREG(os.stat(above + b"/" + name).st_mode):
                    self.files[below + name] = Path(os.fsdecode(above + b"/" + name)).read_bytes()

    def _status(self, path: bytes) -> FileStatus | None:
        path = os.path.normpath(path) if path else b""
        path = b"" if path == b"." else path
        if path in self._directories:
            return FileStatus(ItemKind.DIRECTORY, 0, 0, executable=True, path_identity=(0, hash(path)))
        data = self.files.get(path)
        if data is None:
            return None
        return FileStatus(ItemKind.FILE, len(data), 0, executable=False, path_identity=(0, hash(data)))

    async def stat(self, path: bytes) -> FileStatus:
        await trio.lowlevel.checkpoint()
        status = self._status(path)
        if status is None:
            raise NotInStore(f"{self.name}/{os.fsdecode(path)} does not exist")
        return status

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        await trio.lowlevel.checkpoint()
        return [self._status(directory + b"/" + path if directory else path) for path in paths]

    async def read_file(self, path: bytes, limit: int) -> bytes:
        status = await self.stat(path)
        if status.kind is not ItemKind.FILE:
            raise NotAFile(f"{os.fsdecode(path)} is not a regular file")
        if status.size > limit:
            raise TooLarge(f"{os.fsdecode(path)} is larger than {limit} bytes")
        return self.files[os.path.normpath(path)]

    async def open(self, path: bytes) -> MemoryFile:
        status = await self.stat(path)
        if status.kind is not ItemKind.FILE:
            raise NotInStore(f"{os.fsdecode(path)} is not a regular file")
        return MemoryFile(os.fsdecode(path), self.files[os.path.normpath(path)])

    def close(self) -> None:
        pass


class CopiedRepositories:
    """See RepositoryMirror: copies the directory that a MemoryStorage was made of, below `place`."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.made: list[bytes] = []

    async def repository(self, storage: Storage, path: bytes) -> RepositoryPlace:
        assert isinstance(storage, MemoryStorage)
        copy = self._place / str(len(self.made))
        self.made.append(path)
        for name in _GIT:
            source = storage.root / os.fsdecode(path) / name
            if source.is_dir():
                shutil.copytree(source, copy / name)
            elif source.exists():
                copy.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, copy / name)
        deadline = Deadline("private copies", 20, Counters())
        local = await LocalStorage.open_root(os.fsencode(self._place), deadline)
        name = os.fsencode(copy.name)
        return RepositoryPlace(local, name, (local, name))


def read_stores_into_memory(copies: Path) -> None:
    """From now on, whatever store is opened. Private copies of repositories go below `copies`."""
    mirror = CopiedRepositories(copies)

    async def open_store(source: RiaUrl, seconds: float, tools: StoreTools) -> Store:
        storage = MemoryStorage(Path(os.fsdecode(source.path)))
        return await Store.open(storage, replace(tools, mirror=mirror))

    source_module.open_store = open_store


if __name__ == "__main__":
    read_stores_into_memory(Path(sys.argv[1]))
    sys.exit(main.run("riafs", sys.argv[2:]))
