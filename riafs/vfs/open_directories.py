"""Directories that are open to be listed, over changes and moves to other commits.

A handle lists the tree below as long as nothing of it is changed, and merged with the changes from then on. A move
gives entries other places in a listing: a listing that has begun continues with the names that there were when the move
began, as far as they are still there, and with what they are now. One that begins anew has what there is now.
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from riafs.errors import RiafsError, StaleHandle
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.listing import Listed
from riafs.overlay.stat import Stat
from riafs.vfs.filesystem import FileSystem, Page
from riafs.vfs.inode_aliases import InodeAliases

_PAGE = 64


class Revisited(NamedTuple):
    """A name in a listing that a move came into."""

    name: bytes
    offset: int
    stat: Stat


Shown = Sequence[Listed | Revisited]


@dataclass(slots=True)
class _Open:
    """`inode`: the kernel's. `below`: the FileSystem's handle, None where it had changes already."""

    inode: int
    merged: int
    below: int | None
    moves: int
    is_begun: bool = False
    remaining: list[tuple[int, bytes]] | None = None
    """Offsets and names, once a move came into it."""


class OpenDirectories:
    """The handles of one mount. `moves`: how many there were."""

    def __init__(
        self, filesystem: FileSystem, merged: OverlayFileSystem, aliases: InodeAliases, moves: Callable[[], int]
    ) -> None:
        self._filesystem = filesystem
        self._merged = merged
        self._aliases = aliases
        self._moves = moves
        self._removed: set[int] = set()
        self._open: dict[int, _Open] = {}
        self._last = 0

    async def open(self, inode: int) -> int:
        """A handle; `inode` is the kernel's."""
        opened = await self._opened(inode)
        self._last += 1
        self._open[self._last] = opened
        return self._last

    def open_removed(self) -> int:
        """A handle on a directory that is removed: nothing is in it."""
        self._last += 1
        self._removed.add(self._last)
        return self._last

    async def _opened(self, inode: int) -> _Open:
        number, moves = self._aliases.now(inode), self._moves()
        below = None if self._merged.has_row(number) else await self._filesystem.opendir(number)
        return _Open(inode, self._merged.opendir(number), below, moves)

    def release(self, handle: int) -> None:
        """Give a handle back."""
        self._removed.discard(handle)
        opened = self._open.pop(handle, None)
        if opened is not None:
            self._close(opened)

    def _close(self, opened: _Open) -> None:
        self._merged.releasedir(opened.merged)
        if opened.below is not None:
            self._filesystem.releasedir(opened.below)

    def merged(self, handle: int) -> int:
        """The engine's handle. Raises StaleHandle."""
        return self._get(handle).merged

    def _get(self, handle: int) -> _Open:
        try:
            return self._open[handle]
        except KeyError:
            raise StaleHandle(f"handle {handle} is not open") from None

    def clear(self) -> None:
        """Forget all."""
        self._open.clear()

    # -- listing ------------------------------------------------------------------------------------------------------

    async def read(self, handle: int, offset: int) -> tuple[Shown, bool]:
        """Some names from an offset on; and whether the kernel may remember what is listed."""
        if handle in self._removed:
            return (), True
        opened = self._get(handle)
        if not offset and opened.moves != self._moves():
            await self._begin_anew(handle)
            opened = self._get(handle)
        if opened.remaining is not None:
            return await self._revisited(opened, opened.remaining, offset)
        opened.is_begun = True
        return await self._page(opened, offset)

    async def _begin_anew(self, handle: int) -> None:
        opened = self._get(handle)
        self._open[handle] = await self._opened(opened.inode)
        self._close(opened)

    async def _page(self, opened: _Open, offset: int) -> tuple[Sequence[Listed], bool]:
        if opened.below is None or self._merged.has_row(self._aliases.now(opened.inode)):
            return await self._merged.readdir(opened.merged, offset), True
        page = await self._filesystem.readdir(opened.below, offset)
        return _listed(page, offset), page.current

    async def _revisited(
        self, opened: _Open, remaining: Sequence[tuple[int, bytes]], offset: int
    ) -> tuple[Sequence[Revisited], bool]:
        """What is still there of the next names."""
        moves = self._moves()
        found: list[Revisited] = []
        position = bisect_right(remaining, offset, key=lambda each: each[0])
        while position < len(remaining) and not found:
            for after, name in remaining[position : position + _PAGE]:
                stat = await self._merged.lookup(self._aliases.now(opened.inode), name)
                if stat is not None:
                    found.append(Revisited(name, after, stat))
            position += _PAGE
        return found, moves == self._moves()

    # -- moves --------------------------------------------------------------------------------------------------------

    async def keep_names(self) -> None:
        """To be called before a move. What cannot be read now is left to fail when it is listed."""
        for opened in list(self._open.values()):
            if opened.is_begun and opened.remaining is None:
                with contextlib.suppress(RiafsError):
                    opened.remaining = await self._names(opened)

    async def _names(self, opened: _Open) -> list[tuple[int, bytes]]:
        names: list[tuple[int, bytes]] = []
        while page := (await self._page(opened, names[-1][0] if names else 0))[0]:
            names += [(each.offset, each.name) for each in page]
        return names


def _listed(page: Page, start: int) -> list[Listed]:
    return [
        Listed(entry.name, position + 1, page.inode_at(position), None, entry)
        for position, entry in enumerate(page.entries, start)
    ]
