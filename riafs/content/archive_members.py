"""Keys whose content is a member of an annexed archive (tar, zip, 7z, …), as DataLad's archives remote has them.

The member is read out of the archive by libarchive in the limited child, checked against the key, and kept in the block
cache under the key's name, so that the archive is gone through once for each member and not for each reader. Of the
archive's copies the first counts out of which the right bytes come. What has no digest is read anew for each reader.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import trio

from riafs.archive.archive import ArchiveTools
from riafs.cache.block_files import annex_content
from riafs.cache.cached_bytes import CachedBytes
from riafs.children import ATTEMPTS
from riafs.content.locations import Location
from riafs.content.verifying import UnverifiedContent
from riafs.errors import CorruptContent, NotInStore, ProgramKilled, RiafsError, StoreError, StoreTimeout
from riafs.formats.annexlogs import ArchiveLink
from riafs.formats.digests import checker
from riafs.formats.keys import Key
from riafs.storage.bytesource import DeferredBytes, RangedBytes
from riafs.storage.local_file import FileBytes
from riafs.storage.posix import write_all
from riafs.storage.temporary import temporary_file

_PIECE = 1 << 20

FindArchive = Callable[[Key], Awaitable[Sequence[Location]]]
"""Finds the locations of an archive's key."""


@dataclass(frozen=True, slots=True)
class LinkedMember:
    """A Location: the content of `key` as a member of an annexed archive."""

    key: Key
    link: ArchiveLink
    locations: FindArchive
    tools: ArchiveTools

    @property
    def name(self) -> str:
        archive = self.link.archive.serialised.decode(errors="replace")
        return f"{os.fsdecode(self.link.path)} in the archive {archive}"

    @property
    def size(self) -> int | None:
        """Bytes; None if neither the key nor the link says how many."""
        return self.link.size if self.key.size is None else self.key.size

    async def open(self) -> UnverifiedContent:
        """Raises NotInStore if the archive is not there, CorruptContent, MissingProgram, StoreTimeout, …"""
        if self.size is None:
            raise NotInStore(f"{self.name}: neither the key nor the URL says how large it is")
        if checker(self.key) is None:
            return UnverifiedContent(await self.extracted(self.size), self.name, None)
        content, blocks = annex_content(self.key.serialised), self.tools.resources.blocks
        member = CachedBytes(DeferredBytes(self.size, partial(self._cached, self.size)), blocks, content)
        await member.read(0, 1)
        return UnverifiedContent(member, self.name, None, self.key.serialised)

    async def peek(self) -> RangedBytes:
        """The archive itself. Raises as `open`."""
        for location in await self.locations(self.link.archive):
            try:
                return (await location.open()).source
            except NotInStore:
                continue
        raise NotInStore(f"the archive of {self.name} is not in the store")

    async def _cached(self, size: int) -> RangedBytes:
        """As `extracted`; puts all of it into the block cache, where the next readers find it."""
        file, blocks = await self.extracted(size), self.tools.resources.blocks
        for index, offset in enumerate(range(0, size, blocks.block_size)):
            await blocks.put(
                annex_content(self.key.serialised), index, bytes(await file.read(offset, blocks.block_size))
            )
        return file

    async def extracted(self, size: int) -> FileBytes:
        """The member in an unlinked file, verified if the key has a digest. Raises as `open`."""
        problem: RiafsError | None = None
        for location in await self.locations(self.link.archive):
            try:
                opened = await location.open()
            except NotInStore:
                continue
            except RiafsError as error:
                problem = problem or error
                continue
            try:
                return await self._from_archive(opened.source, size)
            except RiafsError as error:
                problem = problem or error
            finally:
                opened.source.close()
        raise problem or NotInStore(f"the archive of {self.name} is not in the store")

    async def _from_archive(self, archive: RangedBytes, size: int) -> FileBytes:
        extractor = self.tools.resources.extractor
        with trio.move_on_after(extractor.deadline):
            async with self.tools.members:
                for _ in range(ATTEMPTS - 1):
                    with suppress(ProgramKilled):
                        return await self._decoded(archive, size)
                return await self._decoded(archive, size)
        raise StoreTimeout(f"{self.name} took more than {extractor.deadline:g} s to read")

    async def _decoded(self, archive: RangedBytes, size: int) -> FileBytes:
        decoder = await self.tools.resources.extractor.start_member(archive, self.link.path, size, self.name)
        try:
            return await self._written(decoder.decode, size)
        finally:
            decoder.close()

    async def _written(self, decode: Callable[[int], Awaitable[bytes]], size: int) -> FileBytes:
        digest, left = checker(self.key), size
        try:
            with temporary_file(self.tools.resources.extractor.directory, size) as file:
                while left > 0:
                    data = await decode(min(left, _PIECE))
                    left -= len(data)
                    await trio.to_thread.run_sync(write_all, file.fileno(), data)
                    if digest is not None:
                        await trio.to_thread.run_sync(digest.update, data)
                if digest is not None and not digest.matches():
                    raise CorruptContent(f"{self.name} is not the content of key {self.key.serialised.decode()}")
                return FileBytes(os.dup(file.fileno()), size, self.name)
        except OSError as error:
            raise StoreError(f"no room for {self.name}: {error.strerror}") from error
