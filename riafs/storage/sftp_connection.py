"""The connection to a server's sftp program: many requests at once over the pipes of one child.

How it works: whoever has a request queues its packet and waits for the reply of that number. One task writes the queue
to the child, one reads replies, one collects what the child says on standard error. sftp servers answer in order, so
requests for data are limited to what the line needs (`_Window`): others would wait behind them.

A lost connection fails its requests with `ConnectionEnded`, so that they may be sent once more. A server that stays
silent beyond the deadline is hung (it may have opened a fifo): its connection is ended, and others get a new one.
"""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from riafs.errors import BadAnswer, RiafsError, StoreTimeout, StoreUnreachable
from riafs.formats.sftp import (
    LENGTH,
    MAX_PACKET,
    Limits,
    Reply,
    init_packet,
    parse_reply,
    parse_version,
)
from riafs.storage.deadline import leave_request, wait_while_moving
from riafs.storage.ssh import SshHost, failure
from riafs.tasks import ungrouped

log = logging.getLogger(__name__)

FLOOR = 1024
"""Bytes a second; a slower connection makes no progress."""
_AHEAD = 64 << 10
_LONGEST_WAIT = 10
"""Deadlines that a request waits behind others that make progress."""
_KEPT_STDERR = 8 << 10
_FEWEST, _MOST = 64, 256
"""Requests for data on their way."""
_INTERVAL = 0.25

MakePacket = Callable[[int], bytes]
"""A packet for the number of its request."""


class ConnectionEnded(StoreUnreachable):
    """The connection ended while a request waited; it may be sent once more over a new one."""


@dataclass(slots=True, eq=False)
class Question:
    """A request that waits for its reply."""

    sent: float
    size: int = 0
    """Bytes of data that were asked for; such a request takes one of the window's slots."""
    answered: trio.Event = field(default_factory=trio.Event)
    reply: Reply | None = None
    problem: RiafsError | None = None


class _Window:
    """How many requests for data may be on their way: twice what the line carries in one round trip.

    The rate of the last interval is limited by the window of that time, so a window that is too small doubles with each
    interval until the line is full.
    """

    def __init__(self) -> None:
        self.slots = trio.CapacityLimiter(_FEWEST)
        self._round_trip = float("inf")
        self._since = 0.0
        self._bytes = 0

    def answered(self, size: int, seconds: float, expected: int) -> None:
        """Note that `size` bytes came, `seconds` after they were asked for in requests of `expected` bytes each."""
        now = trio.current_time()
        self._round_trip = min(self._round_trip, seconds)
        self._bytes += size
        if now - self._since > 2 * max(_INTERVAL, self._round_trip):  # the first one after a pause
            self._since, self._bytes = now, 0
        elif now - self._since >= max(_INTERVAL, self._round_trip):
            rate = self._bytes / (now - self._since)
            wanted = int(2 * rate * max(self._round_trip, 0.002) / expected)
            self.slots.total_tokens = max(_FEWEST, min(wanted, _MOST))
            self._since, self._bytes = now, 0


