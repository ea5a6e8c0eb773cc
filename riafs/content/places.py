"""The places where a dataset may keep the content of a key, each a way to get at the bytes.

A place answers `open` with the bytes as they lie there, unverified, or raises NotInStore; sizes and digests are checked
by the caller, the same for all places.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.cache.verified import Evidence
from riafs.content.shelf import ArchiveShelf
from riafs.content.verifying import Opened
from riafs.errors import NotInStore
from riafs.storage.protocol import Storage


class Place(Protocol):
    """One place for one key."""

    @property
    def name(self) -> str:
        """How messages call it: a path below the dataset, or what was tried there."""

    async def open(self) -> Opened:
        """The bytes there. Raises NotInStore, or what is wrong with the place."""


@dataclass(frozen=True, slots=True)
class LoosePlace:
    """A file at `path` below `objects`, which is the store's path of the dataset's ``annex/objects``."""

    storage: Storage
    objects: bytes
    path: bytes

    @property
    def name(self) -> str:
        """See Place."""
        return "annex/objects/" + os.fsdecode(self.path)

    async def open(self) -> Opened:
        """See Place."""
        source = await self.storage.open(self.objects + b"/" + self.path)
        assert source.version is not None
        return Opened(source, self.name, Evidence(source.version, 0, source.size))


@dataclass(frozen=True, slots=True)
class ArchivePlace:
    """A member of one of the dataset's archives, under any of `members`."""

    shelf: ArchiveShelf
    archive: bytes
    members: Sequence[bytes]

    @property
    def name(self) -> str:
        """See Place."""
        return os.fsdecode(self.archive)

    async def open(self) -> Opened:
        """See Place."""
        opened = await self.shelf.open(self.archive, self.members)
        if opened is None:
            raise NotInStore(f"{self.name} has no such member")
        return opened
