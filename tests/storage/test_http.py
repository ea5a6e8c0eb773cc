"""HTTP over real sockets: what is sent, what is received, and what failures become."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import BadSource, RiafsError, ShortRead, StoreError, StoreTimeout, TooLarge
from riafs.storage.http import PIECE, Http, HttpOptions, Incoming, Request, bearer
from tests.keep import blockserver
from tests.keep.blockserver import BlockServer
from tests.keep.standin.certificates import make_certificate

BLOCK = bytes(range(256)) * 40
SECRET = "v2/zzzzz-gj3su-000000000000000/secretsecretsecret"


@pytest.fixture
def server() -> Iterator[BlockServer]:
    with BlockServer([BLOCK]) as running:
        yield running


def client(**options: object) -> Http:
    return Http(HttpOptions(**options), Counters())


def request_of(server: BlockServer, **more: object) -> Request:
    url = server.url + next(iter(server.blocks)) + "+10240+Asignature@ffffffff"
    return Request("the block of the server", url, headers=bearer(SECRET), **more)


def assert_says_no_secret(problem: BaseException) -> None:
    seen: list[BaseException] = [problem]
    while seen[-1].__cause__ is not None:
        seen.append(seen[-1].__cause__)
    for each in seen:
        assert "secret" not in repr(each)
        assert "signature" not in repr(each)


async def test_a_whole_answer_is_received_whatever_its_status(server: BlockServer) -> None:
    server.faults.extend([blockserver.good, blockserver.status(404, b"not here", X_Reason="gone")])
    http = client()
    assert (await http.ask(request_of(server), 1 << 20)).body == BLOCK
    missing = await http.ask(request_of(server), 1 << 20)
    assert (missing.status, missing.body, missing.headers["x-reason"]) == (404, b"not here", "gone")


async def test_the_token_is_sent_and_the_connection_is_used_again(server: BlockServer) -> None:
    http = client()
    for _ in range(3):
        await http.ask(request_of(server), 1 << 20)
    assert {asked.headers["authorization"] for asked in server.requests} == {f"Bearer {SECRET}"}
    assert server.connections == 1


async def test_a_body_is_sent(server: BlockServer) -> None:
    await client().ask(request_of(server, method="POST", body=b"a body"), 1 << 20)
    assert (server.requests[0].method, server.requests[0].headers["content-length"]) == ("POST", "6")


async def test_an_answer_over_the_bound_is_refused(server: BlockServer) -> None:
    with pytest.raises(TooLarge, match="the block of the server"):
        await client().ask(request_of(server), 1000)
    server.always = blockserver.without_length(b"x" * 5000)
    with pytest.raises(TooLarge):
        await client().ask(request_of(server), len(BLOCK) + 4999)


async def test_an_answer_comes_in_pieces() -> None:
    big = bytes(PIECE) + b"more"
    lengths = []

    def take(incoming: Incoming) -> bytes:
        received = b""
        while part := incoming.read(1 << 30):
            lengths.append(len(part))
            received += part
        return received

    with BlockServer([big]) as server:
        assert await client().exchange(request_of(server), take) == big
    assert lengths == [PIECE, 4]


@pytest.mark.parametrize(
    ("fault", "failure", "words"),
    [
        (blockserver.closed, StoreError, "closed without an answer"),
        (blockserver.garbage, StoreError, "not proper HTTP"),
        (blockserver.truncated, ShortRead, "connection was cut in the middle of the answer"),
        (blockserver.of_length(1 << 40), TooLarge, "more than"),
        (blockserver.of_length(-5), StoreError, ""),
    ],
)
async def test_a_bad_answer_is_a_failure_that_names_what_was_asked(
    server: BlockServer, fault: blockserver.Fault, failure: type[RiafsError], words: str
) -> None:
    server.always = fault
    http = client(deadline=5)
    if fault is blockserver.garbage or words:
        with pytest.raises(failure, match=f"the block of the server.*{words}") as caught:
            await http.ask(request_of(server), 1 << 16 if failure is not TooLarge else 100)
        assert_says_no_secret(caught.value)
    else:
        assert (await http.ask(request_of(server), 1 << 20)).body == BLOCK  # as if there were no length


async def test_a_redirect_is_not_followed(server: BlockServer) -> None:
    with BlockServer([BLOCK]) as other:
        server.always = blockserver.status(302, Location=other.url + "x")
        assert (await client().ask(request_of(server), 1 << 20)).status == 302
        assert not other.requests


async def test_nobody_there_is_said(server: BlockServer) -> None:
    request = request_of(server)
    server.__exit__(None, None, None)
    with pytest.raises(StoreError, match="the block of the server: connection refused") as caught:
        await client().ask(request, 100)
    assert_says_no_secret(caught.value)


async def test_an_unknown_host_is_said() -> None:
    with pytest.raises(StoreError, match="asking: its name is not known here"):
        await client().ask(Request("asking", "http://nowhere.invalid/x"), 100)


@pytest.mark.parametrize(
    "fault",
    [blockserver.after(20), blockserver.stalling(20), blockserver.trickling(0.02)],
    ids=["late", "stalling", "trickling"],
)
async def test_waiting_ends_at_the_deadline(server: BlockServer, fault: blockserver.Fault) -> None:
    server.always = fault
    http = client(deadline=0.3)
    began = trio.current_time()
    with pytest.raises(StoreTimeout, match="the block of the server") as caught:
        await http.ask(request_of(server), 1 << 20)
    assert trio.current_time() - began < 3
    assert_says_no_secret(caught.value)


async def test_a_transfer_that_goes_on_is_not_cut() -> None:
    big = bytes(4 * PIECE)
    with BlockServer([big], always=blockserver.trickling(0.02, 1 << 15)) as server:
        began = trio.current_time()
        assert (await client(deadline=0.5).ask(request_of(server), 1 << 23)).body == big
        assert trio.current_time() - began > 2


async def test_a_request_can_have_a_shorter_deadline(server: BlockServer) -> None:
    server.always = blockserver.after(20)
    with trio.fail_after(5), pytest.raises(StoreTimeout):
        await client(deadline=20).ask(request_of(server, seconds=0.2), 100)


async def test_a_cancelled_exchange_ends_its_thread_and_its_connection(server: BlockServer) -> None:
    server.faults.append(blockserver.stalling(20))
    http = Http(HttpOptions(), Counters(), threads=1)
    with trio.move_on_after(0.3):
        await http.ask(request_of(server), 1 << 20)
    with trio.fail_after(5):
        assert (await http.ask(request_of(server), 1 << 20)).body == BLOCK
    assert server.connections == 2


async def test_who_waits_for_a_thread_does_not_wait_for_ever(server: BlockServer) -> None:
    server.always = blockserver.after(20)
    http = Http(HttpOptions(deadline=0.5), Counters(), threads=1)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(times_out, http, request_of(server))
    assert trio.current_time() - began < 5


async def times_out(http: Http, request: Request) -> None:
    with pytest.raises(StoreTimeout):
        await http.ask(request, 100)


async def test_the_beginning_of_an_answer_is_told(server: BlockServer) -> None:
    server.always = blockserver.stalling(0.5)
    started: list[float] = []
    await client().exchange(
        request_of(server), lambda incoming: incoming.read_all(1 << 20), lambda: started.append(trio.current_time())
    )
    assert trio.current_time() - started[0] > 0.4


@pytest.mark.parametrize("token", ["", " a", "a\nb", "ä", "a\0"])
def test_an_impossible_token_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(BadSource) as caught:
        bearer(token + SECRET if token == "a\nb" else token)
    assert_says_no_secret(caught.value)


def test_a_request_does_not_show_its_secrets() -> None:
    shown = repr(Request("name", "http://host/secret", headers=bearer(SECRET), body=b"secret"))
    assert shown == "Request(name='name', method='GET', seconds=None)"


# -- proxies and TLS --------------------------------------------------------------------------------------------------


async def test_a_proxy_is_asked_for_what_is_not_excepted(server: BlockServer) -> None:
    proxies = {"http": server.url.replace("//", "//user:word@"), "no": "direct.invalid"}
    http = client(proxies=proxies)
    digest = next(iter(server.blocks))
    answer = await http.ask(Request("asking", f"http://elsewhere.invalid/{digest}"), 1 << 20)
    assert answer.status == 404  # the stand-in takes the whole URL for a path
    assert server.requests[0].path == f"http://elsewhere.invalid/{digest}"
    assert server.requests[0].headers["proxy-authorization"].startswith("Basic ")
    with pytest.raises(StoreError, match="not known"):
        await http.ask(Request("asking", f"http://direct.invalid/{digest}"), 1 << 20)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1; its key is ``key.pem`` beside it."""
    directory = tmp_path_factory.mktemp("tls")
    make_certificate(directory / "cert.pem", directory / "key.pem")
    return directory / "cert.pem"


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[BlockServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with BlockServer([BLOCK], tls=context) as running:
        yield running


async def test_an_unknown_certificate_is_refused(secure_server: BlockServer) -> None:
    with pytest.raises(StoreError, match="its certificate is not trusted") as caught:
        await client().ask(request_of(secure_server), 1 << 20)
    assert_says_no_secret(caught.value)


async def test_a_trusted_authority_lets_in(secure_server: BlockServer, certificate: Path) -> None:
    http = client(authorities=str(certificate))
    assert (await http.ask(request_of(secure_server), 1 << 20)).body == BLOCK


async def test_certificates_can_be_ignored(secure_server: BlockServer) -> None:
    assert (await client(insecure=True).ask(request_of(secure_server), 1 << 20)).body == BLOCK


async def test_a_cancelled_exchange_over_tls_ends(secure_server: BlockServer) -> None:
    secure_server.always = blockserver.stalling(20)
    with trio.fail_after(5), trio.move_on_after(0.5):
        await client(insecure=True).ask(request_of(secure_server), 1 << 20)


def test_a_missing_file_of_authorities_is_named() -> None:
    with pytest.raises(StoreError, match=r"/nowhere/ca\.pem"):
        client(authorities="/nowhere/ca.pem")


async def test_the_log_has_no_url(server: BlockServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await client().ask(request_of(server), 1 << 20)
    assert "signature" not in caplog.text
