"""An extent: a part of other ranged bytes, read in place (a stored archive member inside its archive)."""

from riafs.errors import ShortRead
from riafs.storage.ranged import Buffer, RangedBytes


class Extent:
    """RangedBytes over `size` bytes of `source` from `offset` on, both at least 0.

    Closing it closes the source only if it `owns_source`. The source may turn out to end early: then reads say so.
    """

    __slots__ = ("_offset", "_owns_source", "_size", "_source")

    def __init__(self, source: RangedBytes, offset: int, size: int, *, owns_source: bool = False) -> None:
        self._source = source
        self._offset = offset
        self._size = size
        self._owns_source = owns_source

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    @property
    def source(self) -> RangedBytes:
        """What it is a part of."""
        return self._source

    @property
    def offset(self) -> int:
        """Where it starts in its source."""
        return self._offset

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises ShortRead where the source ends before the extent does."""
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        data = await self._source.read(self._offset + offset, length)
        if len(data) < length:
            raise ShortRead(f"extent ends at byte {offset + len(data)}, but should have {self._size} bytes")
        return data

    def close(self) -> None:
        """Close the source, if it is owned."""
        if self._owns_source:
            self._source.close()
