"""Two ways to change what a writable file system shows: the object, and a mount of it."""

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
from riafs.overlay.namespace import Creator
from riafs.overlay.stat import Ownership, Stat
from riafs.tree.protocol import Kind
from riafs.vfs.assembly import Plan, open_assembled
from riafs.vfs.nodes import ROOT
from riafs.vfs.open_overlay import OverlayPlace, lay_over
from riafs.vfs.refreshing import Invalidation
from riafs.vfs.writable import WritableFileSystem


@dataclass(frozen=True, slots=True)
class Status:
    """What stat tells."""

    kind: Kind
    mode: int
    size: int
    links: int = 1


class Driver(Protocol):
    """Paths are relative to the root. Failures are exceptions with an ``errno``."""

    async def ls(self, path: bytes) -> Sequence[bytes]: ...
    async def stat(self, path: bytes) -> Status: ...
    async def read(self, path: bytes) -> bytes: ...
    async def readlink(self, path: bytes) -> bytes: ...
    async def write(self, path: bytes, data: bytes, offset: int = 0, flags: int = 0) -> None: ...
    async def truncate(self, path: bytes, size: int) -> None: ...
    async def mkdir(self, path: bytes) -> None: ...
    async def rmdir(self, path: bytes) -> None: ...
    async def unlink(self, path: bytes) -> None: ...
    async def symlink(self, target: bytes, path: bytes) -> None: ...
    async def link(self, old: bytes, new: bytes) -> None: ...
    async def mkfifo(self, path: bytes) -> None: ...
    async def rename(self, old: bytes, new: bytes) -> None: ...
    async def chmod(self, path: bytes, mode: int) -> None: ...
    async def utime(self, path: bytes, when: int) -> None: ...
    async def getxattr(self, path: bytes, name: str) -> bytes: ...


class WritableObject:
    """Drives a WritableFileSystem."""

    def __init__(self, filesystem: WritableFileSystem) -> None:
        self.filesystem = filesystem
        self.told: list[Invalidation] = []

    async def tell(self, changes: Sequence[Invalidation]) -> None:
        """In the place of the kernel."""
        self.told += changes

    async def status(self, path: bytes) -> Stat:
        found = await self.filesystem.getattr(ROOT)
        for name in path.split(b"/") if path else ():
            found = await self.filesystem.lookup(found.inode, name)
        return found

    async def _at(self, path: bytes) -> tuple[int, bytes]:
        return (await self.status(os.path.dirname(path))).inode, os.path.basename(path)

    @staticmethod
    def _maker(mode: int) -> Creator:
        return Creator(os.getuid(), os.getgid(), mode)

    async def ls(self, path: bytes) -> Sequence[bytes]:
        handle = await self.filesystem.opendir((await self.status(path)).inode)
        names, offset = [], 0
        while (page := await self.filesystem.readdir(handle, offset))[0]:
            names += [each.name for each in page[0]]
            offset = page[0][-1].offset
        self.filesystem.releasedir(handle)
        return names

    async def stat(self, path: bytes) -> Status:
        found = await self.status(path)
        return Status(found.kind, found.mode, found.size, found.links)

    async def read(self, path: bytes) -> bytes:
        opened = await self.filesystem.open((await self.status(path)).inode, os.O_RDONLY)
        try:
            parts: list[bytes] = []
            while data := await self.filesystem.read(opened.handle, sum(map(len, parts)), 1 << 17):
                parts.append(bytes(data))
            return b"".join(parts)
        finally:
            self.filesystem.release(opened.handle)

    async def readlink(self, path: bytes) -> bytes:
        return await self.filesystem.readlink((await self.status(path)).inode)

    async def write(self, path: bytes, data: bytes, offset: int = 0, flags: int = 0) -> None:
        if flags & os.O_CREAT:
            _, opened = await self.filesystem.create(*await self._at(path), self._maker(0o644), flags | os.O_WRONLY)
        else:
            opened = await self.filesystem.open((await self.status(path)).inode, flags | os.O_WRONLY)
        try:
            assert await self.filesystem.write(opened.handle, offset, data) == len(data)
            await self.filesystem.fsync(opened.handle)
        finally:
            self.filesystem.release(opened.handle)

    async def truncate(self, path: bytes, size: int) -> None:
        await self._set(path, size=size)

    async def _set(
        self, path: bytes, mode: int | None = None, size: int | None = None, when: int | None = None
    ) -> None:
        inode = (await self.status(path)).inode
        await self.filesystem.setattr(
            inode, mode=mode, uid=None, gid=None, size=size, atime_ns=when, mtime_ns=when
        )  # fmt: skip

    async def mkdir(self, path: bytes) -> None:
        await self.filesystem.mkdir(*await self._at(path), self._maker(0o755))

    async def rmdir(self, path: bytes) -> None:
        await self.filesystem.rmdir(*await self._at(path))

    async def unlink(self, path: bytes) -> None:
        await self.filesystem.unlink(*await self._at(path))

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self.filesystem.symlink(*await self._at(path), target, self._maker(0o777))

    async def link(self, old: bytes, new: bytes) -> None:
        await self.filesystem.link((await self.status(old)).inode, *await self._at(new))

    async def mkfifo(self, path: bytes) -> None:
        await self.filesystem.mknod(*await self._at(path), self._maker(0o644), Kind.FIFO, 0)

    async def rename(self, old: bytes, new: bytes) -> None:
        await self.filesystem.rename(*await self._at(old), *await self._at(new), 0)

    async def chmod(self, path: bytes, mode: int) -> None:
        await self._set(path, mode=mode)

    async def utime(self, path: bytes, when: int) -> None:
        await self._set(path, when=when)

    async def getxattr(self, path: bytes, name: str) -> bytes:
        return await self.filesystem.attribute((await self.status(path)).inode, name)


