"""One folder of an archive as something to decode: its bytes without encryption, where decoding can begin, by what."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio
from cachetools import LRUCache

from riafs.archive.coders import IN_CHILD, IN_PROCESS, is_decodable, is_foreign, step_of
from riafs.archive.decoders import Decoder, StoredDecoder, ThreadDecoder
from riafs.archive.divisions import Anywhere, AtResets, Division, Undivided
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import Engine, Extractor
from riafs.archive.walks import SavedWalks
from riafs.formats.sevenzip.folder import COPY, LZMA2, Folder
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.lzma2 import Segment
from riafs.storage.bytesource import Concatenated, Extent, MemoryBytes, RangedBytes
from riafs.storage.deadline import DeadlineLock

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
    division: Division
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

    def engines(self, segment: Segment, *, seven_zip: bool) -> Sequence[Engine | None]:
        """What can decode a segment, in the order to try it, as far as libraries and programs are there; None: this
        process. With 7-Zip (`seven_zip`) it comes last, or first where it is faster."""
        if self.stored:
            return (None,)
        last = (Engine.SEVENZIP,) if seven_zip and self._is_possible_for_7zip(segment) else ()
        if is_decodable(self.folder, IN_PROCESS):
            return (*last, None) if last and self._is_worth_a_child(segment) else (None, *last)
        if is_decodable(self.folder, IN_PROCESS | IN_CHILD):
            return (Engine.STEPS, *last)
        return (Engine.LIBARCHIVE, *last) if self.folder.chain is None else (Engine.SEVENZIP,)

    def _is_possible_for_7zip(self, segment: Segment) -> bool:
        """Whether it knows the methods, and a segment is a folder by itself."""
        part_is_whole = segment.size == self.folder.size or self.has_runs
        return part_is_whole and segment.packed_end - segment.packed <= _MOST_COPIED and not is_foreign(self.folder)

    def _is_worth_a_child(self, segment: Segment) -> bool:
        """Whether 7-Zip decodes a segment sooner than this process."""
        return segment.size >= LONG and not self.encrypted

    @property
    def has_runs(self) -> bool:
        """Whether parts of it are folders too: LZMA2 and nothing else, where decoding can begin at several places."""
        return isinstance(self.division, AtResets) and self.folder.only_coder is not None

    async def start(
        self, engine: Engine | None, segment: Segment, workers: trio.CapacityLimiter, extractor: Extractor
    ) -> Decoder:
        """One of `engines` at the front of a segment. Raises MalformedArchive, MissingProgram, StoreError, …"""
        if self.stored:
            return StoredDecoder(self.packed, segment.packed)
        if engine is None:
            make = partial(step_of, self.folder)
            return ThreadDecoder(self.packed, segment.packed, make, segment.size, workers, self.shown)
        threads = min(int(workers.total_tokens), _MOST_THREADS) if segment.is_run else 1
        if segment.size == self.folder.size:
            return await extractor.start(engine, self.folder, self.packed, self.shown, threads)
        length = segment.packed_end - segment.packed
        ending = b"" if segment.end == self.folder.size else _STREAM_END
        packed = Concatenated([Extent(self.packed, segment.packed, length), MemoryBytes(ending)])
        part = dataclasses.replace(self.folder, pack_sizes=(packed.size,), unpack_sizes=(segment.size,), crc=None)
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
        async with self._opening.one():
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
    division = _division(folder, packed, number, walks)
    streams, shown = listing.streams_of(number), f"7z folder {number}"
    return DecodableFolder(number, folder, streams, packed, division, locked.is_encrypted, shown)


def _division(folder: Folder, packed: RangedBytes, number: int, walks: SavedWalks) -> Division:
    if folder.is_stored:
        return Anywhere(folder.size)
    coders = [coder for coder in folder.chain or () if coder.method != COPY]
    if len(coders) != 1 or coders[0].method != LZMA2 or folder.size <= _WORTH_DIVIDING:
        return Undivided(packed.size, folder.size)
    remembered = walks if folder.pack_size >= _WORTH_REMEMBERING else SavedWalks(None, b"")
    return AtResets(packed, folder.size, remembered, number)
