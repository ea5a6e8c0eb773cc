"""HTTP for the servers of a stand-in cluster: counting, faults, delays, and the control requests of ``/_standin/``."""

import base64
import contextlib
import json
import re
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STEP = 1 << 20


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next `count` requests that `method` and the expression `path` match."""

    status: int | None = None
    """Answered instead; 0 closes the connection without an answer."""
    method: str = ""
    path: str = ""
    count: int = 1
    corrupt: bool = False
    """Whether the first byte of the body is changed."""
    truncate: int | None = None
    """How many bytes of the body are sent before the connection is closed."""
    body: str = "injected fault\n"
    headers: dict[str, str] = field(default_factory=dict)

    def matches(self, method: str, path: str) -> bool:
        """Whether it concerns such a request."""
        return self.count > 0 and self.method in ("", method) and re.search(self.path, path) is not None


class Shape:
    """Counts, faults and delays of one server."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.faults: list[Fault] = []
        self.latency = 0.0
        """Seconds before each answer."""
        self.bandwidth = 0.0
        """Bytes a second of each answer; 0 for no limit."""
        self.reset()

    def reset(self) -> None:
        """Set the counts to nothing."""
        self.requests: dict[str, int] = {}
        self.bytes_in = self.bytes_out = self.active = self.peak = 0

    def stats(self) -> dict[str, Any]:
        """The counts."""
        counts = {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "peak_active": self.peak}
        return {"requests": dict(self.requests), **counts}

    def begin(self, name: str) -> None:
        """Count a request."""
        with self.lock:
            self.requests[name] = self.requests.get(name, 0) + 1
            self.active += 1
            self.peak = max(self.peak, self.active)

    def end(self) -> None:
        """It has been answered."""
        with self.lock:
            self.active -= 1

    def next_fault(self, method: str, path: str) -> Fault | None:
        """The fault of the next request, used up."""
        with self.lock:
            for fault in self.faults:
                if fault.matches(method, path):
                    fault.count -= 1
                    return fault
        return None


class Server(ThreadingHTTPServer):
    """One server on 127.0.0.1."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, port: int, handler: type["Handler"], tls: ssl.SSLContext | None = None) -> None:
        self.shape = Shape()
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_port}/"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; connections are closed."""
        self.shutdown()
        self._thread.join()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """See socketserver. The handshake takes place in the connection's own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """See socketserver."""
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See socketserver. Clients may go away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request: `serve` answers it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "standin"
    sys_version = ""
    timeout = 600
    server: Server

    def serve(self) -> None:
        """Answer the request."""
        raise NotImplementedError

    def label(self) -> str:
        """What the request is counted as."""
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def run(self) -> None:
        """Called for every request."""
        url = urllib.parse.urlsplit(self.path)
        self.url_path = urllib.parse.unquote(url.path)
        self.query: dict[str, Any] = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.fault: Fault | None = None
        if self.url_path.startswith("/_standin/"):
            self._control()
            return
        shape = self.server.shape
        shape.begin(f"{self.command} {self.label()}")
        try:
            time.sleep(shape.latency)
            self.fault = shape.next_fault(self.command, self.url_path)
            if self.fault is None or self.fault.status is None:
                self.serve()
            else:
                self._fail(self.fault)
        except OSError:
            self.close_connection = True
        finally:
            shape.end()

    def __getattr__(self, name: str) -> Any:
        """``do_GET`` and its like."""
        if name.startswith("do_"):
            return self.run
        raise AttributeError(name)

    def _fail(self, fault: Fault) -> None:
        self.read_body()
        if fault.status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        assert fault.status is not None
        self.reply(fault.status, fault.body, headers=fault.headers.items())

    def _control(self) -> None:
        body = self.read_body()
        shape = self.server.shape
        match self.url_path.removeprefix("/_standin/"):
            case "reset":
                shape.reset()
            case "fault":
                if body:
                    shape.faults.append(Fault(**json.loads(body)))
                else:
                    shape.faults.clear()
            case "shape":
                for name, value in json.loads(body).items():
                    setattr(shape, name, float(value))
        self.json(shape.stats())

    def token(self) -> str:
        """The token that came with the request."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind in ("Bearer", "OAuth2"):
            return value.strip()
        if kind == "Basic":
            return base64.b64decode(value).decode().partition(":")[2]
        return str(self.query.get("api_token", ""))

    def read_body(self) -> bytes:
        """What came with the request."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        with self.server.shape.lock:
            self.server.shape.bytes_in += len(body)
        return body

    def json(self, value: object, status: int = 200) -> None:
        """Answer with JSON."""
        self.reply(status, json.dumps(value), "application/json; charset=utf-8")

    def reply(
        self,
        status: int,
        text: bytes | str = b"",
        kind: str = "text/plain; charset=utf-8",
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Answer, with the fault of this request."""
        body = text.encode() if isinstance(text, str) else text
        if self.fault is not None and self.fault.corrupt and body:
            body = bytes([body[0] ^ 255]) + body[1:]
        named = {"Content-Type": kind, "Content-Length": str(len(body)), **dict(headers)}
        self.send_response(status)
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(memoryview(body))

    def _send(self, body: memoryview) -> None:
        if self.fault is not None and self.fault.truncate is not None:
            body = body[: self.fault.truncate]
            self.close_connection = True
        shape = self.server.shape
        for start in range(0, len(body), _STEP):
            part = body[start : start + _STEP]
            if shape.bandwidth:
                time.sleep(len(part) / shape.bandwidth)
            self.wfile.write(part)
        with shape.lock:
            shape.bytes_out += len(body)
