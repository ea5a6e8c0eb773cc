"""Members that have to be decoded, as their readers see them: blocks that are kept already, else bytes from a decoder.

Owns the decision how much to decode: what a reader asks for, and what it is likely to ask for next. Invariant: the last
bytes of a member are given out only if its checks passed.
"""

import trio

from riafs.archive.blocks import Digests, Naming
from riafs.archive.decoders import Resources
from riafs.archive.encryption import Unlocker
from riafs.archive.folder import DecodableFolder, Folders
from riafs.archive.index import SavedWalks
from riafs.archive.members import IN_MEMORY, MemberAssembler, PartialMember, again, stream_of
from riafs.archive.prefetch import AHEAD, Prefetch
from riafs.archive.scheduler import Scheduler
from riafs.errors import StoreError, StoreTimeout
from riafs.formats.sevenzip.header import Listing, Member
from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes

_TINY = 128 << 10
"""Members up to this many bytes are held by their reader, which needs them once."""
_AHEAD = 8 << 20
"""Decoded beyond what a reader that goes through in order has asked for, so that several stretches are at work."""


class DecodedMembers:
    """The decoded members of the archive that lies in `source` and that messages call `shown`."""

    def __init__(
        self, source: RangedBytes, listing: Listing, naming: Naming, resources: Resources, unlocker: Unlocker,
        walks: SavedWalks, shown: str,
    ) -> None:  # fmt: skip
        self.resources = resources
        self.naming = naming
        self.assembler = MemberAssembler(listing, naming, resources, shown)
        self._scheduler = Scheduler(self.assembler, resources)
        self._folders = Folders(source, listing, unlocker, walks)
        seconds = resources.extractor.deadline
        self.prefetch = Prefetch(listing, self.assembler, self._scheduler, self._folders, seconds)

    async def cover(self, partial: PartialMember, start: int, end: int, ahead: int = 0) -> None:
        """Decode until a range of a member's bytes is there, and check it once all of its bytes are.

        `ahead`: how many bytes more will be wanted. Raises CorruptContent, DecodeFailed, EncryptedArchive,
        StoreTimeout, …
        """
        seconds = self.resources.extractor.deadline
        with trio.move_on_after(seconds):
            missing = partial.covered.missing(start, end)
            if missing or ahead:
                folder = await self._folders.of(partial.member)
                if ahead:
                    self.prefetch.rest_of(folder, partial, end, ahead)
                if missing:
                    await self._decode(folder, partial, start, end, ahead)
            if partial.complete:
                await partial.settled.wait()
                self.prefetch.read(partial.member)
            if partial.problem is not None:
                raise again(partial.problem)
            return
        raise StoreTimeout(f"decoding an archive member took more than {seconds:g} s")

    async def _decode(self, folder: DecodableFolder, partial: PartialMember, start: int, end: int, ahead: int) -> None:
        """Decode until a range is there, or it is known what is wrong. Raises what makes that impossible."""
        if not ahead and self.prefetch.follows(partial.member):
            self.prefetch.members_after(folder, partial.member)
            ahead = AHEAD
        elif not ahead:
            await self.prefetch.apart(folder, partial.member, start, end)
        while partial.problem is None and partial.covered.missing(start, end):
            before = list(partial.covered.ranges)
            problem = await self._scheduler.decode(folder, [(partial, start, end)], ahead)
            idle = partial.covered.ranges == before and partial.problem is None
            if idle or isinstance(problem, StoreTimeout):
                raise problem or StoreError("a decoder passed an archive member without decoding it")

    def close(self) -> None:
        """End the decoders that no reader waits for."""
        self._scheduler.close()


