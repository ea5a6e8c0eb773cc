"""Decoders: the bytes of a folder, or of a part of it, front to back, as fast as somebody asks for them.

There are three: what is merely stored, what the standard library decodes in worker threads, and children (see
archive/extractor). Invariant: a decoder that was given up in the middle of a call has lost nothing: a piece is made
wholly or not at all.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from riafs.archive.chains import Chain
from riafs.archive.coders import Step
from riafs.errors import DecodeFailed
from riafs.storage.bytesource import RangedBytes

PACKED_PIECE = 256 << 10


class Decoder(Protocol):
    """Decodes in order. Not for several tasks at once."""

    async def decode(self, most: int) -> bytes:
        """The next 1 to `most` bytes. Raises DecodeFailed where there are none, and what reading the archive raises."""

    def close(self) -> None:
        """Give back processes, descriptors and dictionaries; harmless twice."""


class ThreadDecoder:
    """A chain in worker threads: `size` bytes from `offset` of the packed bytes on.

    Raises MalformedArchive, MissingProgram, UnsupportedArchive.
    """

    def __init__(
        self, packed: RangedBytes, offset: int, make: Callable[[], Step], size: int, workers: trio.CapacityLimiter,
        shown: str,
    ) -> None:  # fmt: skip
        self._chain = Chain(make, size, shown)
        self._packed = packed
        self._offset = offset
        self._workers = workers

    async def decode(self, most: int) -> bytes:
        """See Decoder."""
        while True:
            data = b""
            if self._chain.needs_input:
                data = bytes(await self._packed.read(self._offset + self._chain.position, PACKED_PIECE))
            decoded = await trio.to_thread.run_sync(self._chain.decode, data, most, limiter=self._workers)
            if decoded:
                return decoded

    def close(self) -> None:
        """See Decoder."""


class StoredDecoder:
    """Bytes that were packed by being encrypted only."""

    def __init__(self, packed: RangedBytes, offset: int) -> None:
        self._packed = packed
        self._position = offset

    async def decode(self, most: int) -> bytes:
        """See Decoder."""
        data = bytes(await self._packed.read(self._position, most))
        if not data:
            raise DecodeFailed("encrypted archive member ends too early")
        self._position += len(data)
        return data

    def close(self) -> None:
        """See Decoder."""
