"""Tasks that go on beside requests, and the one guard around them.

A shortage (no thread, no memory, no descriptor) or a bug in one of them costs what it was doing, not the mount: the
guard logs it. A task without an end is begun anew after a pause; one that others wait for tells them with `as_failure`
why nothing comes.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVarTuple

import trio

from riafs.counters import Counters
from riafs.errors import OutOfMemory, RiafsError, TaskFailed

log = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_NO_THREAD = "can't start new thread"
"""The text of CPython's RuntimeError."""


class Background:
    """Runs such tasks in `nursery`, until that is cancelled."""

    def __init__(self, nursery: trio.Nursery, counters: Counters | None = None) -> None:
        self._nursery = nursery
        self._counters = counters or Counters()

    def start_soon(self, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
        """Run a task that ends. One that users wait for has to tell them of its failure itself."""
        self._nursery.start_soon(self._once, task, *arguments)

    def keep_running(self, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
        """Run a task that has no end of its own; whenever it fails, run it again, after pauses that grow."""
        self._nursery.start_soon(self._again_and_again, task, *arguments)

    @contextmanager
    def survived(self, name: str) -> Iterator[None]:
        """The guard, for a turn of a task; `name` is what the log calls it."""
        with guarded(name, self._counters):
            yield

    async def _once(self, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> bool:
        """Whether it came to its end."""
        outcome = []
        with self.survived(_name_of(task)):
            outcome.append(await task(*arguments))
        return bool(outcome)

    async def _again_and_again(self, task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
        pause = _FIRST_PAUSE
        began = trio.current_time()
        while not await self._once(task, *arguments):
            if trio.current_time() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            began = trio.current_time()


async def run_all(*jobs: Callable[[], Awaitable[Any]]) -> None:
    """Run the jobs at once. The first failure ends the others and is raised by itself, not in a group."""
    try:
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)
    except BaseExceptionGroup as group:
        raise first_failure(group) from None


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the exception in a group of one by itself: a nursery wraps also what goes wrong in its own body."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


def first_failure(error: BaseException) -> BaseException:
    """The first exception in a (nested) group that is no cancellation, if there is one; anything else is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.split(trio.Cancelled)[1] or error).exceptions[0]
    return error


def start_detached(task: Callable[[*Ts], Awaitable[object]], *arguments: *Ts) -> None:
    """Run a task that belongs to no nursery: a decoder that several readers use, the end of a child. Behind the same
    guard, as trio ends the whole process for a failure in a system task."""

    async def run() -> None:
        with guarded(_name_of(task), Counters()):
            await task(*arguments)

    trio.lowlevel.spawn_system_task(run)


@contextmanager
def guarded(name: str, counters: Counters) -> Iterator[None]:
    """The guard: what goes wrong inside is logged and counted, and ends there. Cancellation passes."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # the one guard around background tasks
        _report(name, error, counters)
    except BaseExceptionGroup as group:  # of a task's own nursery: a failure together with cancellation
        failures, rest = group.split(Exception)
        if failures is not None:
            _report(name, failures, counters)
        if rest is not None:
            raise rest from None


def _report(name: str, error: Exception, counters: Counters) -> None:
    counters.task_failures += 1
    expected = isinstance(error, RiafsError) or is_shortage(error)
    log.error("%s failed, everything else goes on: %s", name, described(error), exc_info=None if expected else error)


@contextmanager
def as_failure(what: str) -> Iterator[None]:
    """For what a task does that others wait for: every exception becomes one of ours.

    `what`: the thing that cannot be had then. Raises TaskFailed, OutOfMemory; a RiafsError stays what it is.
    """
    try:
        yield
    except RiafsError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"{what}: {described(error)}") from error
    except Exception as error:
        if not is_shortage(error):
            log.exception("%s: an internal error", what)
        raise TaskFailed(f"{what}: {described(error)}") from error


def is_shortage(error: BaseException) -> bool:
    """Whether this machine or its user had too little of something, which is no bug."""
    return isinstance(error, MemoryError | OSError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def described(error: BaseException) -> str:
    """A failure in words, for messages."""
    if isinstance(error, RiafsError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason
    if is_shortage(error):
        return "no more thread can be started for this user"
    return f"internal error ({type(error).__name__}); the log tells more"


def _name_of(task: Callable[..., object]) -> str:
    return getattr(task, "__qualname__", type(task).__qualname__)
