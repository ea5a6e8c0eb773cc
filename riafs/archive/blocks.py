"""How a member's content is checked, and how its blocks are named in the block cache.

Owns the naming rule that keeps the block cache from being poisoned: only bytes whose digest was checked carry a key's
name; all others carry the identity of the archive's file, and are never served for another one. Blocks are cached only
of complete members that passed their checks.
"""

import enum
from dataclasses import dataclass
from typing import Protocol

from riafs.cache.block_files import annex_content
from riafs.errors import CorruptContent, MalformedKey
from riafs.formats.digests import checker, crc32
from riafs.formats.keys import parse_file_name
from riafs.formats.sevenzip.header import Member
from riafs.storage.bytesource import Buffer


class Digests(enum.Enum):
    """What is checked besides the archive's own CRC32, and when."""

    BESIDE = "beside"
    """The digest of the key that the member is named after; large members are served as they are decoded, their last
    bytes once everything was checked."""
    BEFORE = "before"
    """The same, but no member is served before all of it was checked."""
    NONE = "none"


class _Digest(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def matches(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Naming:
    """Which names the members of one archive get; `identity` is unlike that of any other archive or version of it."""

    identity: bytes
    digests: Digests

    def checks(self, member: Member) -> "Checks":
        """The checks of `member`, nothing taken in yet."""
        if self.digests is not Digests.NONE:
            try:
                key = parse_file_name(member.name.rpartition(b"/")[2])
            except MalformedKey:
                key = None
            digest = None if key is None else checker(key)
            if key is not None and digest is not None:
                return Checks(member, annex_content(key.serialised), key.serialised, digest)
        return Checks(member, b"7z:%b:%d" % (self.identity, member.stream or 0), None, None)


class Checks:
    """Takes in a member's bytes in order. `content` names its blocks; `key` is whose digest is checked, or None."""

    __slots__ = ("_crc", "_digest", "_member", "content", "key")

    def __init__(self, member: Member, content: bytes, key: bytes | None, digest: _Digest | None) -> None:
        self.content = content
        self.key = key
        self._member = member
        self._digest = digest
        self._crc = 0

    def update(self, data: Buffer) -> None:
        """The next bytes."""
        self._crc = crc32(data, self._crc)
        if self._digest is not None:
            self._digest.update(data)

    def verdict(self) -> CorruptContent | None:
        """What is wrong with all the bytes, if anything. Those of a key need not have the archive's CRC32."""
        if self._digest is not None and self._digest.matches():
            return None
        shown = f"archive member {self._member.name.decode(errors='replace')!r}"
        if self._member.crc is not None and self._crc != self._member.crc:
            return CorruptContent(f"{shown} has the CRC32 {self._crc:08x}, its archive says {self._member.crc:08x}")
        if self._digest is not None:
            return CorruptContent(f"{shown} is not the content of its key: its digest does not match")
        return None
