"""Ranged bytes: the protocol that everything readable implements.

A loose object, an archive member, a chunked key, a git blob and a decoded file are all the same thing to a reader:
a size, and bytes at an offset. ``tests/conformance/ranged.py`` is the suite that an implementation has to pass.
"""

from typing import Protocol, runtime_checkable

Buffer = bytes | bytearray | memoryview


@runtime_checkable
class RangedBytes(Protocol):
    """Bytes of a known length, readable from any offset, by any number of tasks at once.

    Whoever opened it closes it; after ``close`` nothing else may be called.
    """

    @property
    def size(self) -> int:
        """Length in bytes."""

    async def read(self, offset: int, length: int) -> Buffer:
        """The bytes from `offset` on: exactly ``max(0, min(length, size - offset))`` of them, never fewer.

        Raises ShortRead where the store holds less than `size`, StoreTimeout or StoreError where it fails,
        CorruptContent where the bytes are known to be wrong.
        """

    def close(self) -> None:
        """Give back descriptors and buffers. Calling it twice is harmless; it never waits for the store."""


PROVEN = object()
"""The version of bytes that were found to be right: all that are shown under one inode are the same."""


class Provisional(Protocol):
    """RangedBytes that may be handed out before it is known whether they are right."""

    @property
    def provisional(self) -> bool:
        """Whether bytes were handed out that may turn out to be wrong: no cache may keep them for another reader."""

    @property
    def version(self) -> object:
        """PROVEN, or what only bytes are equal to that may stand beside these in a cache."""


def is_provisional(source: RangedBytes) -> bool:
    """See Provisional."""
    # Asking whether it is a Provisional costs 20 µs, and files are opened by the thousand.
    return bool(getattr(source, "provisional", False))


def version_of(source: RangedBytes) -> object:
    """See Provisional."""
    version: object = getattr(source, "version", PROVEN)
    return version


class MemoryBytes:
    """Bytes that are already here: a git blob, a small verified object, the text of a virtual file."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes."""
        return self._data[offset : offset + length] if length > 0 else b""

    @property
    def data(self) -> bytes:
        """All of them."""
        return self._data

    def close(self) -> None:
        """Nothing to give back."""
