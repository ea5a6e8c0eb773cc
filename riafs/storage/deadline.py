"""Deadlines: blocking calls in worker threads, each with a deadline and a limit on how many wait at once.

A store on a dead network file system blocks a thread that calls it for ever, and a thread cannot be cancelled. It is
left behind, and the caller gets StoreTimeout. The number of threads is limited for each store, so that a dead store
does not take the threads of others.

All work for one request of a program shares one deadline: a key may be in a dozen locations, and a reader that has
waited for the first does not wait as long for the next. `begin_request` starts the request's time, and each step that
may wait for a store runs `within` what is left of it. Time in which bytes arrive fast enough does not count.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TypeVar, TypeVarTuple

import trio

from riafs.counters import Counters
from riafs.errors import StoreTimeout, TaskFailed
from riafs.tasks import described, is_shortage

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Enough to keep a parallel file system busy, far below the number of requests that the kernel may have in flight.
THREADS_PER_STORE = 24
_RESERVED_THREADS = 4
_SLOWEST = 256 << 10  # bytes a second; a read that is at least this fast does not count as waiting


class _Waited:
    """How many seconds one request has waited for stores; waits at the same time count once."""

    __slots__ = ("_until", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._until = 0.0

    def add(self, began: float, ended: float, moving: float) -> None:
        """Count the wait from `began` to `ended`, less the `moving` seconds that the bytes it read may take."""
        self.seconds += max(0.0, ended - max(began, self._until) - moving)
        self._until = ended


_waited: ContextVar[_Waited | None] = ContextVar("waited", default=None)


def begin_request() -> None:
    """Start the time of a request: this task, and those that it starts, work for it from now on."""
    _waited.set(_Waited())


def leave_request() -> None:
    """This task's work serves several requests from now on, so that each of its steps has a deadline of its own."""
    _waited.set(None)


def exhaust_request() -> None:
    """Wait for nothing else in this request, since something did not answer within its deadline."""
    waited = _waited.get()
    if waited is not None:
        waited.seconds = float("inf")


def time_left(seconds: float) -> float:
    """The rest of a deadline of `seconds`, after what this request has already waited."""
    waited = _waited.get()
    return seconds if waited is None else max(0.0, seconds - waited.seconds)


@contextmanager
def within(seconds: float, longer: float = 0.0, moving: float = 0.0) -> Iterator[None]:
    """One wait of a request. The block is cancelled when the request has waited for `seconds` in total; this wait may
    take `longer` beyond that, and `moving` seconds of it, in which bytes arrive, do not count.

    The code after the block runs only if it was cancelled (the block returns), and raises StoreTimeout.
    """
    waited = _waited.get()
    if waited is None:
        with trio.move_on_after(seconds + longer):
            yield
        return
    began = trio.current_time()
    left = seconds - waited.seconds
    with trio.move_on_after(left + longer if left > 0 else 0) as scope:
        if left <= 0:
            scope.cancel()
        try:
            yield
        finally:
            waited.add(began, trio.current_time(), longer + moving)
    if scope.cancelled_caught:
        exhaust_request()


async def wait_while_moving(event: trio.Event, seconds: float, is_moving: Callable[[], bool]) -> bool:
    """Wait for `event`, for what others do that this request needs; False if it did not come within `seconds`, less
    what the request has waited before. A period after which `is_moving` is true does not count.
    """
    waited = _waited.get()
    while True:
        began, left = trio.current_time(), time_left(seconds)
        with trio.move_on_after(left):
            await event.wait()
        if event.is_set():
            if waited is not None:
                waited.add(began, trio.current_time(), 0.0)
            return True
        if left <= 0 or not is_moving():
            exhaust_request()
            return False


class DeadlineLock:
    """A lock for work that has a deadline. A task that waited while the work ahead of it timed out fails in the same
    way, instead of trying for as long again.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._ended = float("-inf")
        self._problem: StoreTimeout | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold the lock. Raises StoreTimeout."""
        came = trio.current_time()
        async with self._lock:
            if self._problem is not None and came < self._ended:
                raise StoreTimeout(*self._problem.args)
            try:
                yield
            except StoreTimeout as problem:
                self._ended, self._problem = trio.current_time(), problem
                raise


class Deadline:
    """The deadline (`seconds`) and thread limit of one store, called `name` in messages.

    `ours`: a directory of riafs rather than a store; each call has a deadline of its own, whatever the request waited.
    """

    __slots__ = ("_counters", "_limiter", "_ours", "_reserved", "name", "seconds")

    def __init__(
        self, name: str, seconds: float, counters: Counters, threads: int = THREADS_PER_STORE, *, ours: bool = False
    ) -> None:
        self.name = name
        self.seconds = seconds
        self._counters = counters
        self._limiter = trio.CapacityLimiter(threads)
        self._reserved = trio.CapacityLimiter(_RESERVED_THREADS)
        self._ours = ours

    @property
    def reserved_are_busy(self) -> bool:
        """Whether `run_reserved` would have to wait for a thread."""
        return self._reserved.available_tokens < 1

    async def run_reserved(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """As `run`, in one of a few threads reserved for names: these can be listed while all others read content."""
        return await self._run(0.0, 0.0, function, *arguments, limiter=self._reserved)

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """``function(*arguments)`` in a worker thread. Raises StoreTimeout after `seconds`, and what it raises."""
        return await self._run(0.0, 0.0, function, *arguments)

    async def run_longer(self, extra: float, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """As `run`, with a deadline of `extra` more seconds, for calls that move many bytes."""
        return await self._run(extra, 0.0, function, *arguments)

    async def run_reading(self, size: int, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """As `run`, for a call that reads `size` bytes: the time that these may take does not count as waiting."""
        return await self._run(0.0, size / _SLOWEST, function, *arguments)

    async def _run(
        self,
        longer: float,
        moving: float,
        function: Callable[[*Ts], T],
        *arguments: *Ts,
        limiter: trio.CapacityLimiter | None = None,
    ) -> T:
        if self._ours:
            with trio.move_on_after(self.seconds + longer):
                return await self._in_thread(limiter or self._limiter, function, *arguments)
        else:
            with within(self.seconds, longer, moving):
                return await self._in_thread(limiter or self._limiter, function, *arguments)
        self._counters.store_timeouts += 1
        raise StoreTimeout(f"{self.name} did not answer within {self.seconds + longer:g} s")

    async def _in_thread(self, limiter: trio.CapacityLimiter, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        try:
            return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=limiter)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            raise TaskFailed(f"{self.name}: {described(error)}") from error


class ProgressQueue:
    """A queue whose waiters time out only when nothing ahead of them makes progress for `seconds`.

    There is one for each thing that is waited for: a server's connections, memory.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.last_progress = float("-inf")
        """In trio's time."""

    def progressed(self) -> None:
        """Note that work ahead of the waiters has made progress."""
        self.last_progress = trio.current_time()

    async def wait(self, acquire: Callable[[], Awaitable[T]], what: str) -> T:
        """The result of `acquire`, which is called again after each timeout with progress. Raises StoreTimeout, whose
        message begins with `what`.
        """
        while True:
            since = trio.current_time()
            with trio.move_on_after(self._seconds):
                return await acquire()
            if self.last_progress < since:
                raise StoreTimeout(f"{what}, for {self._seconds:g} s by now")
