"""Decoders: the bytes of a folder, or of a stretch of it, front to back; and those of a mount that are running.

There are three kinds: of bytes that are merely stored, of the standard library in worker threads, and children (see
archive/extractor). A running decoder is kept open for the reader that continues where the last one stopped. Owns how
many there are and how much memory they take. Invariants: cancelling a call to a decoder loses nothing, as a piece is
decoded wholly or not at all; a decoder that works, or that a reader waits for, is never closed to make room.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from riafs.archive.decompressors import Decompressor
from riafs.archive.extractor import Engine, Extractor
from riafs.archive.methods import RestartingDecompressor
from riafs.cache.blocks import BlockCache
from riafs.counters import Counters
from riafs.errors import DecodeFailed, RiafsError, StoreError
from riafs.formats.sevenzip.lzma2 import Stretch
from riafs.storage.bytesource import RangedBytes

PACKED_PIECE = 256 << 10


class Decoder(Protocol):
    """Decodes in order. Not for several tasks at once."""

    async def decode(self, most: int) -> bytes:
        """The next 1 to `most` bytes. Raises DecodeFailed where there are none, and what reading the archive raises."""

    def close(self) -> None:
        """Give back processes, descriptors and dictionaries; harmless twice."""


class ThreadDecoder:
    """The decompressor of a folder in worker threads: `size` bytes from `offset` of the packed bytes on.

    Raises MalformedArchive, MissingProgram, UnsupportedArchive.
    """

    def __init__(
        self, packed: RangedBytes, offset: int, make: Callable[[], Decompressor], size: int,
        workers: trio.CapacityLimiter, shown: str,
    ) -> None:  # fmt: skip
        self._decompressor = RestartingDecompressor(make, size, shown)
        self._packed = packed
        self._offset = offset
        self._workers = workers

    async def decode(self, most: int) -> bytes:
        while True:
            data = b""
            if self._decompressor.needs_input:
                data = bytes(await self._packed.read(self._offset + self._decompressor.position, PACKED_PIECE))
            decoded = await trio.to_thread.run_sync(self._decompressor.decode, data, most, limiter=self._workers)
            if decoded:
                return decoded

    def close(self) -> None:
        """Nothing to give back."""


class StoredDecoder:
    """Bytes that were packed by being encrypted only."""

    def __init__(self, packed: RangedBytes, offset: int) -> None:
        self._packed = packed
        self._position = offset

    async def decode(self, most: int) -> bytes:
        data = bytes(await self._packed.read(self._position, most))
        if not data:
            raise DecodeFailed("encrypted archive member ends too early")
        self._position += len(data)
        return data

    def close(self) -> None:
        """Nothing to give back."""


_MOST = 8
_OWN_MEMORY = 4 << 20
_NEAR = 8 << 20  # what a run makes while another decoder is started


class RunningDecoder:
    """One decoder on its way through one stretch of one folder; positions count the folder's decoded bytes.

    Bytes up to `delivered` were given to members, those up to `position` are on their way, and those up to `goal` will
    be, if a reader waits or the clock has not passed `wanted_until`. `engine`: what decodes, None for this process.
    `problem`: what ended it. `users`: readers that wait for it, and the task that drives it while it is `running`.
    """

    def __init__(self, archive: object, folder: int, stretch: Stretch, engine: Engine | None, decoder: Decoder) -> None:
        self.archive = archive
        self.folder = folder
        self.stretch = stretch
        self.engine = engine
        self.decoder = decoder
        self.position = self.delivered = self.goal = stretch.start
        self.users = 0
        self.wanted_until = 0.0
        self.running = False
        self.closed = False
        self.problem: RiafsError | None = None
        self.idle = trio.Event()
        self.idle.set()
        self._progress = trio.Event()

    def comes_to(self, offset: int) -> bool:
        """Whether it will deliver the byte at `offset` of the folder sooner than a decoder that is started there."""
        is_soon = not self.stretch.is_run or offset < self.goal or offset - self.position <= _NEAR
        return self.delivered <= offset < self.stretch.end and is_soon

    async def progress(self) -> None:
        """Wait until more is delivered, or nothing more will be."""
        await self._progress.wait()

    def tell(self) -> None:
        """Wake the readers that wait for progress."""
        self._progress.set()
        self._progress = trio.Event()


class DecoderPool:
    """The running decoders of a mount: at most `_MOST`, their dictionaries at most `memory` bytes, or a single one."""

    def __init__(self, memory: int) -> None:
        self._bound = memory
        self._running: OrderedDict[RunningDecoder, int] = OrderedDict()
        self._opening = 0
        self._opening_memory = 0
        self._room = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def find(self, archive: object, folder: int, offset: int) -> RunningDecoder | None:
        """The decoder that delivers the byte at `offset` of a folder soonest, if one will."""
        coming = [each for each in self._through(archive, folder, offset) if each.comes_to(offset)]
        return max(coming, key=lambda each: each.position, default=None)

    def just_beyond(self, archive: object, folder: int, offset: int, distance: int) -> RunningDecoder | None:
        """A decoder that has delivered the byte at `offset` of a folder, and not more than `distance` after it."""
        beyond = [each for each in self._through(archive, folder, offset) if each.delivered > offset]
        return next((each for each in beyond if each.delivered - offset <= distance), None)

    def run(self, archive: object, folder: int, offset: int) -> RunningDecoder | None:
        """A run that has delivered the byte at `offset` of a folder, or will soon."""
        runs = [each for each in self._through(archive, folder, offset) if each.stretch.is_run]
        return next((each for each in runs if each.delivered > offset or each.comes_to(offset)), None)

    def finishing_run(self, archive: object, folder: int) -> RunningDecoder | None:
        """A run of a folder that is being decoded to its end."""
        runs = [each for each in self._running if (each.archive, each.folder) == (archive, folder)]
        return next(
            (each for each in runs if each.stretch.is_run and each.running and each.goal == each.stretch.end), None
        )

    def _through(self, archive: object, folder: int, offset: int) -> list[RunningDecoder]:
        """The decoders whose stretch has the byte at `offset` of a folder."""
        name = (archive, folder)
        within = [each for each in self._running if each.stretch.start <= offset < each.stretch.end]
        return [each for each in within if (each.archive, each.folder) == name]

    async def open(
        self, archive: object, folder: int, stretch: Stretch, memory: int, engine: Engine | None,
        start: Callable[[], Awaitable[Decoder]],
    ) -> RunningDecoder:  # fmt: skip
        """A new decoder, used once, with what `start` makes, as soon as there is room for one of `memory` bytes.

        Raises StoreError once the pool was closed, and what `start` raises.
        """
        memory += _OWN_MEMORY
        while not self._make_room(memory) and not self._closed:
            await self._room.wait()
        self._refuse_closed()
        self._opening += 1
        self._opening_memory += memory
        try:
            opened = RunningDecoder(archive, folder, stretch, engine, await start())
            self._running[opened] = memory
            opened.users += 1
            if self._closed:  # meanwhile
                self.close(opened)
                self._refuse_closed()
        finally:
            self._opening -= 1
            self._opening_memory -= memory
            self.tell()
        return opened

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError("archive members are not decoded any more: the mount ends")

    def _make_room(self, memory: int) -> bool:
        """Close what is idle, longest unused first, until one more fits."""
        for idle in [each for each in self._running if not each.users]:
            if self._fits(memory):
                break
            self.close(idle)
        return self._fits(memory)

    def _fits(self, memory: int) -> bool:
        count = len(self._running) + self._opening
        used = sum(self._running.values()) + self._opening_memory
        return count == 0 or (count < _MOST and used + memory <= self._bound)

    def tell(self) -> None:
        """Wake the tasks that wait for room."""
        self._room.set()
        self._room = trio.Event()

    def leave(self, used: RunningDecoder) -> None:
        """A user less. A decoder that has come to its end is closed."""
        used.users -= 1
        if not used.closed:
            self._running.move_to_end(used)
            if used.position >= used.stretch.end and not used.users:
                self.close(used)
        self.tell()

    def close(self, one: RunningDecoder) -> None:
        """Close a decoder; harmless twice."""
        one.closed = True
        self._running.pop(one, None)
        one.decoder.close()
        one.tell()

    def close_all(self) -> None:
        """Close every decoder, and open no more."""
        self._closed = True
        self.tell()
        for each in list(self._running):
            self.close(each)

    def close_idle(self, archive: object) -> None:
        """Close those of an archive that have no users."""
        for each in list(self._running):
            if each.archive is archive and not each.users:
                self.close(each)


class Resources:
    """What the decoders of a mount share.

    `spill`: bytes of disk for large members while they are decoded, in the extractor's directory. `memory`: bytes of
    all decoders' dictionaries. `workers`: threads that decode at once, and as many that store and check.
    """

    def __init__(
        self, extractor: Extractor, blocks: BlockCache, counters: Counters, spill: int, memory: int, workers: int
    ) -> None:
        self.extractor = extractor
        self.blocks = blocks
        self.counters = counters
        self.spill = spill
        self.workers = trio.CapacityLimiter(workers)
        self.storing = trio.CapacityLimiter(workers)
        self.decoders = DecoderPool(memory)
