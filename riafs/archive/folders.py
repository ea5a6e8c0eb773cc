"""One folder of an archive as something to decode: its bytes without encryption, where decoding can begin, by what."""

import contextlib
import dataclasses
from dataclasses import dataclass

import trio
from cachetools import LRUCache

from riafs.archive.coders import Filter, lzma_filters
from riafs.archive.divisions import Anywhere, AtResets, Division, Undivided
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import ChildProducer, Extractor
from riafs.archive.producers import LzmaProducer, Producer, StoredProducer
from riafs.archive.walks import SavedWalks
from riafs.errors import MissingProgram, UnsupportedArchive
from riafs.formats.lzma2 import Segment
from riafs.formats.sevenzip import Listing, Member
from riafs.formats.sevenzip_folder import AES, COPY, LZMA2, Coder, Folder
from riafs.storage.concat import Concatenated
from riafs.storage.extents import Extent
from riafs.storage.patience import Turns
from riafs.storage.ranged import MemoryBytes, RangedBytes

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
    """A folder with what is needed to decode it. `filters`: liblzma's; None where 7-Zip itself has to do it."""

    number: int
    folder: Folder
    streams: range
    """The numbers of its members' streams."""
    packed: RangedBytes
    division: Division
    filters: list[Filter] | None
    stored: bool
    shown: str

    @property
    def memory(self) -> int:
        """Bytes that one decoder may take."""
        return min(self.folder.memory, self.folder.size)

    async def start(self, segment: Segment, workers: trio.CapacityLimiter, extractor: Extractor) -> Producer:
        """A decoder at the front of a segment. Raises MalformedArchive, MissingProgram, StoreError, …"""
        if self.stored:
            return StoredProducer(self.packed, segment.packed)
        if self.filters is None:
            return await extractor.start(self.folder, self.packed, self.shown)
        if self._is_for_child(segment):
            with contextlib.suppress(MissingProgram):
                return await self._child(segment, workers, extractor)
        return LzmaProducer(self.packed, segment.packed, self.filters, workers, self.shown)

    def _is_for_child(self, segment: Segment) -> bool:
        """Whether 7-Zip decodes a segment sooner."""
        small = segment.size < LONG or segment.packed_end - segment.packed > _MOST_COPIED
        return not small and not self.folder.is_encrypted and (segment.size == self.folder.size or self.has_runs)

    @property
    def has_runs(self) -> bool:
        """Whether parts of it are folders too: LZMA2 and nothing else, where decoding can begin at several places."""
        return isinstance(self.division, AtResets) and self.folder.only_coder is not None

    async def _child(self, segment: Segment, workers: trio.CapacityLimiter, extractor: Extractor) -> ChildProducer:
        """7-Zip at the front of a segment. Raises MissingProgram, StoreError, …"""
        threads = min(int(workers.total_tokens), _MOST_THREADS) if segment.is_run else 1
        if segment.size == self.folder.size:
            return await extractor.start(self.folder, self.packed, self.shown, threads)
        length = segment.packed_end - segment.packed
        ending = b"" if segment.end == self.folder.size else _STREAM_END
        packed = Concatenated([Extent(self.packed, segment.packed, length), MemoryBytes(ending)])
        part = dataclasses.replace(self.folder, pack_sizes=(packed.size,), unpack_sizes=(segment.size,), crc=None)
        return await extractor.start(part, packed, self.shown, threads)


class Folders:
    """The folders of one archive, which lies in `source`; those that were used last are kept."""

    def __init__(self, source: RangedBytes, listing: Listing, unlocker: Unlocker, walks: SavedWalks) -> None:
        self._source = source
        self._listing = listing
        self._unlocker = unlocker
        self._walks = walks
        self._kept: LRUCache[int, DecodableFolder] = LRUCache(_KEPT)
        self._opening = Turns()

    async def of(self, member: Member) -> DecodableFolder:
        """The folder of a member that has content. Raises as `_open_folder`."""
        number = member.folder
        assert number is not None
        async with self._opening.one():
            found: DecodableFolder | None = self._kept.get(number)
            if found is None:
                found = await _open_folder(self._source, self._listing, number, self._unlocker, self._walks)
                self._kept[number] = found
            return found


async def _open_folder(
    source: RangedBytes, listing: Listing, number: int, unlocker: Unlocker, walks: SavedWalks
) -> DecodableFolder:
    """The folder of that number, whose packed bytes lie in `source`.

    Raises EncryptedArchive, UnsupportedArchive (encryption around a method that only 7-Zip decodes), MalformedArchive.
    """
    folder = listing.folder(number)
    packed: RangedBytes = Extent(source, folder.pack_offset, folder.pack_size)
    shown = f"7z folder {number}"
    chain = folder.chain
    if folder.is_encrypted:
        if chain is None or chain[-1].method != AES:
            raise UnsupportedArchive("encrypted 7z folder with several packed streams (BCJ2)")
        # In a row every coder's output is the next one's input; its size is the last but one step's.
        packed = await unlocker.unlock(packed, chain[-1], folder.unpack_sizes[folder.shape.coders.index(chain[-1])])
        chain = chain[:-1]
    chain = None if chain is None else tuple(coder for coder in chain if coder.method != COPY)
    filters = lzma_filters(chain, folder.size) if chain else None
    if folder.is_encrypted and chain and filters is None:
        raise UnsupportedArchive("encrypted 7z folder with a method other than LZMA and LZMA2")
    division = _division(folder, packed, number, chain, walks)
    streams = listing.streams_of(number)
    return DecodableFolder(number, folder, streams, packed, division, filters, stored=chain == (), shown=shown)


def _division(
    folder: Folder, packed: RangedBytes, number: int, chain: tuple[Coder, ...] | None, walks: SavedWalks
) -> Division:
    if chain == ():
        return Anywhere(folder.size)
    if chain is None or len(chain) > 1 or chain[0].method != LZMA2 or folder.size <= _WORTH_DIVIDING:
        return Undivided(packed.size, folder.size)
    remembered = walks if folder.pack_size >= _WORTH_REMEMBERING else SavedWalks(None, b"")
    return AtResets(packed, folder.size, remembered, number)
