"""Waiting for several things at once, where the first failure is the failure."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

Job = Callable[[], Awaitable[Any]]


async def together(*jobs: Job) -> None:
    """Run the jobs at once. What one of them raises ends the others and is raised as it is, not in a group."""
    try:
        async with trio.open_nursery() as nursery:
            for job in jobs:
                nursery.start_soon(job)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first that is no cancellation, if there is one."""
    real = group.split(trio.Cancelled)[1] or group
    one = real.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one
