"""pyfuse3's handlers for a mount that can be written: decode the call, ask the file system, encode the reply.

What the kernel may remember: names and attributes for long, since every change comes through it (those of a store are
told to it), and pages as long as nothing read so far may turn out to be wrong. It writes through: what a program has
written, and what a mapping has changed once it is written back, is with us, so that readers and a push see it.
"""

import stat
from collections.abc import Awaitable, Callable, Iterable

import pyfuse3

from riafs.fuse.operations import NAME_MAX, Listed, Operations
from riafs.fuse.presentation import KINDS, Presenter, file_info
from riafs.fuse.session import Session
from riafs.overlay.namespace import Creator
from riafs.tree.protocol import Kind
from riafs.vfs.writable import WritableFileSystem


class WritingSession(Session[WritableFileSystem]):
    """A mount that can be changed."""

    def _operations(self) -> pyfuse3.Operations:
        return WritingOperations(self._filesystem, Presenter(self._presentation), self._guard, self._forget_content)

    def _tasks(self) -> Iterable[Callable[[], Awaitable[None]]]:
        return self._filesystem.tasks()


class WritingOperations(Operations[WritableFileSystem]):
    """Those that read, and those that change something.

    Not implemented on purpose: access, flush, setxattr and removexattr, which the kernel then stops asking for; of the
    last two it says by itself that they are not supported.
    """

    guarded = (
        *Operations.guarded, "fsyncdir", "create", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename",
        "setattr", "write", "fsync",
    )  # fmt: skip

    def _handler(self, name: str) -> Callable[..., Awaitable[object]]:
        return self._filesystem.in_turn(super()._handler(name), name)

    async def _entries(self, fh: int, start: int) -> tuple[Iterable[Listed], bool]:
        entries, current = await self._filesystem.readdir(fh, start)
        stats = map(self._filesystem.stat_of, entries)
        return ((each.name, each.offset, stat.inode, stat) for each, stat in zip(entries, stats, strict=True)), current

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The room there is for changes."""
        figures = self._filesystem.statfs()
        status = pyfuse3.StatvfsData()
        status.f_bsize = status.f_frsize = figures.block
        status.f_blocks, status.f_bfree, status.f_bavail = figures.blocks, figures.free, figures.available
        status.f_files, status.f_ffree = figures.files, figures.files_free
        status.f_favail = figures.files_free
        status.f_namemax = NAME_MAX
        return status

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """A new file, open."""
        found, opened = await self._filesystem.create(parent_inode, name, _creator(mode, ctx), flags, ctx.pid)
        return file_info(opened), self._presenter.shown(found)

    async def mknod(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """A new file, fifo, socket or device."""
        kind = KINDS.get(stat.S_IFMT(mode), Kind.FILE)
        made = await self._filesystem.mknod(parent_inode, name, _creator(mode, ctx), kind, rdev)
        return self._presenter.shown(made)

    async def mkdir(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, mode: pyfuse3.ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """A new directory."""
        return self._presenter.shown(await self._filesystem.mkdir(parent_inode, name, _creator(mode, ctx)))

    async def symlink(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        target: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """A new symbolic link."""
        made = await self._filesystem.symlink(parent_inode, name, target, Creator(ctx.uid, ctx.gid, 0o777))
        return self._presenter.shown(made)

    async def link(
        self,
        inode: pyfuse3.InodeT,
        new_parent_inode: pyfuse3.InodeT,
        new_name: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Another name of a file."""
        return self._presenter.shown(await self._filesystem.link(inode, new_parent_inode, new_name))

    async def unlink(self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext) -> None:
        """Remove a name of a file."""
        await self._filesystem.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext) -> None:
        """Remove a directory."""
        await self._filesystem.rmdir(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: pyfuse3.InodeT,
        name_old: pyfuse3.FileNameT,
        parent_inode_new: pyfuse3.InodeT,
        name_new: pyfuse3.FileNameT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Move an entry, or exchange two."""
        await self._filesystem.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # -- attributes ---------------------------------------------------------------------------------------------------

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """chmod, chown, truncate, utimens."""
        changed = await self._filesystem.setattr(
            inode,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            thread=ctx.pid,
        )
        return self._presenter.shown(changed)

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """A handle to read or write."""
        return file_info(await self._filesystem.open(inode, flags, ctx.pid))

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """Write; the number of bytes that were written."""
        return await self._filesystem.write(fh, off, buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:  # noqa: FBT001  # as pyfuse3 has it
        """Make a file survive the loss of power."""
        await self._filesystem.fsync(fh)

    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:  # noqa: FBT001  # as pyfuse3 has it
        """Make the names in a directory survive the loss of power."""
        await self._filesystem.fsyncdir(fh)


def _creator(mode: int, ctx: pyfuse3.RequestContext) -> Creator:
    """Who makes something; the kernel has taken the umask out of `mode`."""
    return Creator(ctx.uid, ctx.gid, stat.S_IMODE(mode))
