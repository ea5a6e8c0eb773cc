"""Two ways to look at what riafs shows: the filesystem object, and a mount of it. Tests use them through `Driver`."""

import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.formats.sources import parse_ria_source
from riafs.tree.protocol import Kind
from riafs.vfs.assembly import Plan, open_filesystem
from riafs.vfs.filesystem import Attributes, FileSystem
from riafs.vfs.nodes import ROOT
from riafs.vfs.refreshing import Invalidation

READ_SIZE = 128 << 10
"""Bytes that are asked for at once, as the kernel does."""


@dataclass(frozen=True, slots=True)
class Status:
    """What stat tells."""

    kind: Kind
    size: int
    executable: bool
    mtime_ns: int
    inode: int


class Driver(Protocol):
    """Paths are relative to the root, ``/`` between names. Failures are exceptions with an ``errno``."""

    async def ls(self, path: bytes) -> Sequence[bytes]:
        """The names in a directory, in the order in which they are listed."""

    async def stat(self, path: bytes) -> Status:
        """Status, links not followed."""

    async def read(self, path: bytes) -> bytes:
        """The whole content."""

    async def readlink(self, path: bytes) -> bytes:
        """The text of a link."""

    async def getxattr(self, path: bytes, name: str) -> bytes:
        """An extended attribute."""


class ObjectDriver:
    """Drives a FileSystem."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem
        self.changes: list[Invalidation] = []

    @property
    def counters(self) -> Counters:
        """Those of the filesystem."""
        return self.filesystem.counters

    async def attributes(self, path: bytes) -> Attributes:
        """By looking up each name on the way, as the kernel does. Raises NoSuchName."""
        found = await self.filesystem.getattr(ROOT)
        for name in path.split(b"/") if path else ():
            found = await self.filesystem.lookup(found.inode, name)
        return found

    async def inode(self, path: bytes) -> int:
        """The number of a path's inode."""
        return (await self.attributes(path)).inode

    async def ls(self, path: bytes) -> Sequence[bytes]:
        """See Driver."""
        handle = await self.filesystem.opendir(await self.inode(path))
        names: list[bytes] = []
        while (page := await self.filesystem.readdir(handle, len(names))).entries:
            names += [entry.name for entry in page.entries]
        self.filesystem.releasedir(handle)
        return names

    async def stat(self, path: bytes) -> Status:
        """See Driver."""
        found = await self.attributes(path)
        return Status(found.kind, max(found.size, 0), found.executable, found.mtime_ns, found.inode)

    async def read(self, path: bytes) -> bytes:
        """See Driver."""
        opened = await self.filesystem.open(await self.inode(path))
        try:
            return await self.read_handle(opened.handle)
        finally:
            self.filesystem.release(opened.handle)

    async def read_handle(self, handle: int) -> bytes:
        """All bytes of an open file, in order."""
        parts: list[bytes] = []
        while data := await self.filesystem.read(handle, sum(map(len, parts)), READ_SIZE):
            parts.append(bytes(data))
        return b"".join(parts)

    async def readlink(self, path: bytes) -> bytes:
        """See Driver."""
        return await self.filesystem.readlink(await self.inode(path))

    async def getxattr(self, path: bytes, name: str) -> bytes:
        """See Driver."""
        return await self.filesystem.attribute(await self.inode(path), name)

    async def refresh(self) -> None:
        """Look for changes in the store; what the kernel would be told is added to `changes`."""

        async def tell(changes: Sequence[Invalidation]) -> None:
            self.changes += changes

        await self.filesystem.refresh(tell)


@asynccontextmanager
async def opened(
    store: Path | str,
    fragment: str = "",
    *,
    verify: Verify = Verify.AUTO,
    cache: Path | None = None,
    deadline: float = 20,
    instead_of: tuple[tuple[str, str], ...] = (),
    allow_links: Sequence[Path] = (),
    password: str | None = None,
) -> AsyncIterator[ObjectDriver]:
    """The filesystem of a store, or of what `fragment` (``#~alias@version``) names in it."""
    source = parse_ria_source(f"{store}{fragment}")
    kept = None if cache is None else str(cache)
    allowed = tuple(map(os.fsencode, allow_links))
    plan = Plan(source, deadline, verify, kept, os.environ["PATH"], instead_of, allowed, password=password)
    files = {b"stats": lambda: "lookups 1\n"}
    async with open_filesystem(plan, Counters(), files) as filesystem:
        yield ObjectDriver(filesystem)


class MountDriver:
    """Drives a mount through the kernel."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self.root, path) if path else self.root

    async def ls(self, path: bytes) -> Sequence[bytes]:
        """See Driver."""
        return await trio.to_thread.run_sync(os.listdir, self._at(path))

    async def stat(self, path: bytes) -> Status:
        """See Driver."""
        found = await trio.to_thread.run_sync(os.lstat, self._at(path))
        kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.DIRECTORY}
        kind = kinds[stat.S_IFMT(found.st_mode)]
        executable = bool(found.st_mode & stat.S_IXUSR)
        return Status(kind, found.st_size, executable, found.st_mtime_ns, found.st_ino)

    async def read(self, path: bytes) -> bytes:
        """See Driver."""
        return await trio.to_thread.run_sync(read_file, self._at(path))

    async def readlink(self, path: bytes) -> bytes:
        """See Driver."""
        return await trio.to_thread.run_sync(os.readlink, self._at(path))

    async def getxattr(self, path: bytes, name: str) -> bytes:
        """See Driver."""
        return await trio.to_thread.run_sync(os.getxattr, self._at(path), name)


def read_file(path: bytes | Path) -> bytes:
    """A file's content; sequential reads, so that nothing is left out."""
    with open(path, "rb", buffering=0) as file:
        parts = []
        while data := file.read(READ_SIZE):
            parts.append(data)
    return b"".join(parts)
