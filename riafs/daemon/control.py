"""The control socket of a running mount: one JSON object a line, in both directions.

Owns the socket's file, named after the mount's device number, mode 0600 in a directory of its user. Only that user and
root are answered, whatever the file's mode. `riafs.daemon.ask` is the other end.
"""

import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import trio

from riafs.daemon.ask import MAX_REQUEST, socket_path
from riafs.errors import PushConflict, RiafsError, UsageError
from riafs.slices import in_slices, listing
from riafs.storage.temporary import private_directory
from riafs.tasks import Background, as_failure

_PART = 1 << 16
_SECONDS = 5.0
_BACKLOG = 16
_PAUSE, _LONG_PAUSE = 0.1, 1.0
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PEER = struct.Struct("3i")

Request = Mapping[str, Any]
Command = Callable[[Request], Awaitable[Mapping[str, Any]]]
"""Answers a request, of which ``command`` is the command's name."""
ASKED_BY = "asked_by"
"""In a request: number of the process that asks, whatever it says itself."""


@contextlib.contextmanager
def bound_socket(runtime_directory: str, device: str) -> Iterator[trio.SocketListener]:
    """The listening socket; its file is there inside the ``with`` only. Raises StoreDenied, OSError."""
    path = socket_path(private_directory(runtime_directory), device)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # device numbers are used again; the kernel gave this one to us
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        os.fchmod(listening.fileno(), 0o600)  # which the file has from its beginning
        listening.bind(path)
        file = os.lstat(path)
        try:
            listening.listen(_BACKLOG)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        finally:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(path), file):  # another mount may have got the device number by now
                    os.unlink(path)


async def serve_control(listener: trio.SocketListener, commands: Mapping[str, Command], background: Background) -> None:
    """Answer until cancelled. One request a connection; a peer that is slow, sends too much or is another user gets no
    answer. A command's failure is sent to its requester.
    """
    spare = _Spare()

    async def answer(stream: trio.SocketStream) -> None:
        try:
            with background.survived("answering on the control socket"):
                await _answer(stream, commands)
        finally:
            await trio.aclose_forcefully(stream)
            spare.hold()

    try:
        while True:
            with background.survived("the control socket"):
                background.start_soon(answer, await _accepted(listener, spare))
    finally:
        spare.let_go()


class _Spare:
    """A descriptor that is kept for one more connection, as open files of readers may take all others."""

    def __init__(self) -> None:
        self._descriptor = -1
        self.hold()

    def hold(self) -> None:
        """Have it again, if there is one."""
        if self._descriptor < 0:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def let_go(self) -> None:
        """Use it for something else."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


async def _accepted(listener: trio.SocketListener, spare: _Spare) -> trio.SocketStream:
    """The next connection. Where there is no descriptor for it, it gets the spare one, or waits until there is one."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _SHORT:
                await trio.sleep(_LONG_PAUSE)  # it may fail again at once
                raise
        spare.let_go()
        with trio.move_on_after(_PAUSE), contextlib.suppress(OSError):
            return await listener.accept()
        spare.hold()


async def _answer(stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
    line: bytes | None = None
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        with trio.move_on_after(_SECONDS):
            process, uid = _peer(stream)
            line = await _read_line(stream) if uid in (0, os.geteuid()) else None
        if line is not None:
            reply = await _reply(line, process, commands)  # takes as long as it takes
            with trio.move_on_after(_SECONDS):
                await stream.send_all(reply + b"\n")


def _peer(stream: trio.SocketStream) -> tuple[int, int]:
    """The process that asks, as it is called here (0: not to be seen from here), and its user."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    process, uid, _ = _PEER.unpack(raw)
    return int(process), int(uid)


async def _read_line(stream: trio.SocketStream) -> bytes:
    line = bytearray()
    while len(line) <= MAX_REQUEST:
        part = await stream.receive_some(_PART)
        line += part
        if not part or b"\n" in part:
            break
    return bytes(line.partition(b"\n")[0])


async def _reply(line: bytes, process: int, commands: Mapping[str, Command]) -> bytes:
    """One line. Of a failure: ``error``, ``kind``, ``exit_code``, of conflicts ``paths``."""
    request = parse_request(line)
    command = commands.get(request["command"]) if request is not None else None
    if command is None or request is None:
        return json.dumps({"error": f"unknown request; known: {', '.join(commands)}"}).encode()
    try:
        with as_failure(f"the mount cannot answer {request['command']}"):
            return "".join(await in_slices(listing(_encoded(await command({**request, ASKED_BY: process}))))).encode()
    except RiafsError as error:
        return json.dumps(described_error(error)).encode()


def described_error(error: RiafsError) -> dict[str, Any]:
    """``error``, ``kind``, ``exit_code``, of conflicts the paths in conflict."""
    described: dict[str, Any] = {"error": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
    if isinstance(error, PushConflict):
        described["paths"] = [os.fsdecode(path) for path in error.paths]
    return described


def _encoded(value: Any) -> Iterator[str]:  # noqa: ANN401  # whatever JSON has
    """The JSON of a reply, which may list very many things, piece by piece."""
    if isinstance(value, Mapping) and not all(map(_is_plain, value.values())):
        opening = "{"
        for name, each in value.items():
            yield f"{opening}{json.dumps(name)}: "
            yield from _encoded(each)
            opening = ", "
        yield "}"
    elif isinstance(value, list) and not all(map(_is_plain, value[:1])):
        opening = "["
        for each in value:
            yield opening
            yield from _encoded(each)
            opening = ", "
        yield "]"
    else:
        yield json.dumps(value)


def _is_plain(value: object) -> bool:
    return not isinstance(value, Mapping | list)


def parse_request(line: bytes) -> Request | None:
    """A request such as ``{"command": "status"}``, or None for anything else."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) and isinstance(request.get("command"), str) else None


# -- fields of requests -----------------------------------------------------------------------------------------------


def text(request: Request, name: str) -> str:
    """A text that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"a request {request['command']} needs {name}, which is text")
    return value


def texts(request: Request, name: str) -> list[str]:
    """A list of texts that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"a request {request['command']} needs {name}, which is a list of texts")
    return value


def number(request: Request, name: str) -> int:
    """A number that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"a request {request['command']} needs {name}, which is a number")
    return value
