"""A TCP proxy on 127.0.0.1 that behaves like a long or broken line to a server.

It runs in a thread with an event loop of its own, so that tests of every kind can use it, and `Proxy.set` changes it
while connections are open. A line has a round trip and a rate, which all connections share in each direction; what is
in flight on it is not bounded by TCP's windows, so that only the client's own window limits its speed.

As a program: ``python -m tests.remote.proxy SERVER_PORT [NAME=VALUE …]`` prints its port and runs until it is ended.
"""

import math
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import trio

from tests.remote.servers import HOST

_CHUNK = 256 << 10
_IN_FLIGHT = 256 << 20
"""Bytes on the line in one direction of a connection."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the line does. Counts are of the bytes that the server sent over one connection."""

    round_trip: float = 0.0
    """Seconds that are added; a new connection takes one as well."""
    rate: float = math.inf
    """Bytes a second in each direction."""
    stall_after: float = math.inf
    """After so many bytes nothing comes any more, and the connection stays open."""
    truncate_after: float = math.inf
    """After so many bytes the connection ends in order."""
    reset_after: float = math.inf
    """After so many bytes the connection is reset."""
    corrupt_at: float = math.inf
    """The byte at this offset is another one."""
    half_open: bool = False
    """Nothing passes in either direction, as if the cable were out: it comes when this is False again."""
    refuse: bool = False
    """New connections are refused."""


class _Broken(Exception):
    """The connection is to end now."""


