"""The search for one block: all places in order, a second one while one is slow, more rounds, new signatures.

A round asks each place until one has the block. Places that said no are not asked again; damaged copies once more, as
the network may have done it; servers that failed or have too much to do again and again, with growing pauses, until the
deadline. So a block that nobody has is known to be missing after one round. A place that lets the reader wait for the
first byte for long is joined by the next place once a round, and the first block that comes is taken. So is each that
stops in its answer or its queue, or sends slowly, and it is asked last for a while.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from statistics import median

import trio

from riafs.content.keep_memory import BlockMemory, Room
from riafs.counters import Counters
from riafs.errors import (
    AccessExpired,
    CorruptContent,
    CutOff,
    MissingContent,
    NotInStore,
    Overloaded,
    RiafsError,
    ShortRead,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TaskFailed,
)
from riafs.formats.locators import Locator
from riafs.storage.deadline import ProgressQueue
from riafs.storage.keep_places import Attempt, BlockInVolume, BlockPlace, BlockPlaces, FileBlock, WholeBlock
from riafs.tasks import as_failure

log = logging.getLogger(__name__)

Renew = Callable[[Locator], Awaitable[Locator | None]]
"""Gives the locator of the same block with a new signature, None where there is none."""
Admit = Callable[[FileBlock, Locator, BlockPlace], Awaitable[BlockInVolume]]
"""Verifies that a file is the block. Raises CorruptContent, and what reading raises."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_HEDGE_SECONDS, _HEDGE_FACTOR = 1.0, 3
_LATENCIES = 64
_STILL_SECONDS = 2.0
"""How long an answer that has begun may stop before another place is asked as well."""
_SLOW = 64 << 10
"""Bytes a second below which a block takes long."""
_AT_ONCE = 3
_ASKED_LAST_SECONDS = 30.0
_SHORTEST = 0.1
_TRIES_OF_DAMAGED = 2
_REFRESH_SECONDS = 0.5
_RENEW_BEFORE = 60.0
_REASONS = 6
_DAMAGE = (CorruptContent, ShortRead)


class Latencies:
    """How long servers took to begin their last answers."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_LATENCIES)

    def add(self, attempt: Attempt) -> None:
        """An attempt has ended."""
        if attempt.sent_at is not None and attempt.answered_at is not None:
            self._seconds.append(attempt.answered_at - attempt.sent_at)

    @property
    def too_long(self) -> float:
        """Seconds after which a second place is asked."""
        return max(_HEDGE_SECONDS, _HEDGE_FACTOR * median(self._seconds)) if self._seconds else _HEDGE_SECONDS


class DamagedCopies:
    """Copies that are known to be damaged: their places are asked last for a block."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._copies: dict[tuple[str, bytes], None] = {}

    def add(self, place: BlockPlace, locator: Locator, problem: RiafsError) -> None:
        """Remember one, and log it the first time."""
        self._counters.blocks_corrupt += 1
        copy = (place.name, locator.unsigned)
        if copy not in self._copies:
            log.error("%s; this copy is not used", problem)
            self._copies[copy] = None
            if len(self._copies) > 10_000:
                del self._copies[next(iter(self._copies))]

    def last(self, places: Sequence[BlockPlace], locator: Locator) -> Sequence[BlockPlace]:
        """`places`, those with a damaged copy at the end."""
        if not self._copies:
            return places
        return sorted(places, key=lambda place: (place.name, locator.unsigned) in self._copies)


class SilentPlaces:
    """Places that do not answer: logged when that begins and when it ends, not for every block."""

    def __init__(self) -> None:
        self._silent: dict[str, None] = {}

    def failed(self, place: BlockPlace, problem: RiafsError) -> None:
        """A place has failed, whatever the block."""
        if place.name not in self._silent:
            self._silent[place.name] = None
            log.warning("%s; %s is passed over where another place has what is wanted", problem, place.name)

    def answered(self, place: BlockPlace) -> None:
        """A place has answered, be it that it does not have the block."""
        if self._silent.pop(place.name, "") is None:
            log.warning("%s answers again", place.name)


