"""A folder of an archive as something to decode: its bytes without encryption, the places where decoding can begin (its
seek points), and the engines that can decode it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio
from cachetools import LRUCache

from riafs.archive.decoders import Decoder, StoredDecoder, ThreadDecoder
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import Engine, Extractor
from riafs.archive.index import SavedWalks
from riafs.archive.methods import IN_CHILD, IN_PROCESS, decompressor_of, is_decodable, is_foreign
from riafs.errors import MalformedArchive, StoreTimeout
from riafs.formats.sevenzip.folder import COPY, LZMA2, Folder
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.lzma2 import HEADER_SIZE, Resets, Stretch
from riafs.storage.bytesource import Concatenated, Extent, MemoryBytes, RangedBytes
from riafs.storage.deadline import DeadlineLock
from riafs.storage.local_file import BlockingRead, blocking_read, deadline_of

_CHUNKS_AT_ONCE = 1024  # what a deadline is for
_FIXED = 1 << 20


class SeekPoints(Protocol):
    """The stretches of a folder, which follow each other without gaps."""

    async def stretch(self, offset: int, end: int = 0) -> Stretch:
        """The one that holds the decoded byte `offset`; with those after it up to the byte before `end`, where a single
        decoder can go through them. Raises what reading the archive raises."""


class FrontOnly:
    """Decoding begins at the front only."""

    def __init__(self, packed_size: int, size: int) -> None:
        self._stretch = Stretch(0, packed_size, 0, size)

    async def stretch(self, offset: int, end: int = 0) -> Stretch:
        return self._stretch


class Everywhere:
    """Decoded bytes are where packed bytes are."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def stretch(self, offset: int, end: int = 0) -> Stretch:
        start = offset - offset % _FIXED
        end = min(start + _FIXED, self._size)
        return Stretch(start, end, start, end)


class AtResets:
    """Decoding begins where an LZMA2 stream resets its dictionary: found by walking the chunks, no further than needed,
    and remembered by `saved` under `name`. Chunks that make no sense end the walk; decoding will tell what is wrong."""

    def __init__(self, packed: RangedBytes, size: int, saved: SavedWalks, name: int) -> None:
        self._packed = packed
        self._resets = Resets(packed.size, size)
        self._saved = saved
        self._name = name
        self._loaded = False
        self._walking = DeadlineLock()

    async def stretch(self, offset: int, end: int = 0) -> Stretch:
        last = max(offset, end - 1)
        if not self._resets.knows(last):
            async with self._walking.held():
                if not self._loaded:
                    await self._saved.load(self._name, self._resets)
                    self._loaded = True
                await self._walk(last)
        return self._resets.stretch(offset, last)

    async def _walk(self, offset: int) -> None:
        resets, began = self._resets, self._resets.walked
        fill, deadline = blocking_read(self._packed), deadline_of(self._packed)
        read = None if fill is None or deadline is None else _pieces(fill, self._packed.size)
        try:
            while not resets.knows(offset):
                if read is None or deadline is None:
                    await self._step(offset)
                else:
                    await deadline.run_longer(deadline.seconds, resets.walk, read, offset, _CHUNKS_AT_ONCE)
        except MalformedArchive:
            resets.give_up()
            return
        except (StoreTimeout, trio.Cancelled):  # the thread may still be changing it
            self._resets, self._loaded = Resets(self._packed.size, resets.size), False
            raise
        if resets.walked != began:
            await self._saved.save(self._name, resets)

    async def _step(self, offset: int) -> None:
        """Walk over one chunk of what only the event loop can read."""
        at = self._resets.walked_packed
        header = await self._packed.read(at, HEADER_SIZE)
        self._resets.walk(_part(bytes(header), at), offset, 1)


def _pieces(fill: BlockingRead, size: int) -> Callable[[int, int], bytes]:
    """(offset, length) → as many of those bytes as there are."""

    def read(offset: int, length: int) -> bytes:
        buffer = bytearray(max(0, min(length, size - offset)))
        fill(offset, memoryview(buffer))
        return bytes(buffer)

    return read


def _part(data: bytes, start: int) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset - start : offset - start + length]


_WORTH_DIVIDING = 1 << 20
LONG = 8 << 20
"""Decoded bytes of which it takes so long to make them that 7-Zip's decoder, which is a third faster than liblzma 5.4,
makes up for starting it and for copying the packed bytes."""
_MOST_COPIED = 1 << 30
_MOST_THREADS = 4
_KEPT = 256
_STREAM_END = b"\0"
_WORTH_REMEMBERING = 8 << 20  # bytes packed: about a hundred chunks, walked in a millisecond where the file is cached


