"""A server in front of a web server that passes requests on and spoils the answers, in one named way at a time.

It knows HTTP, as `tests.remote.proxy` does not. Connections are kept open to clients, not to the server behind.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.remote.servers import HOST

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    target: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is sent as it is: neither status nor lengths need to be true."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False
    """End the connection after it."""

    def with_headers(self, **changed: str) -> "Answer":
        """Headers added or replaced; ``Content_Range`` for ``Content-Range``."""
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): changed[name] for name in changed}})


Fetch = Callable[[Seen], Answer]
"""The true answer to a request."""
Spoil = Callable[[Seen, Fetch], Answer]


def refusal(status: int, **headers: str) -> Spoil:
    """Only that status, with a page as servers have them."""

    def spoil(_: Seen, __: Fetch) -> Answer:
        return Answer(status, {"Content-Type": "text/html"}, b"<html>no</html>").with_headers(**headers)

    return spoil


def _whole_for_range(seen: Seen, fetch: Fetch) -> Answer:
    kept = {name: value for name, value in seen.headers.items() if name.lower() != "range"}
    return fetch(replace(seen, headers=kept))


def _in_partial(change: Callable[[Answer, int, int, int], Answer]) -> Spoil:
    """`change` what answers a range: (answer, first byte, last byte, size)."""

    def spoil(seen: Seen, fetch: Fetch) -> Answer:
        answer = fetch(seen)
        if answer.status != 206:
            return answer
        first, _, rest = answer.headers["Content-Range"].removeprefix("bytes ").partition("-")
        last, _, size = rest.partition("/")
        return change(answer, int(first), int(last), int(size))

    return spoil


def _other_range(answer: Answer, first: int, last: int, size: int) -> Answer:
    return answer.with_headers(Content_Range=f"bytes {first + 1}-{last + 1}/{size + 1}")


def _other_total(answer: Answer, first: int, last: int, size: int) -> Answer:
    return answer.with_headers(Content_Range=f"bytes {first}-{last}/{size + 4096}")


def _nonsense_range(answer: Answer, _: int, __: int, ___: int) -> Answer:
    return answer.with_headers(Content_Range="bytes */x")


def _fewer_bytes(seen: Seen, fetch: Fetch) -> Answer:
    """The length is what was asked for, and the body ends before."""
    answer = fetch(seen)
    return replace(answer, body=answer.body[: len(answer.body) // 2], close=True)


def _shorter(seen: Seen, fetch: Fetch) -> Answer:
    """Half of the bytes and their length, with the rest of the headers as it was."""
    answer = fetch(seen)
    body = answer.body[: len(answer.body) // 2]
    return replace(answer, body=body).with_headers(Content_Length=str(len(body)))


def _longer(seen: Seen, fetch: Fetch) -> Answer:
    """More bytes than were asked for."""
    answer = fetch(seen)
    body = answer.body + b"more than that" * 1000
    return replace(answer, body=body).with_headers(Content_Length=str(len(body)))


def _corrupt(seen: Seen, fetch: Fetch) -> Answer:
    """One bit is another one."""
    answer = fetch(seen)
    if not answer.body:
        return answer
    middle = len(answer.body) // 2
    return replace(answer, body=answer.body[:middle] + bytes([answer.body[middle] ^ 1]) + answer.body[middle + 1 :])


def _portal(_: Seen, __: Fetch) -> Answer:
    """What a network answers where one has to log in first."""
    return Answer(200, {"Content-Type": "text/html"}, b"<html><body>Please accept our terms.</body></html>" * 20)


class _OtherVersions:
    """Every answer is said to be of another version of the file."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, seen: Seen, fetch: Fetch) -> Answer:
        self._count += 1
        return fetch(seen).with_headers(ETag=f'"version-{self._count}"', Last_Modified="")


def _redirect_loop(seen: Seen, _: Fetch) -> Answer:
    return Answer(302, {"Location": seen.target}, b"")


FAULTS: Mapping[str, Spoil] = {
    "500": refusal(500),
    "503": refusal(503),
    "429": refusal(429, Retry_After="1"),
    "429-for-an-hour": refusal(429, Retry_After="3600"),
    "redirect-loop": _redirect_loop,
    "200-for-206": _whole_for_range,
    "other-content-range": _in_partial(_other_range),
    "other-total": _in_partial(_other_total),
    "nonsense-content-range": _in_partial(_nonsense_range),
    "fewer-bytes": _fewer_bytes,
    "shorter": _shorter,
    "longer": _longer,
    "corrupt": _corrupt,
    "portal": _portal,
    "other-versions": _OtherVersions(),
}
"""By name. A reader gets the right bytes or an error; the right ones with 200-for-206."""


class FaultLayer:
    """The server. `fault` spoils answers to requests whose target has `part` in it, at most `times`."""

    def __init__(self, target: int) -> None:
        self.fault: Spoil | None = None
        self.part = ""
        self.times: int | None = None
        self.seen: list[Seen] = []
        """All requests so far."""
        self._target = target
        layer = self

        class Handler(_Handler):
            def handle_one(self) -> None:
                layer.answer(self)

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def spoil(self, fault: Spoil | str | None, part: str = "", times: int | None = None) -> None:
        """Spoil answers from now on; None: no more."""
        self.fault, self.part, self.times = FAULTS[fault] if isinstance(fault, str) else fault, part, times

    def url(self, path: str = "", *, scheme: str = "") -> str:
        """The URL of `path`; `scheme` ``ria+`` makes it a RIA URL."""
        return f"{scheme}http://{HOST}:{self.port}{path}"

    def answer(self, handler: "_Handler") -> None:
        """One request, in a thread of its connection."""
        seen = Seen(handler.command, handler.path, dict(handler.headers))
        self.seen.append(seen)
        fault = self.fault if self.part in seen.target else None
        if fault is not None and self.times is not None:
            fault, self.times = (fault, self.times - 1) if self.times > 0 else (None, self.times)
        handler.send(fault(seen, self._fetch) if fault else self._fetch(seen))

    def _fetch(self, seen: Seen) -> Answer:
        connection = HTTPConnection(HOST, self._target, timeout=30)
        try:
            kept = {name: value for name, value in seen.headers.items() if name.lower() not in {"connection", "host"}}
            connection.request(seen.method, seen.target, headers={**kept, "Connection": "close"})
            response = connection.getresponse()
            body = response.read()
            dropped = {"connection", "transfer-encoding", "server", "date"}
            headers = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
            return Answer(response.status, {"Content-Length": str(len(body)), **headers}, body)
        finally:
            connection.close()

    def run(self) -> None:
        """Until it is stopped."""
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one(self) -> None:
        """Answer the request that was read."""

    def do_GET(self) -> None:  # as http.server calls it
        with suppress(OSError):
            self.handle_one()

    do_HEAD = do_GET  # noqa: N815

    def send(self, answer: Answer) -> None:
        """Send an answer."""
        self.send_response_only(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        if answer.close:
            headers["Connection"] = "close"
            self.close_connection = True
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as http.server calls it
        """Not to standard error."""


@contextmanager
def http_faults(target: int) -> Iterator[FaultLayer]:
    """The layer in front of the web server at a port of 127.0.0.1; it passes everything on until `FaultLayer.spoil`."""
    layer = FaultLayer(target)
    thread = threading.Thread(target=layer.run, name="http faults", daemon=True)
    thread.start()
    try:
        yield layer
    finally:
        layer.stop()
        thread.join()
