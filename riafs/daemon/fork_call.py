"""Asking a file system that may never answer.

A system call on a dead network file system or a FUSE mount without a living daemon cannot be interrupted, not even by a
signal. So it is made in a forked child, and it is the child that is left waiting.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from riafs.errors import StoreTimeout

MAX_ANSWER = 1 << 20


def call_in_child(function: Callable[[], Any], seconds: float, what: str) -> Any:  # noqa: ANN401 - any JSON value
    """The result of `function`, a JSON value. Raises OSError as `function` did, StoreTimeout after `seconds`.

    `function` must be content with a copy of this process that has one thread and never returns from it.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _answer(function, writer)
    os.close(writer)
    try:
        text = _read_all(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        _give_up(child)
    if not text:
        raise StoreTimeout(f"{what} did not answer in {seconds:g} s")
    answer = json.loads(text)
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), what)
    return answer["value"]


def _answer(function: Callable[[], Any], writer: int) -> None:
    status = 1
    try:
        try:
            answer = {"value": function()}
        except OSError as error:
            answer = {"errno": error.errno}
        os.write(writer, json.dumps(answer).encode()[:MAX_ANSWER])
        status = 0
    finally:
        os._exit(status)


def _read_all(reader: int, until: float) -> bytes:
    """What is written before the other end is closed, or nothing if that is not by `until`."""
    text = b""
    while len(text) <= MAX_ANSWER:
        if not select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            return b""
        part = os.read(reader, 1 << 16)
        if not part:
            return text
        text += part
    return b""


def _give_up(child: int) -> None:
    """End the child; if it cannot end now, it does when its system call returns, and init reaps it after us."""
    os.kill(child, signal.SIGKILL)
    for _ in range(20):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
