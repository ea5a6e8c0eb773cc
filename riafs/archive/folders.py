"""One folder of an archive as something to decode: its bytes without encryption, where decoding can begin, by what."""

import contextlib
from dataclasses import dataclass

import trio

from riafs.archive.coders import Filter, lzma_filters
from riafs.archive.divisions import Anywhere, AtResets, Division, Undivided
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import Extractor
from riafs.archive.producers import LzmaProducer, Producer, StoredProducer
from riafs.archive.walks import SavedWalks
from riafs.errors import MissingProgram, UnsupportedArchive
from riafs.formats.lzma2 import Segment
from riafs.formats.sevenzip import Listing
from riafs.formats.sevenzip_folder import AES, COPY, LZMA2, Coder, Folder
from riafs.storage.extents import Extent
from riafs.storage.ranged import RangedBytes

_WORTH_DIVIDING = 1 << 20
_LONG = 8 << 20
_MOST_COPIED = 1 << 30
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
        if self._is_long(segment):
            with contextlib.suppress(MissingProgram):
                return await extractor.start(self.folder, self.packed, self.shown)
        return LzmaProducer(self.packed, segment.packed, self.filters, workers, self.shown)

    def _is_long(self, segment: Segment) -> bool:
        """Whether decoding takes so long that 7-Zip's decoder, which is a third faster than liblzma 5.4, makes up for
        starting it and for copying the packed bytes."""
        whole = segment.end - segment.start == self.folder.size
        return whole and not self.folder.is_encrypted and self.folder.size >= _LONG and self.packed.size <= _MOST_COPIED


async def open_folder(
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
        return Undivided(folder.size)
    remembered = walks if folder.pack_size >= _WORTH_REMEMBERING else SavedWalks(None, b"")
    return AtResets(packed, folder.size, remembered, number)
