"""Blocks of Keep for readers: from memory, the block cache or a place of Keep; fetched once for all who wait.

A block that a server sends is kept in memory (`BlockMemory`) and, in parts, in the block cache; one that lies in a
volume of this machine is hashed once (what was verified is remembered by the file's identity) and read in place. Two
blocks are never asked for: the one of no bytes, and the largest one of zeros.

Rules for shared state (one event loop): a block is in `_flights` while a task fetches it, and whoever wants it then
waits for that task; between looking into memory and entering `_flights` there is no await. A flight is cancelled when
the last who waits has gone, unless it was begun to be ahead of readers: of these there are few, as those that are
leaving (`_leaving`, until they have landed) and those that nobody has read yet (`_unread`) have a share of the memory.
"""

import logging
from dataclasses import dataclass, field

import trio
from cachetools import LRUCache

from riafs.cache.block_files import keep_content
from riafs.cache.blocks import BlockCache
from riafs.cache.verified import Evidence, VerifiedMemory
from riafs.content.keep_memory import BlockMemory, BlockStorer
from riafs.content.keep_search import (
    BlockSearch,
    DamagedCopies,
    Latencies,
    Renew,
    SearchTools,
    SilentPlaces,
    SlowPlaces,
)
from riafs.content.verified_bytes import wait_until_settled
from riafs.counters import Counters
from riafs.errors import ChangedContent, CorruptContent, RiafsError, StoreError, StoreTimeout, TooLarge
from riafs.formats.locators import MAX_BLOCK, ZERO_BLOCK, Locator
from riafs.storage.bytesource import Buffer
from riafs.storage.deadline import ProgressQueue, exhaust_request, leave_request, time_left
from riafs.storage.keep_places import BlockInVolume, BlockPlace, BlockPlaces, FileBlock, WholeBlock
from riafs.tasks import Background, as_failure

log = logging.getLogger(__name__)

_OPEN_FILES = 64
_TRUST_SECONDS = 1.0
"""How long an open file of a volume is used before it is opened again: blocks may be replaced or removed."""
_IDLE_SECONDS = 0.2
_MAX_PROBLEMS = 1000
_GIVEN_UP_SECONDS = 0.5
"""When reading ahead has failed, kernels read once more, page by page: these reads fail at once."""
_DAMAGED_SECONDS = 60.0
"""A block without a good copy is not fetched again for so long, as each time all of it would be received."""
_AHEAD_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class KeepTools:
    """Shared by all that reads blocks."""

    places: BlockPlaces
    cache: BlockCache
    verified: VerifiedMemory
    counters: Counters
    background: Background
    """Runs the fetching and the storing."""
    deadline: float = 30.0
    """Seconds, for every wait for bytes and for all attempts at one block together."""
    memory: int = 256 << 20
    """Bytes that whole blocks may take, those that are on their way included."""


