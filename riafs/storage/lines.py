"""Waiting in line behind others: for as long as these get on.

A transfer that goes on is never cut, however slow it is, and who waits behind it waits; but nobody waits for longer
than the deadline behind transfers that all stand still.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from riafs.errors import StoreTimeout

T = TypeVar("T")


class Line:
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
