"""Memory for whole blocks of Keep: those that are being received and those that were read last, within one bound.

Checksums and writing take as much of the processor as receiving does. So a block reaches the block cache only when no
other one has been on its way for a moment, or when memory is needed; until then it waits in memory, where readers find
it.

Rules for shared state (one event loop, no threads): `_used` is the size of all rooms and all kept blocks; a block that
has to be stored in the cache first is not dropped, unless a task has waited for room for a while. One block is always
admitted, however small the bound.
"""

from collections import OrderedDict
from collections.abc import Callable

import trio

from riafs.cache.block_files import keep_content
from riafs.cache.blocks import BlockCache
from riafs.storage.keep_places import WholeBlock

_WAIT_SECONDS = 1.0


class Room:
    """Memory that is reserved for one block. The task that asked for it fills it or gives it back, once."""

    def __init__(self, memory: "BlockMemory", size: int) -> None:
        self._memory = memory
        self._size = size

    def give_back(self) -> None:
        """Free the memory; harmless after `fill`."""
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
        """A block in memory, which is dropped last from now on."""
        block = self._blocks.get(name)
        if block is not None:
            self._blocks.move_to_end(name)
        return block

    def __contains__(self, name: bytes) -> bool:
        return name in self._blocks

    async def room(self, size: int) -> Room:
        """Memory for a block of `size` bytes, as soon as there is enough."""
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
        """Free that many bytes."""
        self._used -= size
        self._tell()

    def keep(self, name: bytes, block: WholeBlock) -> None:
        """Keep a block whose room was given back without an await since."""
        if name not in self._blocks:
            self._blocks[name] = block
            self._used += block.size

    # -- blocks that have to be stored first --------------------------------------------------------------------------

    @property
    def is_wanted(self) -> bool:
        """Whether a task waits for room."""
        return self._wanted > 0

    def pin(self, name: bytes) -> None:
        """Do not drop a block for now."""
        self._pinned[name] = None

    def is_pinned(self, name: bytes) -> bool:
        """Whether `pin` still holds: not if a task has waited for room for too long."""
        return name in self._pinned

    def unpin(self, name: bytes) -> None:
        """A block may be dropped again; harmless for one that was not pinned."""
        self._pinned.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


_LOOK_SECONDS = 0.05
_SHARE = 2  # of the memory that may wait


class BlockStorer:
    """One per mount. `is_busy`: whether blocks are on their way. Blocks are stored as long as `run` runs."""

    def __init__(self, memory: BlockMemory, cache: BlockCache, is_busy: Callable[[], bool]) -> None:
        self._memory = memory
        self._cache = cache
        self._is_busy = is_busy
        self._waiting: dict[bytes, WholeBlock] = {}
        self._wake = trio.Event()

    def add(self, name: bytes, block: WholeBlock) -> None:
        """Store a block, which stays in memory until then."""
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
        size = self._cache.block_size
        for index, offset in enumerate(range(0, block.size, size)):
            while self._is_busy() and not self._is_pressed():  # noqa: ASYNC110  # it is about time that passes
                await trio.sleep(_LOOK_SECONDS)
            if not self._memory.is_pinned(name):  # a task could not wait for memory any longer
                return
            part = block.read_now(offset, size)
            await self._cache.put(keep_content(name), index, part if isinstance(part, bytes) else bytes(part))
            await trio.lowlevel.checkpoint()

    def _is_pressed(self) -> bool:
        waiting = sum(block.size for block in self._waiting.values())
        return self._memory.is_wanted or waiting > self._memory.limit // _SHARE
