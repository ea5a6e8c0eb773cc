"""Whatever a server sends, a reader gets the block or one of our failures, soon."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from riafs.counters import Counters
from riafs.errors import RiafsError
from riafs.storage.http import Http, HttpOptions
from riafs.storage.keep_places import Attempt
from riafs.storage.keep_servers import KeepServer, ServerTools, _retry_after
from tests.keep.blocks import locator_of
from tests.keep.blockserver import BlockServer, Conversation

BLOCK = b"the bytes of the block"
_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 404 \r\n",
        b"HTTP/1.1 999999 ?\r\n",
        b"HTTP/9.9 200 OK\r\n",
        b"Content-Length: 22\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 22, 23\r\n",
        b"Content-Length: \xb2\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Retry-After: \xff\r\n",
        b"Set-Cookie: " + b"x" * 70_000 + b"\r\n",
        b"X: y\r\n" * 200,
        b": \r\n",
        b"\r\n",
        b"16\r\n",
        b"-1\r\n",
        b"ffffffffffffffffffff\r\n",
        b"0\r\n\r\n",
        BLOCK,
    ]
)


@pytest.fixture(scope="module")
def server() -> Iterator[BlockServer]:
    with BlockServer([BLOCK]) as running:
        yield running


@given(parts=st.lists(_LINES | st.binary(max_size=50), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"-1\r\n"])
@example([b"HTTP/1.1 200 OK\r\n", b"Content-Length: \xb2\r\n", b"\r\n", BLOCK])
@example([b"HTTP/1.1 503 No\r\n", b"Retry-After: Mon, 99 Foo 99999999 99:99:99 GMT\r\n", b"Content-Length: 0\r\n\r\n"])
def test_any_answer_is_a_block_or_a_failure(server: BlockServer, parts: list[bytes]) -> None:
    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.send(b"".join(parts))
        conversation.close()

    async def fetch() -> None:
        counters = Counters()
        http = Http(HttpOptions(deadline=2), counters)
        place = KeepServer(server.url, ServerTools(http, counters))
        with trio.fail_after(10):
            with suppress(RiafsError):
                found = await place.fetch(locator_of(BLOCK), Attempt("req-x", 2))
                assert b"".join(found.parts) == BLOCK
        http.close()

    server.always = answer
    trio.run(fetch)


@given(text=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,9} \d\d:\d\d:\d\d [-+A-Z0-9]{1,6}"))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("9" * 10_000)
def test_any_time_to_wait_is_none_or_a_minute_at_most(text: str) -> None:
    assert 0 <= _retry_after(text) <= 60
