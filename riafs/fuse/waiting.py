"""Waiting for the kernel's next request without a turn of the event loop for each.

pyfuse3 waits in trio, under a lock, which for each request comes to two turns of the loop and five system calls: more
than most answers take. But a program mostly asks one thing after the other, so that its next request is there some
microseconds after an answer. Therefore a task that has just answered waits for it without giving up its turn, as long
as that pays.

pyfuse3 is given a trio module of ours for that, as pyfuse3.asyncio gives it one of its own. That relies on how pyfuse3
waits, which is known of the versions in KNOWN (pyfuse3's internal.pxi); any other one waits by itself. With
packaging/pyfuse3-eager-wait.patch pyfuse3 would do all this without us.

Invariants: the loop has its turn after MOST requests, and whenever EAGER_SECONDS pass without one; of the tasks that
wait in trio one waits for the descriptor, and hands that over before it returns.
"""

import logging
import select
import time
from types import ModuleType

import pyfuse3
import trio

from riafs.tasks import described

log = logging.getLogger(__name__)

KNOWN = ("3.4", "3.5")
"""Versions of pyfuse3, without the last number."""
EAGER_SECONDS = 0.0001
MOST = 16
_SELECTABLE = 1024
_PAUSE_SECONDS = 0.05
_PROMPT_SECONDS = 0.0003
"""A request that came so soon, turns of the loop included, came from a program that asks one thing after the other."""


class _AlwaysFree:
    """In the place of pyfuse3's lock: who waits for the descriptor is settled in `Waiting`."""

    async def __aenter__(self) -> None:
        """Nothing."""

    async def __aexit__(self, *_: object) -> None:
        """Nothing."""


class Waiting:
    """Waits for requests of one mount."""

    def __init__(self) -> None:
        self._others = trio.lowlevel.ParkingLot()
        self._is_awaited = False
        self._is_closed = False
        self._is_eager = False
        self._in_a_row = 0

    async def wait_readable(self, descriptor: int) -> None:
        """Return when there is a request, which is read without another await. Raises ClosedResourceError."""
        if self._in_a_row >= MOST:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        if self._is_eager and is_readable(descriptor, EAGER_SECONDS):
            self._in_a_row += 1
            return
        began = time.monotonic()
        await self._wait_in_turn(descriptor)
        self._is_eager = time.monotonic() - began < _PROMPT_SECONDS

    async def _wait_in_turn(self, descriptor: int) -> None:
        while self._is_awaited:
            await self._others.park()
        if self._is_closed:
            raise trio.ClosedResourceError
        self._is_awaited = True
        try:
            await _until_readable(descriptor)
        except trio.ClosedResourceError:
            self._is_closed = True
            self._others.unpark_all()
            raise
        finally:
            self._is_awaited = False
            self._others.unpark()


async def _until_readable(descriptor: int) -> None:
    """Raises ClosedResourceError. Other failures would end pyfuse3's loop and the mount: it is tried again."""
    while True:
        try:
            await trio.lowlevel.wait_readable(descriptor)
            if is_readable(descriptor, 0):  # else another task was faster
                return
        except (OSError, RuntimeError, MemoryError) as error:
            log.warning("cannot wait for the kernel, trying again: %s", described(error))
            await trio.sleep(_PAUSE_SECONDS)


def is_readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to be read, within so many seconds; of high descriptors, whether there is now."""
    if descriptor < _SELECTABLE:
        return bool(select.select((descriptor,), (), (), seconds)[0])
    poll = select.poll()  # waits for whole milliseconds only
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def wait_eagerly() -> bool:
    """Let pyfuse3 wait so, from the next mount of this process on. False for a version of pyfuse3 that is not known."""
    version = str(getattr(pyfuse3, "__version__", "of unknown version"))
    if version.rpartition(".")[0] not in KNOWN:
        log.info("pyfuse3 %s waits for requests by itself, which is slower: %s is known", version, ", ".join(KNOWN))
        return False
    waiting = Waiting()
    lowlevel = _replacing(trio.lowlevel, wait_readable=waiting.wait_readable)
    pyfuse3.trio = _replacing(trio, lowlevel=lowlevel, Lock=_AlwaysFree)  # type: ignore[attr-defined]  # not declared
    return True


def _replacing(module: ModuleType, **names: object) -> ModuleType:
    """A module with all names of another one, but for some."""
    changed = ModuleType(module.__name__)
    changed.__dict__.update({name: getattr(module, name) for name in dir(module)} | names)
    return changed
