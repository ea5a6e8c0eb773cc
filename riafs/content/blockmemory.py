"""Memory for whole blocks: those that are being received and those that were read last, within one bound.

Rules for shared state (one event loop, no threads): `_used` is the size of all rooms and all kept blocks; a block that
is being stored in the cache is not let go, unless somebody has waited for room for a while. One block is always let in,
however small the bound.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from riafs.storage.blockplaces import WholeBlock

_WAIT_SECONDS = 1.0


class Room:
    """Memory that is taken for one block to come. Whoever asked for it gives it back or fills it, once."""

    def __init__(self, memory: "BlockMemory", size: int) -> None:
        self._memory = memory
        self._size = size

    def give_back(self) -> None:
        """There is no block; harmless after `fill`."""
        size, self._size = self._size, 0
        self._memory.shrink(size)

    def fill(self, name: bytes, block: WholeBlock) -> None:
        """Keep a block of that size."""
        self.give_back()
        self._memory.keep(name, block)


class BlockMemory:
    """One per mount. `limit`: bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._blocks: OrderedDict[bytes, WholeBlock] = OrderedDict()
        self._storing: dict[bytes, trio.CancelScope] = {}
        self._shrunk = trio.Event()

    def get(self, name: bytes) -> WholeBlock | None:
        """A kept block, which is now the one used last."""
        block = self._blocks.get(name)
        if block is not None:
            self._blocks.move_to_end(name)
        return block

    def __contains__(self, name: bytes) -> bool:
        return name in self._blocks

    async def room(self, size: int) -> Room:
        """Room for a block of `size` bytes, once there is some."""
        while self._used and self._used + size > self.limit:
            if not self._let_go_one():
                await self._wait()
        self._used += size
        return Room(self, size)

    async def _wait(self) -> None:
        with trio.move_on_after(_WAIT_SECONDS) as waited:
            await self._shrunk.wait()
        if waited.cancelled_caught and self._storing:
            next(iter(self._storing.values())).cancel()

    def _let_go_one(self) -> bool:
        for name in self._blocks:
            if name not in self._storing:
                self.shrink(self._blocks.pop(name).size)
                return True
        return False

    def shrink(self, size: int) -> None:
        """That many bytes are free again."""
        self._used -= size
        self._shrunk.set()
        self._shrunk = trio.Event()

    def keep(self, name: bytes, block: WholeBlock) -> None:
        """Keep a block for which there was room a moment ago: no await since."""
        if name not in self._blocks:
            self._blocks[name] = block
            self._used += block.size

    @contextmanager
    def storing(self, name: bytes) -> Iterator[None]:
        """A kept block is being stored in the cache. What is done meanwhile is cancelled where it takes too long."""
        with trio.CancelScope() as scope:
            self._storing[name] = scope
            try:
                yield
            finally:
                del self._storing[name]
                self._shrunk.set()
                self._shrunk = trio.Event()
