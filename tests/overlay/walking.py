"""An engine by paths, as a kernel would drive it: for tests."""

import os

from riafs.errors import NoSuchName, NotADirectoryHere
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.namespace import Creator
from riafs.overlay.stat import Stat
from riafs.tree.protocol import Kind
from tests.overlay.disk import TOP


class Walker:
    """Paths are relative to the dataset's top."""

    def __init__(self, engine: OverlayFileSystem, umask: int = 0o022) -> None:
        self.engine = engine
        self._umask = umask

    async def stat(self, path: bytes) -> Stat:
        """lstat."""
        found = await self.engine.getattr(TOP)
        for name in path.split(b"/") if path else ():
            if found.kind is not Kind.DIRECTORY:
                raise NotADirectoryHere(path.decode())
            step = await self.engine.lookup(found.inode, name)
            if step is None:
                raise NoSuchName(path.decode())
            found = step
        return found

    async def at(self, path: bytes) -> tuple[int, bytes]:
        """Inode of the directory, and the name in it."""
        parent = await self.stat(os.path.dirname(path))
        if parent.kind is not Kind.DIRECTORY:
            raise NotADirectoryHere(path.decode())
        return parent.inode, os.path.basename(path)

    def maker(self, mode: int) -> Creator:
        return Creator(os.getuid(), os.getgid(), mode & ~self._umask)

    async def open(self, path: bytes, flags: int = 0, mode: int = 0o666) -> int:
        if flags & os.O_CREAT:
            return (await self.engine.create(*await self.at(path), self.maker(mode), flags))[1]
        return await self.engine.open((await self.stat(path)).inode, flags)

    async def write(self, path: bytes, data: bytes, offset: int = 0, flags: int = os.O_WRONLY | os.O_CREAT) -> None:
        handle = await self.open(path, flags)
        try:
            assert await self.engine.write(handle, offset, data) == len(data)
        finally:
            self.engine.release(handle)

    async def read(self, path: bytes) -> bytes:
        handle = await self.open(path)
        try:
            pieces = []
            while piece := await self.engine.read(handle, sum(map(len, pieces)), 1 << 16):
                pieces.append(bytes(piece))
            return b"".join(pieces)
        finally:
            self.engine.release(handle)

    async def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        await self.engine.mkdir(*await self.at(path), self.maker(mode))

    async def symlink(self, target: bytes, path: bytes) -> None:
        await self.engine.symlink(*await self.at(path), target, self.maker(0o777))

    async def link(self, old: bytes, new: bytes) -> None:
        inode = (await self.stat(old)).inode
        await self.engine.link(inode, *await self.at(new))

    async def mknod(self, path: bytes, kind: Kind, device: int = 0) -> None:
        await self.engine.mknod(*await self.at(path), self.maker(0o666), kind, device)

    async def linked(self) -> dict[bytes, tuple[bytes, ...]]:
        """Path → all names of what is there, for all but directories; of links, stat tells how many there are."""
        found: dict[int, list[bytes]] = {}
        for path, (kind, _, _) in (await self.tree()).items():
            if kind != "directory":
                status = await self.stat(path)
                found.setdefault(status.inode, []).append(path)
        for paths in found.values():
            assert {(await self.stat(path)).links for path in paths} == {len(paths)}
        return {path: tuple(sorted(paths)) for paths in found.values() for path in paths}

    async def unlink(self, path: bytes) -> None:
        await self.engine.unlink(*await self.at(path))

    async def rmdir(self, path: bytes) -> None:
        await self.engine.rmdir(*await self.at(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        await self.engine.rename(*await self.at(old), *await self.at(new), flags)

    async def names(self, path: bytes) -> list[bytes]:
        """As they are listed."""
        status = await self.stat(path)
        if status.kind is not Kind.DIRECTORY:  # a kernel does not ask then
            raise NotADirectoryHere(path.decode())
        handle = self.engine.opendir(status.inode)
        found, offset = [], 0
        while page := await self.engine.readdir(handle, offset):
            found += [each.name for each in page]
            offset = page[-1].offset
        self.engine.releasedir(handle)
        return found

    async def tree(self, path: bytes = b"") -> dict[bytes, tuple[str, int, bytes]]:
        """Everything below `path`: kind, permission bits, content."""
        found = {}
        for name in await self.names(path):
            below = os.path.join(path, name)
            status = await self.stat(below)
            content = b""
            if status.kind is Kind.FILE:
                content = await self.read(below)
                assert status.size == len(content)
            elif status.kind is Kind.LINK:
                content = await self.engine.readlink(status.inode)
            assert below not in found
            found[below] = (status.kind.value, status.mode, content)
            if status.kind is Kind.DIRECTORY:
                found |= await self.tree(below)
        return found
