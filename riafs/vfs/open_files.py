"""The open files of a mount, by handle: reading them, and what the kernel may keep of what it has read.

Both file systems of vfs are one of these, so that a read passes through nothing else on its way to the content.
"""

from collections.abc import Callable
from dataclasses import dataclass

from riafs.counters import Counters
from riafs.errors import StaleHandle, StoreTimeout
from riafs.storage.bytesource import Buffer, RangedBytes
from riafs.vfs.kernel_cache import CachedPages, SilentReads


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An open file."""

    handle: int
    cached: bool
    """Whether the kernel can cache it: its size is known, and no other version of it is open."""
    settled: bool
    """Whether what the kernel has cached of the inode may be used: its content is known to be right, and has been since
    the kernel began to cache it."""
    whole: bytes | None = None
    """Its whole content, where that is at hand and the inode is open for the first time."""


@dataclass(frozen=True, slots=True)
class _OpenFile:
    inode: int
    content: RangedBytes
    close: Callable[[], None]


class OpenFiles:
    """Those of one mount. Inodes are the kernel's, as this is about what it has cached."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self._files: dict[int, _OpenFile] = {}
        self._open_inodes: dict[int, set[int]] = {}
        self._last_file = 0
        self._pages = CachedPages()
        self._silent = SilentReads()

    def is_open(self, inode: int) -> bool:
        """Whether a program has an inode open."""
        return inode in self._open_inodes

    def add_file(
        self, inode: int, content: RangedBytes, close: Callable[[], None], *, sized: bool = True,
        whole: bytes | None = None,
    ) -> OpenedFile:  # fmt: skip
        """A handle on `content`; `close` is called when it is released. `sized`: see OpenedFile.cached."""
        handles = self._open_inodes.setdefault(inode, set())
        pages = self._pages.opened(inode, content, [self._files[each].content for each in handles])
        self._last_file += 1
        self._files[self._last_file] = _OpenFile(inode, content, close)
        handles.add(self._last_file)
        return OpenedFile(self._last_file, sized and not pages.past, pages.kept, whole)

    async def read(self, handle: int, offset: int, length: int) -> Buffer:
        """Bytes of an open file: fewer than `length` only at its end. Raises StaleHandle, and what its content does."""
        opened = self._files.get(handle)
        if opened is None:
            raise _not_open(handle)
        if self._silent.any:
            self._silent.refuse(opened.inode)
        try:
            data = await opened.content.read(offset, length)
        except StoreTimeout as problem:
            self._silent.note(opened.inode, problem)
            raise
        self.counters.reads += 1
        self.counters.bytes_read += len(data)
        return data

    def inode_of_handle(self, handle: int) -> int:
        """The inode that a file handle was opened on. Raises StaleHandle."""
        opened = self._files.get(handle)
        if opened is None:
            raise _not_open(handle)
        return opened.inode

    def release(self, handle: int) -> None:
        """Give a file handle back."""
        opened = self._files.pop(handle, None)
        if opened is None:
            return
        self._pages.left(opened.inode, opened.content)
        opened.close()
        handles = self._open_inodes[opened.inode]
        handles.discard(handle)
        if not handles:
            del self._open_inodes[opened.inode]

    def close(self) -> None:
        """Give back all handles."""
        for handle in list(self._files):
            self.release(handle)


def _not_open(handle: int) -> StaleHandle:
    return StaleHandle(f"handle {handle} is not open")
