"""An extent reads a part of its source and nothing else."""

import pytest

from riafs.errors import ShortRead
from riafs.storage.bytesource import Extent, MemoryBytes, RangedBytes


class Closable(MemoryBytes):
    """Remembers whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


async def test_reads_stay_inside_the_extent() -> None:
    extent = Extent(MemoryBytes(b"0123456789"), 3, 4)
    assert isinstance(extent, RangedBytes)
    assert (extent.size, extent.offset) == (4, 3)
    assert bytes(await extent.read(0, 100)) == b"3456"
    assert bytes(await extent.read(2, 1)) == b"5"
    assert bytes(await extent.read(4, 1)) == b""
    assert bytes(await extent.read(9, 1)) == b""
    assert bytes(await extent.read(1, 0)) == b""


async def test_an_extent_beyond_its_source_is_a_short_read() -> None:
    for offset, size in ((8, 4), (10, 1), (99, 1)):
        with pytest.raises(ShortRead):
            await Extent(MemoryBytes(b"0123456789"), offset, size).read(0, size)


def test_closing_leaves_a_source_that_is_not_owned() -> None:
    kept, owned = Closable(b""), Closable(b"")
    Extent(kept, 0, 0).close()
    Extent(owned, 0, 0, owns_source=True).close()
    assert (kept.closed, owned.closed) == (False, True)
