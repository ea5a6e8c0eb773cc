"""pyfuse3's handlers: decode the call, ask the file system, encode the reply. Nothing is decided here but EROFS.

A read-only mount is made so for the kernel as well, but root can ``mount -o remount,rw`` and then the changing calls
arrive here (seen with Linux 6.18): each of them answers EROFS.
"""

import contextlib
import errno
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

import pyfuse3

from riafs.errors import ChangedContent, CorruptContent, NoSuchName, NotThereYet
from riafs.fuse.guard import Guard
from riafs.fuse.presentation import Presenter, file_info
from riafs.overlay.stat import Stat
from riafs.tree.protocol import Entry, Kind
from riafs.vfs.filesystem import ATTRIBUTE_PREFIX, FileSystem

if TYPE_CHECKING:
    from riafs.vfs.writable import WritableFileSystem  # with the whole overlay, a fifth of a mount's imports

FS = TypeVar("FS", FileSystem, "WritableFileSystem")

Listed = tuple[bytes, int, int, Entry | Stat]
"""A name in a listing, the offset after it, its inode number, and what it is."""

NAME_MAX = 255
_LOOKED_AT = 0
"""Flags of an `open` that the kernel makes by itself, where a program asks for a file's flags (FS_IOC_GETFLAGS, as borg
and lsattr do). What a program opens has O_LARGEFILE at least (fs/fuse/ioctl.c and fs/open.c of Linux 6.18)."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


class Operations(pyfuse3.Operations, Generic[FS]):
    """The handlers that read, of one mount. `forget_content` makes the kernel drop the cached pages of an inode."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    guarded: Sequence[str] = (
        "lookup", "getattr", "readlink", "open", "read", "release", "opendir", "readdir", "releasedir", "statfs",
        "_attribute",
    )  # fmt: skip
    """Handlers that may fail."""

    def __init__(
        self, filesystem: FS, presenter: Presenter, guard: Guard, forget_content: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._filesystem: FS = filesystem
        self._presenter = presenter
        self._forget_content = forget_content
        for name in self.guarded:
            setattr(self, name, guard.wrap(self._handler(name)))

    def _handler(self, name: str) -> Callable[..., Awaitable[object]]:
        handler: Callable[..., Awaitable[object]] = getattr(self, name)
        return handler

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """The attributes of a name, or how long the kernel may remember that there is none."""
        try:
            return self._presenter.shown(await self._filesystem.lookup(parent_inode, name))
        except NotThereYet:
            return self._presenter.absent(lasting=False)
        except NoSuchName:
            return self._presenter.absent(lasting=True)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """stat(2)."""
        return self._presenter.shown(await self._filesystem.getattr(inode))

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        """The text of a symbolic link."""
        return pyfuse3.FileNameT(await self._filesystem.readlink(inode))

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """Bytes of a file. What the kernel has cached of content that turns out to be damaged is dropped."""
        try:
            data = await self._filesystem.read(fh, off, size)
        except (CorruptContent, ChangedContent):
            self._forget_content(self._filesystem.inode_of_handle(fh))
            raise
        return data  # type: ignore[return-value]  # pyfuse3 takes any buffer

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """Give a file handle back."""
        self._filesystem.release(fh)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """A handle to list a directory."""
        return pyfuse3.FileHandleT(await self._filesystem.opendir(inode))

    @abstractmethod
    async def _entries(self, fh: int, start: int) -> tuple[Iterable[Listed], bool]:
        """Some entries of an open directory, and whether the kernel may remember them."""

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Entries with their attributes, as many as the kernel's buffer takes."""
        entries, current = await self._entries(fh, start_id)
        # From here to the reply there is no await: what changes later is told to the kernel after it.
        reply, fill = pyfuse3.readdir_reply, self._presenter.fill
        fleeting = self._presenter.fleeting()
        lasting, directory = fleeting, fleeting
        if current:
            lasting, directory = self._presenter.blank(), self._presenter.directory()
        for name, offset, inode, found in entries:
            shown = directory if found.kind is Kind.DIRECTORY else lasting
            if found.size < 0:  # something could not be found out
                shown = fleeting
            fill(shown, inode, found)
            if not reply(token, name, shown, offset):
                return

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """Give a directory's handle back."""
        self._filesystem.releasedir(fh)

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Inode numbers are computed, or those of rows, so there is nothing to forget."""

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        """An attribute ``user.riafs.…``. Other namespaces than ``user.`` are not supported, rather than merely empty:
        so ``ls -l`` asks for access control lists once, not for every file (seen with coreutils 9.1).

        Programs that copy ask for several of others' names a file: these are answered here, before any guard.
        """
        _check_attribute(name)
        return await self._attribute(inode, name)

    async def _attribute(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT) -> bytes:
        return await self._filesystem.attribute(inode, name.decode(errors="replace"))

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        """Nothing: the attributes can be asked for, but ``cp -a`` should not copy them."""
        return ()


class ReadOnlyOperations(Operations[FileSystem]):
    """A mount that is only read.

    Not implemented on purpose: access, flush and fsync, which the kernel then stops asking for.
    """

    supports_dot_lookup = True

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """A handle to read. Files whose size is only known when they are open bypass the kernel's cache."""
        if flags & _WRITING:
            _refuse()
        opened = await self._filesystem.open(inode, to_be_read=flags != _LOOKED_AT)
        if opened.whole:
            _store(inode, opened.whole)
        return file_info(opened)

    async def _entries(self, fh: int, start: int) -> tuple[Iterable[Listed], bool]:
        page = await self._filesystem.readdir(fh, start)
        inode_at = page.inode_at
        entries = ((each.name, at + 1, inode_at(at), each) for at, each in enumerate(page.entries, start))
        return entries, page.current

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Sizes are unknown and nothing can be written; overlayfs and df want an answer all the same."""
        status = pyfuse3.StatvfsData()
        status.f_bsize = status.f_frsize = 4096
        status.f_namemax = NAME_MAX
        return status

    async def _refused(self, *_: object) -> NoReturn:
        """EROFS."""
        _refuse()

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refused  # type: ignore[assignment]  # all alike
    write = create = setxattr = removexattr = _refused  # type: ignore[assignment]  # likewise


_PREFIX = ATTRIBUTE_PREFIX.encode()


def _check_attribute(name: bytes) -> None:
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
