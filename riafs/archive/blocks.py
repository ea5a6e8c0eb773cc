"""How a member's content is checked, how its blocks are named, and where they are kept.

Owns the naming rule that keeps the block cache from being poisoned: only bytes whose digest was checked carry a key's
name; all others carry the identity of the archive's file, and are never served for another one. Blocks are kept in the
mount's block cache, or in a temporary file where that has no directory; only of complete members that passed.
"""

import enum
import os
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from riafs.cache.block_files import annex_content
from riafs.cache.blocks import BlockCache
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


class SpilledBlocks:
    """Blocks in one unlinked file of at most `bound` bytes in `directory`, oldest out, gone with the process.

    Invariant: every byte of the file belongs to at most one of the blocks known by name. Reads and writes are those of
    the page cache and happen at once, so no place is given away while it is read.
    """

    def __init__(self, directory: bytes, bound: int) -> None:
        self._directory = directory
        self._bound = bound
        self._descriptor = -1
        self._position = 0
        self._places: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._written: deque[tuple[tuple[bytes, int], int, int]] = deque()

    def get(self, content: bytes, index: int, length: int) -> bytes | None:
        """The block, if it is there and `length` bytes long."""
        start, end = self._places.get((content, index), (0, 0))
        if end - start != length or not length:
            return None
        try:
            data = os.pread(self._descriptor, length, start)
        except OSError:
            return None
        return data if len(data) == length else None

    def put(self, content: bytes, index: int, data: bytes) -> None:
        """Keep the block, or not: it never fails."""
        if not data or len(data) > self._bound:
            return
        try:
            start = self._room_for(len(data))
            if os.pwrite(self._descriptor, data, start) != len(data):
                return
        except OSError:
            return
        self._places[content, index] = (start, start + len(data))
        self._written.append(((content, index), start, start + len(data)))
        self._position = start + len(data)

    def _room_for(self, length: int) -> int:
        """Where to write, once what lies there is forgotten: places are used in order, and from the front again."""
        if self._descriptor < 0:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        start = self._position
        if start + length > self._bound:
            self._forget(start, self._bound)
            start = 0
        self._forget(start, start + length)
        return start

    def _forget(self, start: int, end: int) -> None:
        while self._written and start <= self._written[0][1] < end:
            name, old_start, old_end = self._written.popleft()
            if self._places.get(name) == (old_start, old_end):
                del self._places[name]

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class MemberBlocks:
    """The block cache, and beside it `spill`, if there is one."""

    def __init__(self, cache: BlockCache, spill: SpilledBlocks | None = None) -> None:
        self._cache = cache
        self._spill = spill

    @property
    def size(self) -> int:
        """Bytes of a block; the last one of a content may have fewer."""
        return self._cache.block_size

    async def read(self, content: bytes, size: int, offset: int, length: int) -> Buffer | None:
        """A range inside a content of `size` bytes, None unless all of it is kept. Not copied out of a single block."""
        pieces: list[memoryview] = []
        end = offset + length
        for index in range(offset // self.size, -(-end // self.size)):
            start = index * self.size
            block = await self._get(content, index, min(self.size, size - start))
            if block is None:
                return None
            pieces.append(memoryview(block)[max(offset - start, 0) : end - start])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _get(self, content: bytes, index: int, length: int) -> bytes | None:
        block = await self._cache.get(content, index, length)
        if block is None and self._spill is not None:
            block = self._spill.get(content, index, length)
        return block

    async def put(self, content: bytes, index: int, block: bytes) -> None:
        """Keep block `index` of a content. Never fails."""
        if self._spill is not None:
            self._spill.put(content, index, block)
        await self._cache.put(content, index, block)
