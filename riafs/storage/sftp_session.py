"""The server of one store: connected when something is asked, and again after a connection was lost.

After a failure to connect, requests fail at once until the next attempt, 1, 2, 4 … 30 s later.
"""

import fcntl
import logging
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import trio

from riafs.counters import Counters
from riafs.errors import RiafsError, StoreTimeout, StoreUnreachable
from riafs.formats.sftp import LIMITS, Extended, Reply, extended_packet, parse_limits
from riafs.storage.deadline import time_left
from riafs.storage.sftp_connection import Connection, ConnectionEnded, MakePacket, descriptor_of
from riafs.storage.ssh import SshHost, not_started
from riafs.tasks import Background

log = logging.getLogger(__name__)

_PIPE = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0


class SftpSession:
    """The server of one store: connected when something is asked, and again after a connection was lost.

    `command` runs its sftp program; `host` is its name in messages; `seconds` the deadline of a request.
    """

    def __init__(
        self, command: Sequence[str], host: SshHost, seconds: float, counters: Counters, background: Background
    ) -> None:
        self._command = list(command)
        self.host = host
        self.seconds = seconds
        self.counters = counters
        self._background = background
        self._connection: Connection | None = None
        self._connecting = trio.Lock()
        self._failure: RiafsError | None = None
        self._again_at = 0.0
        self._pause = _FIRST_PAUSE
        self._away_since: float | None = None
        self._closed = False

    @property
    def away_since(self) -> float | None:
        """When the server was found unreachable, in seconds since 1970; None while it answers."""
        return self._away_since

    async def connection(self) -> Connection:
        """The connection, made if there is none. Raises StoreUnreachable, StoreDenied, StoreTimeout, BadAnswer, …"""
        current = self._connection
        if current is not None and current.problem is None:
            return current
        if time_left(self.seconds) <= 0:  # the request has waited for the connection that was lost
            raise StoreTimeout(f"{self.host} did not answer within {self.seconds:g} s")
        async with self._connecting:
            current = self._connection
            if current is not None and current.problem is None:
                return current
            if self._failure is not None and trio.current_time() < self._again_at:
                raise type(self._failure)(*self._failure.args)
            try:
                self._connection = await self._connect()
            except RiafsError as problem:
                self._missed(problem)
                raise type(self._failure or problem)(*(self._failure or problem).args) from problem
            if self._away_since is not None:
                log.warning("%s can be reached again", self.host)
            self._failure, self._away_since, self._pause = None, None, _FIRST_PAUSE
            return self._connection

    def _missed(self, problem: RiafsError) -> None:
        """Remember a failure to connect until the next attempt."""
        if self._away_since is None:
            self._away_since = time.time()
            log.warning("%s", problem)
        since = time.strftime("%H:%M:%S", time.localtime(self._away_since))
        self._failure = type(problem)(f"{problem} (since {since})")
        self._again_at = trio.current_time() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _connect(self) -> Connection:
        if self._closed:
            raise StoreUnreachable(f"{self.host}: the mount is ending")
        try:
            process = await trio.lowlevel.open_process(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise not_started(error, self._command) from error
        connection = Connection(process, self.host)
        with suppress(OSError):  # a user's pipes may have a limit
            fcntl.fcntl(descriptor_of(process.stdout), fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
        with trio.move_on_after(self.seconds):
            try:
                await connection.greet()
            except BaseException:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
                raise
            self._background.start_soon(connection.run)
            if LIMITS in connection.extensions:
                reply = await connection.answer(connection.send(partial(extended_packet, LIMITS)), self.seconds)
                if isinstance(reply, Extended):
                    connection.limits = parse_limits(reply.payload)
            return connection
        self.counters.store_timeouts += 1
        raise StoreUnreachable(f"{self.host} did not answer within {self.seconds:g} s")

    async def ask(self, *requests: MakePacket) -> list[Reply]:
        """The replies to `requests`, which are sent together; once more if the connection ended in between.

        Raises StoreUnreachable, StoreDenied, StoreTimeout, BadAnswer.
        """
        for last in (False, True):
            connection = await self.connection()
            try:
                return await self.ask_over(connection, requests)
            except ConnectionEnded:
                if last:
                    raise
        raise AssertionError("the second round returns or raises")

    async def ask_over(self, connection: Connection, requests: Sequence[MakePacket]) -> list[Reply]:
        """The replies to `requests`, of one connection. Raises ConnectionEnded in addition."""
        questions = [connection.send(each) for each in requests]
        try:
            return [await connection.answer(each, self.seconds) for each in questions]
        except StoreTimeout:
            self.counters.store_timeouts += 1
            raise

    def tell(self, connection: Connection, request: MakePacket) -> None:
        """Send a request whose reply does not matter."""
        with suppress(ConnectionEnded):  # and with it what the request was about
            connection.send(request)

    def close(self) -> None:
        """End the child."""
        self._closed = True
        if self._connection is not None:
            self._connection.end(StoreUnreachable(f"{self.host}: the mount is ending"))
