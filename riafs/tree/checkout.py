"""Files that git keeps as a checkout has them: line ends, encodings and keywords as ``.gitattributes`` asks for them.

An option: else a file is shown as it is in the commit. Conversions are told by git itself, for all files of a directory
at once; only where an attribute asks for one are blobs read, since a listing has to say how long the files are.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cachetools import LRUCache

from riafs.formats.conversions import ATTRIBUTES, Conversion, conversion_of
from riafs.formats.gitobjects import EXECUTABLE, FILE, Tree
from riafs.formats.names import joined, parents_of
from riafs.git.config import ATTRIBUTES_FILE, AttributeFiles
from riafs.git.environment import PrivateGitDirs
from riafs.git.repository import Repository
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.listing import GitEntry

MAX_CONVERTED = 64 << 20
"""Bytes of the largest blob that is converted; a larger one is shown as it is."""
_MAX_ATTRIBUTES = 1 << 20
_SMALL = 1 << 20
_DIRECTORIES, _SIZES = 2000, 100_000
_WORDS = (b"text", b"eol", b"crlf", b"ident", b"working-tree-encoding", b"[attr]")


@dataclass(frozen=True, slots=True)
class DirectoryConversions:
    """What attributes ask for in one directory of a commit."""

    conversions: Mapping[bytes, Conversion]
    """By the names of files that a checkout may have other bytes of."""
    mark: bytes
    """Of even length; another one where the attributes are others, empty where they ask for nothing."""


NOTHING = DirectoryConversions({}, b"")


class Checkouts:
    """One per mount."""

    def __init__(self, gits: PrivateGitDirs) -> None:
        self._gits = gits
        self._wanted: LRUCache[object, DirectoryConversions] = LRUCache(_DIRECTORIES)
        self._sizes: LRUCache[tuple[bytes, Conversion], int] = LRUCache(_SIZES)

    async def wanted(self, repository: Repository, commit: bytes, path: bytes, tree: Tree) -> DirectoryConversions:
        """For the directory `path` with the entries `tree`. Raises GitError, StoreTimeout."""
        place = (repository, commit, path)
        if place not in self._wanted:
            self._wanted[place] = await self._ask(repository, commit, path, tree)
        return self._wanted[place]

    async def _ask(self, repository: Repository, commit: bytes, path: bytes, tree: Tree) -> DirectoryConversions:
        above = [b"", *parents_of(joined(path, b"x"))] if path else [b""]
        places = [joined(directory, ATTRIBUTES_FILE) for directory in above if b"\n" not in directory]
        asked = [b"contents " + commit + b":" + place for place in places]
        found = await repository.objects(asked, _MAX_ATTRIBUTES)
        files = {place: blob.data for place, blob in zip(places, found, strict=True) if blob is not None}
        if not any(word in text for text in files.values() for word in _WORDS):
            return NOTHING
        names = [name for name, mode in zip(tree.names, tree.modes, strict=True) if mode in (FILE, EXECUTABLE)]
        paths = [joined(path, name) for name in names]
        values = await AttributeFiles(files).of(paths, ATTRIBUTES, self._gits)
        conversions = {name: conversion_of(each) for name, each in zip(names, values, strict=True)}
        digest = hashlib.sha256(b"\0".join(part for item in sorted(files.items()) for part in item)).digest()
        return DirectoryConversions(
            {name: each for name, each in conversions.items() if each.changes_checkouts}, digest[:8]
        )

    async def shown(
        self, repository: Repository, wanted: DirectoryConversions, entries: Sequence[GitEntry]
    ) -> Sequence[GitEntry]:
        """The entries with the sizes of a checkout. Raises as reading blobs does."""
        found = {
            index: wanted.conversions[entry.name]
            for index, entry in enumerate(entries)
            if entry.name in wanted.conversions and entry.key is None and 0 < entry.size <= MAX_CONVERTED
        }
        if not found:
            return entries
        await self._measure(repository, [(entries[index], conversion) for index, conversion in found.items()])
        shown = list(entries)
        for index, conversion in found.items():
            size = self._sizes.get((entries[index].oid, conversion), entries[index].size)
            shown[index] = replace(entries[index], size=size)
        return shown

    async def _measure(self, repository: Repository, files: Sequence[tuple[GitEntry, Conversion]]) -> None:
        missing = [each for each in files if (each[0].oid, each[1]) not in self._sizes]
        small = [each for each in missing if each[0].size <= _SMALL]
        asked = [b"contents " + entry.oid for entry, _ in small]
        blobs = await repository.objects(asked, _SMALL) if asked else []
        for (entry, conversion), blob in zip(small, blobs, strict=True):
            if blob is not None:
                self._sizes[entry.oid, conversion] = len(conversion.checked_out(blob.data, entry.oid))
        for entry, conversion in missing:
            if entry.size > _SMALL:
                content = await self._converted(repository, entry.oid, entry.size, conversion)
                self._sizes[entry.oid, conversion] = content.size

    async def open(self, repository: Repository, oid: bytes, conversion: Conversion) -> RangedBytes | None:
        """The file that a checkout has for a blob (hex); None where it is shown as it is, or cannot be read."""
        [known] = await repository.objects([b"info " + oid])
        if known is None or known.size > MAX_CONVERTED:
            return None
        return await self._converted(repository, oid, known.size, conversion)

    async def _converted(self, repository: Repository, oid: bytes, size: int, conversion: Conversion) -> RangedBytes:
        opened = await repository.open_blob(oid, size)
        try:
            return MemoryBytes(conversion.checked_out(bytes(await opened.read(0, size)), oid))
        finally:
            opened.close()
