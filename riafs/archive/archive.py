"""A 7z archive: members by name, and each member's bytes.

Owns the choice of how a member is read: in place where it is stored, else decoded into a temporary file. Everything in
an archive is a claim of whoever made it: a member is served only if its folder lies inside the archive's file and fits
the limits. Stored members are not checked against their CRC32: their readers know better digests. Invariant: one member
that cannot be read does not concern the others.
"""

from dataclasses import dataclass

from riafs.archive.extractor import Extractor
from riafs.archive.header import read_listing
from riafs.errors import EncryptedArchive, IsADirectoryHere, MalformedArchive, ShortRead, UnsupportedArchive
from riafs.formats.sevenzip import Listing, Member
from riafs.formats.sevenzip_cursor import Limits
from riafs.formats.sevenzip_folder import Folder
from riafs.storage.extents import Extent
from riafs.storage.ranged import MemoryBytes, RangedBytes


@dataclass(frozen=True, slots=True)
class ArchiveTools:
    """What all archives of a mount share: what they may claim, and what decodes their compressed members."""

    limits: Limits
    extractor: Extractor


class Archive:
    """An open archive. It does not own its source, which has to stay open as long as the archive and its members."""

    __slots__ = ("_path", "_source", "_tools", "listing")

    def __init__(self, source: RangedBytes, listing: Listing, tools: ArchiveTools, path: bytes | None) -> None:
        self.listing = listing
        self._source = source
        self._tools = tools
        self._path = path

    @classmethod
    async def open(cls, source: RangedBytes, tools: ArchiveTools, path: bytes | None) -> "Archive":
        """The archive in `source`.

        `path` is where programs on this machine find the same file, or None. Raises NotAnArchive, MalformedArchive,
        UnsupportedArchive, EncryptedArchive, ShortRead, and what reading `source` raises.
        """
        return cls(source, await read_listing(source, tools.limits), tools, path)

    def find(self, name: bytes) -> Member | None:
        """The member of that name, ``/`` between parts; the last one if the archive has several.

        Older p7zip wrote the bytes of a name as Latin-1 characters where the locale was not UTF-8.
        """
        found = self.listing.find(name)
        if found is None and not name.isascii():
            return self.listing.find(name.decode("latin-1").encode())
        return found

    async def open_member(self, member: Member) -> RangedBytes:
        """The bytes of `member`; the caller closes them.

        Raises IsADirectoryHere, EncryptedArchive, UnsupportedArchive, MalformedArchive, ShortRead (beyond the end of
        the archive), and what `Extractor.extract` raises.
        """
        if member.is_directory:
            raise IsADirectoryHere(f"archive member {member.name!r} is a directory")
        if member.folder is None:
            return MemoryBytes(b"")
        folder = self.listing.folder(member.folder)
        self._check(folder)
        if folder.is_stored:
            return Extent(self._source, folder.pack_offset + member.offset, member.size)
        if self._path is None:
            raise UnsupportedArchive("compressed members of an archive that is not on this machine")
        return await self._tools.extractor.extract(self._path, member)

    def _check(self, folder: Folder) -> None:
        """Refuse a folder that cannot be read, before anything is read."""
        end = folder.pack_offset + folder.pack_size
        if end > self._source.size:
            raise ShortRead(f"archive of {self._source.size} bytes has a folder that ends at {end}")
        if folder.is_encrypted:
            raise EncryptedArchive("archive member that needs a password")
        if folder.is_stored and folder.pack_size != folder.size:
            raise MalformedArchive(f"stored folder of {folder.size} bytes takes {folder.pack_size}")
        if folder.memory > self._tools.limits.dictionary:
            raise MalformedArchive(f"archive member needs {folder.memory} bytes to decode, over the bound")
