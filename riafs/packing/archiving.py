"""``riafs archive``: loose objects into the dataset's archive.

The order of the steps keeps the store safe: the new archive is written beside the old one, made durable, read back and
compared, only then renamed over the old one, and only then objects are removed that were read out of it: one by one, as
long as the file in which their content was verified is the dataset's archive. A process that is killed at any step
leaves the store as it was or as it is to be, and the next run continues from there.

This is a batch job of its own process: it blocks its event loop while it writes.
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.archive.header import read_plain_header
from riafs.errors import Busy, StoreError
from riafs.formats.sevenzip.cursor import SIGNATURE_HEADER_SIZE
from riafs.formats.sevenzip.fullheader import FullHeader, parse_full_header
from riafs.packing.archive_file import (
    ARCHIVE,
    FileMark,
    Packed,
    check_kept,
    check_members,
    check_packed,
    file_bytes,
    look_at_already,
    mark_at,
    open_file,
    path_in,
)
from riafs.packing.archive_writer import ArchiveWriter, Compressor
from riafs.packing.dataset import PackedDataset, workspace
from riafs.packing.loose_objects import Damage, LooseObject, ObjectReader
from riafs.packing.selection import Candidate, Selection, Survey, compressed_share, in_batches, look_around
from riafs.storage import posix
from riafs.storage.local_file import FileBytes
from riafs.storage.posix import HeldDirectory, sync_file_system, writing_to
from riafs.watching import PackingStep, Watcher

_ROOM_FOR_MEMBER = 400
"""Bytes of a header for each member, about twice of what they are."""


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """What to do. `solid_block`: bytes that are compressed together at most."""

    selection: Selection
    solid_block: int
    prune: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What was done; after a dry run what would be, as far as that can be told without reading everything."""

    dataset: str
    archive: str
    dry_run: bool
    chosen: int
    packed: int
    packed_bytes: int
    compressed: int
    already: int
    """Objects that were in the archive before."""
    others: int
    """Files below ``annex/objects`` that are no objects; they stay."""
    archive_before: int
    archive_after: int
    removed: int
    inodes_freed: int
    bytes_freed: int
    """On the disk, by removed objects."""
    damaged: tuple[Damage, ...]


@dataclass(slots=True)
class _Old:
    """The archive as it was found, or that there is none."""

    descriptor: int
    source: FileBytes
    archive: Archive
    mark: FileMark


async def archive_objects(dataset: PackedDataset, request: ArchiveRequest, watcher: Watcher) -> ArchiveReport:
    """Pack, check, replace, and if asked for remove.

    Raises Busy (another run, or the archive was changed meanwhile), ReadOnly, StoreDenied, StoreError (no room, …),
    ArchiveError and its kinds for an old archive that cannot be added to, CorruptContent where the new archive does not
    give back what went in. After any of them the store's objects and archive are as they were.
    """
    if request.dry_run:
        async with _opened(dataset) as (reader, old):
            return _foreseen(dataset, request, old, await _survey(dataset, request, reader, old, watcher))
    with workspace(dataset.archives) as directory:
        async with _opened(dataset) as (reader, old):
            survey = await _survey(dataset, request, reader, old, watcher)
            return await _Run(dataset, request, watcher, reader, old, survey).run(directory)


@asynccontextmanager
async def _opened(dataset: PackedDataset) -> AsyncIterator[tuple[ObjectReader, _Old | None]]:
    """What is read from: objects, and the archive if there is one."""
    old = await _open_old(dataset)
    try:
        yield ObjectReader(dataset.objects), old
    finally:
        if old is not None:
            old.source.close()


async def _open_old(dataset: PackedDataset) -> _Old | None:
    if mark_at(dataset.archives) is None:
        return None
    descriptor = open_file(dataset.archives)
    mark = FileMark.of(os.fstat(descriptor))
    source = file_bytes(descriptor, dataset.archives)
    try:
        archive = await Archive.open(source, dataset.tools, path_in(dataset.archives))
        return _Old(descriptor, source, archive, mark)
    except BaseException:
        source.close()
        raise


async def _survey(
    dataset: PackedDataset, request: ArchiveRequest, reader: ObjectReader, old: _Old | None, watcher: Watcher
) -> Survey:
    return await look_around(dataset, old.archive if old else None, request.selection, reader, watcher)


def _foreseen(dataset: PackedDataset, request: ArchiveRequest, old: _Old | None, survey: Survey) -> ArchiveReport:
    before = old.mark.size if old else 0
    growth = sum(each.packed_size + _ROOM_FOR_MEMBER / 2 for each in survey.new)
    gone = survey.chosen if request.prune else ()
    return ArchiveReport(
        dataset=dataset.name,
        archive=os.fsdecode(path_in(dataset.archives)),
        dry_run=True,
        chosen=len(survey.chosen),
        packed=len(survey.new),
        packed_bytes=sum(each.object.size for each in survey.new),
        compressed=sum(each.compressed for each in survey.new),
        already=len(survey.already),
        others=survey.loose.others,
        archive_before=before,
        archive_after=before + int(growth),
        removed=len(gone),
        inodes_freed=survey.loose.inodes_of(gone),
        bytes_freed=sum(each.on_disk for each in gone),
        damaged=(),
    )