class DecodedMember:
    """RangedBytes over a member; `key` is the serialised key whose digest its bytes are checked against, if any.

    Members up to 16 MiB, or all of them if digests are wanted before, are right when they are open. The bytes of larger
    ones are served as they are decoded; what completes them is held back until the checks have passed.
    """

    def __init__(self, decoding: DecodedMembers, member: Member) -> None:
        checks = decoding.naming.checks(member)
        self.key = checks.key
        self.member = member
        self._content = checks.content
        self._decoding = decoding
        self._small = member.size <= IN_MEMORY
        self._data: bytes | None = None
        self._partial: PartialMember | None = None
        self._front = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.member.size

    @property
    def stream(self) -> int:
        """Its number among the archive's streams."""
        return stream_of(self.member)

    @property
    def origin(self) -> tuple[bytes, int]:
        """Equal for two that are the same member of the same version of an archive."""
        return self._decoding.naming.identity, self.stream

    @property
    def provisional(self) -> bool:
        return self._partial is not None and not self._is_good

    @property
    def shown_version(self) -> object:
        """Readers of one version of an archive may share what a cache has."""
        return PROVEN if self._small or self._is_good else self.origin

    @property
    def _is_good(self) -> bool:
        """Whether all that was handed out was found to be right, and what will be, as far as is known."""
        if self._decoding.naming.digests is Digests.BEFORE:
            return True
        if self._partial is not None:
            return self._partial.settled.is_set() and self._partial.problem is None
        return self._decoding.assembler.is_good(self.stream)

    async def prepare(self) -> None:
        """Decode and check what has to be before the first byte. Raises as `DecodedMembers.cover`."""
        self._decoding.assembler.refuse_bad(self.member)
        first = min(self.size, self._decoding.resources.blocks.block_size)
        if self.size <= _TINY:
            self._data = bytes(await self.read(0, self.size))
        elif self._small or self._decoding.naming.digests is Digests.BEFORE:
            await self.read(0, first)
        await self._decoding.prefetch.taken(self.member)

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises as `DecodedMembers.cover`."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._data is not None:
            return self._data[offset : offset + length]
        if self._partial is None and (kept := await self._kept(offset, length)) is not None:
            return kept
        return await (self._read_small(offset, length) if self._small else self._read_large(offset, length))

    async def _kept(self, offset: int, length: int) -> Buffer | None:
        return await self._decoding.resources.blocks.read(self._content, self.size, offset, length)

    async def _read_small(self, offset: int, length: int) -> Buffer:
        """A range of a member that is decoded as a whole."""
        partial = self._decoding.assembler.join(self.member)
        try:
            kept = await self._kept_meanwhile(partial, offset, length)
            if kept is not None:
                return kept
            await self._decoding.cover(partial, 0, self.size)
            return partial.read(offset, length)
        finally:
            self._decoding.assembler.leave(partial)

    async def _kept_meanwhile(self, partial: PartialMember, offset: int, length: int) -> Buffer | None:
        """The range, where a decoder has passed the member while the cache was asked the first time."""
        return None if partial.covered.ranges else await self._kept(offset, length)

    async def _read_large(self, offset: int, length: int) -> Buffer:
        """A range of a member that is decoded where it is read, or before."""
        if self._partial is None:
            joined = self._decoding.assembler.join(self.member)
            kept = await self._while_joined(joined, offset, length)
            if kept is not None:
                return kept
        partial, end = self._partial, offset + length
        assert partial is not None
        if self._decoding.naming.digests is Digests.BEFORE:
            await self._decoding.cover(partial, 0, self.size)
        else:
            await self._decoding.cover(partial, offset, end, _AHEAD if 0 < self._front == offset else 0)
        self._front = end
        return partial.read(offset, length)

    async def _while_joined(self, joined: PartialMember, offset: int, length: int) -> Buffer | None:
        """Keep a partial for as long as this reader is open, unless the range turns out to be kept already."""
        kept = None
        try:
            kept = await self._kept_meanwhile(joined, offset, length)
        finally:
            if kept is None and self._partial is None:
                self._partial = joined
            else:
                self._decoding.assembler.leave(joined)
        return kept

    def close(self) -> None:
        """Stop counting on bytes that are still to be decoded."""
        partial, self._partial = self._partial, None
        if partial is not None:
            self._decoding.assembler.leave(partial)


async def open_decoded(decoding: DecodedMembers, member: Member) -> DecodedMember:
    """A member that is ready to be read. Raises as `DecodedMembers.cover`, and what is known to be wrong with it."""
    opened = DecodedMember(decoding, member)
    try:
        await opened.prepare()
    except (Exception, trio.Cancelled):
        opened.close()
        raise
    return opened
