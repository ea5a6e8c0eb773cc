"""Blocks of Keep in the mount's block cache, in parts: content ``keep:digest+size``, part i as the cache's block i.

Several readers of one part look for it once.
"""

import trio

from riafs.cache.blocks import BlockCache
from riafs.storage.bytesource import Buffer
from riafs.storage.keep_places import WholeBlock


class KeptParts:
    """One per mount. Used from the event loop's thread."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._looking: dict[tuple[bytes, int], trio.Event] = {}

    async def read(self, name: bytes, size: int, offset: int, length: int) -> Buffer | None:
        """A range inside the block `name` of `size` bytes, None unless all of it is kept."""
        part_size, end = self._cache.block_size, offset + length
        pieces: list[Buffer] = []
        for index in range(offset // part_size, -(-end // part_size)):
            start = index * part_size
            part = await self._part(name, index, min(part_size, size - start))
            if part is None:
                return None
            pieces.append(memoryview(part)[max(offset - start, 0) : end - start])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _part(self, name: bytes, index: int, length: int) -> bytes | None:
        """One part. Whoever waits for another's look finds what he found in memory, or looks himself."""
        looking = self._looking.get((name, index))
        if looking is not None:
            await looking.wait()
            return await self._cache.get(b"keep:" + name, index, length)
        looking = self._looking[name, index] = trio.Event()
        try:
            return await self._cache.get(b"keep:" + name, index, length)
        finally:
            del self._looking[name, index]
            looking.set()

    async def has(self, name: bytes, size: int) -> bool:
        """Whether the first and the last part are kept, and so most likely all."""
        return await self.read(name, size, 0, 1) is not None and await self.read(name, size, size - 1, 1) is not None

    def count(self, size: int) -> int:
        """How many parts a block of `size` bytes has."""
        return -(-size // self._cache.block_size)

    async def put(self, name: bytes, block: WholeBlock, index: int) -> None:
        """Keep one part of a verified block. Never fails."""
        part = block.read_now(index * self._cache.block_size, self._cache.block_size)
        await self._cache.put(b"keep:" + name, index, part if isinstance(part, bytes) else bytes(part))
        await trio.lowlevel.checkpoint()
