"""Reading from a worker thread, without a hop to the event loop for every piece: for local files and parts of them."""

from collections.abc import Callable

from riafs.storage.extents import Extent
from riafs.storage.files import FileBytes
from riafs.storage.ranged import Buffer, RangedBytes

BlockingRead = Callable[[int, int], Buffer]
"""(offset, length) → the same bytes as ``read`` gives; raises the same failures."""


def blocking_read(source: RangedBytes) -> BlockingRead | None:
    """How a thread can read from `source` by itself, None where only the event loop can."""
    if isinstance(source, FileBytes):
        return source.read_blocking
    if isinstance(source, Extent):
        below = blocking_read(source.source)
        return None if below is None else _part(below, source.offset, source.size)
    return None


def _part(below: BlockingRead, start: int, size: int) -> BlockingRead:
    def read(offset: int, length: int) -> Buffer:
        length = min(length, size - offset)
        return below(start + offset, length) if length > 0 else b""

    return read
