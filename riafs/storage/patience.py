"""Patience: blocking calls in worker threads, each with a deadline and a limit on how many wait at once.

A store on a dead network file system blocks the thread that asks, for ever. The thread is then left behind and the
caller gets StoreTimeout; the limit is per store, so a dead store cannot use up the threads of its neighbours.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from riafs.counters import Counters
from riafs.errors import StoreTimeout, TaskFailed
from riafs.tasks import described, is_shortage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Enough to keep a parallel file system busy, far below the number of requests that the kernel may have in flight.
THREADS_PER_STORE = 24


class Patience:
    """The deadline (`seconds`) and thread limit of one store, called `name` in messages."""

    __slots__ = ("_counters", "_limiter", "name", "seconds")

    def __init__(self, name: str, seconds: float, counters: Counters, threads: int = THREADS_PER_STORE) -> None:
        self.name = name
        self.seconds = seconds
        self._counters = counters
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """``function(*arguments)`` in a worker thread. Raises StoreTimeout after `seconds`, and what it raises."""
        return await self.run_longer(0, function, *arguments)

    async def run_longer(self, extra: float, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """The same with `extra` seconds, for what moves many bytes."""
        seconds = self.seconds + extra
        with trio.move_on_after(seconds):
            try:
                return await trio.to_thread.run_sync(
                    function, *arguments, abandon_on_cancel=True, limiter=self._limiter
                )
            except RuntimeError as error:
                if not is_shortage(error):
                    raise
                raise TaskFailed(f"{self.name}: {described(error)}") from error
        self._counters.store_timeouts += 1
        raise StoreTimeout(f"{self.name} did not answer within {seconds:g} s")
