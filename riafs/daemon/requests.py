"""Requests of the control socket: what is in them, and how a failure is told."""

import os
from collections.abc import Mapping
from typing import Any

from riafs.daemon.control import Command, Request
from riafs.errors import PushConflict, RiafsError, UsageError


def reporting(command: Command) -> Command:
    """`command`, with failures as replies: ``error``, ``exit_code``, of conflicts ``paths``."""

    async def reported(request: Request) -> Mapping[str, Any]:
        try:
            return await command(request)
        except RiafsError as error:
            reply: dict[str, Any] = {"error": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
            if isinstance(error, PushConflict):
                reply["paths"] = [os.fsdecode(path) for path in error.paths]
            return reply

    return reported


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
