"""The normal form of a manifest: one text for one tree over given blocks, as Arvados' Python programs write it.

Folders come before what is in them, names in the order of their bytes. A stream lists each block once, where it is used
first; what follows on in it is one token. (Arvados' Go programs list a block again after another one: the same tree may
have two normal forms, and two portable data hashes.)
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from riafs.formats.locators import EMPTY_BLOCK, Locator
from riafs.formats.manifests.blocks import NO_BLOCK
from riafs.formats.manifests.folder import ManifestFolder
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.manifests.text import lightly_escaped

_NOT_TEXT = re.compile("[\udc80-\udcff]")
_EMPTY_FOLDER = rb"0:0:\056"


class BlockRange(NamedTuple):
    """A part of a file: `length` bytes from `offset` on in a block."""

    locator: Locator
    offset: int
    length: int


def stream(path: bytes, files: Mapping[bytes, Sequence[BlockRange]]) -> bytes:
    """The line of a folder with these files; without any, that of an empty folder. Hints are left out.

    >>> stream(b"", {b"a b": [BlockRange(Locator(b"acbd18db4cc2f85cedef654fccc4a4d8", 3), 0, 3)]})
    b'. acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:a\\\\040b\\n'
    """
    starts: dict[bytes, int] = {}
    size = 0
    for name in sorted(files):
        for part in files[name]:
            if starts.setdefault(part.locator.unsigned, size) == size:
                size += part.locator.size
    tokens = [token for name in sorted(files) for token in _tokens(name, files[name], starts)]
    parts = [b".", *map(escaped, path.split(b"/"))] if path else [b"."]
    blocks = list(starts) or [EMPTY_BLOCK.unsigned]
    return b" ".join((b"/".join(parts), *blocks, *(tokens or [_EMPTY_FOLDER]))) + b"\n"


def _tokens(name: bytes, parts: Sequence[BlockRange], starts: Mapping[bytes, int]) -> Iterator[bytes]:
    ranges = _merged((starts[part.locator.unsigned] + part.offset, part.length) for part in parts if part.length)
    written = escaped(name)
    for start, length in ranges or [(0, 0)]:
        yield b"%d:%d:%b" % (start, length, written)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of a stream, in which adjacent ones are joined."""
    merged: list[tuple[int, int]] = []
    for start, length in ranges:
        if merged and sum(merged[-1]) == start:
            merged[-1] = merged[-1][0], merged[-1][1] + length
        else:
            merged.append((start, length))
    return merged


def normal_form(manifest: Manifest) -> Iterator[bytes]:
    """The lines of a manifest's normal form. `manifest` must not have been read leniently."""
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        folder = manifest.folder(path)
        assert folder is not None
        below = [name for index, name in enumerate(folder.names) if folder.is_folder(index)]
        files = {
            name: _ranges(manifest, folder, index)
            for index, name in enumerate(folder.names)
            if not folder.is_folder(index)
        }
        if files or (path and not below):
            yield stream(path, files)
        waiting += [path + b"/" + name if path else name for name in reversed(below)]


def _ranges(manifest: Manifest, folder: ManifestFolder, index: int) -> list[BlockRange]:
    found = list(folder.all_segments(index))
    assert all(segment.block != NO_BLOCK for segment in found)
    return [BlockRange(manifest.locator(segment.block), segment.offset, segment.length) for segment in found]


def escaped(name: bytes) -> bytes:
    """`name` as all programs of Arvados write it; bytes that are not UTF-8 are escaped one by one."""
    text = lightly_escaped(name)
    if text.isascii():
        return text
    return _NOT_TEXT.sub(lambda match: f"\\{ord(match[0]) & 0xFF:03o}", text.decode(errors="surrogateescape")).encode()
