"""Asking a running mount over its control socket, without an event loop: ``riafs status`` has to start quickly."""

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from riafs import errors
from riafs.daemon.mounts import Mount
from riafs.errors import NotMounted, PushConflict, RiafsError, StoreDenied, StoreTimeout, UsageError
from riafs.settings import complete_environment, runtime_directory

SECONDS = 2.0
MAX_REQUEST, MAX_REPLY = 1 << 24, 1 << 28


def socket_path(runtime: str, device: str) -> str:
    """The socket of the mount with that ``major:minor``, in its user's runtime directory."""
    return f"{runtime}/{device.replace(':', '-')}.sock"


def ask(
    mount: Mount,
    command: str,
    environment: Mapping[str, str],
    seconds: float = SECONDS,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The reply of the mount's daemon; `arguments` go with the command, as JSON.

    Raises NotMounted where none listens, StoreTimeout where none answers in `seconds`, UsageError for more than
    MAX_REQUEST; PermissionError where the mount is another user's.
    """
    request = json.dumps({**(arguments or {}), "command": command}).encode() + b"\n"
    if len(request) > MAX_REQUEST:
        raise UsageError(f"{len(request)} bytes are too much to tell the daemon of {mount.mountpoint} at once")
    path = socket_path(runtime_directory(mount.owner, environment), mount.device)
    until = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
            connection.sendall(request)
            reply = _receive(connection, until)
    except TimeoutError as error:
        raise StoreTimeout(f"the daemon of {mount.mountpoint} did not answer in {seconds:g} s") from error
    except (FileNotFoundError, ConnectionError) as error:
        raise NotMounted(f"no daemon listens for {mount.mountpoint}") from error
    return _parse(reply, mount)


def _receive(connection: socket.socket, until: float) -> bytes:
    reply = bytearray()
    while not reply.endswith(b"\n") and len(reply) <= MAX_REPLY:
        connection.settimeout(max(0.001, until - time.monotonic()))
        part = connection.recv(1 << 16)
        if not part:
            break
        reply += part
    return bytes(reply)


def _parse(reply: bytes, mount: Mount) -> dict[str, Any]:
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotMounted(f"what listens for {mount.mountpoint} is no riafs daemon of ours")
    return value


# -- failures of the daemon as exceptions here ------------------------------------------------------------------------


def asked(mount: Mount, command: str, arguments: Mapping[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """What a mount's daemon replies. Raises what went wrong there, StoreDenied for another user's mount, …"""
    try:
        reply = ask(mount, command, complete_environment(), seconds, arguments)
    except PermissionError as error:
        raise StoreDenied(f"the mount at {mount.mountpoint} is another user's") from error
    if "error" in reply:
        raise failure_told(reply, mount)
    return reply


def failure_told(reply: Mapping[str, Any], mount: Mount) -> RiafsError:
    """The failure that a mount's daemon tells of."""
    message, kind = str(reply["error"]), getattr(errors, str(reply.get("kind")), None)
    if kind is PushConflict:
        return PushConflict(message, tuple(os.fsencode(path) for path in reply.get("paths", ())))
    if isinstance(kind, type) and issubclass(kind, RiafsError):
        return kind(message)
    return NotMounted(f"the daemon of {mount.mountpoint} does not do that: {message}")
