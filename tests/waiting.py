"""Waiting for other processes and threads: until something is so, never for a time.

Only here do tests sleep: between two looks, before a kill at a moment that nothing marks, and in children that are to
be killed. Within one event loop there are events and trio's virtual clock.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

SECONDS = 20.0
_PAUSE = 0.01


def eventually(look: Callable[[], T], seconds: float = SECONDS) -> T:
    """Look until there is something true, and return it. Raises AssertionError after `seconds`."""
    until = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < until, f"not within {seconds:g} s"
        time.sleep(_PAUSE)
    return seen


async def eventually_true(look: Callable[[], object], seconds: float = SECONDS) -> None:
    """Let other tasks and threads go on until `look` gives something true. Raises AssertionError after `seconds`."""
    until = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < until, f"not within {seconds:g} s"
        await trio.to_thread.run_sync(time.sleep, _PAUSE)  # trio's clock may be a virtual one


def random_moment(chance: random.Random, least: float, most: float) -> None:
    """Let another process, which is killed then, go on for a random number of seconds."""
    time.sleep(chance.uniform(least, most))


def until_killed() -> None:
    """The rest of the life of a child; it ends by itself should nobody kill it."""
    time.sleep(60)


def pass_time(seconds: float) -> None:
    """Where the code under test measures the time of a child or a thread itself."""
    time.sleep(seconds)
