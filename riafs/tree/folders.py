"""Folders of collections as they are shown, kept as long as there is room.

What can be no file name here is shown otherwise or left out: NUL as ``_``, a name of more than 255 bytes or one that is
taken already not at all. Everything here follows from a manifest and may be dropped and made again.
"""

import hashlib
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from cachetools import LRUCache

from riafs import memory
from riafs.counters import Counters
from riafs.formats.columns import PagedNames
from riafs.formats.manifests.blocks import NO_BLOCK
from riafs.formats.manifests.folder import ManifestFolder
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.names import MAX_NAME
from riafs.formats.text import shown

if TYPE_CHECKING:
    from riafs.tree.protocol import Entry

log = logging.getLogger(__name__)

MAX_CACHED_NAMES = 500_000
"""Names kept in memory in all, `_PER_NAME` bytes each; fewer where the control group has not so much."""
_PER_NAME = 100
_OF_A_LARGE_ONE = 20_000
"""What a folder in pages counts as."""
MANY = 4096
"""Names from which on other readers would notice how long it takes to go through all."""
_MANY_BYTES = 64 << 10
"""The same as bytes of their tokens."""
_PIECES = 64
_MEMORY_SHARE = 8
_SPECIAL = 300
"""Bytes of memory for a name in a folder of which not all are shown as they are."""


@dataclass(frozen=True, slots=True)
class ShownFolder:
    """A folder with the names under which it is shown; positions count those."""

    folder: ManifestFolder
    names: Sequence[bytes]
    indices: Sequence[int]
    """position → index in `folder`."""
    special: dict[bytes, int] | None
    """Shown name → position, where not all names are shown as they are."""

    def find(self, name: bytes) -> int | None:
        """The position of a shown name."""
        return self.folder.find(name) if self.special is None else self.special.get(name)

    @property
    def dropped(self) -> int:
        """Names that are left out."""
        return len(self.folder) - len(self.names)


def shown_folder(folder: ManifestFolder) -> ShownFolder:
    """How a folder is shown."""
    names = folder.names
    if all(map(_possible, (names[start : start + MANY] for start in range(0, len(names), MANY)))):
        return ShownFolder(folder, names, range(len(names)), None)
    memory.ensure(_SPECIAL * len(names), "the names of a large folder")
    # Those that stay as they are come first, so that none of them loses its name to another one.
    order = sorted(range(len(names)), key=lambda index: b"\0" in names[index])
    taken: dict[bytes, int] = {}
    for index in order:
        if len(names[index]) <= MAX_NAME:
            taken.setdefault(names[index].replace(b"\0", b"_"), index)
    listed = sorted(taken)
    return ShownFolder(
        folder, listed, [taken[name] for name in listed], {name: position for position, name in enumerate(listed)}
    )


def _possible(names: Sequence[bytes]) -> bool:
    return max(map(len, names)) <= MAX_NAME and b"\0" not in b"/".join(names)


class Folders:
    """The folders that were looked into last, in all collections of a mount. `counters`: those of the mount."""

    def __init__(self, counters: Counters | None = None, limit: int | None = None) -> None:
        self.pieces: LRUCache[Hashable, tuple[int, tuple[Entry, ...]]] = LRUCache(_PIECES)
        """The entries that were listed last, for those who list: where they begin, and what they are."""
        self._counters = counters or Counters()
        self._limit = limit = limit or memory.share(MAX_CACHED_NAMES * _PER_NAME, _MEMORY_SHARE) // _PER_NAME
        self._cache: LRUCache[tuple[bytes, bytes], ShownFolder] = LRUCache(limit, getsizeof=self._weight)
        self._one_at_a_time = trio.Lock()

    async def get(self, manifest: Manifest, path: bytes) -> ShownFolder:
        """The folder of a manifest that is at `path`, which must be there."""
        key = manifest.portable_data_hash, path
        known = self._known(key)
        if known is not None:
            return known
        if manifest.folder_weight(path) < _MANY_BYTES:
            return self._keep(key, _read(manifest, path))
        async with self._one_at_a_time:
            return self._known(key) or self._keep(key, await trio.to_thread.run_sync(_read, manifest, path))

    def _known(self, key: tuple[bytes, bytes]) -> ShownFolder | None:
        known: ShownFolder | None = self._cache.get(key)
        return known

    def _keep(self, key: tuple[bytes, bytes], folder: ShownFolder) -> ShownFolder:
        if folder.dropped:
            self._counters.names_dropped += folder.dropped
            where = f"/{key[1].decode(errors='replace')} of collection {key[0].decode()}"
            log.warning("%d impossible names left out in %s, among them %s", folder.dropped, where, _a_dropped(folder))
        self._cache[key] = folder
        return folder

    def _weight(self, folder: ShownFolder) -> int:
        count = len(folder.folder)
        if isinstance(folder.folder.names, PagedNames) and folder.special is None:
            count = min(count, _OF_A_LARGE_ONE)
        return min(1 + count, self._limit)


def _read(manifest: Manifest, path: bytes) -> ShownFolder:
    folder = manifest.folder(path)
    assert folder is not None
    return shown_folder(folder)


def _a_dropped(folder: ShownFolder) -> str:
    kept = set(folder.indices)
    return next(shown(name) for index, name in enumerate(folder.folder.names) if index not in kept)


def file_version(manifest: Manifest, folder: ManifestFolder, index: int) -> bytes:
    """What the content of a file depends on that is not in one block: its segments, by the digests of their blocks."""
    digest, between = hashlib.md5(usedforsecurity=False), b""
    for block, offset, length in folder.all_segments(index):
        if length:
            named = b"" if block == NO_BLOCK else manifest.digest(block)
            digest.update(b"%b%b+%d+%d" % (between, named, offset, length))
            between = b" "
    return digest.digest() if between else b""
