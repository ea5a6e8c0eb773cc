"""A store that does not answer costs its caller the deadline, and its neighbours nothing."""

import threading
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from riafs.counters import Counters
from riafs.errors import StoreTimeout
from riafs.storage.patience import Patience


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Calls of its `wait` hang until the end of the test."""
    release = threading.Event()
    yield release
    release.set()


async def test_result_and_exception_pass_through() -> None:
    patience = Patience("a store", 5, Counters())
    assert await patience.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await patience.run(divmod, 7, 0)


async def test_call_that_hangs_ends_with_the_deadline(hanging: threading.Event) -> None:
    counters = Counters()
    began = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"a store did not answer within 0\.1 s"):
        await Patience("a store", 0.1, counters).run(hanging.wait)
    assert time.monotonic() - began < 2
    assert counters.store_timeouts == 1


async def test_callers_beyond_the_limit_wait_no_longer_than_the_deadline(hanging: threading.Event) -> None:
    counters = Counters()
    patience = Patience("a store", 0.1, counters, threads=2)

    async def call() -> None:
        with pytest.raises(StoreTimeout):
            await patience.run(hanging.wait)

    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call)
    assert time.monotonic() - began < 2
    assert counters.store_timeouts == 10


async def test_dead_store_leaves_other_stores_their_threads(hanging: threading.Event) -> None:
    dead, alive = (Patience(name, 0.2, Counters(), threads=2) for name in ("dead", "alive"))

    async def call_dead() -> None:
        with pytest.raises(StoreTimeout):
            await dead.run(hanging.wait)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(call_dead)
        await trio.testing.wait_all_tasks_blocked()
        assert await alive.run(lambda: 1) == 1