class _Run:
    """One run, from what was found to what was done."""

    def __init__(
        self,
        dataset: PackedDataset,
        request: ArchiveRequest,
        watcher: Watcher,
        reader: ObjectReader,
        old: _Old | None,
        survey: Survey,
    ) -> None:
        self._dataset = dataset
        self._request = request
        self._watcher = watcher
        self._reader = reader
        self._old = old
        self._survey = survey
        self._path = path_in(dataset.archives)
        self._kept_end = SIGNATURE_HEADER_SIZE
        self._packed: list[Packed] = []
        self._damaged: list[Damage] = []
        self._removed: list[LooseObject] = []
        self._inodes = 0

    async def run(self, directory: HeldDirectory) -> ArchiveReport:
        """Everything, with `directory` for what is not finished."""
        mark = self._old.mark if self._old else None
        if self._survey.new:
            await self._write(directory)
        if self._packed:
            mark = await self._check(directory)
            self._replace(directory)
        if self._request.prune and mark is not None:
            await self._prune(mark)
        return self._report(mark)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _write(self, directory: HeldDirectory) -> None:
        columns = await self._columns()
        self._kept_end = columns.packed_end
        self._check_room()
        total = self._kept_end + sum(each.object.size for each in self._survey.new)
        self._watcher.begin(PackingStep.PACKING, total)
        writer = ArchiveWriter(directory, columns, self._reader, self._watcher)
        try:
            with Compressor() as compressor:
                self._add(writer, self._survey.new, compressor)
                self._add(writer, self._second_choices(writer), compressor)
            if writer.packed:
                if self._old is not None:
                    writer.keep(self._old.descriptor)
                writer.finish()
        finally:
            writer.close()
        self._packed, self._damaged = writer.packed, writer.damaged

    async def _columns(self) -> FullHeader:
        if self._old is None:
            return FullHeader()
        limits = self._dataset.tools.limits
        return parse_full_header(await read_plain_header(self._old.source, limits), limits)

    def _add(self, writer: ArchiveWriter, candidates: Sequence[Candidate], compressor: Compressor) -> None:
        for batch in in_batches(candidates, self._request.solid_block):
            self._watcher.files(len(writer.packed) + len(writer.damaged), len(candidates))
            objects = [each.object for each in batch]
            if not batch[0].compressed:
                writer.add_stored(objects[0])
            elif objects[0].size > self._request.solid_block:
                writer.add_large(objects[0], compressor)
            else:
                writer.add_block(objects, compressor)

    def _second_choices(self, writer: ArchiveWriter) -> list[Candidate]:
        """Other copies of what was damaged."""
        if not writer.damaged:
            return []
        done = {each.object.member for each in writer.packed}
        left = {twin.member: twin for twin in self._survey.twins if twin.member not in done}
        return [Candidate(twin, compressed_share(twin, self._reader)) for twin in left.values()]

    def _check_room(self) -> None:
        with writing_to(self._dataset.archives.path):
            status = os.statvfs(self._dataset.archives.descriptor)
        free = status.f_bavail * status.f_frsize
        needed = self._kept_end + sum(each.packed_size + _ROOM_FOR_MEMBER for each in self._survey.new)
        if needed > free:
            place = os.fsdecode(self._dataset.archives.path)
            raise StoreError(f"the new archive needs about {needed:.0f} bytes in {place}, where {free} are free")

    # -- checking and replacing ---------------------------------------------------------------------------------------

    async def _check(self, directory: HeldDirectory) -> FileMark:
        """Read everything back. Returns the mark of what was checked."""
        descriptor = open_file(directory)
        mark = FileMark.of(os.fstat(descriptor))
        source = file_bytes(descriptor, directory)
        try:
            total = self._kept_end - SIGNATURE_HEADER_SIZE + sum(each.seen.size for each in self._packed)
            self._watcher.begin(PackingStep.CHECKING, total)
            archive = await Archive.open(source, self._dataset.tools, path_in(directory))
            if self._old is not None:
                check_members(self._old.archive, archive)
                await check_kept(self._old.source, source, SIGNATURE_HEADER_SIZE, self._kept_end, self._watcher)
            await check_packed(archive, self._packed, self._watcher)
        finally:
            source.close()
        return mark

    def _replace(self, directory: HeldDirectory) -> None:
        """Put the new archive in place of the old one, which must still be the one that was read."""
        self._watcher.begin(PackingStep.REPLACING, 0)
        with writing_to(self._path):
            self._take_over_access(directory)
            if mark_at(self._dataset.archives) != (self._old.mark if self._old else None):
                raise Busy(f"{os.fsdecode(self._path)} was changed by another program meanwhile; run this again")
            os.rename(ARCHIVE, ARCHIVE, src_dir_fd=directory.descriptor, dst_dir_fd=self._dataset.archives.descriptor)
            os.fsync(self._dataset.archives.descriptor)

    def _take_over_access(self, directory: HeldDirectory) -> None:
        """Mode and group of the old archive, or what the dataset's sharing asks for, durably."""
        descriptor = open_file(directory)
        try:
            if self._old is None:
                self._dataset.sharing.apply(descriptor)
            else:
                status = os.fstat(self._old.descriptor)
                with suppress(PermissionError):  # only members of a group can give a file to it
                    os.fchown(descriptor, -1, status.st_gid)
                os.fchmod(descriptor, status.st_mode & 0o777)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # -- removing -----------------------------------------------------------------------------------------------------

    async def _prune(self, mark: FileMark) -> None:
        """Remove what the archive with `mark`, now in place, was seen to hold."""
        checked = {each.object.member for each in self._packed}
        checked |= {each.member for each in await self._look_at_already(mark)}
        self._removed = [each for each in self._survey.chosen if each.member in checked]
        self._inodes = remove_objects(self._dataset.objects, self._removed, self._dataset.archives, mark, self._watcher)

    async def _look_at_already(self, mark: FileMark) -> Sequence[LooseObject]:
        """Those of the objects that the archive had before which it holds intact."""
        if not self._survey.already:
            return ()
        descriptor = open_file(self._dataset.archives)
        source = file_bytes(descriptor, self._dataset.archives)
        try:
            if FileMark.of(os.fstat(descriptor)) != mark:
                raise Busy(f"{os.fsdecode(self._path)} was changed by another program meanwhile; run this again")
            archive = await Archive.open(source, self._dataset.tools, self._path)
            self._watcher.begin(PackingStep.CHECKING, sum(each.size for each in self._survey.already))
            good, damaged = await look_at_already(archive, self._survey.already, self._reader, self._watcher)
        finally:
            source.close()
        self._damaged += damaged
        return good

    def _report(self, mark: FileMark | None) -> ArchiveReport:
        return ArchiveReport(
            dataset=self._dataset.name,
            archive=os.fsdecode(self._path),
            dry_run=False,
            chosen=len(self._survey.chosen),
            packed=len(self._packed),
            packed_bytes=sum(each.seen.size for each in self._packed),
            compressed=sum(each.compressed for each in self._packed),
            already=len(self._survey.already),
            others=self._survey.loose.others,
            archive_before=self._old.mark.size if self._old else 0,
            archive_after=mark.size if mark else 0,
            removed=len(self._removed),
            inodes_freed=self._inodes,
            bytes_freed=sum(each.on_disk for each in self._removed),
            damaged=tuple(self._damaged),
        )


