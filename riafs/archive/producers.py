"""Producers: the bytes of a folder, or of a part of it, front to back, as fast as somebody asks for them.

A producer that was given up in the middle of a call has lost nothing: a piece is made wholly or not at all.
"""

import lzma
from typing import Protocol

import trio

from riafs.archive.coders import Filter
from riafs.errors import DecodeFailed, MalformedArchive, StoreError
from riafs.storage.ranged import RangedBytes

_PACKED_PIECE = 256 << 10


class Producer(Protocol):
    """Decodes in order. Not for several tasks at once."""

    async def produce(self, most: int) -> bytes:
        """The next 1 to `most` bytes. Raises DecodeFailed where there are none, and what reading the archive raises."""

    def close(self) -> None:
        """Give back processes, descriptors and dictionaries; harmless twice."""


class LzmaProducer:
    """liblzma's raw decoder in worker threads, from `offset` of the packed bytes on."""

    def __init__(
        self, packed: RangedBytes, offset: int, filters: list[Filter], workers: trio.CapacityLimiter, shown: str
    ) -> None:
        try:
            self._decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
        except (lzma.LZMAError, ValueError, OverflowError) as error:
            raise MalformedArchive(f"{shown} is packed with impossible parameters: {error}") from error
        except MemoryError as error:
            raise StoreError(f"{shown}: there is not enough memory to decode it") from error
        self._packed = packed
        self._position = offset
        self._workers = workers
        self._shown = shown

    async def produce(self, most: int) -> bytes:
        """See Producer."""
        while True:
            data = b""
            if self._decoder.needs_input:
                data = bytes(await self._packed.read(self._position, _PACKED_PIECE))
            decoded = await trio.to_thread.run_sync(self._decode, data, most, limiter=self._workers)
            if decoded:
                return decoded
            if not data and self._decoder.needs_input:
                raise DecodeFailed(f"{self._shown} ends too early")

    def _decode(self, data: bytes, most: int) -> bytes:
        self._position += len(data)
        try:
            return self._decoder.decompress(data, max_length=most)
        except (lzma.LZMAError, EOFError) as error:
            raise DecodeFailed(f"{self._shown} cannot be decoded: {error or 'it ends too early'}") from error
        except MemoryError as error:
            raise StoreError(f"{self._shown}: there is not enough memory to decode it") from error

    def close(self) -> None:
        """See Producer."""


class StoredProducer:
    """Bytes that were packed by being encrypted only."""

    def __init__(self, packed: RangedBytes, offset: int) -> None:
        self._packed = packed
        self._position = offset

    async def produce(self, most: int) -> bytes:
        """See Producer."""
        data = bytes(await self._packed.read(self._position, most))
        if not data:
            raise DecodeFailed("encrypted archive member ends too early")
        self._position += len(data)
        return data

    def close(self) -> None:
        """See Producer."""
