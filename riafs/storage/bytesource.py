"""Sources of bytes: the protocol that everything readable implements, and those made of other sources.

A loose object, an archive member, a chunked key, a git blob and a decoded file are all the same to a reader:
a size, and bytes at an offset. ``tests/conformance/ranged.py`` is the suite that an implementation has to pass.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Protocol, runtime_checkable

import trio

from riafs.errors import RiafsError, ShortRead

Buffer = bytes | bytearray | memoryview


@runtime_checkable
class RangedBytes(Protocol):
    """Bytes of a known length, readable from any offset, by any number of tasks at once.

    The caller that opened it closes it; after ``close`` nothing else may be called.
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


class Version(ABC):
    """One version of a stored file, in the terms of its transport and opaque to all other modules.

    Hashable. Two versions of a file are equal only if the file was neither written to nor replaced in between.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def token(self) -> bytes:
        """A name that equal versions share, and no others, in all processes on this machine. Facts about the content
        (its digest was verified, its index was read) are kept across mounts under this name.
        """

    @property
    @abstractmethod
    def modification(self) -> object:
        """Hashable; equal for versions of one file between which only its names, links or permissions changed."""

    @abstractmethod
    def fresh_seconds(self) -> float:
        """Seconds for which another change of the file could still leave its version equal, since clocks tick slowly; 0
        after that.
        """


class StoredFile(ABC):
    """RangedBytes of a file in a store. `name` appears in messages.

    `version`: the version of the file after the last read; None for files that nobody else changes. As long as it is
    the same object, all bytes that were read belong to that version.
    """

    __slots__ = ()
    name: str
    version: Version | None

    @property
    @abstractmethod
    def size(self) -> int:
        """Length in bytes."""

    @abstractmethod
    async def read(self, offset: int, length: int) -> Buffer:
        """As RangedBytes."""

    @abstractmethod
    async def look(self) -> None:
        """Update `version`. Raises StoreError, StoreTimeout."""

    @abstractmethod
    def close(self) -> None:
        """As RangedBytes."""


def stored_file(source: RangedBytes) -> StoredFile | None:
    """The stored file that `source` is a part of, None where the bytes come from anything else (memory, a decoder)."""
    while isinstance(source, Extent):
        source = source.source
    return source if isinstance(source, StoredFile) else None


PROVEN = object()
"""The version of verified bytes: an inode has one content, so that no version has to tell them apart."""


class Provisional(Protocol):
    """RangedBytes that may be read before they are verified."""

    @property
    def provisional(self) -> bool:
        """Whether bytes were read that are not verified yet: no cache may keep them for another reader."""

    @property
    def shown_version(self) -> object:
        """PROVEN, or a version: a cache may hold bytes of equal versions only."""


def is_provisional(source: RangedBytes) -> bool:
    """`Provisional.provisional`, False for sources without it."""
    # isinstance(source, Provisional) takes 20 µs, and files are opened by the thousand.
    return bool(getattr(source, "provisional", False))


def shown_version_of(source: RangedBytes) -> object:
    """`Provisional.shown_version`, PROVEN for sources without one."""
    version: object = getattr(source, "shown_version", PROVEN)
    return version


class MemoryBytes:
    """Bytes in memory: a git blob, a small verified object, the text of a virtual file."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    async def read(self, offset: int, length: int) -> Buffer:
        return self._data[offset : offset + length] if length > 0 else b""

    @property
    def data(self) -> bytes:
        """All bytes."""
        return self._data

    def close(self) -> None:
        """Nothing to give back."""


