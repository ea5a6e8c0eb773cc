"""The blocks of a collection as parts whose copies are counted: each copy is read and hashed anew, past all caches."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from riafs.content.copies import Copy, CopyState, state_of
from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_files import CollectionReader
from riafs.content.keep_search import Renew, new_request_id
from riafs.errors import AccessExpired, Overloaded, RiafsError
from riafs.formats.locators import EMPTY_BLOCK, Locator
from riafs.formats.manifests.blocks import NO_BLOCK
from riafs.storage.keep_places import Attempt, BlockPlace

_TRIES = 4
_FIRST_PAUSE = 0.5


async def copies(blocks: KeepBlocks, locator: Locator, renew: Renew, *, every: bool = True) -> Sequence[Copy]:
    """The copies of a block in all places, or up to the first good one; none for the block of no bytes.

    Servers that failed or are busy are asked a few times more.
    """
    if locator.size == 0:
        return ()
    check = _Check(locator, renew, blocks.tools.deadline)
    found: list[Copy] = []
    for place in blocks.tools.places.order(locator):
        found.append(await check.copy(place))
        if found[-1].state is CopyState.GOOD and not every:
            break
    return found


class _Check:
    """Reads one block in each place."""

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


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A Part: a block of a collection. `replication`: how many copies the collection asks for, if it does.

    NO_BLOCK stands for bytes that a manifest claims and has no block for: they are in no place.
    """

    reader: CollectionReader
    block: int
    replication: int | None
    kind: str = "block"

    @property
    def name(self) -> bytes:
        """Raises MalformedLocator, which happens only if the manifest was read leniently."""
        if self.block == NO_BLOCK:
            return b"none, in the manifest " + self.reader.manifest.portable_data_hash
        return self.reader.manifest.locator(self.block).unsigned

    @property
    def identity(self) -> bytes:
        """Blocks of one digest are the same, whatever collection they are in."""
        return self.name

    @property
    def size(self) -> int | None:
        return 0 if self.block == NO_BLOCK else self.reader.manifest.locator(self.block).size

    def wanted(self, copies: int | None) -> int | None:
        """None for the block of no bytes, which is not stored."""
        return None if self.name == EMPTY_BLOCK.unsigned else self.replication if copies is None else copies

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        if self.name == EMPTY_BLOCK.unsigned:
            return (Copy("every client", CopyState.GOOD),)
        if self.block == NO_BLOCK:
            return ()
        reader = self.reader
        return await copies(reader.blocks, reader.manifest.locator(self.block), reader.renewal(self.block), every=every)
