"""A block server over real sockets that answers well, or in one of the ways that servers fail.

``BlockServer(blocks)`` is a context manager. Each request takes the next of `faults`; when these are used up, `always`;
without it the block is sent. `requests` has what was asked, in order.
"""

import hashlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: the first line's path without its slash, headers with names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


class Conversation:
    """The server's end of one connection, at one request."""

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self._connection = connection
        self._stopping = stopping
        self.open = True

    def head(self, status: int, headers: Mapping[str, object]) -> None:
        """Send the status line and headers."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.send("\r\n".join(lines).encode())

    def answer(self, status: int, body: bytes, headers: Mapping[str, object] | None = None) -> None:
        """Send a whole answer."""
        self.head(status, {"Content-Length": len(body), **(headers or {})})
        self.send(body)

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._connection.sendall(data)

    def wait(self, seconds: float) -> None:
        """Do nothing for a while, or until the server is stopped."""
        self._stopping.wait(seconds)

    def close(self) -> None:
        """This was the connection's last answer."""
        self.open = False


Fault = Callable[[Conversation, bytes], None]
"""(conversation, the block): what the server does instead of answering well."""


def good(conversation: Conversation, block: bytes) -> None:
    """The block."""
    conversation.answer(200, block)


def status(code: int, text: bytes = b"", **headers: object) -> Fault:
    """An answer of that status; ``retry_after=1`` becomes ``Retry-After: 1``."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.answer(code, text, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def closed(conversation: Conversation, block: bytes) -> None:
    """No answer at all."""
    conversation.close()


def corrupt(conversation: Conversation, block: bytes) -> None:
    """The block with one bit turned."""
    middle = len(block) // 2
    conversation.answer(200, block[:middle] + bytes([block[middle] ^ 1]) + block[middle + 1 :])


def truncated(conversation: Conversation, block: bytes) -> None:
    """The length of the block, but only half of it."""
    conversation.head(200, {"Content-Length": len(block)})
    conversation.send(block[: len(block) // 2])
    conversation.close()


def shorter(conversation: Conversation, block: bytes) -> None:
    """What keepstore sends where the locator's size is smaller than the block: nothing, and it says so."""
    conversation.answer(200, b"")


def of_length(length: int) -> Fault:
    """The block under a length that is not its own."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.head(200, {"Content-Length": length})
        conversation.send(block)
        conversation.close()

    return answer


def without_length(extra: bytes = b"") -> Fault:
    """The block, ended by the end of the connection."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.head(200, {"Connection": "close"})
        conversation.send(block + extra)
        conversation.close()

    return answer


def chunked(conversation: Conversation, block: bytes) -> None:
    """The block in chunks."""
    conversation.head(200, {"Transfer-Encoding": "chunked"})
    for start in range(0, len(block), 1000):
        part = block[start : start + 1000]
        conversation.send(b"%x\r\n%s\r\n" % (len(part), part))
    conversation.send(b"0\r\n\r\n")


def garbage(conversation: Conversation, block: bytes) -> None:
    """Not HTTP."""
    conversation.send(b"\0\1\2 what do you want\r\n\r\n" * 100)
    conversation.close()


def after(seconds: float, then: Fault = good) -> Fault:
    """A late answer."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.wait(seconds)
        then(conversation, block)

    return answer


def stalling(seconds: float) -> Fault:
    """Half of the block, then a pause."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.head(200, {"Content-Length": len(block)})
        conversation.send(block[: len(block) // 2])
        conversation.wait(seconds)
        conversation.send(block[len(block) // 2 :])

    return answer


def trickling(seconds: float, step: int = 1) -> Fault:
    """The block, `step` bytes at a time, with pauses."""

    def answer(conversation: Conversation, block: bytes) -> None:
        conversation.head(200, {"Content-Length": len(block)})
        for start in range(0, len(block), step):
            conversation.send(block[start : start + step])
            conversation.wait(seconds)

    return answer


class BlockServer:
    """See the module. `accepts` decides whether a locator (``acbd…+3+A…@…``) is answered or expired."""

    def __init__(
        self,
        blocks: Iterable[bytes] = (),
        *,
        faults: Iterable[Fault] = (),
        always: Fault | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.blocks = {hashlib.md5(block).hexdigest(): block for block in blocks}
        self.faults = deque(faults)
        self.always = always
        self.accepts: Callable[[str], bool] = lambda locator: True
        self.requests: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self.connections = 0
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/"
        self._tls = tls

    def add(self, block: bytes) -> str:
        """Keep a block; its locator, unsigned."""
        digest = hashlib.md5(block).hexdigest()
        self.blocks[digest] = block
        return f"{digest}+{len(block)}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def wait_for_requests(self, count: int, seconds: float = 5) -> None:
        """Until that many were asked. Blocking: for threads."""
        end = time.monotonic() + seconds
        while len(self.requests) < count and time.monotonic() < end:
            time.sleep(0.01)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
                self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            secured = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with secured, secured.makefile("rb") as lines:
                conversation = Conversation(secured, self._stopping)
                while conversation.open and (asked := _request(lines)):
                    self._answer(conversation, asked)
        except OSError:
            pass  # the client has gone
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _answer(self, conversation: Conversation, asked: Asked) -> None:
        with self._lock:
            self.requests.append(asked)
            fault = self.faults.popleft() if self.faults else self.always
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._send(conversation, asked, fault)
        finally:
            with self._lock:
                self._at_once -= 1

    def _send(self, conversation: Conversation, asked: Asked, fault: Fault | None) -> None:
        block = self.blocks.get(asked.path[:32])
        if fault is not None:
            fault(conversation, b"" if block is None else block)
        elif block is None:
            conversation.answer(404, b"file does not exist\n")
        elif not self.accepts(asked.path):
            conversation.answer(401, b"expired signature\n")
        else:
            good(conversation, block)


def _request(lines: BinaryIO) -> Asked | None:
    first = lines.readline().decode().split()
    if len(first) != 3:
        return None
    headers = {}
    while (line := lines.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    lines.read(int(headers.get("content-length", 0)))
    return Asked(first[0], first[1].lstrip("/"), headers)
