"""What a kernel keeps of a writable file system, without one: names with inode numbers, and who is in which directory.

It asks only for names that it does not know, as the kernel does for as long as it may remember them, and forgets only
what it is told to. So a number or a name that a move leaves wrong stays wrong here. One call at a time, and none while
it is told: the kernel locks directories.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import trio

from riafs.errors import DirectoryNotEmpty, NoSuchName, NotADirectoryHere, StaleHandle
from riafs.overlay.filesystem import Stat
from riafs.overlay.namespace import Creator
from riafs.tree.protocol import Kind
from riafs.vfs.nodes import ROOT
from riafs.vfs.refreshing import Invalidation
from riafs.vfs.writable import WritableFileSystem

P = ParamSpec("P")
T = TypeVar("T")


def _alone(
    call: "Callable[Concatenate[Kernel, P], Awaitable[T]]",
) -> "Callable[Concatenate[Kernel, P], Awaitable[T]]":
    @wraps(call)
    async def alone(kernel: "Kernel", *args: P.args, **kwargs: P.kwargs) -> T:
        async with kernel.lock:
            return await kernel.filesystem.in_turn(call)(kernel, *args, **kwargs)

    return alone


@dataclass
class Name:
    """What the kernel remembers of a name. `inode`: None for one that is not there."""

    inode: int | None
    kind: Kind | None = None
    names: "dict[bytes, Name]" = field(default_factory=dict)


class Kernel:
    """Calls of programs, by path."""

    def __init__(self, filesystem: WritableFileSystem) -> None:
        self.filesystem = filesystem
        self.lock = trio.Lock()
        self.root = Name(ROOT, Kind.DIRECTORY)
        self._maker = Creator(os.getuid(), os.getgid(), 0o755)

    # -- names --------------------------------------------------------------------------------------------------------

    @_alone
    async def name(self, path: bytes) -> Name:
        """What a path stands for. Raises NoSuchName."""
        return await self._existing(path)

    async def _existing(self, path: bytes) -> Name:
        found = await self._name(path)
        if found.inode is None:
            raise NoSuchName(os.fsdecode(path))
        return found

    async def _name(self, path: bytes) -> Name:
        found = self.root
        for name in path.split(b"/") if path else ():
            if found.inode is None:
                raise NoSuchName(os.fsdecode(path))
            if found.kind is not Kind.DIRECTORY:
                raise NotADirectoryHere(os.fsdecode(path))
            if name not in found.names:
                found.names[name] = self._as_name(await self.look_up(found.inode, name))
            found = found.names[name]
        return found

    async def look_up(self, parent: int, name: bytes) -> Stat | None:
        """What a name is now, None if nothing."""
        try:
            return await self.filesystem.lookup(parent, name)
        except NoSuchName:
            return None

    def _as_name(self, stat: Stat | None) -> Name:
        if stat is None:
            return Name(None)
        known = self._by_inode(stat.inode) if stat.kind is Kind.DIRECTORY else None
        return known or Name(stat.inode, stat.kind)  # one inode, one directory: the kernel moves what it knows

    def _by_inode(self, inode: int) -> Name | None:
        return next((each for _, each in self.directories() if each.inode == inode), None)

    def directories(self) -> list[tuple[bytes, Name]]:
        """All directories that are remembered, with their paths."""
        found = [(b"", self.root)]
        for path, each in found:  # grows
            for name, below in each.names.items():
                if below.kind is Kind.DIRECTORY:
                    found.append((path + b"/" + name if path else name, below))
        return found

    async def tell(self, changes: Sequence[Invalidation]) -> None:
        """Names that the kernel has to forget."""
        async with self.lock:
            for change in changes:
                for _, directory in self.directories():
                    if directory.inode == change.inode:
                        for name in change.names:
                            directory.names.pop(name, None)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _in(self, path: bytes) -> tuple[Name, int, bytes]:
        directory, _, name = path.rpartition(b"/")
        found = await self._existing(directory)
        if found.kind is not Kind.DIRECTORY:
            raise NotADirectoryHere(os.fsdecode(path))
        assert found.inode is not None
        await self._name(path)
        return found, found.inode, name

    @_alone
    async def mkdir(self, path: bytes) -> None:
        parent, inode, name = await self._in(path)
        parent.names[name] = self._as_name(await self.filesystem.mkdir(inode, name, self._maker))

    @_alone
    async def write(self, path: bytes, data: bytes) -> None:
        """Like ``echo > path``. A number that stands for nothing any more is looked up anew, as the kernel does."""
        parent, inode, name = await self._in(path)
        known = parent.names[name].inode
        if known is None:
            stat, opened = await self.filesystem.create(inode, name, self._maker, os.O_WRONLY)
            parent.names[name] = self._as_name(stat)
        else:
            try:
                opened = await self.filesystem.open(known, os.O_WRONLY | os.O_TRUNC)
            except StaleHandle:
                stat = await self.filesystem.lookup(inode, name)
                parent.names[name] = self._as_name(stat)
                opened = await self.filesystem.open(stat.inode, os.O_WRONLY | os.O_TRUNC)
        await self.filesystem.write(opened.handle, 0, data)
        self.filesystem.release(opened.handle)

    @_alone
    async def write_at(self, path: bytes, offset: int, data: bytes) -> None:
        """Like ``dd conv=notrunc``."""
        inode = (await self._existing(path)).inode
        assert inode is not None
        opened = await self.filesystem.open(inode, os.O_WRONLY)
        await self.filesystem.write(opened.handle, offset, data)
        self.filesystem.release(opened.handle)

    @_alone
    async def read(self, path: bytes) -> bytes:
        inode = (await self._existing(path)).inode
        assert inode is not None
        opened = await self.filesystem.open(inode, os.O_RDONLY)
        try:
            return bytes(await self.filesystem.read(opened.handle, 0, 1 << 16))
        finally:
            self.filesystem.release(opened.handle)

    @_alone
    async def link(self, old: bytes, new: bytes) -> None:
        inode = (await self._existing(old)).inode
        assert inode is not None
        parent, into, name = await self._in(new)
        try:
            parent.names[name] = self._as_name(await self.filesystem.link(inode, into, name))
        except StaleHandle:
            source, above, of = await self._in(old)
            source.names[of] = self._as_name(await self.look_up(above, of))
            again = source.names[of].inode
            assert again is not None
            parent.names[name] = self._as_name(await self.filesystem.link(again, into, name))

    @_alone
    async def unlink(self, path: bytes) -> None:
        parent, inode, name = await self._in(path)
        await self.filesystem.unlink(inode, name)
        parent.names[name] = Name(None)

    @_alone
    async def rmdir(self, path: bytes) -> None:
        parent, inode, name = await self._in(path)
        await self.filesystem.rmdir(inode, name)
        parent.names[name] = Name(None)

    @_alone
    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        """With flags 2 (EXCHANGE) the two change places."""
        if (new + b"/").startswith(old + b"/") or (old + b"/").startswith(new + b"/"):
            raise DirectoryNotEmpty("the kernel refuses it")
        source, inode, name = await self._in(old)
        target, into, other = await self._in(new)
        await self.filesystem.rename(inode, name, into, other, flags)
        moved, replaced = source.names[name], target.names[other]
        source.names[name] = replaced if flags else Name(None)
        target.names[other] = moved

    @_alone
    async def ls(self, inode: int) -> list[bytes]:
        handle = await self.filesystem.opendir(inode)
        names: list[bytes] = []
        offset = 0
        while (page := await self.filesystem.readdir(handle, offset))[0]:
            names += [each.name for each in page[0]]
            offset = page[0][-1].offset
        self.filesystem.releasedir(handle)
        return names

    # -- what must hold -----------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Every name that is remembered stands for what a new look-up of the path gives."""
        seen: dict[int, list[bytes]] = {}
        for path, directory in self.directories():
            assert directory.inode is not None
            assert (await self.filesystem.getattr(directory.inode)).inode == directory.inode
            for name, known in directory.names.items():
                found = await self.look_up(directory.inode, name)
                assert (None if found is None else found.inode) == known.inode, (path, name)
                if known.inode is not None:
                    seen.setdefault(known.inode, []).append(path + b"/" + name)
                    assert found is not None
                    assert len(seen[known.inode]) <= max(found.links, 1), seen[known.inode]
            listed = await self.ls(directory.inode)
            assert len(set(listed)) == len(listed)
            for name in listed:
                assert name not in directory.names or directory.names[name].inode is not None, (path, name)
