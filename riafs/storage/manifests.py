"""Manifests on disk: the files of a directory, one file, or a text from a pipe.

A file NAME, ``NAME.manifest`` or ``NAME.txt`` is the manifest of NAME; hidden files are left out. Other programs may
replace a file by renaming, or write it in place: `read` fails for a file that changed while it was read.
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
QUIET_NS = 10**9
"""A file that was changed less than this ago may still be written to."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One version of a manifest; equal ones have equal texts."""

    path: bytes
    """Relative to the directory; empty for `GivenManifest`."""
    size: int
    mtime_ns: int
    identity: tuple[int, int]

    @property
    def is_quiet(self) -> bool:
        """Whether it was not changed in the last second, or its time is in the future."""
        return not 0 <= time.time_ns() - self.mtime_ns < QUIET_NS

    @property
    def version(self) -> bytes:
        """The same text for equal versions only."""
        return b"%d %d %d %d" % (self.size, self.mtime_ns, *self.identity)


class Manifests(Protocol):
    """A source of manifests."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    @property
    def changing(self) -> bool:
        """Whether the result of `files` can change."""

    async def files(self) -> Mapping[bytes, ManifestFile]:
        """Collection's name → its manifest, sorted; the same object while nothing changes.

        Raises NotInStore, StoreDenied, StoreTimeout, StoreError.
        """

    def read(self, file: ManifestFile) -> AsyncGenerator[bytes, None]:
        """The text in pieces, of which only the last may have fewer than `READ` bytes.

        Raises ChangedContent, for a file that changed while it was read only at the end; OutsideStore; and as `files`.
        """

    async def is_current(self, file: ManifestFile) -> bool:
        """Whether the file has not changed. Raises as `files`."""

    def close(self) -> None:
        """Close descriptors."""


class GivenManifest:
    """`Manifests` of one text that was read before, from a pipe or a server."""

    changing = False

    def __init__(self, name: bytes, text: SpilledText) -> None:
        self._files = {name: ManifestFile(b"", len(text), time.time_ns(), (0, 0))}
        self._text = text
        self.name = os.fsdecode(name)

    async def files(self) -> Mapping[bytes, ManifestFile]:
        return self._files

    def read(self, file: ManifestFile) -> AsyncGenerator[bytes, None]:
        return self._text.pieces()

    async def is_current(self, file: ManifestFile) -> bool:
        return True

    def close(self) -> None:
        pass


class ManifestDirectory:
    """`Manifests` in `storage`'s root: all files, or `only` one of them."""

    changing = True

    def __init__(self, storage: LocalStorage, only: bytes | None = None) -> None:
        self._storage = storage
        self._only = only
        self._statuses: Mapping[bytes, FileStatus | None] = {}
        self._files: Mapping[bytes, ManifestFile] = {}
        self.name = storage.name

    async def files(self) -> Mapping[bytes, ManifestFile]:
        names, links = await self._names()
        statuses = dict(zip(names, await self._storage.stat_objects(b"", names), strict=True))
        for name in links:
            statuses[name] = await self._followed(name)
        if statuses != self._statuses:
            self._files, self._statuses = _by_name(statuses), statuses
        return self._files

    async def _names(self) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """The names of files, and those of links."""
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
        if not await self.is_current(file):
            raise changed

    async def is_current(self, file: ManifestFile) -> bool:
        try:
            return _file(file.path, await self._storage.stat(file.path)) == file
        except NotInStore:
            return False

    def close(self) -> None:
        self._storage.close()


def collection_names(files: Sequence[bytes]) -> dict[bytes, bytes]:
    """The collection's name for each file, sorted. Of two files for one name, the later one keeps its suffix.

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
