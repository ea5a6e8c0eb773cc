"""What a mount's process arranges with the kernel and with systemd, and a dump of its stacks.

systemd is notified by the datagrams of sd_notify(3); with no NOTIFY_SOCKET in the environment nothing is sent.
"""

import contextlib
import ctypes
import os
import resource
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping

import trio

_PR_SET_DUMPABLE = 4
_M_ARENA_MAX = -8
_ARENAS = 2


def settle() -> None:
    """No core dumps and no tracing by others, as many descriptors as allowed, no directory kept busy; little memory
    that is free and not given back. The umask stays the user's, as a push makes files that others are to read."""
    library = ctypes.CDLL(None)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if hasattr(library, "mallopt"):  # glibc's
        # Each thread that receives a block would get an arena of its own, and pieces of 1 MiB that are freed there
        # stay with it: 15 to 40 per cent more memory for no speed, as Python's threads take turns.
        library.mallopt(_M_ARENA_MAX, _ARENAS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.chdir("/")


def set_readahead(device: str, size: int) -> None:
    """Let the kernel read `size` bytes ahead on the mount with that ``major:minor``, instead of FUSE's 128 KiB.

    The setting is in sysfs, where only root may write; for other users nothing happens.
    """
    with contextlib.suppress(OSError), open(f"/sys/class/bdi/{device}/read_ahead_kb", "w") as file:
        file.write(str(size >> 10))


class Notifier:
    """Sends states; a supervisor that does not listen is no reason to fail."""

    __slots__ = ("_address", "watchdog_seconds")

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        interval = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(interval) / 1e6 if self._address and interval.isdecimal() else 0.0
        """How often WATCHDOG=1 has to come, in seconds; 0 if systemd does not wait for it."""

    def send(self, *states: str) -> None:
        """Send ``NAME=value`` states in one datagram, without waiting."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setblocking(False)
            notify.sendto("\n".join(states).encode(errors="replace"), self._address)


def describe_stacks() -> str:
    """The stacks of all threads and all trio tasks, as text."""
    return "\n".join((*_threads(), *_tasks()))


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"thread {names.get(ident, '?')} ({ident})\n" + "".join(traceback.format_stack(frame))


def _tasks() -> Iterator[str]:
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        waiting.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        frames = traceback.StackSummary.extract(task.iter_await_frames())
        yield f"task {task.name}\n" + "".join(frames.format())
