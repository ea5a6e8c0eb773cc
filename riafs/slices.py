"""Long work on the event loop in slices, so that a request waits for one slice at most, however much work there is.

Such work is a generator that yields wherever other tasks may run: what it reads must not change meanwhile, or it must
notice the change.
"""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from heapq import merge
from typing import Any, TypeVar

import trio

T = TypeVar("T")
Sliced = Generator[None, None, T]
"""Work whose result is a `T`."""

SLICE_SECONDS = 0.005
_RUN = 4096
"""How many items are sorted at once."""


async def in_slices(work: Sliced[T]) -> T:
    """The result of `work`; other tasks run every SLICE_SECONDS, and once in any case."""
    while True:
        until = time.perf_counter() + SLICE_SECONDS
        try:
            next(work)
            while time.perf_counter() < until:
                next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()


def at_once(work: Sliced[T]) -> T:
    """The same without other tasks: in a thread or a command of its own."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def sorting(items: Sequence[T], key: Callable[[T], Any]) -> Sliced[list[T]]:
    """`items` in order; equal ones keep theirs."""
    runs = []
    for start in range(0, len(items), _RUN):
        runs.append(sorted(items[start : start + _RUN], key=key))
        yield
    return runs[0] if len(runs) == 1 else (yield from listing(merge(*runs, key=key)))


def listing(items: Iterable[T]) -> Sliced[list[T]]:
    """All `items`, which are made one by one."""
    found: list[T] = []
    for each in items:
        found.append(each)
        yield
    return found


class Pauses:
    """For a task that awaits, but mostly what is ready: `pause` lets other tasks run when that is due."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def pause(self) -> None:
        """Called wherever other tasks may run."""
        if time.perf_counter() >= self._until:
            await trio.lowlevel.checkpoint()
            self._until = time.perf_counter() + SLICE_SECONDS
