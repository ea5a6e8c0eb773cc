"""pyfuse3's handlers: decode the call, ask the filesystem, encode the reply. Nothing is decided here but EROFS.

The mount is made read-only for the kernel as well, but root can ``mount -o remount,rw`` and then the changing calls
arrive here (seen with Linux 6.18): each of them answers EROFS.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from typing import NoReturn

import pyfuse3

from riafs.errors import ChangedContent, CorruptContent, NoSuchName, NotThereYet
from riafs.fuse.guard import Guard
from riafs.fuse.presentation import Presenter, file_info
from riafs.tree.protocol import Kind
from riafs.vfs.filesystem import ATTRIBUTE_PREFIX, FileSystem

NAME_MAX = 255
_LOOKED_AT = 0
"""Flags of an `open` that the kernel makes by itself, where a program asks for a file's flags (FS_IOC_GETFLAGS, as borg
and lsattr do). What a program opens has O_LARGEFILE at least (fs/fuse/ioctl.c and fs/open.c of Linux 6.18)."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


class Operations(pyfuse3.Operations):
    """The handlers of one mount. `forget_content` makes the kernel drop the cached pages of an inode.

    Not implemented on purpose: access, flush and fsync, which the kernel then stops asking for.
    """

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(
        self, filesystem: FileSystem, presenter: Presenter, guard: Guard, forget_content: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._filesystem = filesystem
        self._presenter = presenter
        self._forget_content = forget_content
        for name in _READING:
            setattr(self, name, guard.wrap(getattr(self, name)))

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """See FileSystem.lookup."""
        try:
            return self._presenter.attributes(await self._filesystem.lookup(parent_inode, name))
        except NotThereYet:
            return self._presenter.absent(lasting=False)
        except NoSuchName:
            return self._presenter.absent(lasting=True)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """See FileSystem.getattr."""
        return self._presenter.attributes(await self._filesystem.getattr(inode))

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        """See FileSystem.readlink."""
        return pyfuse3.FileNameT(await self._filesystem.readlink(inode))

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """See FileSystem.open. Files whose size is only known when they are open bypass the kernel's cache."""
        if flags & _WRITING:
            _refuse()
        opened = await self._filesystem.open(inode, to_be_read=flags != _LOOKED_AT)
        if opened.whole:
            _store(inode, opened.whole)
        return file_info(opened)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """See FileSystem.read. What the kernel has cached of content that turns out to be damaged is dropped."""
        try:
            data = await self._filesystem.read(fh, off, size)
        except (CorruptContent, ChangedContent):
            self._forget_content(self._filesystem.inode_of_handle(fh))
            raise
        return data  # type: ignore[return-value]  # pyfuse3 takes any buffer

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """See FileSystem.release."""
        self._filesystem.release(fh)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """See FileSystem.opendir."""
        return pyfuse3.FileHandleT(await self._filesystem.opendir(inode))

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """See FileSystem.readdir: entries with their attributes, as many as the kernel's buffer takes."""
        page = await self._filesystem.readdir(fh, start_id)
        # From here to the reply there is no await: what changes later is told to the kernel after it.
        fill, reply = self._presenter.fill, pyfuse3.readdir_reply
        fleeting = self._presenter.fleeting()
        lasting, directory = fleeting, fleeting
        if page.current:
            lasting, directory = self._presenter.blank(), self._presenter.directory()
        for offset, entry in enumerate(page.entries, start_id):
            shown = directory if entry.kind is Kind.DIRECTORY else lasting
            if entry.size < 0:  # something could not be found out
                shown = fleeting
            fill(shown, page.inode_at(offset), entry)
            if not reply(token, entry.name, shown, offset + 1):
                return

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """See FileSystem.releasedir."""
        self._filesystem.releasedir(fh)

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Inode numbers are computed, so there is nothing to forget."""

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Sizes are unknown and nothing can be written; overlayfs and df want an answer all the same."""
        status = pyfuse3.StatvfsData()
        status.f_bsize = status.f_frsize = 4096
        status.f_namemax = NAME_MAX
        return status

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        """See FileSystem.attribute. Other namespaces than ``user.`` are not supported, rather than merely empty:
        so ``ls -l`` asks for access control lists once, not for every file (seen with coreutils 9.1).

        Programs that copy ask for several of others' names a file: these are answered here, before any guard.
        """
        check_attribute(name)
        return await self._attribute(inode, name)

    async def _attribute(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT) -> bytes:
        """See FileSystem.attribute."""
        return await self._filesystem.attribute(inode, name.decode(errors="replace"))

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        """Nothing: the attributes can be asked for, but ``cp -a`` should not copy them."""
        return ()

    async def _refused(self, *_: object) -> NoReturn:
        """EROFS."""
        _refuse()

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refused  # type: ignore[assignment]  # all alike
    write = create = setxattr = removexattr = _refused  # type: ignore[assignment]  # likewise


_PREFIX = ATTRIBUTE_PREFIX.encode()
_READING = (
    "lookup", "getattr", "readlink", "open", "read", "release", "opendir", "readdir", "releasedir", "statfs",
    "_attribute",
)  # fmt: skip


def check_attribute(name: bytes) -> None:
    """Raises FUSEError for an extended attribute that is none of ours."""
    if not name.startswith(_PREFIX):
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR if name.startswith(b"user.") else errno.ENOTSUP)


def _store(inode: pyfuse3.InodeT, content: bytes) -> None:
    """Put the content into the kernel's cache, which saves the reader of a small file a request.

    The kernel waits for a page that is being read, and that would be read from us: so this is only for inodes that
    nobody else has open, and there is no await between finding that out and being here.
    """
    with contextlib.suppress(OSError):
        pyfuse3.notify_store(inode, 0, content)


def _refuse() -> NoReturn:
    raise pyfuse3.FUSEError(errno.EROFS)