class SlowPlaces:
    """Places that were slow a moment ago, and are asked last."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, place: BlockPlace) -> None:
        """It is slow."""
        self._until[place.name] = trio.current_time() + _ASKED_LAST_SECONDS

    def last(self, places: Sequence[BlockPlace]) -> Sequence[BlockPlace]:
        """`places`, those that are slow at the end."""
        now = trio.current_time()
        return sorted(places, key=lambda place: self._until.get(place.name, 0.0) > now) if self._until else places


def new_request_id() -> str:
    """An id for a request, in the form of Arvados' own programs."""
    return "req-" + "".join(random.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=20))  # noqa: S311  # no secret


@dataclass(frozen=True, slots=True)
class SearchTools:
    """Shared by all searches of a mount."""

    places: BlockPlaces
    memory: BlockMemory
    latencies: Latencies
    damaged: DamagedCopies
    answering: SilentPlaces
    slow: SlowPlaces
    admit: Admit
    counters: Counters
    deadline: float
    """Seconds."""
    queue: ProgressQueue
    """Of tasks that wait for memory."""


@dataclass(frozen=True, slots=True)
class FoundBlock:
    """A block, and the memory that was taken for it if it is in memory."""

    block: WholeBlock | BlockInVolume
    room: Room | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    attempt: Attempt
    found: FoundBlock | None


