"""A store that does not answer costs its caller the deadline, and its neighbours nothing."""

import math
import threading
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from riafs.counters import Counters
from riafs.errors import StoreTimeout
from riafs.storage.deadline import (
    Deadline,
    DeadlineLock,
    begin_request,
    exhaust_request,
    leave_request,
    time_left,
    within,
)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Calls of its `wait` hang until the end of the test."""
    release = threading.Event()
    yield release
    release.set()


async def test_result_and_exception_pass_through() -> None:
    deadline = Deadline("a store", 5, Counters())
    assert await deadline.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await deadline.run(divmod, 7, 0)


async def test_call_that_hangs_ends_with_the_deadline(hanging: threading.Event) -> None:
    counters = Counters()
    began = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"a store did not answer within 0\.1 s"):
        await Deadline("a store", 0.1, counters).run(hanging.wait)
    assert time.monotonic() - began < 2
    assert counters.store_timeouts == 1


async def test_callers_beyond_the_limit_wait_no_longer_than_the_deadline(hanging: threading.Event) -> None:
    counters = Counters()
    deadline = Deadline("a store", 0.1, counters, threads=2)

    async def call() -> None:
        with pytest.raises(StoreTimeout):
            await deadline.run(hanging.wait)

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call)
    assert time.monotonic() - began < 2
    assert counters.store_timeouts == 10


async def test_dead_store_leaves_other_stores_their_threads(hanging: threading.Event) -> None:
    dead, alive = (Deadline(name, 0.2, Counters(), threads=2) for name in ("dead", "alive"))

    async def call_dead() -> None:
        with pytest.raises(StoreTimeout):
            await dead.run(hanging.wait)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(call_dead)
        await trio.testing.wait_all_tasks_blocked()
        assert await alive.run(lambda: 1) == 1


# -- one request of a program -----------------------------------------------------------------------------------------


async def waits(deadline: Deadline, seconds: float, *, moving: int = 0) -> None:
    """A call that takes so long; in trio's clock, so that no test has to wait."""
    with within(deadline.seconds, moving=moving):
        await trio.sleep(seconds)
        return
    raise StoreTimeout("the deadline")


async def test_tries_of_one_request_have_one_deadline_together(autojump_clock: trio.testing.MockClock) -> None:
    begin_request()
    deadline, began, failed = Deadline("a store", 10, Counters()), trio.current_time(), 0
    for _ in range(6):
        try:
            await waits(deadline, 4)
        except StoreTimeout:
            failed += 1
    assert (trio.current_time() - began, failed) == (10, 4)
    with pytest.raises(StoreTimeout):
        await deadline.run(int)
    begin_request()
    autojump_clock.autojump_threshold = math.inf  # the clock would jump while a thread starts
    assert await deadline.run(int) == 0


async def test_what_is_waited_for_together_counts_once(autojump_clock: trio.testing.MockClock) -> None:
    begin_request()
    deadline = Deadline("a store", 10, Counters())
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(waits, deadline, 9)
    assert time_left(10) == 1


async def test_time_in_which_bytes_move_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    begin_request()
    deadline = Deadline("a store", 10, Counters())
    for _ in range(5):
        await waits(deadline, 9, moving=9)
    assert time_left(10) == 10


async def test_what_is_done_for_no_request_has_deadlines_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    begin_request()
    exhaust_request()
    assert time_left(10) == 0

    async def background() -> None:
        leave_request()
        await waits(Deadline("a store", 10, Counters()), 9)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(background)
    assert time_left(10) == 0


async def test_directory_of_ours_has_its_own_deadline() -> None:
    begin_request()
    exhaust_request()
    assert await Deadline("the cache", 10, Counters(), ours=True).run(int) == 0


async def test_who_waited_behind_a_deadline_is_told_of_it(autojump_clock: trio.testing.MockClock) -> None:
    turns, began, told = DeadlineLock(), trio.current_time(), []

    async def take() -> None:
        try:
            async with turns.held():
                await waits(Deadline("a store", 10, Counters()), 11)
        except StoreTimeout as problem:
            told.append((str(problem), trio.current_time() - began))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take)
    assert told == [("the deadline", 10)] * 5
    async with turns.held():
        assert trio.current_time() - began == 10