@dataclass(slots=True)
class _Flight:
    """A block on its way: one of `block` and `problem` is set when it has landed, none if it was cancelled."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    landed: trio.Event = field(default_factory=trio.Event)
    waiting: int = 0
    ahead: bool = False
    block: WholeBlock | BlockInVolume | None = None
    problem: RiafsError | None = None


class KeepBlocks:
    """One per mount. Used from the event loop's thread."""

    def __init__(self, tools: KeepTools) -> None:
        self.tools = tools
        self.counters = tools.counters
        self._memory = BlockMemory(tools.memory)
        self._files: LRUCache[bytes, tuple[BlockInVolume, float]] = LRUCache(_OPEN_FILES)
        self._flights: dict[bytes, _Flight] = {}
        self._leaving: dict[bytes, int] = {}
        self._unread: dict[bytes, int] = {}
        self._landed_at = float("-inf")
        self._storer = BlockStorer(self._memory, tools.cache, self._is_busy)
        tools.background.keep_running(self._storer.run)
        self._problems: LRUCache[bytes, str] = LRUCache(_MAX_PROBLEMS)
        self._given_up: LRUCache[bytes, tuple[RiafsError, float]] = LRUCache(_MAX_PROBLEMS)
        self._search_tools = SearchTools(
            places=tools.places,
            memory=self._memory,
            latencies=Latencies(),
            damaged=DamagedCopies(tools.counters),
            slow=SlowPlaces(),
            answering=SilentPlaces(),
            admit=self._verified,
            counters=tools.counters,
            deadline=tools.deadline,
            queue=ProgressQueue(tools.deadline),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read(self, locator: Locator, offset: int, length: int, renew: Renew) -> Buffer:
        """Verified bytes of a block: exactly ``max(0, min(length, size - offset))``.

        `renew` is asked once at most, where a server refuses the signature. Raises TooLarge, MissingContent,
        CorruptContent, StoreDenied, StoreTimeout, StoreError, …: one line that names the block and the places.
        """
        length = min(length, locator.size - offset)
        if length <= 0:
            return b""
        if _is_zeros(locator):
            return bytes(length)
        try:
            return await self._read(locator, offset, length, renew)
        except ChangedContent:  # the open file of a volume
            self._files.pop(locator.unsigned, None)
            return await self._read(locator, offset, length, renew)

    async def _read(self, locator: Locator, offset: int, length: int, renew: Renew) -> Buffer:
        block = self._at_hand(locator)
        if block is None and locator.unsigned not in self._flights:
            kept = await self.tools.cache.read(keep_content(locator.unsigned), locator.size, offset, length)
            if kept is not None:
                return kept
            block = self._at_hand(locator)  # it may have come since
        if block is None:
            block = await self._arrived(locator, renew)
        return await block.read(offset, length)

    def read_now(self, locator: Locator, offset: int, length: int) -> Buffer | None:
        """The same if the whole block is in memory, else None."""
        block = self._memory.get(locator.unsigned)
        return None if block is None else block.read_now(offset, length)

    def problem(self, locator: Locator) -> str | None:
        """The last problem with a block, None if there is none."""
        return self._problems.get(locator.unsigned)

    def _at_hand(self, locator: Locator) -> WholeBlock | BlockInVolume | None:
        name = locator.unsigned
        block = self._memory.get(name)
        if block is None and name in self._files:
            file, until = self._files[name]
            if trio.current_time() < until:
                return file
            del self._files[name]
        if block is not None:
            self._unread.pop(name, None)  # its reader has come
        return block

    # -- fetching -----------------------------------------------------------------------------------------------------

    async def _arrived(self, locator: Locator, renew: Renew) -> WholeBlock | BlockInVolume:
        """The block, once it was fetched."""
        if locator.size > MAX_BLOCK:
            raise TooLarge(f"block {locator.unsigned.decode()} cannot be read: blocks have up to {MAX_BLOCK} bytes")
        given_up, until = self._given_up.get(locator.unsigned, (None, 0.0))
        if given_up is not None and trio.current_time() < until:
            raise _again(given_up)
        while True:
            if not time_left(self.tools.deadline):
                raise StoreTimeout(f"block {locator.unsigned.decode()} is not waited for, as another one did not come")
            flight = self._flights.get(locator.unsigned) or self._depart(locator, renew)
            flight.waiting += 1
            try:
                await flight.landed.wait()
            finally:
                flight.waiting -= 1
                if not flight.waiting and not flight.ahead:
                    flight.scope.cancel()
            if flight.block is not None:
                return flight.block
            if flight.problem is not None:
                if isinstance(flight.problem, StoreTimeout):
                    exhaust_request()
                raise _again(flight.problem)
            if not flight.scope.cancel_called:
                raise StoreError(f"block {locator.unsigned.decode()} is not fetched any more: the mount ends")

    def _depart(self, locator: Locator, renew: Renew) -> _Flight:
        flight = self._flights[locator.unsigned] = _Flight(ahead=locator.unsigned in self._leaving)
        self.tools.background.start_soon(self._fly, flight, locator, renew)
        return flight

    async def _fly(self, flight: _Flight, locator: Locator, renew: Renew) -> None:
        leave_request()
        name = locator.unsigned
        search = BlockSearch(self._search_tools, locator, renew)
        try:
            with as_failure(f"block {name.decode()} cannot be fetched"), flight.scope:
                found = await search.run()
                flight.block = found.block  # no await from here on
                self._problems.pop(name, None)
                if found.room is not None and isinstance(found.block, WholeBlock):
                    found.room.fill(name, found.block)
                    self._storer.add(name, found.block)
                elif isinstance(found.block, BlockInVolume):
                    self._files[name] = (found.block, trio.current_time() + _TRUST_SECONDS)
        except RiafsError as problem:
            flight.problem = self._reported(name, problem, lasting=search.is_lasting)
        finally:
            del self._flights[name]
            self._landed_at = trio.current_time()
            flight.landed.set()

    def _reported(self, name: bytes, problem: RiafsError, *, lasting: bool) -> RiafsError:
        self.counters.blocks_missing += 1
        if self._problems.get(name) != str(problem):
            log.error("%s", problem)
        self._problems[name] = str(problem)
        problem.reported = True
        if lasting or problem.retryable:
            seconds = _DAMAGED_SECONDS if lasting else _GIVEN_UP_SECONDS
            self._given_up[name] = problem, trio.current_time() + seconds
        return problem

    def _is_busy(self) -> bool:
        return bool(self._flights) or trio.current_time() - self._landed_at < _IDLE_SECONDS

    # -- volumes ------------------------------------------------------------------------------------------------------

    async def _verified(self, block: FileBlock, locator: Locator, place: BlockPlace) -> BlockInVolume:
        file, verified = block.file, self.tools.verified
        await wait_until_settled(file)
        assert file.version is not None
        found = BlockInVolume(file)
        evidence = Evidence(file.version, 0, file.size)
        key = b"keep:" + locator.unsigned
        if await verified.is_good(evidence, key):
            return found
        if not verified.is_bad(evidence, key):
            self.counters.blocks_hashed += 1
            digest = await block.digest()
            if file.version is not evidence.version:
                raise ChangedContent(f"{file.name} is being changed")
            if digest == locator.digest:
                verified.remember_good(evidence, key)
                return found
            verified.remember_bad(evidence, key)
        raise CorruptContent(f"block {locator.unsigned.decode()} is damaged in {place.name}")

    # -- reading ahead ------------------------------------------------------------------------------------------------

    def fetch_ahead(self, locator: Locator, renew: Renew) -> None:
        """Fetch a block that will be read soon, if there is memory for it. Failures are reported when it is read."""
        name = locator.unsigned
        if locator.size == 0 or locator.size > MAX_BLOCK or _is_zeros(locator):
            return
        if name in self._leaving or name in self._memory or name in self._files or name in self._flights:
            return
        self._unread = {each: size for each, size in self._unread.items() if each in self._memory}
        taken = sum(self._leaving.values()) + sum(self._unread.values())
        if taken + locator.size <= self.tools.memory * _AHEAD_SHARE:
            self._leaving[name] = locator.size
            self.tools.background.start_soon(self._go_ahead, locator, renew)

    async def _is_kept(self, locator: Locator) -> bool:
        """Whether the first and the last part are in the block cache, and so most likely all."""
        name, size, read = keep_content(locator.unsigned), locator.size, self.tools.cache.read
        return await read(name, size, 0, 1) is not None and await read(name, size, size - 1, 1) is not None

    async def _go_ahead(self, locator: Locator, renew: Renew) -> None:
        leave_request()
        name = locator.unsigned
        try:
            if await self._is_kept(locator) or name in self._flights or name in self._memory:
                return
            self.counters.blocks_ahead += 1
            flight = self._depart(locator, renew)
            await flight.landed.wait()
            if not flight.waiting and name in self._memory:
                self._unread[name] = locator.size
        finally:
            del self._leaving[name]


def _is_zeros(locator: Locator) -> bool:
    return locator.digest == ZERO_BLOCK.digest and locator.size == ZERO_BLOCK.size


def _again(problem: RiafsError) -> RiafsError:
    """The same failure for one more reader."""
    again = type(problem)(*problem.args)
    again.reported = problem.reported
    return again
