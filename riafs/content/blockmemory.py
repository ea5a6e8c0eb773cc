"""Memory for whole blocks: those that are being received and those that were read last, within one bound.

Rules for shared state (one event loop, no threads): `_used` is the size of all rooms and all kept blocks; a block that
has to be stored in the cache first is not let go, unless somebody has waited for room for a while. One block is always
let in, however small the bound.
"""

from collections import OrderedDict

import trio

from riafs.storage.keep_places import WholeBlock

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
        self._pinned: dict[bytes, None] = {}
        self._wanted = 0
        self._changed = trio.Event()

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
        self._wanted += 1
        try:
            with trio.move_on_after(_WAIT_SECONDS) as waited:
                await self._changed.wait()
        finally:
            self._wanted -= 1
        if waited.cancelled_caught and self._pinned:
            self.unpin(next(iter(self._pinned)))

    def _let_go_one(self) -> bool:
        for name in self._blocks:
            if name not in self._pinned:
                self.shrink(self._blocks.pop(name).size)
                return True
        return False

    def shrink(self, size: int) -> None:
        """That many bytes are free again."""
        self._used -= size
        self._tell()

    def keep(self, name: bytes, block: WholeBlock) -> None:
        """Keep a block for which there was room a moment ago: no await since."""
        if name not in self._blocks:
            self._blocks[name] = block
            self._used += block.size

    # -- blocks that have to be stored first --------------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for room."""
        return self._wanted > 0

    def pin(self, name: bytes) -> None:
        """Do not let go a kept block for now."""
        self._pinned[name] = None

    def is_pinned(self, name: bytes) -> bool:
        """Whether `pin` still holds: it does not where somebody has waited for room for too long."""
        return name in self._pinned

    def unpin(self, name: bytes) -> None:
        """A block may be let go again; harmless for one that was not pinned."""
        self._pinned.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
