"""Manifests by name: the files of a directory, one file, or a text in memory.

A file NAME, ``NAME.manifest`` or ``NAME.txt`` is the manifest of NAME; hidden files are none. Writers replace files by
renaming, or write them in place: `read` gives a text that was the same before and after it was read, or fails.
"""

import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.errors import ChangedContent, NotInStore, RiafsError, ShortRead
from riafs.formats.names import valid_name
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import FileStatus, ItemKind
from riafs.storage.temporary import SpilledText

log = logging.getLogger(__name__)

_SUFFIXES = (b".manifest", b".txt")
READ = 1 << 20
"""Bytes that are read at a time."""
SETTLED_NS = 10**9
"""A file that was changed less than this ago may still be written to."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A manifest as of one look at it; equal ones have equal texts."""

    path: bytes
    """Relative to the directory; empty for a text that is at hand."""
    size: int
    mtime_ns: int
    identity: tuple[int, int]

    @property
    def settled(self) -> bool:
        """Whether it has not been changed for a while, or its time is in the future."""
        return not 0 <= time.time_ns() - self.mtime_ns < SETTLED_NS

    @property
    def version(self) -> bytes:
        """Equal for equal ones."""
        return b"%d %d %d %d" % (self.size, self.mtime_ns, *self.identity)


class Manifests(Protocol):
    """Where manifests come from."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def changing(self) -> bool:
        """Whether `files` can ever answer with something else."""

    async def files(self) -> Mapping[bytes, ManifestFile]:
        """Collection's name → its manifest, sorted; the same object while nothing changes.

        Raises NotInStore, StoreDenied, StoreTimeout, StoreError.
        """

    def read(self, file: ManifestFile) -> AsyncGenerator[bytes, None]:
        """The text in pieces, of which only the last may have fewer than `READ` bytes.

        Raises ChangedContent at the end of a file that has changed, NotInStore, and as `files`, OutsideStore.
        """

    async def is_now(self, file: ManifestFile) -> bool:
        """Whether the file has not changed. Raises as `files`."""

    def close(self) -> None:
        """Give back descriptors."""


class GivenManifest:
    """One text that is at hand: see Manifests."""

    changing = False

    def __init__(self, name: bytes, text: SpilledText) -> None:
        self._files = {name: ManifestFile(b"", len(text), time.time_ns(), (0, 0))}
        self._text = text
        self.name = os.fsdecode(name)

    async def files(self) -> Mapping[bytes, ManifestFile]:
        """See Manifests."""
        return self._files

    def read(self, file: ManifestFile) -> AsyncGenerator[bytes, None]:
        """See Manifests."""
        return self._text.pieces()

    async def is_now(self, file: ManifestFile) -> bool:
        """See Manifests."""
        return True

    def close(self) -> None:
        """See Manifests."""


class ManifestDirectory:
    """The files of `storage`'s root: see Manifests. `only`: the one file of it that counts, None for all."""

    changing = True

    def __init__(self, storage: LocalStorage, only: bytes | None = None) -> None:
        self._storage = storage
        self._only = only
        self._statuses: Mapping[bytes, FileStatus | None] = {}
        self._files: Mapping[bytes, ManifestFile] = {}
        self.name = storage.name

    async def files(self) -> Mapping[bytes, ManifestFile]:
        """See Manifests."""
        names, links = await self._names()
        statuses = dict(zip(names, await self._storage.stat_objects(b"", names), strict=True))
        for name in links:
            statuses[name] = await self._followed(name)
        if statuses != self._statuses:
            self._files, self._statuses = _by_name(statuses), statuses
        return self._files

    async def _names(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Files and links."""
        if self._only is not None:
            return [], [self._only]
        items = [item for item in await self._storage.list(b"") if not item.name.startswith(b".")]
        kinds = (ItemKind.FILE, ItemKind.LINK)
        files, links = ([item.name for item in items if item.kind is kind] for kind in kinds)
        return files, links

    async def _followed(self, name: bytes) -> FileStatus | None:
        try:
            return await self._storage.stat(name)
        except RiafsError as error:
            log.debug("%s is left out: %s", os.fsdecode(name), error)
            return None

    async def read(self, file: ManifestFile) -> AsyncGenerator[bytes, None]:
        """See Manifests."""
        changed = ChangedContent(f"{os.fsdecode(file.path)} is being changed")
        try:
            content = await self._storage.open(file.path)
            try:
                if content.size != file.size:
                    raise changed
                for start in range(0, file.size, READ):
                    yield bytes(await content.read(start, min(READ, file.size - start)))
            finally:
                content.close()
        except (NotInStore, ShortRead) as error:
            raise changed from error
        if not await self.is_now(file):
            raise changed

    async def is_now(self, file: ManifestFile) -> bool:
        """See Manifests."""
        try:
            return _file(file.path, await self._storage.stat(file.path)) == file
        except NotInStore:
            return False

    def close(self) -> None:
        """See Manifests."""
        self._storage.close()


def collection_names(files: Sequence[bytes]) -> dict[bytes, bytes]:
    """The collection's name for each file, sorted; where two files are for one name, the later one keeps its suffix.

    >>> collection_names([b"a.manifest", b"a.txt", b"b"])
    {b'a': b'a.manifest', b'a.txt': b'a.txt', b'b': b'b'}
    """
    found: dict[bytes, bytes] = {}
    for file in sorted(files):
        suffix = next((each for each in _SUFFIXES if file.endswith(each)), b"")
        short = file.removesuffix(suffix)
        name = short if valid_name(short) and short not in found else file
        if valid_name(name) and name not in found:
            found[name] = file
    return dict(sorted(found.items()))


def _by_name(statuses: Mapping[bytes, FileStatus | None]) -> Mapping[bytes, ManifestFile]:
    found = {name: _file(name, status) for name, status in statuses.items() if _is_file(status)}
    return {shown: found[name] for shown, name in collection_names(list(found)).items()}


def _is_file(status: FileStatus | None) -> bool:
    return status is not None and status.kind is ItemKind.FILE


def _file(path: bytes, status: FileStatus | None) -> ManifestFile:
    assert status is not None
    return ManifestFile(path, status.size, status.mtime_ns, status.path_identity)
