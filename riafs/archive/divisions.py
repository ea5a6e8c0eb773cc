"""Divisions: at which places of a folder decoding can begin."""

from collections.abc import Callable
from typing import Protocol

import trio

from riafs.archive.walks import SavedWalks
from riafs.errors import MalformedArchive, StoreTimeout
from riafs.formats.sevenzip.lzma2 import HEADER_SIZE, Resets, Segment
from riafs.storage.bytesource import RangedBytes
from riafs.storage.deadline import DeadlineLock
from riafs.storage.local_file import BlockingRead, blocking_read, deadline_of

_CHUNKS_AT_ONCE = 1024  # what a deadline is for
_FIXED = 1 << 20


class Division(Protocol):
    """The segments of a folder, which follow each other without gaps."""

    async def segment(self, offset: int) -> Segment:
        """The one that holds the decoded byte `offset`. Raises what reading the archive raises."""

    async def run(self, offset: int, end: int) -> Segment:
        """Several, from the one that holds `offset` on, as one that reaches to `end` or a little further; a single one
        where it is of no use to go on to the next. Raises as `segment`."""


class Undivided:
    """Decoding begins at the front only."""

    def __init__(self, packed_size: int, size: int) -> None:
        self._segment = Segment(0, packed_size, 0, size)

    async def segment(self, offset: int) -> Segment:
        """See Division."""
        return self._segment

    async def run(self, offset: int, end: int) -> Segment:
        """See Division."""
        return self._segment


class Anywhere:
    """Decoded bytes are where packed bytes are."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def segment(self, offset: int) -> Segment:
        """See Division."""
        start = offset - offset % _FIXED
        end = min(start + _FIXED, self._size)
        return Segment(start, end, start, end)

    async def run(self, offset: int, end: int) -> Segment:
        """See Division."""
        return await self.segment(offset)


class AtResets:
    """Decoding begins where an LZMA2 stream resets its dictionary: found by walking the chunks, no further than needed,
    and remembered by `saved` under `name`. Chunks that make no sense end the walk; decoding will tell what is wrong."""

    def __init__(self, packed: RangedBytes, size: int, saved: SavedWalks, name: int) -> None:
        self._packed = packed
        self._resets = Resets(packed.size, size)
        self._saved = saved
        self._name = name
        self._loaded = False
        self._walking = DeadlineLock()

    async def segment(self, offset: int) -> Segment:
        """See Division."""
        if not self._resets.knows(offset):
            async with self._walking.one():
                if not self._loaded:
                    await self._saved.load(self._name, self._resets)
                    self._loaded = True
                await self._walk(offset)
        return self._resets.segment(offset)

    async def run(self, offset: int, end: int) -> Segment:
        """See Division."""
        last = min(end, self._resets.size) - 1
        await self.segment(last)
        return self._resets.run(offset, last)

    async def _walk(self, offset: int) -> None:
        resets, began = self._resets, self._resets.walked
        fill, patience = blocking_read(self._packed), deadline_of(self._packed)
        read = None if fill is None or patience is None else _pieces(fill, self._packed.size)
        try:
            while not resets.knows(offset):
                if read is None or patience is None:
                    await self._step(offset)
                else:
                    await patience.run_longer(patience.seconds, resets.walk, read, offset, _CHUNKS_AT_ONCE)
        except MalformedArchive:
            resets.give_up()
            return
        except (StoreTimeout, trio.Cancelled):  # the thread may still be changing it
            self._resets, self._loaded = Resets(self._packed.size, resets.size), False
            raise
        if resets.walked != began:
            await self._saved.save(self._name, resets)

    async def _step(self, offset: int) -> None:
        """Walk over one chunk of what only the event loop can read."""
        at = self._resets.walked_packed
        header = await self._packed.read(at, HEADER_SIZE)
        self._resets.walk(_part(bytes(header), at), offset, 1)


def _pieces(fill: BlockingRead, size: int) -> Callable[[int, int], bytes]:
    """(offset, length) → as many of those bytes as there are."""

    def read(offset: int, length: int) -> bytes:
        buffer = bytearray(max(0, min(length, size - offset)))
        fill(offset, memoryview(buffer))
        return bytes(buffer)

    return read


def _part(data: bytes, start: int) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset - start : offset - start + length]