class Connection:
    """One child from its start to its end."""

    def __init__(self, process: trio.Process, host: SshHost) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.host = host
        self.extensions: dict[bytes, bytes] = {}
        self.limits = Limits()
        self.window = _Window()
        self.received = 0
        """Bytes so far."""
        self.problem: RiafsError | None = None
        """Why it ended."""
        self._input, self._output, self._errors = process.stdin, process.stdout, process.stderr
        self._stderr = b""
        self._numbers = 0
        self._waiting: dict[int, Question] = {}
        self._queue: list[bytes] = []
        self._queued = trio.Event()

    # -- requests -----------------------------------------------------------------------------------------------------

    def send(self, make: MakePacket) -> Question:
        """Queue a request. Raises ConnectionEnded."""
        question = Question(trio.current_time())
        self._send(make, question)
        return question

    async def send_for_data(self, make: MakePacket, size: int) -> Question:
        """Queue a request for `size` bytes of data, once the window has room for it. Raises ConnectionEnded."""
        question = Question(0.0, size)
        await self.window.slots.acquire_on_behalf_of(question)
        question.sent = trio.current_time()
        try:
            self._send(make, question)
        except ConnectionEnded:
            self.window.slots.release_on_behalf_of(question)
            raise
        return question

    def _send(self, make: MakePacket, question: Question) -> None:
        if self.problem is not None:
            raise ConnectionEnded(str(self.problem))
        self._numbers = (self._numbers + 1) & 0xFFFFFFFF
        self._waiting[self._numbers] = question
        self._queue.append(make(self._numbers))
        self._queued.set()

    def _settle(self, question: Question, problem: RiafsError | None) -> None:
        question.problem = problem
        question.answered.set()
        if question.size:
            self.window.slots.release_on_behalf_of(question)

    async def answer(self, question: Question, seconds: float) -> Reply:
        """The reply. Raises ConnectionEnded, StoreTimeout, BadAnswer."""
        periods = 0
        before = self.received

        def is_moving() -> bool:
            nonlocal before, periods
            periods += 1
            moved, before = self.received - before, self.received
            return moved >= FLOOR * seconds and periods < _LONGEST_WAIT

        if not await wait_while_moving(question.answered, seconds, is_moving):
            problem = StoreTimeout(f"{self.host} did not answer within {seconds:g} s")
            self.end(problem)
            raise problem
        if question.problem is not None:
            raise type(question.problem)(*question.problem.args)
        assert question.reply is not None
        return question.reply

    def end(self, problem: RiafsError) -> None:
        """End the child, and all requests that wait with `problem`, which may be worth another try."""
        if self.problem is None:
            self.problem = problem
        waiting, self._waiting = self._waiting, {}
        for question in waiting.values():
            self._settle(question, problem if isinstance(problem, BadAnswer) else ConnectionEnded(str(problem)))
        self._queued.set()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own, with ssh's own children

    # -- tasks --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write, read and collect messages until the connection ends."""
        leave_request()
        try:
            with ungrouped():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._collect)
                    await self._read()
                    nursery.cancel_scope.cancel()
        except BadAnswer as problem:
            self.end(BadAnswer(f"{self.host}: {problem}"))
        finally:
            with trio.CancelScope(shield=True):
                self.end(StoreUnreachable(f"{self.host}: the connection was closed"))
                await self.process.wait()
                for stream in (self._input, self._output, self._errors):
                    await trio.aclose_forcefully(stream)

    async def _write(self) -> None:
        while self.problem is None:
            await self._queued.wait()
            self._queued = trio.Event()
            packets, self._queue = b"".join(self._queue), []
            try:
                await self._input.send_all(packets)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader finds the end as well

    async def _collect(self) -> None:
        while text := await self._errors.receive_some(4096):
            self._stderr = (self._stderr + text)[-_KEPT_STDERR:]

    async def _read(self) -> None:
        """Hand out replies until the end of the stream. Raises BadAnswer."""
        descriptor = descriptor_of(self._output)
        ahead = bytearray(_AHEAD)  # large replies are received in place, and small ones many at a time
        view = memoryview(ahead)
        start = end = 0
        while True:
            while end - start >= LENGTH.size:
                [length] = LENGTH.unpack_from(ahead, start)
                if length > MAX_PACKET or length < 5:
                    raise BadAnswer(f"the server sent a packet of {length} bytes")
                body = start + LENGTH.size
                if body + length <= end:
                    self._take(memoryview(bytes(view[body : body + length])))
                    start = body + length
                elif length + LENGTH.size > _AHEAD // 4:
                    packet = memoryview(bytearray(length))
                    known = end - body
                    packet[:known] = view[body:end]
                    start = end = 0
                    while known < length:
                        count = await _receive(descriptor, [packet[known:], view])
                        if not count:
                            return
                        self.received += count
                        start, end = 0, max(0, known + count - length)
                        known = min(length, known + count)
                    self._take(packet)
                else:
                    break
            if start:
                ahead[: end - start] = ahead[start:end]
                start, end = 0, end - start
            count = await _receive(descriptor, [view[end:]])
            if not count:
                return
            self.received += count
            end += count

    def _take(self, packet: memoryview) -> None:
        if self.problem is not None:
            return  # it is ended, and nobody waits any more
        number, reply = parse_reply(packet)
        question = self._waiting.pop(number, None)
        if question is None:
            raise BadAnswer(f"the server answered request {number}, which it was not asked")
        question.reply = reply
        self._settle(question, None)
        if question.size:
            self.window.answered(len(packet), trio.current_time() - question.sent, self.limits.read_size)

    # -- the beginning ------------------------------------------------------------------------------------------------

    async def greet(self) -> None:
        """Exchange versions. Raises BadAnswer, and why the child ended."""
        try:
            await self._input.send_all(init_packet())
            descriptor = descriptor_of(self._output)
            head = await self._exactly(descriptor, LENGTH.size)
            [length] = LENGTH.unpack(head)
            if not 5 <= length <= MAX_PACKET:
                raise BadAnswer("what answers is no sftp server; does a login script of the server print something?")
            self.extensions.update(parse_version(memoryview(await self._exactly(descriptor, length))))
        except (trio.BrokenResourceError, EOFError):
            await self._collect()
            raise failure(self.host, self._stderr) from None

    async def _exactly(self, descriptor: int, length: int) -> bytes:
        data = memoryview(bytearray(length))
        known = 0
        while known < length:
            count = await _receive(descriptor, [data[known:]])
            if not count:
                raise EOFError
            known += count
        return bytes(data)


def descriptor_of(stream: trio.abc.ReceiveStream) -> int:
    """The descriptor of one of a child's pipes."""
    assert isinstance(stream, trio.lowlevel.FdStream)
    return stream.fileno()


async def _receive(descriptor: int, buffers: Sequence[memoryview]) -> int:
    """As readv, waiting until there is something; 0 at the end of the stream."""
    while True:
        try:
            return os.readv(descriptor, buffers)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(descriptor)
        except OSError as error:
            raise StoreUnreachable(f"the connection was lost: {error.strerror}") from error
