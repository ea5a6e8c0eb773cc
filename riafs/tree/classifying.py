"""What the entries of a git tree are for a reader: found out from their blobs, many at a time.

A listing costs little per entry only if git, the store and threads are asked for many entries at once: two batches to
git (links and sizes, then the content of small files), one visit to the store. So entries of several directories are
classified together where it is known that they will be wanted.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from riafs.formats.annex import MAX_POINTER, Pointed, pointed
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, LINK, SUBMODULE, Tree
from riafs.formats.keys import parse_key
from riafs.git.catfile import GitObject
from riafs.tree.listing import GitEntry, git_version
from riafs.tree.protocol import UNKNOWN_SIZE, Kind

if TYPE_CHECKING:
    from riafs.tree.dataset import Dataset

MAX_LINK = 1 << 20
"""Bytes of a link's blob that are read; Linux follows links of up to 4 KiB."""
_NO_BLOB = (DIRECTORY, SUBMODULE)


class Item(NamedTuple):
    """A line of a git tree."""

    name: bytes
    mode: int
    oid: bytes
    """Raw."""


def items(tree: Tree, start: int, end: int) -> Iterable[Item]:
    """The lines of `tree` from position `start` up to `end`."""
    return map(Item, tree.names[start:end], tree.modes[start:end], tree.oids[start:end])


async def classify(dataset: "Dataset", lines: Sequence[Item], time_ns: int) -> list[GitEntry]:
    """An entry for each of `lines`; `time_ns` is the commit's time. Raises GitError, StoreError, StoreTimeout."""
    blobs = await _blobs(dataset, lines)
    keys = [pointed(blob.data) if blob is not None and blob.data else None for blob in blobs]
    sizes = await _missing_sizes(dataset, keys)
    executable = await _executable(dataset, lines, keys)
    entries = []
    for index, (line, blob, key) in enumerate(zip(lines, blobs, keys, strict=True)):
        if key is None:
            kind, size = _plain(line.mode, blob)
        else:
            kind, size = Kind.FILE, sizes[index] if key.size is None else key.size
        entries.append(
            GitEntry(
                line.name,
                kind,
                size,
                line.mode == EXECUTABLE or index in executable,
                time_ns if key is None or key.mtime is None else key.mtime * 1_000_000_000,
                git_version(line.mode, line.oid),
                None if key is None else key.serialised,
                line.mode == SUBMODULE,
            )
        )
    return entries


async def _blobs(dataset: "Dataset", lines: Sequence[Item]) -> list[GitObject | None]:
    """Each line's blob: links and small files with their content, larger files with their size only."""
    blobs: list[GitObject | None] = [None] * len(lines)
    wanted = [index for index, line in enumerate(lines) if line.mode not in _NO_BLOB]
    first = [
        (b"contents " if lines[index].mode == LINK else b"info ") + lines[index].oid.hex().encode() for index in wanted
    ]
    for index, blob in zip(wanted, await dataset.repository.objects(first, MAX_LINK), strict=True):
        blobs[index] = blob
    small = [
        index
        for index in wanted
        if lines[index].mode != LINK and (blob := blobs[index]) is not None and 0 < blob.size <= MAX_POINTER
    ]
    if small:
        second = [b"contents " + lines[index].oid.hex().encode() for index in small]
        for index, blob in zip(small, await dataset.repository.objects(second, MAX_LINK), strict=True):
            blobs[index] = blob or blobs[index]  # a damaged one still has the size that it says it has
    return blobs


async def _missing_sizes(dataset: "Dataset", keys: Sequence[Pointed | None]) -> dict[int, int]:
    """index → size of the content, for keys that do not tell it."""
    sizes = {}
    for index, key in enumerate(keys):
        if key is not None and key.size is None:
            size = await dataset.contents.size(parse_key(key.serialised))
            sizes[index] = UNKNOWN_SIZE if size is None else size
    return sizes


async def _executable(dataset: "Dataset", lines: Sequence[Item], keys: Sequence[Pointed | None]) -> set[int]:
    """Indexes of locked links whose content lies in the store as an executable file.

    git has no executable bit for a link; it survives as the mode of the object (as git-annex and ORA keep it).
    """
    locked = {index: key.file_name for index, key in enumerate(keys) if key is not None and lines[index].mode == LINK}
    if not locked:
        return set()
    flags = await dataset.contents.executable(list(locked.values()))
    return {index for index, flag in zip(locked, flags, strict=True) if flag}


def _plain(mode: int, blob: GitObject | None) -> tuple[Kind, int]:
    """Kind and size of what is not annexed."""
    if mode in _NO_BLOB:
        return Kind.DIRECTORY, 0
    if mode == LINK:
        return Kind.LINK, UNKNOWN_SIZE if blob is None else blob.size
    return Kind.FILE, UNKNOWN_SIZE if blob is None else blob.size
