"""The content of a changed file: what is local, put together with what is still as in the commit below it."""

import os
from bisect import bisect_right
from collections.abc import Sequence

from riafs.errors import StoreError
from riafs.overlay.changes import LocalContent
from riafs.overlay.data_files import is_ours
from riafs.storage.bytesource import Buffer, RangedBytes
from riafs.storage.local_file import FileBytes

PIECE = 4 << 20


def open_local(content: LocalContent) -> FileBytes:
    """The local file, which may be shorter than the content. Raises StoreError."""
    name = os.fsdecode(content.data)
    try:
        descriptor = os.open(content.data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{name} of the overlay cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not is_ours(status):
        os.close(descriptor)
        raise StoreError(f"{name} of the overlay cannot be read: something else was put in its place")
    return FileBytes(descriptor, status.st_size, name)


class PatchedBytes:
    """RangedBytes: `local` in the ranges `extents`, `base` elsewhere, zeros where neither has anything. Owns both."""

    def __init__(
        self, local: RangedBytes, base: RangedBytes | None, extents: Sequence[tuple[int, int]], size: int
    ) -> None:
        self._local = local
        self._base = base
        self._extents = extents
        self._starts = [start for start, _ in extents]
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes."""
        end = min(offset + length, self._size)
        parts: list[Buffer] = []
        while offset < end:
            source, until = self._at(offset)
            stop = min(until, end)
            data = b"" if source is None else await source.read(offset, stop - offset)
            parts += [data, bytes(stop - offset - len(data))]
            offset = stop
        return b"".join(parts)

    def _at(self, offset: int) -> tuple[RangedBytes | None, int]:
        """Where the byte at `offset` is, and up to where that holds."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self._extents[index][1]:
            return self._local, self._extents[index][1]
        following = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
        return self._base, following

    def close(self) -> None:
        """See RangedBytes."""
        self._local.close()
        if self._base is not None:
            self._base.close()