@asynccontextmanager
async def writable(store: Path | str, overlay: Path, fragment: str = "") -> AsyncIterator[WritableObject]:
    """The store, or what `fragment` names in it, with the changes in `overlay`."""
    source = parse_ria_source(f"{store}{fragment}")
    plan = Plan(source, 20, Verify.AUTO, None, os.environ["PATH"])
    async with open_assembled(plan, Counters(), {b"stats": lambda: "lookups 1\n"}) as assembled:
        place = OverlayPlace(str(overlay), Ownership(os.getuid(), os.getgid()))
        yield WritableObject(await lay_over(assembled, source, place))


class WritableMount:
    """Drives a directory through the kernel."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def at(self, path: bytes) -> bytes:
        return os.path.join(self.root, path) if path else self.root

    async def ls(self, path: bytes) -> Sequence[bytes]:
        return await trio.to_thread.run_sync(os.listdir, self.at(path))

    async def stat(self, path: bytes) -> Status:
        found = await trio.to_thread.run_sync(os.lstat, self.at(path))
        kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.DIRECTORY}
        return Status(kinds[stat.S_IFMT(found.st_mode)], stat.S_IMODE(found.st_mode), found.st_size, found.st_nlink)

    async def read(self, path: bytes) -> bytes:
        return await trio.to_thread.run_sync(_read, self.at(path))

    async def readlink(self, path: bytes) -> bytes:
        return await trio.to_thread.run_sync(os.readlink, self.at(path))

    async def write(self, path: bytes, data: bytes, offset: int = 0, flags: int = 0) -> None:
        await trio.to_thread.run_sync(_write, self.at(path), data, offset, flags)

    async def truncate(self, path: bytes, size: int) -> None:
        await trio.to_thread.run_sync(os.truncate, self.at(path), size)

    async def mkdir(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.mkdir, self.at(path), 0o755)

    async def rmdir(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.rmdir, self.at(path))

    async def unlink(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.unlink, self.at(path))

    async def symlink(self, target: bytes, path: bytes) -> None:
        await trio.to_thread.run_sync(os.symlink, target, self.at(path))

    async def link(self, old: bytes, new: bytes) -> None:
        await trio.to_thread.run_sync(os.link, self.at(old), self.at(new))

    async def mkfifo(self, path: bytes) -> None:
        await trio.to_thread.run_sync(os.mkfifo, self.at(path))

    async def rename(self, old: bytes, new: bytes) -> None:
        await trio.to_thread.run_sync(os.rename, self.at(old), self.at(new))

    async def chmod(self, path: bytes, mode: int) -> None:
        await trio.to_thread.run_sync(os.chmod, self.at(path), mode)

    async def utime(self, path: bytes, when: int) -> None:
        await trio.to_thread.run_sync(lambda: os.utime(self.at(path), ns=(when, when)))

    async def getxattr(self, path: bytes, name: str) -> bytes:
        return await trio.to_thread.run_sync(os.getxattr, self.at(path), name)


def _read(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: bytes, data: bytes, offset: int, flags: int) -> None:
    file = os.open(path, flags | os.O_WRONLY, 0o644)
    try:
        assert os.pwrite(file, data, offset) == len(data)
        os.fsync(file)
    finally:
        os.close(file)
