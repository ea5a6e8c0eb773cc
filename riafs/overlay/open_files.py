"""The table of open files of an overlay, by inode number, and the handles on them.

A file without a name that is still open keeps its row until its last handle is released.
"""

from collections.abc import Iterator, Mapping, Set

from riafs.errors import StaleHandle
from riafs.overlay.inode_map import InodeMap
from riafs.overlay.lower import Lower
from riafs.overlay.open_file import OpenFile
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import Row
from riafs.storage.bytesource import RangedBytes


class OpenFiles:
    """The open files of one file system."""

    def __init__(self, overlay: Overlay, inodes: InodeMap, lower: Lower) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._lower = lower
        self._open: dict[int, OpenFile] = {}
        self._handles: dict[int, OpenFile] = {}
        self._writing: set[int] = set()
        self._last = 0
        self._dirty: set[OpenFile] = set()

    # -- look-up ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[OpenFile]:
        """The files that are open now."""
        return iter(list(self._open.values()))

    def is_open(self, inode: int) -> bool:
        """Whether an inode has handles."""
        return inode in self._open

    def at(self, inode: int) -> OpenFile | None:
        """The open file of an inode, None without handles."""
        return self._open.get(inode)

    def dirty(self, inode: int) -> OpenFile | None:
        """The open file of an inode if its row is outdated."""
        opened = self._open.get(inode)
        return opened if opened is not None and opened in self._dirty else None

    def written(self) -> Set[int | None]:
        """The rows whose files are open for writing."""
        return frozenset(opened.row for opened in self._open.values() if opened.writers)

    def file(self, handle: int) -> OpenFile:
        """The open file of a handle. Raises StaleHandle."""
        try:
            return self._handles[handle]
        except KeyError:
            raise StaleHandle(f"handle {handle} is not open") from None

    # -- opening ------------------------------------------------------------------------------------------------------

    def opened(self, inode: int, row: Row | None, size: int) -> OpenFile:
        """The open file of an inode, a new one if it is not open. `size`: that of the tree below, without a row."""
        if inode not in self._open:

            async def open_base() -> RangedBytes:
                now = self._inodes.row(opened.inode)
                below = opened.inode if now is None else await self._inodes.below(now)
                assert below is not None
                return await self._lower.open(below)

            opened = self._open[inode] = OpenFile(self._overlay, self._dirty, inode, row, size, open_base)
        return self._open[inode]

    def renumber(self, changed: Mapping[int, int]) -> None:
        """Give inodes other numbers: old → new."""
        for before, now in changed.items():
            if before in self._open:
                opened = self._open[now] = self._open.pop(before)
                opened.inode = now

    def created(self, inode: int, row: Row) -> int:
        """A handle for writing a file that was just created."""

        async def no_base() -> RangedBytes:
            raise StaleHandle("a new file has no base content")

        opened = self._open[inode] = OpenFile(self._overlay, self._dirty, inode, row, 0, no_base)
        return self.give(opened, writes=True)

    def give(self, opened: OpenFile, *, writes: bool) -> int:
        """A new handle on an open file."""
        opened.handles += 1
        self._last += 1
        self._handles[self._last] = opened
        if writes:
            self._writing.add(self._last)
            opened.writers += 1
        return self._last

    # -- release ------------------------------------------------------------------------------------------------------

    def release(self, handle: int) -> None:
        """Release a handle. Never fails: a failure to store the row is reported by the next commit."""
        opened = self._handles.pop(handle, None)
        if opened is not None:
            if handle in self._writing:
                self._writing.discard(handle)
                opened.writers -= 1
            self.let_go(opened)

    def let_go(self, opened: OpenFile) -> None:
        """Decrease the number of handles of an open file, and close it after the last."""
        opened.handles -= 1
        if opened.handles:
            return
        opened.record_checksum()
        opened.close()
        if opened in self._dirty:
            with self._overlay.journal.single:
                opened.store()
        del self._open[opened.inode]
        # If it was copied up (by a rename or its removal) while it was open for reading, only the inode map has its
        # row.
        row = self._inodes.number(opened.inode) if opened.row is None else opened.row
        if row is not None and row in self._overlay.rows.orphans:
            self._remove(row)

    def _remove(self, number: int) -> None:
        """Remove a row that was kept while it was open."""
        rows = self._overlay.rows
        rows.orphans.discard(number)
        rows.superseded.discard(number)
        row = rows.get(number)
        if row is not None:
            with self._overlay.journal.freeing:
                rows.delete(row)
            self._overlay.files.discard(row.data)

    def store(self) -> None:
        """Write all outdated rows, those of new files and of directories included."""
        rows, checksums = self._overlay.rows, self._overlay.checksums
        if self._overlay.journal.is_changing:
            return  # they are written with the next commit
        if self._dirty or rows.has_pending or checksums.has_pending:
            self._overlay.journal.begin()
            for each in list(self._dirty):
                each.store()
            rows.store()
            checksums.store()

    def close(self) -> None:
        """Release all handles and store their rows."""
        for handle in list(self._handles):
            self.release(handle)
