"""The block cache of a mount: memory first, then the disk, which all mounts of a user share.

A block is a part of some content: block i begins at byte ``i * block_size``. As all stores of a user share the cache,
the name of a content must never mean other bytes on this machine: it has the key with its digest (`annex_content`), or
for content without a digest, the version of the file it comes from. Only verified content may be put.

How it works: `fetch` looks into memory, waits if another task is producing the block, else reads the disk, else
produces the block itself and queues it for the disk. Two writers (`keep`) take blocks from the queue. No failure of the
disk reaches a reader: if it is full, unwritable, damaged or does not answer, it is not used for a minute, with one
warning in the log, and blocks are produced again.

State (one event loop; threads only get arguments):

- `_lookups`: blocks that one task looks for on the disk; others that want one wait for that.
- `_productions`: blocks that one task produces for a reader, whose other tasks that want one wait for that task. There
  is no await between looking into memory and entering a block here, so that no block is produced twice.
- `_unwritten`: blocks from `put` until they are written or dropped; they are found here meanwhile. `_unwritten_size` is
  the sum of their sizes.
- `_queue`: the names of unwritten blocks that no writer has taken.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
from cachetools import LRUCache

from riafs.cache.block_files import MAX_LENGTH, BlockName, content_digest
from riafs.cache.disk import DiskBlocks, TemporaryBlocks
from riafs.cache.eviction import DiskLimits
from riafs.counters import Counters
from riafs.errors import CorruptContent, RiafsError, ShortRead
from riafs.storage.bytesource import Buffer
from riafs.storage.deadline import Deadline
from riafs.tasks import as_failure

log = logging.getLogger(__name__)

_OVERHEAD = 256
"""Bytes of memory that a cached block takes in addition to its data, about."""
_READERS, _WRITERS = 8, 2
_UNWRITTEN = 32 << 20
_PUT_SECONDS = 5.0
_DISK_SECONDS = 10.0
_PAUSE_SECONDS = 60.0
_LAST_SECONDS = 5.0

_Name = tuple[bytes, int, int]
"""(content, index, length)."""


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """Size of blocks, and limits of all blocks in memory and on the disk; in bytes."""

    block_size: int = 1 << 20
    memory: int = 64 << 20
    disk: DiskLimits = field(default_factory=DiskLimits)


@dataclass(slots=True)
class _Production:
    """A block that a task produces. When it is done, `data` or `problem` is set; neither if it was cancelled."""

    done: trio.Event = field(default_factory=trio.Event)
    data: bytes | None = None
    problem: RiafsError | None = None


class _DiskPauses:
    """Reading and writing pause for a minute after a failure. The first failure is logged as a warning."""

    def __init__(self) -> None:
        self._until = {"read": 0.0, "write": 0.0}
        self._warned = False

    def is_paused(self, use: str) -> bool:
        return trio.current_time() < self._until[use]

    def failed(self, use: str, problem: Exception) -> None:
        level = logging.INFO if self._warned else logging.WARNING
        log.log(level, "blocks are not cached on the disk for now (%s): %s", use, problem)
        self._warned = True
        self._until[use] = trio.current_time() + _PAUSE_SECONDS


class BlockCache:
    """One per mount; used from the event loop's thread. `cache`: the cache directory, if there is one.

    `temporary`: where blocks go that memory has no room for, without a cache directory. Blocks go to the disk as long
    as `keep` runs.
    """

    def __init__(
        self, cache: str | None, limits: BlockLimits, counters: Counters, temporary: TemporaryBlocks | None = None
    ) -> None:
        if not 0 < limits.block_size <= MAX_LENGTH:
            raise ValueError(f"blocks of {limits.block_size} bytes")
        self._limits = limits
        self._counters = counters
        self._memory: LRUCache[_Name, bytes] = LRUCache(limits.memory, getsizeof=_weight)
        self._disk = DiskBlocks(cache, limits.disk) if cache is not None and limits.disk.size else None
        self._temporary = temporary
        self._productions: dict[tuple[object, _Name], _Production] = {}
        self._lookups: dict[_Name, trio.Event] = {}
        self._unwritten: dict[_Name, bytes] = {}
        self._unwritten_size = 0
        self._queue: deque[_Name] = deque()
        self._changed = trio.Condition()
        self._keeping = False
        self._reading = Deadline("the cache directory", _DISK_SECONDS, counters, _READERS, ours=True)
        self._writing = Deadline("the cache directory", _DISK_SECONDS, counters, _WRITERS, ours=True)
        self._pauses = _DiskPauses()

    @property
    def block_size(self) -> int:
        """Bytes of every block but the last one of a content."""
        return self._limits.block_size

    # -- reading ------------------------------------------------------------------------------------------------------

    async def get(self, content: bytes, index: int, length: int) -> bytes | None:
        """Block `index` of `content`, which has exactly `length` bytes, or None if it is not cached."""
        name = (content, index, length)
        data = self._in_memory(name)
        if data is not None:
            return data
        lookup = self._lookups.get(name)
        if lookup is not None:
            await lookup.wait()
            return self._in_memory(name) or await self._from_disk(name)
        lookup = self._lookups[name] = trio.Event()
        try:
            return await self._from_disk(name)
        finally:
            del self._lookups[name]
            lookup.set()

    async def read(self, content: bytes, size: int, offset: int, length: int) -> Buffer | None:
        """A range of `content`, which has `size` bytes; None unless all of it is cached. Copied only across blocks."""
        pieces: list[memoryview] = []
        end = offset + length
        for index in range(offset // self.block_size, -(-end // self.block_size)):
            start = index * self.block_size
            block = await self.get(content, index, min(self.block_size, size - start))
            if block is None:
                return None
            pieces.append(memoryview(block)[max(offset - start, 0) : end - start])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _in_memory(self, name: _Name) -> bytes | None:
        data: bytes | None = self._memory.get(name)
        if data is None:
            data = self._unwritten.get(name)
        self._counters.blocks_from_memory += data is not None
        return data

    async def _from_disk(self, name: _Name) -> bytes | None:
        if self._temporary is not None and (kept := self._temporary.get(*name)) is not None:
            return kept
        if self._disk is None or self._pauses.is_paused("read"):
            return None
        data = None
        try:
            with as_failure("a block cannot be read"):
                data = await self._reading.run(self._disk.read, self._block_name(name))
        except CorruptContent as problem:
            level = logging.INFO if self._counters.blocks_damaged else logging.WARNING  # a bad disk has thousands
            log.log(level, "%s; it was removed and is made again", problem)
            self._counters.blocks_damaged += 1
        except RiafsError as problem:
            self._pauses.failed("read", problem)
        if data is not None:
            self._counters.blocks_from_disk += 1
            self._remember(name, data)
        return data

    def _block_name(self, name: _Name) -> BlockName:
        content, index, length = name
        return BlockName(content_digest(content), index * self.block_size, length)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def put(self, content: bytes, index: int, data: bytes) -> None:
        """Cache verified bytes as block `index` of `content`: in memory at once, on the disk soon. Never fails.

        Waits up to `_PUT_SECONDS` while 32 MiB wait for the disk; a block that still finds no room is not written.
        """
        name = (content, index, len(data))
        self._remember(name, data)
        await self._send_to_disk(name, data)

    def _remember(self, name: _Name, data: bytes) -> None:
        if 0 < len(data) <= self.block_size and _weight(data) <= self._limits.memory:
            self._memory[name] = data

    async def _send_to_disk(self, name: _Name, data: bytes) -> None:
        """Queue a block for the writers, once there is room for it; drop it where that takes too long."""
        if self._temporary is not None:
            self._temporary.put(name[0], name[1], data)
        if not self._keeping or not 0 < len(data) <= self.block_size:
            return
        with trio.move_on_after(_PUT_SECONDS):
            async with self._changed:
                while self._unwritten_size + len(data) > max(_UNWRITTEN, self.block_size):
                    await self._changed.wait()
                if name not in self._unwritten and not self._pauses.is_paused("write"):
                    self._unwritten[name] = data
                    self._unwritten_size += len(data)
                    self._queue.append(name)
                    self._changed.notify_all()

    async def keep(self) -> None:
        """Write queued blocks to the disk, until cancelled; then those that are left, for a few seconds at most."""
        if self._disk is None:
            return
        self._keeping = True
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(_WRITERS):
                    nursery.start_soon(self._write_on, self._disk)
        finally:
            self._keeping = False
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                while self._queue:
                    await self._write(self._disk, self._queue.popleft())

    async def _write_on(self, disk: DiskBlocks) -> None:
        while True:
            async with self._changed:
                while not self._queue:
                    await self._changed.wait()
                name = self._queue.popleft()
            with trio.CancelScope(shield=True):  # a cancelled write would leave its thread behind
                await self._write(disk, name)
                async with self._changed:
                    self._changed.notify_all()

    async def _write(self, disk: DiskBlocks, name: _Name) -> None:
        try:
            if not self._pauses.is_paused("write"):
                with as_failure("a block cannot be written"):
                    new = await self._writing.run(disk.write, self._block_name(name), self._unwritten[name])
                    self._counters.blocks_written += new
        except RiafsError as problem:
            self._pauses.failed("write", problem)
        finally:
            self._unwritten_size -= len(self._unwritten.pop(name))

    # -- producing ----------------------------------------------------------------------------------------------------

    async def fetch(
        self,
        content: bytes,
        index: int,
        length: int,
        produce: Callable[[], Awaitable[bytes]],
        reader: object = None,
        *,
        new: bool = False,
    ) -> bytes:
        """Block `index` of `content`: the cached one, or the result of `produce`, called once however many tasks wait.

        Tasks wait for those of the same `reader` only: to produce a block may take other blocks, as archives lie in
        archives, and they may be claimed to lie in one another. `new`: no earlier mount can have had this content, so
        the disk is not asked. `produce` returns `length` verified bytes. If it raises
        a RiafsError, all waiting tasks do; if its task is cancelled, another waiting task calls its own. Raises
        ShortRead for a wrong number of bytes.
        """
        name = (content, index, length)
        while True:
            data = self._in_memory(name)
            if data is not None:
                return data
            production = self._productions.get((reader, name))
            if production is None:
                return await self._produce(name, produce, reader, new=new)
            await production.done.wait()
            if production.data is not None:
                return production.data
            if production.problem is not None:
                raise type(production.problem)(*production.problem.args)

    def is_coming(self, content: bytes, index: int, length: int, reader: object = None) -> bool:
        """Whether `fetch` would find the block in memory, or a task of `reader` that produces it."""
        name = (content, index, length)
        return name in self._memory or name in self._unwritten or (reader, name) in self._productions

    async def _produce(
        self, name: _Name, produce: Callable[[], Awaitable[bytes]], reader: object, *, new: bool
    ) -> bytes:
        production = self._productions[reader, name] = _Production()
        try:
            data = None if new else await self._from_disk(name)
            is_new = data is None
            if data is None:
                data = await produce()
                if len(data) != name[2]:
                    raise ShortRead(f"a block of {name[2]} bytes was made with {len(data)}")
                self._counters.blocks_made += 1
                self._remember(name, data)
            production.data = data
        except RiafsError as problem:
            production.problem = problem
            raise
        finally:
            del self._productions[reader, name]
            production.done.set()
        if is_new:
            await self._send_to_disk(name, data)
        return data


def _weight(data: bytes) -> int:
    return len(data) + _OVERHEAD