# -- removing objects --------------------------------------------------------------------------------------------------


def remove_objects(
    directory: HeldDirectory, objects: Sequence[LooseObject], archives: HeldDirectory, mark: FileMark, watcher: Watcher
) -> int:
    """Remove `objects` below `directory`, and the directories that are empty then. Returns how many inodes were freed.

    `mark` is that of the checked archive, which has to be in `archives`. That they are gone lasts. Raises Busy where it
    no longer is, StoreDenied, StoreError.
    """
    watcher.begin(PackingStep.REMOVING, len(objects))
    freed = 0
    for found in objects:
        watcher.advance(1)
        if mark_at(archives) != mark:
            raise Busy(f"{os.fsdecode(path_in(archives))} was changed by another program; the remaining objects stay")
        with writing_to(directory.path + b"/" + found.path):
            freed += _remove(directory.descriptor, found.path)
    if objects:
        with writing_to(directory.path):
            sync_file_system(directory.descriptor)
    return freed


def _remove(root: int, path: bytes) -> int:
    above, name = os.path.split(path)
    try:
        with posix.opened_directory(root, above) as directory:
            _unlink(name, directory)
    except FileNotFoundError:
        return 0
    return 1 + _remove_empty(root, above)


def _unlink(name: bytes, directory: int) -> None:
    """git-annex takes the write bit from the directories of objects."""
    try:
        os.unlink(name, dir_fd=directory)
    except PermissionError:
        os.fchmod(directory, os.fstat(directory).st_mode & 0o7777 | 0o200)
        os.unlink(name, dir_fd=directory)


def _remove_empty(root: int, path: bytes) -> int:
    """The directory `path` and those above it, as far as they are empty."""
    removed = 0
    while path:
        above, name = os.path.split(path)
        try:
            with posix.opened_directory(root, above) as directory:
                os.rmdir(name, dir_fd=directory)
        except OSError:  # not empty, or another program was faster: both leave nothing to do
            return removed
        removed += 1
        path = above
    return removed
