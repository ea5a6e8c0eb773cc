"""What every implementation of ranged bytes must do. `CHECKS` run on `CONTENT`; `check_slices` on any content."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from riafs.storage.bytesource import RangedBytes

CONTENT = bytes(range(256)) * 3 + b"the end"
"""What is in the source that a check is given."""

Make = Callable[[bytes], AbstractAsyncContextManager[RangedBytes]]
"""Opens an implementation over the given content."""

Check = Callable[[RangedBytes], Awaitable[None]]


async def it_knows_its_size(source: RangedBytes) -> None:
    assert source.size == len(CONTENT)


async def it_follows_the_protocol(source: RangedBytes) -> None:
    assert isinstance(source, RangedBytes)


async def it_reads_all_at_once(source: RangedBytes) -> None:
    assert await source.read(0, len(CONTENT)) == CONTENT


async def it_reads_piece_by_piece(source: RangedBytes) -> None:
    pieces = [bytes(await source.read(offset, 100)) for offset in range(0, len(CONTENT), 100)]
    assert b"".join(pieces) == CONTENT


async def it_reads_backwards(source: RangedBytes) -> None:
    for offset in range(len(CONTENT) - 1, -1, -37):
        assert await source.read(offset, 37) == CONTENT[offset : offset + 37]


async def it_stops_at_the_end(source: RangedBytes) -> None:
    assert await source.read(len(CONTENT) - 3, 1000) == CONTENT[-3:]
    assert await source.read(0, 1 << 40) == CONTENT


async def it_has_nothing_beyond_the_end(source: RangedBytes) -> None:
    assert await source.read(len(CONTENT), 10) == b""
    assert await source.read(len(CONTENT) + 5, 10) == b""
    assert await source.read(1 << 62, 1) == b""


async def it_reads_nothing_when_asked_for_nothing(source: RangedBytes) -> None:
    assert await source.read(0, 0) == b""
    assert await source.read(5, 0) == b""


async def it_serves_many_tasks_at_once(source: RangedBytes) -> None:
    async def read(offset: int) -> None:
        assert await source.read(offset, 50) == CONTENT[offset : offset + 50]

    async with trio.open_nursery() as nursery:
        for offset in range(0, len(CONTENT), 11):
            nursery.start_soon(read, offset)


async def it_survives_a_cancelled_read(source: RangedBytes) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await source.read(0, 100)
    assert await source.read(0, 100) == CONTENT[:100]


async def it_can_be_closed_twice(source: RangedBytes) -> None:
    source.close()
    source.close()


CHECKS: Sequence[Check] = (
    it_knows_its_size,
    it_follows_the_protocol,
    it_reads_all_at_once,
    it_reads_piece_by_piece,
    it_reads_backwards,
    it_stops_at_the_end,
    it_has_nothing_beyond_the_end,
    it_reads_nothing_when_asked_for_nothing,
    it_serves_many_tasks_at_once,
    it_survives_a_cancelled_read,
    it_can_be_closed_twice,
)


async def check_slices(make: Make, content: bytes, ranges: Sequence[tuple[int, int]]) -> None:
    """Each (offset, length) gives what a slice of `content` has there."""
    async with make(content) as source:
        assert source.size == len(content)
        for offset, length in ranges:
            assert await source.read(offset, length) == content[offset : offset + length]
