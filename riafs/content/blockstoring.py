"""Putting whole blocks into the block cache when nobody is the slower for it.

Checksums and writing take as much of the processor as receiving does. So a block waits in memory, where readers find it
anyway, until no other one has been on its way for a moment, or until memory is wanted.
"""

from collections.abc import Callable

import trio

from riafs.content.blockmemory import BlockMemory
from riafs.content.keptparts import KeptParts
from riafs.storage.keep_places import WholeBlock

_LOOK_SECONDS = 0.05
_SHARE = 2  # of the memory that may wait


class BlockStorer:
    """One per mount. `is_busy`: whether blocks are on their way. Blocks are stored as long as `run` runs."""

    def __init__(self, memory: BlockMemory, parts: KeptParts, is_busy: Callable[[], bool]) -> None:
        self._memory = memory
        self._parts = parts
        self._is_busy = is_busy
        self._waiting: dict[bytes, WholeBlock] = {}
        self._wake = trio.Event()

    def add(self, name: bytes, block: WholeBlock) -> None:
        """Store a block that is kept in memory, soon; until then it stays there."""
        self._memory.pin(name)
        self._waiting[name] = block
        self._wake.set()

    async def run(self) -> None:
        """Store what is added, until cancelled."""
        while True:
            while self._waiting:
                name = next(iter(self._waiting))
                try:
                    await self._store(name, self._waiting[name])
                finally:
                    del self._waiting[name]
                    self._memory.unpin(name)
            self._wake = trio.Event()
            await self._wake.wait()

    async def _store(self, name: bytes, block: WholeBlock) -> None:
        for index in range(self._parts.count(block.size)):
            while self._is_busy() and not self._is_pressed():  # noqa: ASYNC110  # it is about time that passes
                await trio.sleep(_LOOK_SECONDS)
            if not self._memory.is_pinned(name):  # somebody could not wait any longer
                return
            await self._parts.put(name, block, index)

    def _is_pressed(self) -> bool:
        waiting = sum(block.size for block in self._waiting.values())
        return self._memory.is_wanted or waiting > self._memory.limit // _SHARE