class _Connection:
    """The two streams of one connection."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.server = server
        self.answered = 0

    def reset(self) -> None:
        """End it by RST in both directions."""
        for stream in (self.client, self.server):
            with suppress(OSError, trio.ClosedResourceError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()


class Proxy:
    """A proxy for the server at `target`, a port of 127.0.0.1."""

    def __init__(self, target: int, line: Line) -> None:
        self.port = 0
        self.line = line
        self.connections = 0
        """Connections that it accepted."""
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self._target = target
        self._open: set[_Connection] = set()
        self._changed = trio.Event()
        self._free = {True: 0.0, False: 0.0}  # when the line is free, by direction
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop = trio.CancelScope()
        self._ready = threading.Event()
        self._address: trio.socket.SocketType | None = None

    # -- for tests, from any thread

    def set(self, **changes: Any) -> None:
        """Change fields of `line`; connections that are open behave so at once."""
        self._call(lambda: self._change(replace(self.line, **changes)))

    def heal(self) -> None:
        """A line without delay and faults from now on."""
        self._call(lambda: self._change(Line()))

    def cut(self) -> None:
        """Reset all connections that are open."""
        self._call(self._cut)

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    def _call(self, function: Callable[[], None]) -> None:
        """Run it in the proxy's loop and wait, for less than a millisecond: tasks of another loop may call it too."""
        assert self._token is not None
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._token.run_sync_soon(run)
        assert done.wait(20)

    # -- in its own event loop

    def _change(self, line: Line) -> None:
        if line.refuse != self.line.refuse:
            assert self._address is not None
            self._address.close()
            self._listen(backlog=not line.refuse)
        self.line = line
        self._free = {True: 0.0, False: 0.0}
        self._changed.set()
        self._changed = trio.Event()

    def _cut(self) -> None:
        for connection in tuple(self._open):
            connection.reset()

    def _listen(self, *, backlog: bool) -> None:
        """Bind the port; connections to a bound port that nobody listens at are refused."""
        address = socket.socket()
        address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address.bind((HOST, self.port))
        self.port = address.getsockname()[1]
        if backlog:
            address.listen(1000)
        self._address = trio.socket.from_stdlib_socket(address)

    async def run(self) -> None:
        """Accept connections until it is stopped."""
        self._token = trio.lowlevel.current_trio_token()
        self._listen(backlog=not self.line.refuse)
        assert self._address is not None
        self._ready.set()
        with self._stop:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._accept(nursery)
        self._address.close()

    async def _accept(self, nursery: trio.Nursery) -> None:
        if self.line.refuse:
            await self._changed.wait()
            return
        assert self._address is not None
        with suppress(OSError, trio.ClosedResourceError):  # closed to be bound again
            client, _ = await self._address.accept()
            self.connections += 1
            nursery.start_soon(self._serve, trio.SocketStream(client))

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                server = await trio.open_tcp_stream(HOST, self._target)
                connection = _Connection(client, server)
                self._open.add(connection)
                try:
                    await trio.sleep(self.line.round_trip)
                    await self._relay(connection)
                finally:
                    self._open.discard(connection)
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(server)

    async def _relay(self, connection: _Connection) -> None:
        async with trio.open_nursery() as nursery:

            async def pump(upwards: bool) -> None:
                try:
                    await self._pump(connection, upwards=upwards)
                except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, _Broken):
                    nursery.cancel_scope.cancel()

            nursery.start_soon(pump, True)
            nursery.start_soon(pump, False)

    async def _pump(self, connection: _Connection, *, upwards: bool) -> None:
        """One direction: what comes is put on the line with the time of its arrival at the other end."""
        source = connection.client if upwards else connection.server
        sender, receiver = trio.open_memory_channel[tuple[float, bytes]](_IN_FLIGHT // _CHUNK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, connection, receiver, upwards)
            async with sender:
                while data := await source.receive_some(_CHUNK):
                    await self._put_on_line(sender, data, upwards=upwards)

    async def _put_on_line(
        self, sender: trio.MemorySendChannel[tuple[float, bytes]], data: bytes, *, upwards: bool
    ) -> None:
        """In pieces as they come over a slow line: bytes of each twentieth of a second together."""
        while data:
            line = self.line
            piece = data if line.rate >= _CHUNK * 20 else data[: max(1, int(line.rate / 20))]
            data = data[len(piece) :]
            begins = max(trio.current_time(), self._free[upwards])
            self._free[upwards] = ends = begins + len(piece) / line.rate
            await sender.send((ends + line.round_trip / 2, piece))

    async def _deliver(
        self, connection: _Connection, receiver: trio.MemoryReceiveChannel[tuple[float, bytes]], upwards: bool
    ) -> None:
        target = connection.server if upwards else connection.client
        async for arrival, data in receiver:
            line = self.line
            while line is self.line and trio.current_time() < arrival:  # on another line it arrives at once
                with trio.move_on_at(arrival):
                    await self._changed.wait()
            if upwards:
                await self._until(lambda: not self.line.half_open)
                self.bytes_to_server += len(data)
                await target.send_all(data)
            else:
                await self._answer(connection, data)
        with suppress(OSError):
            await target.send_eof()

    async def _answer(self, connection: _Connection, data: bytes) -> None:
        """Pass on what the server sent, piece by piece as faults demand it."""
        while data:
            await self._until(lambda: not self.line.half_open and connection.answered < self.line.stall_after)
            line, done = self.line, connection.answered
            if done >= line.reset_after:
                connection.reset()
            if done >= min(line.truncate_after, line.reset_after):
                raise _Broken
            limit = min(line.stall_after, line.truncate_after, line.reset_after) - done
            piece = data if limit >= len(data) else data[: int(limit)]
            data = data[len(piece) :]
            if done <= line.corrupt_at < done + len(piece):
                place = int(line.corrupt_at) - done
                piece = piece[:place] + bytes([piece[place] ^ 0x55]) + piece[place + 1 :]
            connection.answered += len(piece)
            self.bytes_to_client += len(piece)
            await connection.client.send_all(piece)

    async def _until(self, look: Callable[[], bool]) -> None:
        while not look():
            await self._changed.wait()

    def stop(self) -> None:
        """End it."""
        self._call(self._stop.cancel)

    def wait_until_ready(self) -> None:
        """Until it listens."""
        assert self._ready.wait(20)


@contextmanager
def proxy(target: int, **line: Any) -> Iterator[Proxy]:
    """A proxy to a port of 127.0.0.1, with fields of `Line`."""
    made = Proxy(target, Line(**line))
    thread = threading.Thread(target=trio.run, args=(made.run,), name="proxy", daemon=True)
    thread.start()
    made.wait_until_ready()
    try:
        yield made
    finally:
        made.stop()
        thread.join()


def _main(target: str, *settings: str) -> None:
    kinds = {field.name for field in fields(Line)}
    values = dict(setting.split("=") for setting in settings)
    assert set(values) <= kinds, f"a line has {', '.join(sorted(kinds))}"
    made = Proxy(int(target), Line(**{name: float(value) for name, value in values.items()}))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            await trio.to_thread.run_sync(made.wait_until_ready)
            print(made.port, flush=True)

    with suppress(KeyboardInterrupt):
        trio.run(run)


if __name__ == "__main__":
    _main(*sys.argv[1:])
