"""A 7z archive: members by name, and each member's bytes.

Owns the choice of how a member is read: in place where it is stored, else decoded (see archive/member). Everything in
an archive is a claim of its maker: a member is served only if its folder lies inside the archive's file and fits the
limits. Stored members are not checked against their CRC32: their readers know better digests. Invariant: a member that
cannot be read does not affect the others.
"""

import os
from dataclasses import dataclass

import trio
from cachetools import LRUCache

from riafs.archive.blocks import Digests, Naming
from riafs.archive.decoders import Resources
from riafs.archive.encryption import Unlocker
from riafs.archive.extractor import Extractor
from riafs.archive.header import find_archive, read_listing
from riafs.archive.index import IndexDirectory, SavedWalks
from riafs.archive.member import DecodedMembers, open_decoded
from riafs.cache.blocks import BlockCache
from riafs.counters import Counters
from riafs.errors import ArchiveError, IsADirectoryHere, MalformedArchive, OversizedArchive, ShortRead, StoreTimeout
from riafs.formats.sevenzip.cursor import SIGNATURE_HEADER_SIZE, Limits
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.streams import ELEMENTS
from riafs.storage.bytesource import Extent, MemoryBytes, RangedBytes, StoredFile, Version

_SPILL = 64 << 30
_MEMBERS_AT_ONCE = 2
"""Children that read members of annexed archives, which content/archive_members does."""
_LISTING = b"listing"


class ArchiveTools:
    """What all archives of a mount share.

    `limits`: what archives may claim. `extractor`: starts 7-Zip, and says where temporary files go. `blocks`: where
    decoded content is kept.
    `indexes`: where lists of members are saved. `password`: of encrypted archives. `digests`: what is checked when.
    `spill`: bytes of disk that large members may take while they are decoded.
    """

    def __init__(
        self,
        limits: Limits,
        extractor: Extractor,
        blocks: BlockCache,
        *,
        indexes: IndexDirectory | None = None,
        password: str | None = None,
        digests: Digests = Digests.BESIDE,
        counters: Counters | None = None,
        spill: int = _SPILL,
        workers: int | None = None,
    ) -> None:
        self.limits = limits
        self.indexes = indexes
        self.digests = digests
        self.unlocker = Unlocker(password)
        self.open_archives = OpenArchives()
        self.members = trio.Semaphore(_MEMBERS_AT_ONCE)
        threads = workers or max(2, len(os.sched_getaffinity(0)))
        self.resources = Resources(extractor, blocks, counters or Counters(), spill, 2 * limits.dictionary, threads)

    def close(self) -> None:
        """End all decoders; nothing is read any more."""
        self.resources.decoders.close_all()


