"""HTTP for block servers and API servers: urllib3 in bounded worker threads.

How it works: an exchange runs in a worker thread. The socket's timeouts bound connecting and each wait for bytes. In
addition, the event loop cancels an exchange whose answer does not begin in time, or makes no progress for as long as
the deadline; less than `FLOOR` bytes a second are no progress. The socket of a cancelled exchange is shut down, so that
its thread ends.

Redirects are not followed, requests are not repeated and bodies are not decompressed: callers decide about these.
Messages have the caller's name of the request and our words for the failure, and never a URL, a header or a server's
text, which may contain tokens and signatures.
"""

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed leaves it out

import trio
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    InsecureRequestWarning,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Timeout, make_headers, parse_url

from riafs.counters import Counters
from riafs.errors import BadSource, CutOff, RiafsError, StoreError, StoreTimeout, TooLarge

T = TypeVar("T")

PIECE = 1 << 20
"""Bytes that are received at a time."""
_THREADS = 32
_POOLS = 64
_CONNECT_SECONDS = 10.0
FLOOR = 1024
"""Bytes a second; a slower answer makes no progress."""
_REPORT_SECONDS = 1.0

logging.getLogger("urllib3").setLevel(logging.WARNING)  # below that it logs URLs
_active = threading.local()  # the exchange of a worker thread, as urllib3 makes connections without telling for whom


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Deadline, certificates and proxies for all servers of a mount."""

    deadline: float = 30.0
    """Seconds for an answer to begin, and for each wait for more of it."""
    insecure: bool = False
    """Whether a server's certificate is not checked."""
    authorities: str | None = None
    """File with the certificates of the authorities that are trusted, None for the system's."""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """``http``, ``https`` → URL of a proxy; ``no`` → hosts that are reached without one, separated by commas."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a server. `name` is its name in messages (``block acbd18… of keep0:25107``)."""

    name: str
    url: str = field(repr=False)
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    seconds: float | None = None
    """Deadline for the answer to begin, if it is less than that of `HttpOptions`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def bearer(token: str | None) -> Mapping[str, str]:
    """The header that sends `token` to a server. Raises BadSource, which does not quote it."""
    if token is None:
        return {}
    if not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise BadSource("the token is no line of printable ASCII characters; look where it is set")
    return {"Authorization": f"Bearer {token}"}


class Incoming:
    """An answer whose body is still to be received. Used by the worker thread only."""

    def __init__(self, response: urllib3.BaseHTTPResponse, name: str, progress: Callable[[int], None]) -> None:
        self._response = response
        self._name = name
        self._progress = progress
        self.status = response.status

    @property
    def length(self) -> int | None:
        """Bytes of the body, None where the server does not say; never negative."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def header(self, name: str) -> str:
        """The value of a header, empty without it."""
        return self._response.headers.get(name, "")

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, names in lower case."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    def read(self, length: int) -> bytes:
        """The next bytes of the body: fewer than `length` and `PIECE` only at its end.

        Raises ShortRead, StoreError, StoreTimeout.
        """
        wanted, parts = min(length, PIECE), []
        try:
            while wanted > 0 and (data := self._response.read1(wanted, decode_content=False)):
                parts.append(data)
                wanted -= len(data)
                self._progress(len(data))
        except (HTTPError, OSError) as error:
            raise http_failure(error, self._name) from None  # the context would quote what the server sent
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_all(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge for one of more than `limit` bytes, and what `read` raises."""
        parts: list[bytes] = []
        left = limit + 1
        while left > 0 and (part := self.read(left)):
            parts.append(part)
            left -= len(part)
        if left <= 0:
            raise TooLarge(f"{self._name}: the answer has more than {limit} bytes")
        return b"".join(parts)


class _Connection(HTTPConnection):
    """Gives its socket to the exchange of its thread, which may have to shut it down."""

    def request(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as urllib3 calls it
        super().request(*arguments, **named)
        _active.exchange.uses(self.sock)


class _SecureConnection(HTTPSConnection):
    """As `_Connection`, with TLS."""

    def request(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401  # as urllib3 calls it
        super().request(*arguments, **named)
        _active.exchange.uses(self.sock)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Exchange(Generic[T]):
    """One request and its answer. `run` runs in a worker thread, `cancel` on the event loop.

    The deadline of `scope` is extended while the answer makes progress.
    """

    def __init__(
        self, request: Request, options: HttpOptions, take: Callable[[Incoming], T], on_progress: Callable[[], None]
    ) -> None:
        self._request = request
        self._options = options
        self._take = take
        self._on_progress = on_progress
        self._socket: socket.socket | None = None
        self._cancelled = False
        self._reported = 0.0
        self._received = 0
        self._first = min(
            options.deadline, options.deadline if request.seconds is None else max(request.seconds, 0.001)
        )
        self.scope = trio.CancelScope(deadline=trio.current_time() + options.deadline + self._first)  # for a thread

    def run(self, manager: urllib3.PoolManager) -> T:
        """Send the request and let `take` receive the answer. Raises what `take` raises, StoreError, StoreTimeout."""
        _active.exchange = self
        trio.from_thread.run_sync(self._extend, self._first)
        try:
            response = self._response(manager)
        except (HTTPError, OSError) as error:
            raise http_failure(error, self._request.name) from None  # the context would quote what the server sent
        with response:
            self._reported = time.monotonic()
            trio.from_thread.run_sync(self._progressed)
            return self._take(Incoming(response, self._request.name, self._count))

    def _response(self, manager: urllib3.PoolManager) -> urllib3.BaseHTTPResponse:
        request = self._request
        return manager.urlopen(
            request.method,
            request.url,
            headers={"Accept-Encoding": "identity", **request.headers},
            body=request.body,
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=Timeout(connect=min(_CONNECT_SECONDS, self._first), read=self._options.deadline),
        )

    def uses(self, used: socket.socket) -> None:
        """Note the socket that the request was sent over."""
        self._socket = used
        if self._cancelled:
            raise ConnectionAbortedError("cancelled")

    def _count(self, received: int) -> None:
        """Count received bytes, and report progress to the event loop about once a second, not for every piece."""
        self._received += received
        seconds = time.monotonic() - self._reported
        if seconds < min(_REPORT_SECONDS, self._options.deadline / 4):
            return
        is_progress = self._received >= FLOOR * seconds
        self._reported, self._received = self._reported + seconds, 0
        if is_progress:
            trio.from_thread.run_sync(self._progressed)

    def _progressed(self) -> None:
        self._extend(self._options.deadline)
        self._on_progress()

    def _extend(self, seconds: float) -> None:
        self.scope.deadline = trio.current_time() + seconds

    def cancel(self) -> None:
        """Shut down the socket, so that the thread ends soon."""
        self._cancelled = True
        if self._socket is not None:
            with suppress(OSError):
                # SSLSocket.shutdown would take the session away from the thread that reads from it
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Http:
    """One per mount: connections are kept and used again. Used from the event loop's thread."""

    def __init__(self, options: HttpOptions, counters: Counters, threads: int = _THREADS) -> None:
        self._options = options
        self._counters = counters
        self._limiter = trio.CapacityLimiter(threads)
        self._context = _tls(options)
        self._managers: dict[str, urllib3.PoolManager] = {}

    @property
    def deadline(self) -> float:
        """Seconds for an answer to begin, and for each wait for more of it."""
        return self._options.deadline

    async def exchange(
        self, request: Request, take: Callable[[Incoming], T], on_progress: Callable[[], None] = lambda: None
    ) -> T:
        """The result of `take`, which receives the answer in a worker thread. `on_progress` is called on the event loop
        when the answer begins, and about once a second while more of it arrives.

        Raises what `take` raises; StoreError, StoreTimeout where there is no answer.
        """
        exchange = _Exchange(request, self._options, take, on_progress)
        manager = self._manager(request.url)
        with exchange.scope:
            try:
                return await trio.to_thread.run_sync(
                    exchange.run, manager, abandon_on_cancel=True, limiter=self._limiter
                )
            except trio.Cancelled:
                exchange.cancel()
                raise
        self._counters.store_timeouts += 1
        raise StoreTimeout(f"{request.name}: the answer did not come, or not on, within {self.deadline:g} s")

    async def ask(self, request: Request, limit: int) -> Answer:
        """The whole answer, of any status. Raises TooLarge for a body of more than `limit` bytes, ShortRead,
        StoreError, StoreTimeout."""

        def take(incoming: Incoming) -> Answer:
            return Answer(incoming.status, incoming.headers, incoming.read_all(limit))

        return await self.exchange(request, take)

    def close(self) -> None:
        """Close the connections that are not in use."""
        for manager in self._managers.values():
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = _proxy_for(url, self._options.proxies)
        manager = self._managers.get(proxy)
        if manager is None:
            manager = self._managers[proxy] = self._new_manager(proxy)
        return manager

    def _new_manager(self, proxy: str) -> urllib3.PoolManager:
        named: dict[str, Any] = {"num_pools": _POOLS, "maxsize": _THREADS, "ssl_context": self._context}
        if proxy:
            secret = parse_url(proxy).auth
            headers = make_headers(proxy_basic_auth=secret) if secret else None
            manager: urllib3.PoolManager = urllib3.ProxyManager(proxy, proxy_headers=headers, **named)
        else:
            manager = urllib3.PoolManager(**named)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager


def _proxy_for(url: str, proxies: Mapping[str, str]) -> str:
    """The proxy for `url`, empty for none."""
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme, "")
    if not proxy or proxy_bypass_environment(parts.netloc.rpartition("@")[2], dict(proxies)):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _tls(options: HttpOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.authorities)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(f"the certificates in {options.authorities} cannot be used: {error.strerror}") from error
    if options.insecure:
        urllib3.disable_warnings(InsecureRequestWarning)  # the user has chosen this
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def http_failure(error: HTTPError | OSError, name: str) -> RiafsError:
    """The failure for `error`; its message begins with `name`, that of the request."""
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError) and not isinstance(error, NewConnectionError):
        return StoreTimeout(f"{name}: the server did not answer in time")
    cause = _cause(error)
    if isinstance(cause, IncompleteRead | http.client.IncompleteRead):
        return CutOff(f"{name}: the connection was cut in the middle of the answer")
    return StoreError(f"{name}: {_reason(error, cause)}")


def _cause(error: BaseException) -> BaseException:
    """The exception inside of urllib3's wrappers."""
    inner = error.args[-1] if isinstance(error, ProtocolError | ProxyError | SSLError) and error.args else None
    inner = inner if isinstance(inner, BaseException) else error.__cause__
    return error if inner is None else _cause(inner)


def _reason(error: BaseException, cause: BaseException) -> str:
    prefix = "the proxy cannot be used: " if isinstance(error, ProxyError) else ""
    if isinstance(error, NameResolutionError):
        return prefix + "its name is not known here"
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message
        return f"{prefix}its certificate is not trusted ({why}); SSL_CERT_FILE can name its authority"
    if isinstance(error, SSLError) or isinstance(cause, ssl.SSLError):
        return prefix + "no TLS connection can be made"
    if isinstance(cause, http.client.RemoteDisconnected):
        return prefix + "the connection was closed without an answer"
    if isinstance(cause, OSError) and cause.strerror:
        return prefix + cause.strerror[:1].lower() + cause.strerror[1:]
    return prefix + "the answer is not proper HTTP"
