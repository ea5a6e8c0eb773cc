"""The selection of objects to pack: which, in which order, and compressed or not.

The order is that of the paths that use the keys: files of one directory are similar and read one after the other, so
that their keys compress better and are decoded with few blocks. Keys that the commit of HEAD does not use come last, in
the order of their names.
"""

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.errors import RiafsError
from riafs.formats.annex import MAX_POINTER, parse_pointer
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, Tree
from riafs.git.repository import Repository
from riafs.packing.dataset import PackedDataset
from riafs.packing.loose_objects import Loose, LooseObject, ObjectReader, find_loose
from riafs.watching import PackingStep, Watcher

_SAMPLE = 16 << 10
_SAMPLES = 4
WORTH = 0.9
"""Content is compressed if samples shrink to this share or less, as each reading costs time for decoding."""
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions that objects must fulfil. Sizes in bytes, age by mtime in days."""

    older: float | None = None
    larger: int | None = None
    smaller: int | None = None

    def chooses(self, found: LooseObject, now: float) -> bool:
        """Whether `found` fulfils all conditions; `now` in seconds since 1970."""
        return (
            (self.older is None or found.mtime_ns / 1e9 < now - self.older * _DAY)
            and (self.larger is None or found.size > self.larger)
            and (self.smaller is None or found.size < self.smaller)
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object to pack; `share`: about its compressed size, relative to its size."""

    object: LooseObject
    share: float

    @property
    def compressed(self) -> bool:
        """Whether it is to be compressed."""
        return self.share <= WORTH

    @property
    def packed_size(self) -> float:
        """About how many bytes it takes in the archive."""
        return self.object.size * (self.share if self.compressed else 1)


@dataclass(frozen=True, slots=True)
class Survey:
    """The chosen objects of a dataset. Each is in one of `new`, `twins` and `already`."""

    loose: Loose
    chosen: Sequence[LooseObject]
    new: Sequence[Candidate]
    """In the order of packing."""
    twins: Sequence[LooseObject]
    """Further copies of the keys in `new`."""
    already: Sequence[LooseObject]
    """Keys that the archive has under the name that ORA reads."""


async def select_objects(
    dataset: PackedDataset, archive: Archive | None, selection: Selection, reader: ObjectReader, watcher: Watcher
) -> Survey:
    """Find the objects to pack. Raises StoreDenied, StoreError."""
    loose = find_loose(dataset.objects, dataset.layout)
    now = time.time()
    chosen = [each for each in loose.objects if selection.chooses(each, now)]
    watcher.begin(PackingStep.LOOKING, len(chosen))
    already = [found for found in chosen if holds(archive, found)]
    fresh = {found.member: found for found in reversed(chosen) if not holds(archive, found)}
    twins = [found for found in chosen if found.member in fresh and fresh[found.member] is not found]
    ordered = await in_tree_order(list(fresh.values()), dataset.repository)
    new = []
    for found in ordered:
        watcher.advance(1)
        new.append(Candidate(found, compressed_share(found, reader)))
    return Survey(loose, chosen, new, twins, already)


def compressed_share(found: LooseObject, reader: ObjectReader) -> float:
    """About the compressed size of an object, relative to its size; 1 for one that cannot be read."""
    try:
        file = reader.open(found.path)
    except OSError:
        return 1.0
    try:
        return share_of_samples(found.size, lambda offset, length: os.pread(file, length, offset))
    except OSError:
        return 1.0
    finally:
        os.close(file)


def share_of_samples(size: int, read: Callable[[int, int], bytes]) -> float:
    """About the compressed size of content, relative to its `size`, from samples; ``read(offset, length)``."""
    if size <= _SAMPLE * _SAMPLES:
        samples = [read(0, size)]
    else:
        samples = [read((size - _SAMPLE) * number // (_SAMPLES - 1), _SAMPLE) for number in range(_SAMPLES)]
    total = sum(map(len, samples))
    return sum(len(zlib.compress(sample, 1)) for sample in samples) / total if total else 1.0


def holds(archive: Archive | None, found: LooseObject) -> bool:
    """Whether the archive has a file of the object's name."""
    member = None if archive is None else archive.find(found.member)
    return member is not None and not member.is_directory


def in_batches(candidates: Sequence[Candidate], solid_block: int) -> Iterator[Sequence[Candidate]]:
    """Candidates in batches that become one folder of the archive: one that is stored, or compressed ones of up to
    `solid_block` bytes in total (or a single larger one).
    """
    block: list[Candidate] = []
    size = 0
    for candidate in candidates:
        if not candidate.compressed:
            yield [candidate]
            continue
        if block and size + candidate.object.size > solid_block:
            yield block
            block, size = [], 0
        block.append(candidate)
        size += candidate.object.size
    if block:
        yield block


async def in_tree_order(objects: Sequence[LooseObject], repository: Repository) -> list[LooseObject]:
    """`objects` in the order of the paths that use them at HEAD; by path of the object without a usable repository."""
    positions = await key_positions(repository)
    last = len(positions)
    return sorted(objects, key=lambda each: (positions.get(each.key.unchunked().serialised, last), each.path))


async def key_positions(repository: Repository) -> dict[bytes, int]:
    """Serialised key → its position in the tree of HEAD, depth first. Empty without a repository."""
    positions: dict[bytes, int] = {}
    with suppress(RiafsError):  # the order is no more than an optimisation
        head = await repository.find(None)
        commit = await repository.commit(await repository.peeled(head.oid))
        waiting: list[tuple[bytes, bytes]] = [(commit.tree, b"")]
        while waiting:
            oid, key = waiting.pop()
            if key:
                positions.setdefault(key, len(positions))
            else:
                waiting += reversed(await _inside(repository, oid))
    return positions


async def _inside(repository: Repository, oid: bytes) -> list[tuple[bytes, bytes]]:
    """The entries of a tree in order: directories as (object name of the tree, b""), keys as (b"", key)."""
    tree = await repository.tree(oid)
    keys = await _keys(repository, tree)
    found = []
    for number, mode in enumerate(tree.modes):
        if mode == DIRECTORY:
            found.append((tree.oids[number].hex().encode(), b""))
        elif number in keys:
            found.append((b"", keys[number]))
    return found


async def _keys(repository: Repository, tree: Tree) -> dict[int, bytes]:
    """Number of the entry → serialised key, for the annexed files of one directory."""
    blobs = [number for number, mode in enumerate(tree.modes) if mode in (FILE, EXECUTABLE, LINK)]
    known = await repository.objects([b"info " + tree.oids[number].hex().encode() for number in blobs])
    small = [number for number, blob in zip(blobs, known, strict=True) if blob and blob.size <= MAX_POINTER]
    found = await repository.objects([b"contents " + tree.oids[number].hex().encode() for number in small])
    keys = {}
    for number, blob in zip(small, found, strict=True):
        key = None if blob is None else parse_pointer(blob.data)
        if key is not None:
            keys[number] = key.serialised
    return keys