class BlockSearch:
    """One search. `run` is called once."""

    def __init__(self, tools: SearchTools, locator: Locator, renew: Renew) -> None:
        self._tools = tools
        self._locator = locator
        self._renew = renew
        self._renewing = trio.Lock()
        self._renewed = False
        self._request_id = new_request_id()
        self._end = float("inf")
        self._out: set[str] = set()
        self._damages: dict[str, int] = {}
        self._problems: dict[str, RiafsError] = {}
        self._retry_after = 0.0
        self._taking = trio.Lock()
        self._room: Room | None = None
        """For all attempts together: of those that go on at once, all but one have hardly received anything."""
        self._attempts = 0
        """Those that use it."""
        self._looked_in_place = False

    async def run(self) -> FoundBlock:
        """The block. Raises MissingContent, CorruptContent, StoreDenied, StoreTimeout, StoreError, …: one line that
        names the places."""
        pause = _FIRST_PAUSE
        await self._renew_in_time()
        while True:
            found = await self._round()
            if found is not None:
                self._tools.counters.blocks_healed += any(map(_is_damage, self._problems.values()))
                return found
            await self._refresh()
            if not self._candidates() or not await self._wait(pause * random.uniform(0.75, 1.25)):  # noqa: S311
                raise self._failure()
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _renew_in_time(self) -> None:
        """Renew a signature that is about to expire. If that fails, the old one may still be accepted."""
        expires = self._locator.expires
        if expires is None or expires - time.time() > _RENEW_BEFORE:
            return
        try:
            self._locator = await self._renew(self._locator) or self._locator
        except RiafsError as problem:
            log.info("a signature that is about to expire cannot be renewed: %s", problem)

    def _candidates(self) -> Sequence[BlockPlace]:
        places = [each for each in self._tools.places.order(self._locator) if each.name not in self._out]
        return self._tools.damaged.last(self._tools.slow.last(places), self._locator)

    async def _refresh(self) -> None:
        with trio.move_on_after(_REFRESH_SECONDS):
            try:
                await self._tools.places.refresh()
            except RiafsError as problem:
                log.info("cannot find out which servers there are: %s", problem)

    async def _wait(self, pause: float) -> bool:
        """A pause between two rounds; whether there is time for another round then."""
        if self._candidates_are_new():
            return True
        now = trio.current_time()
        until = now + max(pause, self._retry_after)
        await trio.sleep_until(min(until, max(self._end, now)))
        return until < self._end

    def _candidates_are_new(self) -> bool:
        """Whether a refresh brought places that were not asked yet."""
        return any(each.name not in self._problems for each in self._candidates())

    # -- one round ----------------------------------------------------------------------------------------------------

    async def _round(self) -> FoundBlock | None:
        waiting = deque(self._candidates())
        running: dict[Attempt, BlockPlace | None] = {}
        self._retry_after = 0.0
        send, receive = trio.open_memory_channel[_Outcome](len(waiting))
        won: FoundBlock | None = None
        try:
            async with trio.open_nursery() as nursery:
                while waiting or running:
                    if not running:
                        self._start(nursery, waiting, send, running)
                    outcome = await self._outcome(receive, list(running) if waiting else ())
                    if outcome is None:
                        self._tools.counters.blocks_hedged += 1
                        self._start(nursery, waiting, send, running)
                    elif outcome.found is not None:
                        won = outcome.found
                        nursery.cancel_scope.cancel()
                        break
                    else:
                        del running[outcome.attempt]
        except trio.Cancelled:
            _give_back(won)
            raise
        finally:
            _give_back(*_left_in(receive))
        return won

    def _start(
        self,
        nursery: trio.Nursery,
        waiting: deque[BlockPlace],
        send: "trio.MemorySendChannel[_Outcome]",
        running: dict[Attempt, BlockPlace | None],
    ) -> None:
        left = self._end - trio.current_time()
        seconds = max(min(left, self._tools.deadline), _SHORTEST)
        attempt = Attempt(self._request_id, seconds, self._tools.queue.progressed)
        for each, slow in running.items():
            if slow is not None and (each.answered_at is not None or each.sent_at is None):
                self._tools.slow.add(slow)
        running[attempt] = None
        nursery.start_soon(self._ask, waiting, attempt, send, running)

    async def _outcome(
        self, receive: "trio.MemoryReceiveChannel[_Outcome]", running: Sequence[Attempt]
    ) -> _Outcome | None:
        """The next outcome of an attempt; None once another place should be asked beside those `running`."""
        while running and len(running) < _AT_ONCE:
            newest = running[-1]
            since = newest.idle_since
            seconds = self._tools.latencies.too_long if newest.answered_at is None else _STILL_SECONDS
            with trio.move_on_at(min(since + seconds, self._too_long(newest))):
                return await receive.receive()
            alone = len(running) == 1 or newest.answered_at is not None
            if alone and (newest.idle_since == since or trio.current_time() >= self._too_long(newest)):
                return None
            with trio.move_on_after(_SHORTEST):
                return await receive.receive()
        return await receive.receive()

    def _too_long(self, attempt: Attempt) -> float:
        """When an answer that has begun should have ended."""
        if attempt.answered_at is None:
            return float("inf")
        return attempt.answered_at + _STILL_SECONDS + self._locator.size / _SLOW

    # -- one place ----------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        waiting: deque[BlockPlace],
        attempt: Attempt,
        send: "trio.MemorySendChannel[_Outcome]",
        running: dict[Attempt, BlockPlace | None],
    ) -> None:
        """Ask the first place that is `waiting` once there is memory for its answer."""
        found = None
        self._attempts += 1
        try:
            with as_failure(f"block {self._locator.unsigned.decode()} cannot be fetched"):
                if not waiting[0].in_place:
                    await self._take_room()
                place = running[attempt] = self._tools.slow.last(waiting)[0]
                waiting.remove(place)
                found = await self._from(place, attempt)
        except RiafsError as problem:
            self._fails(running[attempt] or waiting.popleft(), attempt, problem)
        finally:
            self._attempts -= 1
            if not self._attempts and self._room is not None:
                self._room.give_back()
                self._room = None
        self._tools.latencies.add(attempt)
        send.send_nowait(_Outcome(attempt, found))

    def _fails(self, place: BlockPlace, attempt: Attempt, problem: RiafsError) -> None:
        self._note(place, problem)
        if attempt.answered_at is not None or place.in_place:
            self._tools.answering.answered(place)
        elif attempt.sent_at is not None and not isinstance(problem, TaskFailed):
            self._tools.answering.failed(place, problem)

    async def _from(self, place: BlockPlace, attempt: Attempt) -> FoundBlock:
        self._end = min(self._end, trio.current_time() + self._tools.deadline)
        block = await self._fetched(place, attempt)
        if isinstance(block, FileBlock):
            return FoundBlock(await self._tools.admit(block, self._locator, place), None)
        self._tools.answering.answered(place)
        room, self._room = self._room, None
        return FoundBlock(block, room)

    async def _take_room(self) -> None:
        async with self._taking:
            if self._room is None:
                self._room = await self._new_room()

    async def _new_room(self) -> Room:
        what = f"block {self._locator.unsigned.decode()}: memory is taken by blocks that do not come"
        try:
            return await self._tools.queue.wait(partial(self._tools.memory.room, self._locator.size), what)
        except StoreTimeout:
            self._end = min(self._end, trio.current_time())  # the deadline has passed in line
            raise

    async def _fetched(self, place: BlockPlace, attempt: Attempt) -> WholeBlock | FileBlock:
        used = self._locator
        try:
            return await place.fetch(used, attempt)
        except AccessExpired as problem:
            if not await self._has_other_than(used):
                raise StoreDenied(
                    f"{problem}; check the token, and whether it is the one the manifest came with"
                ) from None
        attempt.seconds = max(self._end - trio.current_time(), _SHORTEST)
        try:
            return await place.fetch(self._locator, attempt)
        except AccessExpired as problem:
            raise StoreDenied(f"{problem}, with a new signature as well; check the token") from None

    async def _has_other_than(self, used: Locator) -> bool:
        """Whether there is a newer locator than `used`; asked for once, however many places have refused."""
        async with self._renewing:
            if self._locator is used and not self._renewed:
                with trio.move_on_at(self._end) as in_time:
                    self._locator = await self._renew(used) or used
                if in_time.cancelled_caught:
                    raise StoreTimeout(f"there was no new signature for block {used.unsigned.decode()} in time")
                self._renewed = True
            return self._locator.text != used.text

    def _note(self, place: BlockPlace, problem: RiafsError) -> None:
        """Note the problem of a place, and whether to ask it again."""
        self._problems[place.name] = problem
        self._looked_in_place |= place.in_place
        if isinstance(problem, _DAMAGE):
            self._damages[place.name] = self._damages.get(place.name, 0) + 1
            again = not place.in_place and self._damages[place.name] < _TRIES_OF_DAMAGED
            if isinstance(problem, CutOff):
                log.warning("%s%s", problem, "; trying again" if again else "")
            else:
                self._tools.damaged.add(place, self._locator, problem)
        else:
            again = problem.retryable
        if not again:
            self._out.add(place.name)
        if isinstance(problem, Overloaded):
            self._retry_after = max(self._retry_after, problem.retry_after)

    @property
    def is_lasting(self) -> bool:
        """Whether asking again would give the same bytes: no copy is good, and all places have answered. Damaged files
        in volumes are remembered anyway, until they change."""
        problems = self._problems.values()
        return (
            not self._looked_in_place
            and any(map(_is_damage, problems))
            and all(_is_damage(each) or isinstance(each, NotInStore) for each in problems)
        )

    def _failure(self) -> RiafsError:
        """The error to raise: of the most informative kind among the problems, with all of them in its message."""
        name = f"block {self._locator.unsigned.decode()}"
        problems = list(self._problems.values())
        if all(isinstance(each, NotInStore) for each in problems):
            places = ", ".join(self._problems) or "no place at all"
            return MissingContent(f"{name} is not there; looked at {places}")
        if all(isinstance(each, StoreError | StoreTimeout) for each in problems) and len(problems) > 1:
            name = f"no place answers: {name}"
        reasons = "; ".join([str(each) for each in problems if not isinstance(each, NotInStore)][:_REASONS])
        for kind in (StoreDenied, CorruptContent, ShortRead, RiafsError):
            for problem in problems:
                if isinstance(problem, kind) and not isinstance(problem, NotInStore):
                    return type(problem)(f"{name} cannot be read: {reasons}")
        raise AssertionError("one of them is a RiafsError")


def _is_damage(problem: RiafsError) -> bool:
    return isinstance(problem, _DAMAGE) and not isinstance(problem, CutOff)


def _give_back(*unused: FoundBlock | None) -> None:
    """Free the memory of blocks that are not used."""
    for found in unused:
        if found is not None and found.room is not None:
            found.room.give_back()


def _left_in(receive: "trio.MemoryReceiveChannel[_Outcome]") -> Iterator[FoundBlock | None]:
    """Outcomes that came after the round had ended."""
    with suppress(trio.WouldBlock):
        while True:
            yield receive.receive_nowait().found
