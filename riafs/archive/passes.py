"""Passes: decoders under way, kept open for whoever goes on from where the last reader stopped.

Owns how many there are and what memory they take together. Invariant: a pass is used by one task at a time (its lock);
one that somebody waits for or uses is never closed by others.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from riafs.archive.producers import Producer
from riafs.formats.lzma2 import Segment

if TYPE_CHECKING:
    from riafs.errors import RiafsError

_MOST = 8
_OWN_MEMORY = 4 << 20


class Pass:
    """One decoder on its way through one segment of one folder; `position` counts the folder's decoded bytes.

    `problem`: what went wrong when its bytes were stored. A closed one is of no use to those who still wait for it.
    """

    def __init__(self, archive: object, folder: int, segment: Segment, producer: Producer) -> None:
        self.archive = archive
        self.folder = folder
        self.segment = segment
        self.producer = producer
        self.position = segment.start
        self.lock = trio.Lock()
        self.users = 0
        self.closed = False
        self.problem: RiafsError | None = None


class PassPool:
    """All passes of a mount: at most `_MOST`, together at most `memory` bytes of dictionaries, or a single one."""

    def __init__(self, memory: int) -> None:
        self._bound = memory
        self._passes: OrderedDict[Pass, int] = OrderedDict()
        self._opening = 0
        self._opening_memory = 0
        self._changed = trio.Condition()

    def find(self, archive: object, folder: int, segment: Segment, offset: int) -> Pass | None:
        """The pass through `segment` that gets to `offset` soonest, None if all are beyond it."""
        fitting = [
            each
            for each in self._passes
            if (each.archive, each.folder, each.segment.start) == (archive, folder, segment.start)
            and each.position <= offset
        ]
        return max(fitting, key=lambda each: each.position, default=None)

    async def open(
        self, archive: object, folder: int, segment: Segment, memory: int, start: Callable[[], Awaitable[Producer]]
    ) -> Pass:
        """A new pass, used once, with what `start` makes, as soon as there is room for one of `memory` bytes."""
        memory += _OWN_MEMORY
        async with self._changed:
            while not self._make_room(memory):
                await self._changed.wait()
            self._opening += 1
            self._opening_memory += memory
        try:
            opened = Pass(archive, folder, segment, await start())
            self._passes[opened] = memory
            opened.users += 1
        finally:
            self._opening -= 1
            self._opening_memory -= memory
            await self._tell()
        return opened

    async def _tell(self) -> None:
        with trio.CancelScope(shield=True):
            async with self._changed:
                self._changed.notify_all()

    def _make_room(self, memory: int) -> bool:
        """Close what is idle, longest unused first, until one more fits."""
        for idle in [each for each in self._passes if not each.users]:
            if self._fits(memory):
                break
            self.close(idle)
        return self._fits(memory)

    def _fits(self, memory: int) -> bool:
        count = len(self._passes) + self._opening
        used = sum(self._passes.values()) + self._opening_memory
        return count == 0 or (count < _MOST and used + memory <= self._bound)

    async def leave(self, used: Pass) -> None:
        """A user less. A pass that has come to its end is closed."""
        used.users -= 1
        if not used.closed:
            self._passes.move_to_end(used)
            if used.position >= used.segment.end and not used.users:
                self.close(used)
        await self._tell()

    def close(self, one: Pass) -> None:
        """Close a pass; harmless twice."""
        one.closed = True
        self._passes.pop(one, None)
        one.producer.close()

    def close_all(self) -> None:
        """Close every pass."""
        for each in list(self._passes):
            self.close(each)

    def close_idle(self, archive: object) -> None:
        """Close those of an archive that nobody uses."""
        for each in list(self._passes):
            if each.archive is archive and not each.users:
                self.close(each)
