"""Deadlines: blocking calls in worker threads, each with a deadline and a limit on how many wait at once.

A store on a dead network file system blocks the thread that asks, for ever. The thread is then left behind and the
caller gets StoreTimeout; the limit is per store, so a dead store cannot use up the threads of its neighbours.

Everything done for one request of a program shares one deadline: a key may be in a dozen locations, and a reader who
waited for the first does not wait as long for the next. `begin_request` begins one, and everything that may wait for a
store does so `within` it. Time in which many bytes moved does not count.
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
_THREADS_APART = 4
_SLOWEST = 256 << 10  # bytes a second that a store may take without losing patience


class _Waited:
    """How many seconds one request has waited for stores; what was waited for at the same time counts once."""

    __slots__ = ("_until", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._until = 0.0

    def add(self, began: float, ended: float, moving: float) -> None:
        """From `began` to `ended` was waited, in which bytes moved that may take `moving` seconds."""
        self.seconds += max(0.0, ended - max(began, self._until) - moving)
        self._until = ended


_waited: ContextVar[_Waited | None] = ContextVar("waited", default=None)


def begin_request() -> None:
    """What this task does from now on, and whatever it starts, is for one request of a program."""
    _waited.set(_Waited())


def leave_request() -> None:
    """What this task does is for whoever will want it; each of its steps has a deadline of its own."""
    _waited.set(None)


def exhaust_request() -> None:
    """Something did not answer within its deadline: nothing else is waited for in this request."""
    waited = _waited.get()
    if waited is not None:
        waited.seconds = float("inf")


def time_left(seconds: float) -> float:
    """How much of a deadline of `seconds` this request has not waited yet."""
    waited = _waited.get()
    return seconds if waited is None else max(0.0, seconds - waited.seconds)


@contextmanager
def within(seconds: float, longer: float = 0.0, moving: float = 0.0) -> Iterator[None]:
    """A part of what a request waits for: it is cancelled, and the block left, when the request has waited for
    `seconds` in all, and `longer` for this part alone. `moving`: seconds that it may take as bytes are moving.

    Whoever comes to the line after the block raises StoreTimeout.
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


class DeadlineLock:
    """A lock. Whoever waited behind one who ran into a deadline is told so, instead of trying it for as long again."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._ended = float("-inf")
        self._problem: StoreTimeout | None = None

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One's turn. Raises StoreTimeout."""
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

    `ours`: a directory of ours rather than a store, with a deadline of its own for each call.
    """

    __slots__ = ("_apart", "_counters", "_limiter", "_ours", "name", "seconds")

    def __init__(
        self, name: str, seconds: float, counters: Counters, threads: int = THREADS_PER_STORE, *, ours: bool = False
    ) -> None:
        self.name = name
        self.seconds = seconds
        self._counters = counters
        self._limiter = trio.CapacityLimiter(threads)
        self._apart = trio.CapacityLimiter(_THREADS_APART)
        self._ours = ours

    @property
    def is_busy_apart(self) -> bool:
        """Whether `run_apart` would have to wait for a thread."""
        return self._apart.available_tokens < 1

    async def run_apart(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """As `run`, in one of a few other threads: names can be shown while all others wait for content."""
        return await self._run(0.0, 0.0, function, *arguments, limiter=self._apart)

    async def run(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """``function(*arguments)`` in a worker thread. Raises StoreTimeout after `seconds`, and what it raises."""
        return await self._run(0.0, 0.0, function, *arguments)

    async def run_longer(self, extra: float, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """The same with `extra` seconds, for what moves many bytes."""
        return await self._run(extra, 0.0, function, *arguments)

    async def run_reading(self, size: int, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """The same for what reads `size` bytes: it has no more time, but what it takes for them does not count."""
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
    """One for each thing that is waited for. `seconds`: how long nothing may move."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moved = float("-inf")

    @property
    def moved(self) -> float:
        """When one of them last got on, in trio's time."""
        return self._moved

    def moves(self) -> None:
        """One of those in front gets on."""
        self._moved = trio.current_time()

    async def wait(self, turn: Callable[[], Awaitable[T]], what: str) -> T:
        """What `turn` gives, which may be called more than once. Raises StoreTimeout, whose message begins with
        `what`."""
        while True:
            since = trio.current_time()
            with trio.move_on_after(self._seconds):
                return await turn()
            if self._moved < since:
                raise StoreTimeout(f"{what}, for {self._seconds:g} s by now")
