"""Files of a collection: rows of segments of blocks, as ranged bytes.

One `CollectionReader` per collection has what its files share: the locators with their signatures, which are replaced
all at once when one has expired (the manifest is fetched anew once, however many ask), and what is read ahead.
"""

from array import array
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import accumulate

import trio

from riafs.cache.cached_bytes import ReadAhead
from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_search import Renew
from riafs.errors import MalformedLocator, ShortRead
from riafs.formats.locators import Locator
from riafs.formats.manifests.blocks import NO_BLOCK, Segment
from riafs.formats.manifests.manifest import Manifest
from riafs.storage.bytesource import Buffer, MemoryBytes, RangedBytes
from riafs.storage.deadline import DeadlineLock

_RENEW_SECONDS = 2.0
"""A manifest that was fetched less long ago is not fetched again for newer signatures."""
_SMALL = 128 << 10

Refresh = Callable[[], Awaitable[Manifest]]
"""Fetches the manifest anew; its signatures hold from now on."""


class CollectionReader:
    """One per collection. `refresh` is None where locators have no signatures, or none that could be renewed."""

    def __init__(self, blocks: KeepBlocks, manifest: Manifest, refresh: Refresh | None = None) -> None:
        self.blocks = blocks
        self._manifest = manifest
        self._refresh = refresh
        self._renewing = DeadlineLock()
        self._renewed_at = float("-inf")
        self._ahead = ReadAhead(manifest.blocks_after, self._fetch_ahead)

    def open(self, segments: Sequence[Segment], size: int) -> RangedBytes:
        """The bytes of `segments`, one after the other: `size` of them. What is missing there cannot be read.

        A small file is handed out at once where its block is in memory.
        """
        if len(segments) <= 1 and size <= _SMALL:
            data = self._small(segments[0], size) if segments else b""
            if data is not None and len(data) == size:
                return MemoryBytes(bytes(data))
        return SegmentedBytes(self, segments, size)

    def _small(self, segment: Segment, size: int) -> Buffer | None:
        if segment.block == NO_BLOCK or segment.length < size:
            return None
        data = self.blocks.read_now(self._manifest.locator(segment.block), segment.offset, size)
        if data is not None:
            self._ahead.has_read(segment.block, segment.offset, size)
        return data

    async def read(self, block: int, offset: int, length: int) -> Buffer:
        """Bytes of a block of the manifest. Raises ShortRead where they are not in it, and what KeepBlocks raises."""
        if block == NO_BLOCK:
            raise ShortRead("the manifest gives this file bytes that it has no block for")
        locator = self._manifest.locator(block)
        data = self.blocks.read_now(locator, offset, length)
        if data is None:
            data = await self.blocks.read(locator, offset, length, self.renewal(block))
        self._ahead.has_read(block, offset, length)
        return data

    def problem(self, segments: Sequence[Segment]) -> str | None:
        """The last problem of one of these segments, None if there is none."""
        for segment in segments:
            problem = None if segment.block == NO_BLOCK else self.blocks.problem(self._manifest.locator(segment.block))
            if problem is not None:
                return problem
        return None

    def _fetch_ahead(self, block: int) -> int:
        try:
            locator = self._manifest.locator(block)
        except MalformedLocator:  # its reader gets the error
            return 0
        self.blocks.fetch_ahead(locator, self.renewal(block))
        return locator.size

    # -- signatures ---------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """With the newest signatures."""
        return self._manifest

    def renew(self, manifest: Manifest) -> None:
        """Take over the signatures of another reading of the same manifest. Raises MalformedManifest for another."""
        self._manifest = self._manifest.with_locators_of(manifest)
        self._renewed_at = trio.current_time()
        self.blocks.counters.signatures_renewed += 1

    def renewal(self, block: int) -> Renew:
        """A function that gives a newer locator of a block than the one it is given; None if there is none."""
        return partial(self._renew, block)

    async def _renew(self, block: int, used: Locator) -> Locator | None:
        """A newer locator than `used` of that block, None if there is none."""
        async with self._renewing.held():
            is_newest = self._manifest.locator(block).text == used.text
            if is_newest and self._refresh and trio.current_time() - self._renewed_at > _RENEW_SECONDS:
                self.renew(await self._refresh())
        newest = self._manifest.locator(block)
        return None if newest.text == used.text else newest


class SegmentedBytes:
    """RangedBytes over segments."""

    __slots__ = ("_ends", "_reader", "_segments", "_size")

    def __init__(self, reader: CollectionReader, segments: Sequence[Segment], size: int) -> None:
        self._reader = reader
        self._segments = segments
        self._size = size
        self._ends = array("Q", accumulate(segment.length for segment in segments))

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        end = min(offset + length, self._size)
        pieces: list[Buffer] = []
        index = bisect_right(self._ends, offset)
        while offset < end:
            if index == len(self._segments):
                raise ShortRead(f"the file has {self._size} bytes, but its blocks only {offset}")
            block, start, size = self._segments[index]
            within = offset - (self._ends[index] - size)
            piece = await self._reader.read(block, start + within, min(size - within, end - offset))
            if not piece:
                raise ShortRead(f"the file has {self._size} bytes, but its blocks only {offset}")
            pieces.append(piece)
            offset += len(piece)
            index = bisect_right(self._ends, offset)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Nothing to close: blocks belong to the mount."""
