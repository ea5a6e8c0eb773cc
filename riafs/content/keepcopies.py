"""Which places have a good copy of a block of Keep: each is read and hashed anew, past all memory and caches."""

import random
from collections.abc import Sequence

import trio

from riafs.content.blocksearch import Renew, new_request_id
from riafs.content.parts import Copy, CopyState, state_of
from riafs.errors import AccessExpired, Overloaded, RiafsError
from riafs.formats.locators import Locator
from riafs.storage.keep_places import Attempt, BlockPlace, BlockPlaces

_TRIES = 4
_FIRST_PAUSE = 0.5


async def copies(
    places: BlockPlaces, locator: Locator, renew: Renew, deadline: float, *, every: bool
) -> Sequence[Copy]:
    """What each place has of a block, or those up to the first that has it; nothing is asked for the block of no bytes.

    `deadline`: seconds for an answer to begin. Servers that failed or are busy are asked a few times more.
    """
    if locator.size == 0:
        return ()
    check = _Check(locator, renew, deadline)
    found: list[Copy] = []
    for place in places.order(locator):
        found.append(await check.copy(place))
        if found[-1].state is CopyState.GOOD and not every:
            break
    return found


class _Check:
    """One block, place by place."""

    def __init__(self, locator: Locator, renew: Renew, deadline: float) -> None:
        self._locator = locator
        self._renew = renew
        self._renewed = False
        self._deadline = deadline
        self._request_id = new_request_id()

    async def copy(self, place: BlockPlace) -> Copy:
        pause = _FIRST_PAUSE
        for last in (*[False] * (_TRIES - 1), True):
            try:
                await self._read(place)
            except RiafsError as problem:
                if last or not problem.retryable:
                    return Copy(place.name, state_of(problem), str(problem))
                asked_for = problem.retry_after if isinstance(problem, Overloaded) else 0.0
                await trio.sleep(max(asked_for, pause * random.uniform(0.75, 1.25)))  # noqa: S311  # no secret
                pause *= 2
            else:
                break
        return Copy(place.name, CopyState.GOOD)

    async def _read(self, place: BlockPlace) -> None:
        try:
            await place.check(self._locator, Attempt(self._request_id, self._deadline))
        except AccessExpired:
            renewed = None if self._renewed else await self._renew(self._locator)
            self._renewed = True
            if renewed is None:
                raise
            self._locator = renewed
            await place.check(renewed, Attempt(self._request_id, self._deadline))
