"""Reading from a worker thread, without a hop to the event loop for every piece: for local files and parts of them."""

from collections.abc import Callable

from riafs.storage.extents import Extent
from riafs.storage.files import FileBytes
from riafs.storage.patience import Patience
from riafs.storage.ranged import RangedBytes

BlockingRead = Callable[[int, memoryview], None]
"""(offset, buffer): fill the buffer with the bytes from offset on, all of which exist; raises what ``read`` raises."""


def blocking_read(source: RangedBytes) -> BlockingRead | None:
    """How a thread can read from `source` by itself, None where only the event loop can."""
    if isinstance(source, FileBytes):
        return source.read_into
    if isinstance(source, Extent):
        below, start = blocking_read(source.source), source.offset
        return None if below is None else lambda offset, buffer: below(start + offset, buffer)
    return None


def file_of(source: RangedBytes) -> FileBytes | None:
    """The file that `source` lies in as it is, if it does."""
    while isinstance(source, Extent):
        source = source.source
    return source if isinstance(source, FileBytes) else None


def patience_with(source: RangedBytes) -> Patience | None:
    """The patience with the store that `source` lies in; None for what lies on a disk of our own, or nowhere."""
    file = file_of(source)
    return None if file is None else file.patience