class Archive:
    """An open archive. It does not own its source, which has to stay open as long as the archive and its members."""

    __slots__ = ("_decoding", "_name", "_source", "_tools", "listing")

    def __init__(
        self, source: RangedBytes, listing: Listing, tools: ArchiveTools, name: bytes, path: bytes | None
    ) -> None:
        self.listing = listing
        self._source = source
        self._tools = tools
        self._name = name
        walks = SavedWalks(tools.indexes, name)
        naming = Naming(name, tools.digests)
        shown = "an archive" if path is None else os.fsdecode(path)
        self._decoding = DecodedMembers(source, listing, naming, tools.resources, tools.unlocker, walks, shown)

    @classmethod
    async def open(cls, source: RangedBytes, tools: ArchiveTools, path: bytes | None) -> "Archive":
        """The archive in `source`: its members as they were saved, else read from it and saved.

        `path` is what messages call it, where it has a name.

        Raises NotAnArchive, MalformedArchive, UnsupportedArchive, EncryptedArchive, ShortRead, StoreTimeout,
        StoreError, and what reading `source` raises.
        """
        inside = await find_archive(source)
        name = await _name_of(source, inside)
        indexes = tools.indexes if isinstance(source, StoredFile) and source.version is not None else None
        if indexes is not None:
            columns = await indexes.find(name, _LISTING, ELEMENTS)
            if columns is not None:
                return cls(inside, Listing.from_columns(columns), tools, name, path)
        seconds = tools.resources.extractor.deadline
        with trio.move_on_after(seconds) as reading:
            listing, encrypted = await read_listing(inside, tools.limits, tools.unlocker)
        if reading.cancelled_caught:
            raise StoreTimeout(f"reading the list of an archive's members took more than {seconds:g} s")
        if indexes is not None and not encrypted:  # a list that was encrypted stays secret
            listing = await _saved(indexes, name, listing)
        return cls(inside, listing, tools, name, path)

    def find(self, name: bytes) -> Member | None:
        """The member of that name, ``/`` between parts; the last one if the archive has several.

        Older p7zip wrote the bytes of a name as Latin-1 characters where the locale was not UTF-8. Raises DamagedIndex:
        see `forget`.
        """
        found = self.listing.find(name)
        if found is None and not name.isascii():
            return self.listing.find(name.decode("latin-1").encode())
        return found

    async def open_member(self, member: Member) -> RangedBytes:
        """The bytes of `member`; the caller closes them. An `Extent` where it is stored, else a `DecodedMember`.

        Raises IsADirectoryHere, EncryptedArchive, UnsupportedArchive, MalformedArchive, ShortRead (beyond the end of
        the archive), DamagedIndex, CorruptContent, DecodeFailed, TooLarge, StoreTimeout, MissingProgram, StoreError.
        """
        if member.is_directory:
            raise IsADirectoryHere(f"archive member {member.name!r} is a directory")
        if member.folder is None or member.size == 0:
            return MemoryBytes(b"")
        folder = self.listing.folder(member.folder)
        self._check(folder)
        if folder.is_stored:
            return Extent(self._source, folder.pack_offset + member.offset, member.size)
        return await open_decoded(self._decoding, member)

    def _check(self, folder: Folder) -> None:
        """Refuse a folder that cannot be read, before anything is read."""
        end = folder.pack_offset + folder.pack_size
        if end > self._source.size:
            raise ShortRead(f"archive of {self._source.size} bytes has a folder that ends at {end}")
        if folder.is_stored and folder.pack_size != folder.size:
            raise MalformedArchive(f"stored folder of {folder.size} bytes takes {folder.pack_size}")
        if folder.memory > self._tools.limits.dictionary:
            raise OversizedArchive(
                f"archive member needs {folder.memory} bytes to decode; archive-dictionary allows fewer"
            )

    async def forget(self) -> None:
        """Remove what was saved of this archive, which turned out to be damaged; it has to be opened anew."""
        if self._tools.indexes is not None:
            await self._tools.indexes.forget(self._name, _LISTING)

    def close(self) -> None:
        """End the decoders that no reader waits for. Members that are open stay readable."""
        self._decoding.close()


async def _name_of(source: RangedBytes, inside: RangedBytes) -> bytes:
    """A name that no other archive has, nor this one once it was changed: for what is remembered of it."""
    version = source.version if isinstance(source, StoredFile) else None
    if version is None:
        return b"unknown " + os.urandom(16)
    # The front of an archive has the checksum of its list of members.
    return version.token + bytes(await inside.read(0, SIGNATURE_HEADER_SIZE))


async def _saved(indexes: IndexDirectory, name: bytes, listing: Listing) -> Listing:
    """The listing as it was saved, so that it takes no memory; or itself where it could not be saved."""
    columns = listing.columns()
    if not await indexes.keep(name, _LISTING, {each: (ELEMENTS[each], column) for each, column in columns.items()}):
        return listing
    saved = await indexes.find(name, _LISTING, ELEMENTS)
    return listing if saved is None else Listing.from_columns(saved)


MOST = 128


@dataclass(frozen=True, slots=True)
class Known:
    """An archive's file as it was looked at, and what came of opening it: the archive, or what is wrong with it."""

    version: Version
    archive: Archive | None
    problem: ArchiveError | None = None


class OpenArchives(LRUCache[tuple[object, bytes], Known]):
    """By owner, and place among the owner's archives; those unused for longest are closed.

    An open archive takes two descriptors (its file and its index), and a mount may show thousands of datasets. Members
    that are open stay readable when their archive is closed, as they keep the file themselves.
    """

    def __init__(self) -> None:
        super().__init__(MOST)

    def __delitem__(self, name: tuple[object, bytes]) -> None:
        """Let one go, also when it has to make room."""
        known: Known = self[name]
        super().__delitem__(name)
        if known.archive is not None:
            known.archive.close()
