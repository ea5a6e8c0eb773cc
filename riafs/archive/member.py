"""A member that has to be decoded, as a reader sees it: blocks that are kept already, or else bytes from a decoder."""

import trio

from riafs.archive.checks import Digests
from riafs.archive.decoding import Decoding
from riafs.archive.partial import IN_MEMORY, Partial
from riafs.formats.sevenzip import Member
from riafs.storage.ranged import Buffer

_TINY = 128 << 10
"""Members up to this many bytes are held by their reader, which needs them once."""
_AHEAD = 8 << 20
"""Decoded beyond what a reader that goes through in order has asked for, so that several segments are at work."""


class DecodedMember:
    """RangedBytes over a member; `key` is the serialised key whose digest its bytes are checked against, if any.

    Members up to 16 MiB, or all of them if digests are wanted before, are right when they are open. The bytes of larger
    ones are served as they are decoded; what completes them is held back until the checks have passed.
    """

    def __init__(self, decoding: Decoding, member: Member) -> None:
        checks = decoding.naming.checks(member)
        self.key = checks.key
        self.member = member
        self._content = checks.content
        self._decoding = decoding
        self._small = member.size <= IN_MEMORY
        self._data: bytes | None = None
        self._partial: Partial | None = None
        self._front = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.member.size

    @property
    def stream(self) -> int:
        """Its number among the archive's streams."""
        assert self.member.stream is not None
        return self.member.stream

    async def prepare(self) -> None:
        """Decode and check what has to be before the first byte. Raises as `Decoding.cover`."""
        first = min(self.size, self._decoding.workshop.blocks.size)
        if self.size <= _TINY:
            self._data = await self._read_small(0, self.size)
        elif await self._kept(0, first) is None:
            if self._small:
                await self._read_small(0, 0)
            elif self._decoding.naming.digests is Digests.BEFORE:
                await self._read_large(0, 0)

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises as `Decoding.cover`."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._data is not None:
            return self._data[offset : offset + length]
        if self._partial is None and (kept := await self._kept(offset, length)) is not None:
            return kept
        return await (self._read_small(offset, length) if self._small else self._read_large(offset, length))

    async def _kept(self, offset: int, length: int) -> bytes | None:
        return await self._decoding.workshop.blocks.read(self._content, self.size, offset, length)

    async def _read_small(self, offset: int, length: int) -> bytes:
        """A range of a member that is decoded as a whole."""
        if self._data is None and self.size <= _TINY and (kept := await self._kept(offset, length)) is not None:
            return kept
        partial = self._decoding.join(self.member)
        try:
            await self._decoding.cover(partial, 0, self.size)
            return partial.read(offset, length)
        finally:
            self._decoding.leave(partial)

    async def _read_large(self, offset: int, length: int) -> bytes:
        """A range of a member that is decoded where it is read, or before."""
        if self._partial is None:
            self._partial = self._decoding.join(self.member)
        partial, end = self._partial, offset + length
        if self._decoding.naming.digests is Digests.BEFORE:
            await self._decoding.cover(partial, 0, self.size)
        elif 0 < self._front == offset and partial.covered.missing(offset, end):
            await self._decoding.cover(partial, offset, min(end + _AHEAD, self.size))
        else:
            await self._decoding.cover(partial, offset, end)
        self._front = end
        return partial.read(offset, length)

    def close(self) -> None:
        """Give up what is in the making."""
        partial, self._partial = self._partial, None
        if partial is not None:
            self._decoding.leave(partial)


async def open_decoded(decoding: Decoding, member: Member) -> DecodedMember:
    """A member that is ready to be read. Raises as `Decoding.cover`, and what is known to be wrong with it."""
    opened = DecodedMember(decoding, member)
    try:
        await opened.prepare()
    except (Exception, trio.Cancelled):
        opened.close()
        raise
    return opened
