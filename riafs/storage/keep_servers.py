"""Keep's block servers over HTTP: keepstore and keepproxy.

A block is received whole and hashed in the thread that receives it, since servers send data before they have verified
it: keepstore reports damage only by a short body, and takes ``Content-Length`` from the locator. Messages do not quote
a server's text, which may repeat the request with its signature; of its reasons, only known ones are named.
"""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urlsplit

import trio

from riafs.counters import Counters
from riafs.errors import (
    AccessExpired,
    BadAnswer,
    CorruptContent,
    CutOff,
    NotInStore,
    Overloaded,
    RiafsError,
    ShortRead,
    StoreError,
    TooLarge,
)
from riafs.formats.locators import Locator
from riafs.storage.deadline import ProgressQueue
from riafs.storage.http import PIECE, Http, Incoming, Request, bearer
from riafs.storage.keep_places import Attempt, WholeBlock

_MAX_RETRY_AFTER = 60.0
_TEXT_LIMIT = 1024
_OK = 200
_REASONS = (
    b"invalid signature", b"signature expired", b"expired", b"unauthorized", b"forbidden", b"permission denied",
    b"checksum mismatch", b"no space", b"too many", b"timeout", b"timed out", b"not implemented", b"method not allowed",
    b"malformed", b"input/output error", b"read-only", b"not found", b"bad gateway", b"service unavailable",
)  # fmt: skip
_TEMPORARY = frozenset((408, 409, 423))
_OVERLOADED = frozenset((429, 503))
_SERVER_FAULTS = range(500, 600)


@dataclass(frozen=True, slots=True)
class ServerTools:
    """The tools that all servers of a mount share."""

    http: Http
    counters: Counters
    token: str | None = field(default=None, repr=False)
    """Sent to each of them; the signatures in locators are valid for exactly this text."""
    per_server: int = 4
    """Requests at once to one server, at least 1."""


class KeepServer:
    """The server whose root is `url` (``http://host:port/``). Raises BadSource for an impossible token."""

    def __init__(self, url: str, tools: ServerTools) -> None:
        self._url = url.rstrip("/") + "/"
        self._http = tools.http
        self._counters = tools.counters
        self._headers = {"Accept": "application/octet-stream", **bearer(tools.token)}
        self._limiter = trio.Semaphore(tools.per_server)
        self._queue = ProgressQueue(tools.http.deadline)
        self.name = urlsplit(url).netloc.rpartition("@")[2]

    @property
    def in_place(self) -> bool:
        return False

    async def fetch(self, locator: Locator, attempt: Attempt) -> WholeBlock:
        parts = await self._received(locator, attempt, keep=True)
        self._counters.blocks_fetched += 1
        self._counters.bytes_fetched += locator.size
        return WholeBlock(parts, locator.size)

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        await self._received(locator, attempt, keep=False)

    async def _received(self, locator: Locator, attempt: Attempt, *, keep: bool) -> list[bytes]:
        name = f"block {locator.unsigned.decode()} of {self.name}"
        headers = {**self._headers, "X-Request-Id": attempt.request_id}
        request = Request(name, self._url + locator.text.decode(), headers=headers, seconds=attempt.seconds)
        take = partial(_receive, locator=locator, name=name, keep=keep)

        def on_progress() -> None:
            self._queue.progressed()
            attempt.progressed()

        attempt.queue = self._queue
        await self._queue.wait(self._limiter.acquire, f"{name}: the server answers no request")
        try:
            attempt.sent()
            self._counters.block_requests += 1
            return await self._http.exchange(request, take, on_progress)
        finally:
            self._limiter.release()


# -- in worker threads ------------------------------------------------------------------------------------------------


def _receive(incoming: Incoming, locator: Locator, name: str, *, keep: bool) -> list[bytes]:
    """The block in pieces of `PIECE` bytes; without `keep` it is only hashed."""
    if incoming.status != _OK:
        raise _failure(incoming, name)
    if incoming.length not in (None, locator.size):
        raise _wrong_size(name, incoming.length or 0, locator.size)
    checker = hashlib.md5(usedforsecurity=False)
    parts: list[bytes] = []
    received = 0
    while part := incoming.read(min(PIECE, locator.size + 1 - received)):
        received += len(part)
        checker.update(part)
        if keep:
            parts.append(part)
    if received < locator.size:
        raise CutOff(f"{name}: the connection was cut after {received} of {locator.size} bytes")
    if received > locator.size:
        raise _wrong_size(name, received, locator.size)
    if checker.hexdigest().encode() != locator.digest:
        raise CorruptContent(f"{name} is damaged")
    return parts


def _wrong_size(name: str, size: int, wanted: int) -> RiafsError:
    if size < wanted:
        return ShortRead(f"{name}: only {size} bytes come")
    return CorruptContent(f"{name} is another one: more than {wanted} bytes come")


def _failure(incoming: Incoming, name: str) -> RiafsError:
    """The failure for an answer without a block, by the statuses of keepstore and keepproxy."""
    status, text = incoming.status, b""
    with suppress(TooLarge):
        text = incoming.read_all(_TEXT_LIMIT)
    if status == 404:
        return NotInStore(f"{name} is not there")
    if status in (401, 403) or (status == 400 and b"invalid signature" in text):
        return AccessExpired(f"{name}: access refused (status {status}{_reason(text)})")
    if status == 502 and b"checksum mismatch" in text:
        return CorruptContent(f"{name} is damaged, as the server says")
    if status in _OVERLOADED:
        return _overloaded(incoming, name)
    if status in _TEMPORARY or status in _SERVER_FAULTS:
        return StoreError(f"{name}: the server failed (status {status}{_reason(text)})")
    return BadAnswer(f"{name}: the server answers with status {status}{_reason(text)}")


def _reason(text: bytes) -> str:
    """The known reason that a server's text has, if any; other text may repeat the request."""
    reason = next((each for each in _REASONS if each in text.lower()), b"")
    return f": {reason.decode()}" if reason else ""


def _overloaded(incoming: Incoming, name: str) -> Overloaded:
    problem = Overloaded(f"{name}: the server has too much to do (status {incoming.status})")
    problem.retry_after = _retry_after(incoming.header("Retry-After"))
    return problem


def _retry_after(text: str) -> float:
    """Seconds in a ``Retry-After`` header, which has a number or a date; 0 where it has neither."""
    seconds = 0.0
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    elif text:
        with suppress(ValueError):
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    return max(0.0, min(seconds, _MAX_RETRY_AFTER))