class Extent:
    """RangedBytes over `size` bytes of `source` from `offset` on, both at least 0.

    Closing it closes the source only if it `owns_source`.
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
        """The bytes that it is a part of."""
        return self._source

    @property
    def offset(self) -> int:
        """Its first byte's position in the source."""
        return self._offset

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises ShortRead where the source ends before the extent does."""
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


ReadPart = Callable[[int, int, int], Awaitable[Buffer]]
"""(index of the part, offset in it, length, which may reach beyond its end) → bytes."""


async def read_across(ends: Sequence[int], offset: int, length: int, read: ReadPart) -> Buffer:
    """Bytes of consecutive parts, of which part i ends before the offset ``ends[i]``. Raises what `read` raises."""
    pieces: list[Buffer] = []
    length = min(length, ends[-1] - offset if ends else 0)
    index = bisect_right(ends, offset)
    while length > 0:
        piece = await read(index, offset - (ends[index - 1] if index else 0), length)
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
        index += 1
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Concatenated:
    """RangedBytes over consecutive `parts`, which it owns."""

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Sequence[RangedBytes]) -> None:
        self._parts = tuple(parts)
        self._ends = list(accumulate(part.size for part in parts))

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._ends[-1] if self._ends else 0

    async def read(self, offset: int, length: int) -> Buffer:
        return await read_across(self._ends, offset, length, self._read_part)

    async def _read_part(self, index: int, offset: int, length: int) -> Buffer:
        return await self._parts[index].read(offset, length)

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()


Open = Callable[[], Awaitable[RangedBytes]]
"""Opens and verifies content. Called again if it failed."""


def _ignore(was_read: bool) -> None:  # noqa: FBT001  # as it is called
    pass


class DeferredBytes:
    """RangedBytes of `size` bytes that `open_source` opens at the first read, for content that is verified completely
    before any byte is served.

    Programs also open files without reading them; a backup does that to see that they are unchanged. For them the
    content is only found, without a digest or a git child. `discard` closes the result if the source is never opened.
    """

    __slots__ = ("_discard", "_open_source", "_opening", "on_first_use", "opened", "size")

    def __init__(self, size: int, open_source: Open, discard: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._open_source = open_source
        self._discard = discard
        self._opening: trio.Event | None = None
        self.opened: RangedBytes | None = None
        """The source, once it is open."""
        self.on_first_use: Callable[[bool], None] = _ignore
        """Called once, at the first read with True, or else when it is closed with False."""

    async def open(self) -> RangedBytes:
        """The source. Raises what opening and verifying it raise; then it may be called again."""
        while self.opened is None:
            if self._opening is not None:
                await self._opening.wait()
                continue
            opening = self._opening = trio.Event()  # a lock would pass the scheduler for each of many small files
            try:
                self.opened = await self._open_source()
            finally:
                self._opening = None
                opening.set()
        return self.opened

    async def read(self, offset: int, length: int) -> Buffer:
        """As RangedBytes. Raises also what `open` raises."""
        source = self.opened
        if source is None:
            self._used(was_read=True)
            source = await self.open()
        return await source.read(offset, length)

    @property
    def provisional(self) -> bool:
        return self.opened is not None and is_provisional(self.opened)

    @property
    def shown_version(self) -> object:
        # Before the first read none is shown: only verified bytes are read from the source.
        return PROVEN if self.opened is None else shown_version_of(self.opened)

    def close(self) -> None:
        """Close the source if it was opened, else call `discard`."""
        self._used(was_read=False)
        if self.opened is not None:
            self.opened.close()
        else:
            self._discard()

    def _used(self, *, was_read: bool) -> None:
        report, self.on_first_use = self.on_first_use, _ignore
        report(was_read)


class ErrorReporting:
    """RangedBytes over `source`, which it owns. `report` logs and counts a failure and returns the one to raise."""

    __slots__ = ("_report", "_source")

    def __init__(self, source: RangedBytes, report: Callable[[RiafsError], RiafsError]) -> None:
        self._source = source
        self._report = report

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    @property
    def provisional(self) -> bool:
        return is_provisional(self._source)

    @property
    def shown_version(self) -> object:
        return shown_version_of(self._source)

    async def read(self, offset: int, length: int) -> Buffer:
        try:
            return await self._source.read(offset, length)
        except RiafsError as problem:
            raise self._report(problem) from problem

    def close(self) -> None:
        """Close the source."""
        self._source.close()
