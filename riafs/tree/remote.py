"""Stores on other machines: how they are opened, with all that is needed here to read them."""

import hashlib
import os
from typing import Protocol

import trio

from riafs.cache.blocks import BlockCache
from riafs.cache.cached_storage import CachedStorage
from riafs.cache.known_versions import KnownVersions
from riafs.counters import Counters
from riafs.errors import BadSource
from riafs.formats.sources import RiaUrl
from riafs.git.kept_repositories import remove_unused
from riafs.git.mirror import DIRECTORY, GitAccess, RemoteRepositories
from riafs.git.object_source import RepositoryMirror
from riafs.storage.protocol import Storage
from riafs.storage.sftp import SftpStorage
from riafs.tasks import Background


class Closable(Protocol):
    def close(self) -> None: ...


READABLE = ("ssh",)
"""Schemes of ``ria+…`` URLs of other machines that can be read."""


class RemoteStores:
    """Opens stores on other machines, for one mount. `place`: a directory of this user alone, for git objects;
    `seconds`: deadline of a request.
    """

    def __init__(
        self,
        place: str,
        access: GitAccess,
        seconds: float,
        blocks: BlockCache,
        versions: KnownVersions,
        counters: Counters,
        background: Background,
    ) -> None:
        self._place = place
        self._access = access
        self._seconds = seconds
        self._blocks = blocks
        self._counters = counters
        self._background = background
        self._versions = versions
        self._opened: list[Closable] = []

    async def open(self, source: RiaUrl) -> tuple[Storage, RepositoryMirror]:
        """The store that `source` names, and its repositories. Raises BadSource, SourceNotFound, StoreUnreachable, …"""
        if source.scheme not in READABLE:
            raise BadSource(
                f"{source}: stores behind ria+{source.scheme}:// cannot be read yet, only ria+file://, ria+ssh:// and "
                "paths"
            )
        storage = await SftpStorage.connect(source, self._access.ssh, self._seconds, self._counters, self._background)
        store = hashlib.sha256(os.fsencode(storage.name)).hexdigest()[:16]
        place = f"{self._place}/{DIRECTORY}/{store}"
        mirror = RemoteRepositories(source, place, self._access, self._seconds, self._counters)
        self._opened += [storage, mirror]
        self._background.start_soon(self._remove_unused)
        return CachedStorage(storage, self._blocks, self._versions, self._background), mirror

    async def _remove_unused(self) -> None:
        await trio.to_thread.run_sync(remove_unused, f"{self._place}/{DIRECTORY}", abandon_on_cancel=True)

    def close(self) -> None:
        """Close all stores."""
        for each in self._opened:
            each.close()
