"""A slow source behind the block cache, and read-ahead for sequential readers.

`CachedBytes` is for every slow source of verified bytes: members of annexed archives, files of a remote store.
`ReadAhead` decides which blocks are read ahead, here and for a collection of Keep.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import trio

from riafs.cache.blocks import BlockCache
from riafs.errors import ChangedContent, RiafsError
from riafs.storage.bytesource import Buffer, RangedBytes, stored_file
from riafs.storage.deadline import leave_request
from riafs.tasks import Background

_FRONTS = 16
_OUT_OF_ORDER = 8 << 20
_IN_ORDER = 2 << 20
"""Bytes after which a reader is sequential."""
_CROSSINGS = 2
"""Borders of blocks after which it is sequential as well."""
_FAR = 128 << 20
"""Bytes after which more is read ahead."""
_AGAIN = 4 << 20
_WINDOW, _FAR_WINDOW = 128 << 20, 192 << 20
"""The most bytes that are read ahead: two, and three, of the largest blocks of Keep."""
_MOST_BLOCKS = 8


@dataclass(slots=True)
class _Front:
    block: int
    end: int
    """End of the last read in the block."""
    advance: int
    """Bytes that it has advanced."""
    crossings: int = 0
    looked: int = 0
    """The advance at the last read-ahead."""

    def leads_to(self, block: int, offset: int, following: int | None) -> bool:
        """Whether a read at `offset` of `block` may continue this front. `following`: the next block."""
        if block == self.block:
            return abs(offset - self.end) <= _OUT_OF_ORDER
        return block == following and offset <= _OUT_OF_ORDER

    def move(self, block: int, end: int, length: int) -> None:
        """Advance to `end` of `block`."""
        if block != self.block:
            self.crossings += 1
            self.advance += length
            self.block, self.end = block, end
        elif end > self.end:
            self.advance += end - self.end
            self.end = end

    @property
    def is_moving(self) -> bool:
        """Whether it belongs to a sequential reader."""
        return self.advance >= _IN_ORDER or self.crossings >= _CROSSINGS


class ReadAhead:
    """Finds the sequential readers of a sequence of blocks, and the blocks that they need next.

    The blocks are those of a file, or of all files of a collection in the order of its manifest, which a program that
    reads one file after the other reads in order as well. A front is the position of one reader. Requests of the kernel
    may be slightly out of order; the front of a program that reads at random does not move. `following`: the numbers of
    the blocks after a block; `fetch`: begins to fetch a block and returns its size.
    """

    def __init__(self, following: Callable[[int], Iterable[int]], fetch: Callable[[int], int]) -> None:
        self._following = following
        self._fetch = fetch
        self._fronts: list[_Front] = []

    def has_read(self, block: int, offset: int, length: int) -> None:
        """Note that a program has read `length` bytes of a block."""
        for front in self._fronts:
            if front.leads_to(block, offset, next(iter(self._following(front.block)), None)):
                crossed = front.block != block
                front.move(block, offset + length, length)
                self._fronts.remove(front)
                break
        else:
            front, crossed = _Front(block, offset + length, length), False
        self._fronts.insert(0, front)
        del self._fronts[_FRONTS:]
        if front.is_moving and (crossed or not front.looked or front.advance - front.looked >= _AGAIN):
            front.looked = front.advance
            self._look(front)

    def _look(self, front: _Front) -> None:
        window = _FAR_WINDOW if front.advance >= _FAR else _WINDOW
        for block in islice(self._following(front.block), _MOST_BLOCKS):
            window -= self._fetch(block)
            if window <= 0:
                return


class CachedBytes:
    """RangedBytes over a slow `source`, which it owns. Blocks come from the cache, else from the source, which is read
    once for each block, however many tasks wait for it.

    `content`: name of the content in the block cache, that of a key for verified bytes, else one that only this version
    of the source has (from `Version.token`). A source that is replaced while it is open is not read any further.
    `background` runs read-ahead; without it there is none.
    """

    def __init__(
        self, source: RangedBytes, cache: BlockCache, content: bytes, background: Background | None = None
    ) -> None:
        file = stored_file(source)
        self._source = source
        self._version = None if file is None else file.version
        self._cache = cache
        self._content = content
        self._background = background
        self._ahead = ReadAhead(self._following, self._fetch_ahead)
        self._fetching: dict[int, trio.CancelScope] = {}
        self._fetched: deque[int] = deque(maxlen=_FRONTS * _MOST_BLOCKS)
        self._closed = False

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    async def read(self, offset: int, length: int) -> Buffer:
        """As RangedBytes. Raises ChangedContent if the source was changed or replaced since it was opened."""
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        size = self._cache.block_size
        pieces: list[Buffer] = []
        for index in range(offset // size, -(-end // size)):
            block = memoryview(await self._block(index))
            piece = block[max(offset - index * size, 0) : end - index * size]
            pieces.append(piece)
            if self._background is not None:
                self._ahead.has_read(index, max(offset - index * size, 0), len(piece))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _block(self, index: int) -> bytes:
        produce = partial(self._from_source, index)
        return await self._cache.fetch(self._content, index, self._length(index), produce, reader=self)

    def _length(self, index: int) -> int:
        return min(self._cache.block_size, self.size - index * self._cache.block_size)

    async def _from_source(self, index: int) -> bytes:
        data = bytes(await self._source.read(index * self._cache.block_size, self._length(index)))
        file = stored_file(self._source)
        if file is not None and file.version is not self._version:
            raise ChangedContent(f"{file.name} was changed while it was open; open the file again")
        return data

    def _following(self, index: int) -> Iterable[int]:
        return range(index + 1, -(-self.size // self._cache.block_size))

    def _fetch_ahead(self, index: int) -> int:
        if index not in self._fetched and not self._closed and self._background is not None:
            self._fetched.append(index)
            self._fetching[index] = trio.CancelScope()
            self._background.start_soon(self._fetch, index)
        return self._length(index)

    async def _fetch(self, index: int) -> None:
        leave_request()
        try:
            with self._fetching[index]:
                await self._block(index)
        except RiafsError:
            return  # the reader of the block gets the failure
        finally:
            del self._fetching[index]
            if self._closed and not self._fetching:
                self._source.close()

    def close(self) -> None:
        """Close the source when read-ahead from it has ended."""
        self._closed = True
        for scope in self._fetching.values():
            scope.cancel()
        if not self._fetching:
            self._source.close()
