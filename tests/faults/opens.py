"""Noticing that files are opened, by whatever process: with inotify(7)."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_OPEN = 0x20
_EVENT = struct.Struct("iIII")


class Opens:
    """What was opened so far in the watched directories."""

    def __init__(self, descriptor: int, directories: dict[int, Path]) -> None:
        self._descriptor = descriptor
        self._directories = directories

    def paths(self) -> list[Path]:
        """The files and directories opened since the last call; opening with O_PATH does not count."""
        found = []
        try:
            events = os.read(self._descriptor, 1 << 20)
        except BlockingIOError:
            return []
        while events:
            watch, _, _, length = _EVENT.unpack_from(events)
            name = events[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
            found.append(self._directories[watch] / os.fsdecode(name))
            events = events[_EVENT.size + length :]
        return found


@contextmanager
def watched(root: Path) -> Iterator[Opens]:
    """Watch all directories at and below `root`."""
    libc = ctypes.CDLL(None, use_errno=True)
    directories = [Path(path) for path, _, _ in os.walk(root)]
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        numbers = {libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN): path for path in directories}
        assert min(numbers) > 0
        yield Opens(descriptor, numbers)
    finally:
        os.close(descriptor)