@dataclass(frozen=True, slots=True)
class DecodableFolder:
    """A folder with what is needed to decode it: `folder` and `packed` are without encryption."""

    number: int
    folder: Folder
    streams: range
    """The numbers of its members' streams."""
    packed: RangedBytes
    seek_points: SeekPoints
    encrypted: bool
    shown: str

    @property
    def memory(self) -> int:
        """Bytes that one decoder may take."""
        return min(self.folder.memory, self.folder.size)

    @property
    def stored(self) -> bool:
        """Whether it was only encrypted."""
        return self.folder.is_stored

    def engines(self, stretch: Stretch, *, seven_zip: bool) -> Sequence[Engine | None]:
        """What can decode a stretch, in the order to try it, as far as libraries and programs are there; None: this
        process. With 7-Zip (`seven_zip`) it comes last, or first where it is faster."""
        if self.stored:
            return (None,)
        last = (Engine.SEVENZIP,) if seven_zip and self._is_possible_for_7zip(stretch) else ()
        if is_decodable(self.folder, IN_PROCESS):
            return (*last, None) if last and self._is_worth_a_child(stretch) else (None, *last)
        if is_decodable(self.folder, IN_PROCESS | IN_CHILD):
            return (Engine.LIBRARIES, *last)
        return (Engine.LIBARCHIVE, *last) if self.folder.chain is None else (Engine.SEVENZIP,)

    def _is_possible_for_7zip(self, stretch: Stretch) -> bool:
        """Whether it knows the methods, and a stretch is a folder by itself."""
        part_is_whole = stretch.size == self.folder.size or (self.is_divided and self.folder.only_coder is not None)
        return part_is_whole and stretch.packed_end - stretch.packed <= _MOST_COPIED and not is_foreign(self.folder)

    def _is_worth_a_child(self, stretch: Stretch) -> bool:
        """Whether 7-Zip decodes a stretch sooner than this process."""
        return stretch.size >= LONG and not self.encrypted

    @property
    def is_divided(self) -> bool:
        """Whether decoding can begin at several places, so that several decoders can be at work."""
        return isinstance(self.seek_points, AtResets)

    @property
    def has_runs(self) -> bool:
        """Whether 7-Zip can decode several stretches in a row: they are LZMA2 and nothing else."""
        return self.is_divided and self.folder.only_coder is not None and not self.encrypted

    async def start(
        self, engine: Engine | None, stretch: Stretch, workers: trio.CapacityLimiter, extractor: Extractor
    ) -> Decoder:
        """One of `engines` at the front of a stretch. Raises MalformedArchive, MissingProgram, StoreError, …"""
        if self.stored:
            return StoredDecoder(self.packed, stretch.packed)
        if engine is None:
            make = partial(decompressor_of, self.folder)
            return ThreadDecoder(self.packed, stretch.packed, make, stretch.size, workers, self.shown)
        threads = min(int(workers.total_tokens), _MOST_THREADS) if stretch.is_run else 1
        if stretch.size == self.folder.size:
            return await extractor.start(engine, self.folder, self.packed, self.shown, threads)
        length = stretch.packed_end - stretch.packed
        ending = b"" if stretch.end == self.folder.size else _STREAM_END
        packed = Concatenated([Extent(self.packed, stretch.packed, length), MemoryBytes(ending)])
        part = dataclasses.replace(self.folder, pack_sizes=(packed.size,), unpack_sizes=(stretch.size,), crc=None)
        return await extractor.start(engine, part, packed, self.shown, threads)


class Folders:
    """The folders of one archive, which lies in `source`; those that were used last are kept."""

    def __init__(self, source: RangedBytes, listing: Listing, unlocker: Unlocker, walks: SavedWalks) -> None:
        self._source = source
        self._listing = listing
        self._unlocker = unlocker
        self._walks = walks
        self._kept: LRUCache[int, DecodableFolder] = LRUCache(_KEPT)
        self._opening = DeadlineLock()

    async def of(self, member: Member) -> DecodableFolder:
        """The folder of a member that has content. Raises as `_open_folder`."""
        number = member.folder
        assert number is not None
        async with self._opening.held():
            found: DecodableFolder | None = self._kept.get(number)
            if found is None:
                found = await _open_folder(self._source, self._listing, number, self._unlocker, self._walks)
                self._kept[number] = found
            return found


async def _open_folder(
    source: RangedBytes, listing: Listing, number: int, unlocker: Unlocker, walks: SavedWalks
) -> DecodableFolder:
    """The folder of that number, whose packed bytes lie in `source`. Raises as `Unlocker.open`."""
    locked = listing.folder(number)
    folder, packed = await unlocker.open(locked, source)
    seek_points = _seek_points(folder, packed, number, walks)
    streams, shown = listing.streams_of(number), f"7z folder {number}"
    return DecodableFolder(number, folder, streams, packed, seek_points, locked.is_encrypted, shown)


def _seek_points(folder: Folder, packed: RangedBytes, number: int, walks: SavedWalks) -> SeekPoints:
    if folder.is_stored:
        return Everywhere(folder.size)
    coders = [coder for coder in folder.chain or () if coder.method != COPY]
    if len(coders) != 1 or coders[0].method != LZMA2 or folder.size <= _WORTH_DIVIDING:
        return FrontOnly(packed.size, folder.size)
    remembered = walks if folder.pack_size >= _WORTH_REMEMBERING else SavedWalks(None, b"")
    return AtResets(packed, folder.size, remembered, number)
