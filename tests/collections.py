"""Collections for tests: what Arvados' own programs make of manifests, and collections whose blocks are in memory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from riafs.errors import MissingContent
from riafs.formats.manifests.blocks import NO_BLOCK, Segment
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.manifests.reader import parse_manifest
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.collection import Collection, CollectionDirectory

EMPTY = "d41d8cd98f00b204e9800998ecf8427e+0"
MTIME_NS = 1_700_000_000 * 10**9


@cache
def vectors() -> Mapping[str, Any]:
    """What Arvados' programs accept, and what they make of it."""
    return json.loads((Path(__file__).parent / "formats/manifests/vectors.json").read_text())


def as_bytes(text: str) -> bytes:
    """Text of a vector as it is on disk."""
    return text.encode(errors="surrogateescape")


def locator(data: bytes) -> str:
    """The name of a block."""
    return f"{hashlib.md5(data).hexdigest()}+{len(data)}"


Shown = tuple[dict[bytes, tuple[int, list[tuple[bytes, int, int]]]], list[bytes]]


def tree_of(manifest: Manifest, path: bytes = b"") -> Shown:
    """All files (path → size, segments) and all folders, in the order in which they are listed."""
    files: dict[bytes, tuple[int, list[tuple[bytes, int, int]]]] = {}
    folders: list[bytes] = []
    folder = manifest.folder(path)
    assert folder is not None
    for index, name in enumerate(folder.names):
        below = path + b"/" + name if path else name
        if folder.is_folder(index):
            more_files, more_folders = tree_of(manifest, below)
            files |= more_files
            folders += [below, *more_folders]
        else:
            files[below] = folder.size(index), [_named(manifest, segment) for segment in folder.segments(index)]
    return files, folders


def _named(manifest: Manifest, segment: Segment) -> tuple[bytes, int, int]:
    text = b"" if segment.block == NO_BLOCK else manifest.locator(segment.block).text
    return text, segment.offset, segment.length


class MemoryReader:
    """A CollectionReader whose blocks are in memory: digest → content."""

    def __init__(self, manifest: Manifest, blocks: Mapping[bytes, bytes]) -> None:
        self._manifest = manifest
        self._blocks = blocks

    def open(self, segments: Sequence[Segment], size: int) -> RangedBytes:
        """All in memory, or content whose reads fail."""
        parts = []
        for block, offset, length in segments:
            data = None if block == NO_BLOCK else self._blocks.get(self._manifest.locator(block).digest)
            if data is None:
                return Missing(size)
            parts.append(data[offset : offset + length])
        return MemoryBytes(b"".join(parts))

    def problem(self, segments: Sequence[Segment]) -> str | None:
        """None has been read."""
        return None


class Missing:
    """RangedBytes that cannot be read."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        raise MissingContent("block is on no server")

    def close(self) -> None:
        pass


def collection(text: bytes, *contents: bytes, lenient: bool = False, **more: Any) -> Collection:
    """The collection with that manifest; `contents`: those of the blocks that can be had."""
    manifest = parse_manifest(text, lenient=lenient)
    blocks = {hashlib.md5(data).hexdigest().encode(): data for data in (b"", *contents)}
    return Collection(manifest, MemoryReader(manifest, blocks), MTIME_NS, **more)


def directory(text: bytes, *contents: bytes, **more: Any) -> CollectionDirectory:
    """Its top directory."""
    return CollectionDirectory(collection(text, *contents, **more), b"")
