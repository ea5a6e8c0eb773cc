"""pyfuse3's handlers for a mount that can be written: decode the call, ask the file system, encode the reply.

What the kernel may remember: names and attributes for long, since every change comes through it (those of a store are
told to it), and pages as long as nothing read so far may turn out to be wrong. It writes through: what a program has
written, and what a mapping has changed once it is written back, is with us, so that readers and a push see it.
"""

import stat
from collections.abc import Callable, Sequence

import pyfuse3

from riafs.errors import ChangedContent, CorruptContent
from riafs.fuse.guard import Guard
from riafs.fuse.operations import NAME_MAX, check_attribute
from riafs.fuse.presentation import KINDS, Presenter, file_info
from riafs.overlay.namespace import Creator
from riafs.tree.protocol import Kind
from riafs.vfs.writable import WRITING, WritableFileSystem


class WritingOperations(pyfuse3.Operations):
    """The handlers of one mount. `forget_content` makes the kernel drop the cached pages of an inode.

    Not implemented on purpose: access, flush, setxattr and removexattr, which the kernel then stops asking for; of the
    last two it says by itself that they are not supported.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        filesystem: WritableFileSystem,
        presenter: Presenter,
        guard: Guard,
        forget_content: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._presenter = presenter
        self._forget_content = forget_content
        passes: dict[str, Callable[..., bool]] = dict.fromkeys(_LOOKING, lambda inode, *_: filesystem.is_apart(inode))
        passes["read"] = lambda handle, *_: filesystem.is_apart_handle(handle)
        passes["open"] = lambda inode, flags, _: not flags & WRITING and filesystem.is_apart(inode)
        for name in _HANDLERS:
            setattr(self, name, guard.wrap(filesystem.in_turn(getattr(self, name), passes.get(name))))

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.lookup. ``NAME@REF`` may come to be without the kernel being told."""
        found = await self._filesystem.lookup(parent_inode, name)
        if found is None:
            return self._presenter.absent(lasting=b"@" not in name)
        return self._presenter.status(found, lasting=self._filesystem.is_lasting(found.inode))

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.getattr."""
        return self._presenter.status(await self._filesystem.getattr(inode))

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        """See OverlayFileSystem.readlink."""
        return pyfuse3.FileNameT(await self._filesystem.readlink(inode))

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

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Inode numbers are computed or rows' own, so there is nothing to forget."""

    # -- listing ------------------------------------------------------------------------------------------------------

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """See WritableFileSystem.opendir."""
        return pyfuse3.FileHandleT(await self._filesystem.opendir(inode))

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See WritableFileSystem.readdir: entries with their attributes, as many as the kernel's buffer takes."""
        entries, current = await self._filesystem.readdir(fh, start_id)
        # From here to the reply there is no await: what changes later is told to the kernel after it.
        fill, reply = self._presenter.fill_status, pyfuse3.readdir_reply
        fleeting = self._presenter.fleeting()
        lasting, directory = fleeting, fleeting
        if current:
            lasting, directory = self._presenter.blank(), self._presenter.directory()
        for listed in entries:
            status = self._filesystem.stat_of(listed)
            shown = directory if status.kind is Kind.DIRECTORY else lasting
            if status.size < 0:  # something could not be found out
                shown = fleeting
            fill(shown, status)
            if not reply(token, pyfuse3.FileNameT(listed.name), shown, listed.offset):
                return

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """See WritableFileSystem.releasedir."""
        self._filesystem.releasedir(fh)

    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:  # noqa: FBT001  # as pyfuse3 has it
        """See OverlayFileSystem.fsyncdir."""
        await self._filesystem.fsyncdir(fh)

    # -- names --------------------------------------------------------------------------------------------------------

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """See OverlayFileSystem.create."""
        found, opened = await self._filesystem.create(parent_inode, name, _maker(mode, ctx), flags)
        self._filesystem.recorder.wrote(found.inode, ctx.pid)
        return file_info(opened), self._presenter.status(found)

    async def mknod(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.mknod."""
        kind = KINDS.get(stat.S_IFMT(mode), Kind.FILE)
        made = await self._filesystem.mknod(parent_inode, name, _maker(mode, ctx), kind, rdev)
        return self._presenter.status(made)

    async def mkdir(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, mode: pyfuse3.ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.mkdir."""
        return self._presenter.status(await self._filesystem.mkdir(parent_inode, name, _maker(mode, ctx)))

    async def symlink(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        target: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.symlink."""
        made = await self._filesystem.symlink(parent_inode, name, target, Creator(ctx.uid, ctx.gid, 0o777))
        return self._presenter.status(made)

    async def link(
        self,
        inode: pyfuse3.InodeT,
        new_parent_inode: pyfuse3.InodeT,
        new_name: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """See OverlayFileSystem.link."""
        return self._presenter.status(await self._filesystem.link(inode, new_parent_inode, new_name))

    async def unlink(self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext) -> None:
        """See OverlayFileSystem.unlink."""
        await self._filesystem.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext) -> None:
        """See OverlayFileSystem.rmdir."""
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
        """See OverlayFileSystem.rename."""
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
        """See OverlayFileSystem.setattr."""
        changed = await self._filesystem.setattr(
            inode,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if fields.update_size:
            self._filesystem.recorder.wrote(inode, ctx.pid)
        return self._presenter.status(changed)

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        """See Operations.getxattr."""
        check_attribute(name)
        return await self._attribute(inode, name)

    async def _attribute(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT) -> bytes:
        """See WritableFileSystem.attribute."""
        return await self._filesystem.attribute(inode, name.decode(errors="replace"))

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        """Nothing: the attributes can be asked for, but ``cp -a`` should not copy them."""
        return ()

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """See WritableFileSystem.open."""
        seen = await self._filesystem.recorder.seen(inode, flags, ctx.pid)
        opened = await self._filesystem.open(inode, flags)
        if seen is not None:
            self._filesystem.recorder.note(seen)
        return file_info(opened)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """See OverlayFileSystem.read. What the kernel has cached of content that turns out to be damaged is dropped."""
        try:
            data = await self._filesystem.read(fh, off, size)
        except (CorruptContent, ChangedContent):
            self._forget_content(self._filesystem.inode_of_handle(fh))
            raise
        return data  # type: ignore[return-value]  # pyfuse3 takes any buffer

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """See OverlayFileSystem.write."""
        return await self._filesystem.write(fh, off, buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:  # noqa: FBT001  # as pyfuse3 has it
        """See OverlayFileSystem.fsync."""
        await self._filesystem.fsync(fh)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """See WritableFileSystem.release."""
        self._filesystem.release(fh)


_LOOKING = ("lookup", "getattr", "readlink", "getxattr", "opendir")
"""Handlers that only look at the inode that comes first."""
_HANDLERS = (
    "lookup", "getattr", "readlink", "statfs", "opendir", "readdir", "releasedir", "fsyncdir", "create", "mknod",
    "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "setattr", "_attribute", "open", "read",
    "write", "fsync", "release",
)  # fmt: skip


def _maker(mode: int, ctx: pyfuse3.RequestContext) -> Creator:
    """Who makes something; the kernel has taken the umask out of `mode`."""
    return Creator(ctx.uid, ctx.gid, stat.S_IMODE(mode))
