"""What servers do wrong, one test each: the block is had from somebody else, or the reader gets an error in time."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_copies import copies
from riafs.errors import (
    BadAnswer,
    CorruptContent,
    MissingContent,
    Overloaded,
    RiafsError,
    ShortRead,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TooLarge,
)
from riafs.formats.locators import EMPTY_BLOCK, MAX_BLOCK, ZERO_BLOCK, Locator
from tests.keep import blockserver
from tests.keep.blocks import Setting, keep_blocks, locator_of, no_renewal
from tests.keep.blockserver import BlockServer, Fault
from tests.plugins.log_hygiene import Announce
from tests.small import noise

BLOCK = random.Random(1).randbytes(3_000_000)
LOCATOR = locator_of(BLOCK)


@pytest.fixture
def first() -> Iterator[BlockServer]:
    with BlockServer([BLOCK]) as running:
        yield running


@pytest.fixture
def second() -> Iterator[BlockServer]:
    with BlockServer([BLOCK]) as running:
        yield running


@asynccontextmanager
async def blocks_of(*servers: BlockServer, **more: object) -> AsyncIterator[KeepBlocks]:
    async with keep_blocks(Setting(servers=servers, **more)) as blocks:
        yield blocks


async def read_all(blocks: KeepBlocks, locator: Locator = LOCATOR) -> bytes:
    return bytes(await blocks.read(locator, 0, locator.size, no_renewal))


# -- one server fails, the other has the block ------------------------------------------------------------------------

PASSED_OVER = "is passed over where another place has what is wanted"
DAMAGED = f"is damaged|bytes come|the connection was cut|{PASSED_OVER}"
FAILING = {
    "500": blockserver.status(500),
    "502": blockserver.status(502, b"checksum mismatch in stored data\n"),
    "404": blockserver.status(404),
    "400": blockserver.status(400, b"invalid locator\n"),
    "405": blockserver.status(405),
    "413": blockserver.status(413, b"EOF"),
    "422": blockserver.status(422),
    "401": blockserver.status(401, b"no token provided in Authorization header\n"),
    "403": blockserver.status(403),
    "429": blockserver.status(429, Retry_After=40),
    "503": blockserver.status(503, Retry_After="Wed, 21 Oct 2125 07:28:00 GMT"),
    "nonsense Retry-After": blockserver.status(503, Retry_After="soon"),
    "connection closed": blockserver.closed,
    "corrupt byte": blockserver.corrupt,
    "truncated body": blockserver.truncated,
    "no body for a size too small": blockserver.shorter,
    "garbage": blockserver.garbage,
    "redirect": blockserver.status(302, Location="http://127.0.0.1:1/elsewhere"),
    "huge length": blockserver.of_length(1 << 60),
    "length of more digits than numbers have": blockserver.of_length(10**30),
    "one byte more": blockserver.of_length(len(BLOCK) + 1),
    "one byte less": blockserver.of_length(len(BLOCK) - 1),
    "more than the block, without a length": blockserver.without_length(b"x" * 100),
    "endless text of an error": blockserver.status(400, b"x" * (1 << 22)),
}


@pytest.mark.parametrize("fault", FAILING.values(), ids=FAILING)
async def test_the_second_server_is_asked_at_once(
    first: BlockServer, second: BlockServer, fault: Fault, expected_warnings: Announce
) -> None:
    expected_warnings(DAMAGED)
    first.always = fault
    async with blocks_of(first, second) as blocks:
        with trio.fail_after(3):
            assert await read_all(blocks) == BLOCK
    assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize("fault", [blockserver.without_length(), blockserver.chunked], ids=["no length", "chunks"])
async def test_a_block_without_a_length_is_as_good(first: BlockServer, fault: Fault) -> None:
    first.always = fault
    async with blocks_of(first) as blocks:
        assert await read_all(blocks) == BLOCK


async def test_a_server_that_is_not_there_is_passed_over_and_told_of_once(
    first: BlockServer, second: BlockServer, expected_warnings: Announce, caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings(PASSED_OVER)
    other = noise(1000, "other")
    second.add(other)
    first.__exit__(None, None, None)
    async with blocks_of(first, second) as blocks:
        assert await read_all(blocks) == BLOCK
        assert await read_all(blocks, locator_of(other)) == other
    assert len([each for each in caplog.records if "is passed over" in each.getMessage()]) == 1


async def test_where_no_server_answers_the_message_says_so(
    first: BlockServer, second: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings(PASSED_OVER, "no place answers")
    for server in (first, second):
        server.__exit__(None, None, None)
    async with blocks_of(first, second, deadline=0.5) as blocks:
        with pytest.raises(RiafsError, match=f"no place answers: block {LOCATOR.unsigned.decode()[:32]}.*refused"):
            await read_all(blocks)


async def test_a_block_that_is_damaged_everywhere_is_not_fetched_for_each_read(
    first: BlockServer, second: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings(DAMAGED, "cannot be read: ")
    first.always = second.always = blockserver.corrupt
    async with blocks_of(first, second) as blocks:
        with pytest.raises(CorruptContent):
            await read_all(blocks)
        asked = len(first.requests) + len(second.requests)
        for offset in range(0, 200, 17):
            with pytest.raises(CorruptContent):
                await blocks.read(LOCATOR, offset, 17, no_renewal)
        assert len(first.requests) + len(second.requests) == asked == 4


async def test_a_connection_that_is_cut_is_tried_again_and_is_no_damaged_copy(
    first: BlockServer, expected_warnings: Announce, caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("the connection was cut.*; trying again")
    first.faults.append(blockserver.truncated)
    async with blocks_of(first) as blocks:
        assert await read_all(blocks) == BLOCK
        assert (blocks.counters.blocks_corrupt, blocks.counters.blocks_healed) == (0, 0)
    assert "damaged" not in caplog.text
    assert len(first.requests) == 2


@pytest.mark.parametrize(("status", "text"), [(403, b"Forbidden"), (400, b"invalid signature"), (500, b"I/O timeout")])
async def test_what_a_server_gives_as_its_reason_is_in_the_message(
    first: BlockServer, expected_warnings: Announce, status: int, text: bytes
) -> None:
    expected_warnings("cannot be read: ")
    first.always = blockserver.status(status, b"error: " + text + b" +Asecret@5f000000")
    async with blocks_of(first, deadline=0.3) as blocks:
        with pytest.raises(RiafsError, match=rf"status {status}: .*(forbidden|invalid signature|timeout)") as caught:
            await read_all(blocks)
    assert "secret" not in str(caught.value)


async def test_a_damaged_copy_is_counted_and_from_then_on_asked_for_last(
    first: BlockServer, second: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings("ERROR: block .* of 127.0.0.1:[0-9]* is damaged; this copy is not used")
    first.always = blockserver.corrupt
    other = random.Random(2).randbytes(1000)
    first.add(other)
    second.add(other)
    async with blocks_of(first, second, memory=1) as blocks:
        await read_all(blocks)
        await read_all(blocks, locator_of(other))
        await read_all(blocks)
        assert blocks.counters.blocks_healed >= 1
    assert [asked.path[:32].encode() for asked in first.requests].count(LOCATOR.digest) == 1


# -- nobody has it ----------------------------------------------------------------------------------------------------

HOPELESS: dict[str, tuple[Fault, type[RiafsError]]] = {
    "404": (blockserver.status(404), MissingContent),
    "400": (blockserver.status(400, b"invalid locator\n"), BadAnswer),
    "403": (blockserver.status(403), StoreDenied),
    "redirect": (blockserver.status(307, Location="http://127.0.0.1:1/"), BadAnswer),
    "corrupt": (blockserver.corrupt, CorruptContent),
    "truncated": (blockserver.truncated, ShortRead),
    "another size": (blockserver.of_length(len(BLOCK) + 5), CorruptContent),
}


@pytest.mark.parametrize(("fault", "failure"), HOPELESS.values(), ids=HOPELESS)
async def test_what_no_server_has_is_an_error_within_a_second(
    first: BlockServer, second: BlockServer, fault: Fault, failure: type[RiafsError], expected_warnings: Announce
) -> None:
    expected_warnings(DAMAGED, "ERROR: block [0-9a-f]*.3000000 (is not there|cannot be read)")
    first.always = second.always = fault
    async with blocks_of(first, second) as blocks:
        began = trio.current_time()
        with pytest.raises(failure, match=LOCATOR.digest.decode()) as caught:
            await read_all(blocks)
        assert trio.current_time() - began < 1
        assert caught.value.reported
        assert blocks.problem(LOCATOR) == str(caught.value)
    asked = 2 if failure in (CorruptContent, ShortRead) else 1  # once more, as the network may have done it
    assert (len(first.requests), len(second.requests)) == (asked, asked)


async def test_one_line_in_the_log_for_a_block_that_is_missing(
    first: BlockServer, expected_warnings: Announce, caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("is not there")
    first.always = blockserver.status(404)
    async with blocks_of(first) as blocks:
        for _ in range(3):
            with pytest.raises(MissingContent):
                await read_all(blocks)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("riafs")]
    assert lines == [f"block {LOCATOR.unsigned.decode()} is not there; looked at 127.0.0.1:{first.port}"]


# -- everybody is busy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503, 500, 408])
async def test_all_busy_twice_is_waited_for(first: BlockServer, second: BlockServer, status: int) -> None:
    for server in (first, second):
        server.faults.extend([blockserver.status(status)] * 2)
    async with blocks_of(first, second) as blocks:
        with trio.fail_after(4):
            assert await read_all(blocks) == BLOCK
    assert (len(first.requests), len(second.requests)) == (3, 2)


async def test_all_busy_for_ever_is_an_error_at_the_deadline(
    first: BlockServer, second: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings("cannot be read: .* too much to do")
    first.always = second.always = blockserver.status(503)
    async with blocks_of(first, second, deadline=1.5) as blocks:
        began = trio.current_time()
        with pytest.raises(Overloaded):
            await read_all(blocks)
        assert 1.3 < trio.current_time() - began < 3
    assert 2 <= len(first.requests) <= 5


async def test_a_server_is_left_alone_for_as_long_as_it_asks(first: BlockServer) -> None:
    first.faults.append(blockserver.status(503, Retry_After=2))
    async with blocks_of(first) as blocks:
        began = trio.current_time()
        assert await read_all(blocks) == BLOCK
        assert 1.9 < trio.current_time() - began < 4


async def test_asking_for_more_time_than_there_is_ends_at_the_deadline(
    first: BlockServer, expected_warnings: Announce
) -> None:
    expected_warnings("too much to do")
    first.always = blockserver.status(429, Retry_After=60)
    async with blocks_of(first, deadline=1) as blocks:
        with trio.fail_after(3), pytest.raises(Overloaded):
            await read_all(blocks)
    assert len(first.requests) == 1


async def test_servers_that_came_meanwhile_are_asked(first: BlockServer, second: BlockServer) -> None:
    first.always = blockserver.status(404)
    async with blocks_of(first, second) as blocks:
        places = blocks.tools.places  # the double's list, which its refresh changes
        everywhere = places._volumes
        places._volumes = everywhere[:1]

        async def refresh() -> None:
            places._volumes = everywhere

        places._refresh = refresh
        with trio.fail_after(1):
            assert await read_all(blocks) == BLOCK
    assert len(first.requests) == 1


# -- signatures -------------------------------------------------------------------------------------------------------


class Signatures:
    """Signed locators: the servers take the newest one only."""

    def __init__(self, *servers: BlockServer) -> None:
        self.renewals = 0
        for server in servers:
            server.accepts = lambda path: path.encode() == self.newest.text

    @property
    def newest(self) -> Locator:
        return locator_of(BLOCK, b"A%040d@%08x" % (self.renewals, 0x7FFFFFFF))

    async def renew(self, used: Locator) -> Locator:
        await trio.sleep(0.05)
        self.renewals += 1
        return self.newest


async def test_an_expired_signature_is_renewed_once_then_all_is_well(first: BlockServer, second: BlockServer) -> None:
    signatures = Signatures(first, second)
    expired = locator_of(BLOCK, b"A" + b"9" * 40 + b"@7fffffff")
    async with blocks_of(first, second) as blocks:
        assert await blocks.read(expired, 0, 10, signatures.renew) == BLOCK[:10]
    assert signatures.renewals == 1
    assert (len(first.requests), len(second.requests)) == (2, 0)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_is_refused_after_a_renewal_is_denied(
    first: BlockServer, status: int, expected_warnings: Announce
) -> None:
    expected_warnings("check the token")
    first.always = blockserver.status(status, b"expired signature\n")
    signatures = Signatures(first)
    async with blocks_of(first, token="v2/a/thesecret") as blocks:
        with pytest.raises(StoreDenied, match="check the token") as caught, trio.fail_after(1):
            await blocks.read(signatures.newest, 0, 10, signatures.renew)
    assert signatures.renewals == 1
    assert "secret" not in str(caught.value)
    assert "@7fffffff" not in str(caught.value)
    assert first.requests[0].headers["authorization"] == "Bearer v2/a/thesecret"


async def test_a_signature_that_the_server_finds_invalid_is_renewed_as_well(first: BlockServer) -> None:
    first.faults.append(blockserver.status(400, b"invalid signature\n"))
    signatures = Signatures(first)
    async with blocks_of(first) as blocks:
        assert await blocks.read(signatures.newest, 0, 10, signatures.renew) == BLOCK[:10]


async def test_a_signature_that_is_about_to_expire_is_renewed_before(first: BlockServer) -> None:
    signatures = Signatures(first)
    async with blocks_of(first) as blocks:
        assert await blocks.read(locator_of(BLOCK, b"A" + b"0" * 40 + b"@00000001"), 0, 10, signatures.renew)
    assert len(first.requests) == 1


async def test_a_renewal_that_fails_is_tried_again(first: BlockServer) -> None:
    signatures = Signatures(first)
    failing = [StoreError("the API server is away")]

    async def renew(used: Locator) -> Locator:
        if failing:
            raise failing.pop()
        return await signatures.renew(used)

    async with blocks_of(first) as blocks:
        expired = locator_of(BLOCK, b"A" + b"9" * 40 + b"@7fffffff")
        assert await blocks.read(expired, 0, 10, renew) == BLOCK[:10]


# -- slowness ---------------------------------------------------------------------------------------------------------


async def test_a_slow_first_byte_gets_company(first: BlockServer, second: BlockServer) -> None:
    first.always = blockserver.after(20)
    async with blocks_of(first, second, deadline=20) as blocks:
        began = trio.current_time()
        assert await read_all(blocks) == BLOCK
        assert 0.9 < trio.current_time() - began < 4
        assert blocks.counters.blocks_hedged == 1
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_a_slow_server_that_answers_first_still_wins(first: BlockServer, second: BlockServer) -> None:
    first.always = blockserver.after(1.5)
    second.always = blockserver.after(20)
    async with blocks_of(first, second, deadline=20) as blocks:
        with trio.fail_after(10):
            assert await read_all(blocks) == BLOCK


async def test_only_one_more_is_asked(first: BlockServer, second: BlockServer) -> None:
    first.always = second.always = blockserver.after(3)
    with BlockServer([BLOCK]) as third:
        async with blocks_of(first, second, third, deadline=20) as blocks:
            assert await read_all(blocks) == BLOCK
        assert not third.requests


@pytest.mark.parametrize(
    "fault",
    [blockserver.after(20), blockserver.stalling(20), blockserver.trickling(0.01)],
    ids=["first", "stall", "trickle"],
)
async def test_a_server_that_does_not_go_on_is_an_error_at_the_deadline(
    first: BlockServer, fault: Fault, expected_warnings: Announce
) -> None:
    expected_warnings("cannot be read: ", PASSED_OVER)
    first.always = fault
    async with blocks_of(first, deadline=0.7) as blocks:
        with trio.fail_after(5), pytest.raises(StoreTimeout):
            await read_all(blocks)


@pytest.mark.parametrize("scarce", [{"per_server": 1}, {"memory": 1}], ids=["server", "memory"])
async def test_who_waits_behind_a_hanging_server_does_not_wait_for_everybodys_deadline(
    first: BlockServer, expected_warnings: Announce, scarce: dict[str, int]
) -> None:
    expected_warnings("cannot be read: ", PASSED_OVER)
    first.always = blockserver.after(20)
    others = [locator_of(bytes([number])) for number in range(8)]
    async with blocks_of(first, deadline=0.5, **scarce) as blocks:

        async def fails(locator: Locator) -> None:
            with pytest.raises(StoreTimeout):
                await read_all(blocks, locator)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for locator in others:
                nursery.start_soon(fails, locator)
        assert trio.current_time() - began < 3


@pytest.mark.parametrize("scarce", [{"per_server": 1}, {"memory": 1}], ids=["server", "memory"])
async def test_who_waits_behind_slow_transfers_is_not_cut(first: BlockServer, scarce: dict[str, int]) -> None:
    first.always = blockserver.trickling(0.06, 1 << 16)
    others = [random.Random(number).randbytes(2_000_000) for number in range(3)]
    for block in others:
        first.add(block)
    async with blocks_of(first, deadline=1.2, **scarce) as blocks, trio.open_nursery() as nursery:

        async def read(block: bytes) -> None:
            assert await read_all(blocks, locator_of(block)) == block

        for block in others:
            nursery.start_soon(read, block)


async def test_a_stall_is_healed_by_another_server(first: BlockServer, second: BlockServer) -> None:
    first.always = blockserver.stalling(20)
    async with blocks_of(first, second, deadline=1) as blocks:
        with trio.fail_after(5):
            assert await read_all(blocks) == BLOCK


async def test_another_server_is_asked_while_one_trickles(first: BlockServer, second: BlockServer) -> None:
    first.always = blockserver.trickling(0.05)
    second.always = blockserver.after(0.3)
    async with blocks_of(first, second, deadline=20) as blocks:
        with trio.fail_after(8):
            assert await read_all(blocks) == BLOCK
        assert blocks.counters.blocks_hedged == 1


@pytest.mark.parametrize("scarce", [{"per_server": 1}, {"memory": 1}], ids=["server", "memory"])
async def test_a_trickling_server_does_not_take_what_others_need(
    first: BlockServer, second: BlockServer, scarce: dict[str, int]
) -> None:
    first.always = blockserver.trickling(0.05)
    others = [random.Random(number).randbytes(20_000) for number in range(6)]
    for block in others:
        first.add(block)
        second.add(block)
    async with blocks_of(first, second, deadline=20, **scarce) as blocks:
        with trio.fail_after(12):
            async with trio.open_nursery() as nursery:

                async def read(block: bytes) -> None:
                    assert await read_all(blocks, locator_of(block)) == block

                for block in others:
                    nursery.start_soon(read, block)
        with trio.fail_after(3):
            assert await read_all(blocks) == BLOCK
    assert len(first.requests) < len(second.requests)


async def test_two_trickling_servers_do_not_hide_a_third(first: BlockServer, second: BlockServer) -> None:
    first.always = second.always = blockserver.trickling(0.05)
    with BlockServer([BLOCK]) as third:
        async with blocks_of(first, second, third, deadline=20) as blocks:
            with trio.fail_after(12):
                assert await read_all(blocks) == BLOCK


async def test_a_transfer_that_goes_on_is_not_cut_at_the_deadline(first: BlockServer) -> None:
    first.always = blockserver.trickling(0.03, 1 << 16)
    async with blocks_of(first, deadline=0.5) as blocks:
        began = trio.current_time()
        assert await read_all(blocks) == BLOCK
        assert trio.current_time() - began > 1


# -- blocks that are none ---------------------------------------------------------------------------------------------


async def test_the_block_of_no_bytes_and_that_of_zeros_are_not_asked_for(first: BlockServer) -> None:
    async with blocks_of(first) as blocks:
        assert await blocks.read(EMPTY_BLOCK, 0, 10, no_renewal) == b""
        assert await blocks.read(ZERO_BLOCK, MAX_BLOCK - 5, 10, no_renewal) == bytes(5)
        assert await copies(blocks, EMPTY_BLOCK, no_renewal) == ()
    assert not first.requests


async def test_a_block_over_the_bound_is_refused_without_a_request(first: BlockServer) -> None:
    async with blocks_of(first) as blocks:
        with pytest.raises(TooLarge, match="up to 67108864 bytes"):
            await blocks.read(Locator(LOCATOR.digest, MAX_BLOCK + 1), 0, 10, no_renewal)
    assert not first.requests


@pytest.mark.parametrize("size", [len(BLOCK) - 1, len(BLOCK) + 1])
async def test_a_size_that_is_not_the_blocks_gives_an_error(
    first: BlockServer, size: int, expected_warnings: Announce
) -> None:
    expected_warnings(DAMAGED)
    async with blocks_of(first) as blocks:
        with pytest.raises((CorruptContent, ShortRead)):
            await blocks.read(Locator(LOCATOR.digest, size), 0, 10, no_renewal)
