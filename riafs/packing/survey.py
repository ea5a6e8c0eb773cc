"""What is to be packed: chosen objects that the archive does not hold yet, in which order, compressed or not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.packing.compressing import worth_compressing
from riafs.packing.dataset import PackedDataset
from riafs.packing.loose import Loose, LooseObject, Selection, find_loose
from riafs.packing.objects import ObjectReader
from riafs.packing.order import in_tree_order
from riafs.packing.watching import Step, Watcher


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object to be packed; `share` is about what compression would leave of it."""

    object: LooseObject
    share: float

    @property
    def compressed(self) -> bool:
        """Whether it is to be compressed."""
        return worth_compressing(self.share)

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
    """Keys that the archive holds under the name that ORA asks for."""


async def look_around(
    dataset: PackedDataset, archive: Archive | None, selection: Selection, reader: ObjectReader, watcher: Watcher
) -> Survey:
    """Find out what is to be packed. Raises StoreDenied, StoreError."""
    loose = find_loose(dataset.objects, dataset.layout)
    chosen = loose.chosen(selection)
    watcher.begin(Step.LOOKING, len(chosen))
    already = [found for found in chosen if holds(archive, found)]
    fresh = {found.member: found for found in reversed(chosen) if not holds(archive, found)}
    twins = [found for found in chosen if found.member in fresh and fresh[found.member] is not found]
    ordered = await in_tree_order(list(fresh.values()), dataset.repository)
    return Survey(loose, chosen, list(_judged(ordered, reader, watcher)), twins, already)


def _judged(objects: Sequence[LooseObject], reader: ObjectReader, watcher: Watcher) -> Iterator[Candidate]:
    for found in objects:
        watcher.advance(1)
        yield Candidate(found, reader.share(found))


def holds(archive: Archive | None, found: LooseObject) -> bool:
    """Whether the archive has a file of the object's name."""
    member = None if archive is None else archive.find(found.member)
    return member is not None and not member.is_directory


def in_batches(candidates: Sequence[Candidate], solid_block: int) -> Iterator[Sequence[Candidate]]:
    """Candidates that go into the archive together: one that is stored, or compressed ones of up to `solid_block` bytes
    in all (or a single larger one)."""
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
