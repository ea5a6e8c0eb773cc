"""``riafs archive``: loose objects into the dataset's archive.

The order of the steps keeps the store safe. The new archive is written beside the old one, made durable, read back and
compared; then it is renamed over the old one; then those objects are removed whose copy in the archive was verified,
each only while that file still is the dataset's archive. After a kill at any step, the store is as before or as after
that step, and the next run continues from there.

As this is the only task of its process, it blocks the event loop while it writes.
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
    check_already_packed,
    check_kept,
    check_members,
    check_packed,
    file_bytes,
    mark_at,
    open_file,
    path_in,
)
from riafs.packing.archive_writer import ArchiveWriter, Compressor
from riafs.packing.dataset import PackedDataset, workspace
from riafs.packing.loose_objects import Damage, LooseObject, ObjectReader
from riafs.packing.selection import Candidate, Selection, Survey, compressed_share, in_batches, select_objects
from riafs.storage import posix
from riafs.storage.local_file import FileBytes
from riafs.storage.posix import HeldDirectory, sync_file_system, writing_to
from riafs.watching import PackingStep, Watcher

_ROOM_FOR_MEMBER = 400
"""Bytes of the header for each member; about twice as many as it needs."""


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """The options of a run. `solid_block`: the most bytes of objects that are compressed as one block."""

    selection: Selection
    solid_block: int
    prune: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """The result of a run; for a dry run an estimate, as the objects are not read."""

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
    """Files below ``annex/objects`` that are no objects and are not touched."""
    archive_before: int
    archive_after: int
    removed: int
    inodes_freed: int
    bytes_freed: int
    """On the disk, by removing objects."""
    damaged: tuple[Damage, ...]


@dataclass(slots=True)
class _Old:
    """The archive before the run."""

    descriptor: int
    source: FileBytes
    archive: Archive
    mark: FileMark


async def archive_objects(dataset: PackedDataset, request: ArchiveRequest, watcher: Watcher) -> ArchiveReport:
    """Write the new archive, check it, replace the old one, and with `prune` remove the packed objects.

    Raises Busy (another run, or the archive was changed meanwhile), ReadOnly, StoreDenied, StoreError (no room, …),
    ArchiveError and its kinds for an old archive that cannot be extended, CorruptContent if the new archive differs
    from the objects. After any of them the store's objects and archive are as before.
    """
    if request.dry_run:
        async with _opened(dataset) as (reader, old):
            return _estimate(dataset, request, old, await _survey(dataset, request, reader, old, watcher))
    with workspace(dataset.archives) as directory:
        async with _opened(dataset) as (reader, old):
            found = await _survey(dataset, request, reader, old, watcher)
            return await _Run(dataset, request, watcher, reader, old, found).run(directory)


@asynccontextmanager
async def _opened(dataset: PackedDataset) -> AsyncIterator[tuple[ObjectReader, _Old | None]]:
    """The sources of a run: the objects, and the archive if there is one."""
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
    return await select_objects(dataset, old.archive if old else None, request.selection, reader, watcher)


def _estimate(dataset: PackedDataset, request: ArchiveRequest, old: _Old | None, survey: Survey) -> ArchiveReport:
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
    """One run, from the survey to the report."""

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
        """Do all steps, with `directory` for unfinished files."""
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
        """Other copies of objects that were damaged."""
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
        """Read the new archive back. Returns its mark."""
        descriptor = open_file(directory)
        mark = FileMark.of(os.fstat(descriptor))
        source = file_bytes(descriptor, directory)
        try:
            total = self._kept_end - SIGNATURE_HEADER_SIZE + sum(each.checked.size for each in self._packed)
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
        """Rename the new archive over the old one, which must still be the one that was read."""
        self._watcher.begin(PackingStep.REPLACING, 0)
        with writing_to(self._path):
            self._copy_mode(directory)
            if mark_at(self._dataset.archives) != (self._old.mark if self._old else None):
                raise Busy(f"{os.fsdecode(self._path)} was changed by another program meanwhile; run this again")
            os.rename(ARCHIVE, ARCHIVE, src_dir_fd=directory.descriptor, dst_dir_fd=self._dataset.archives.descriptor)
            os.fsync(self._dataset.archives.descriptor)

    def _copy_mode(self, directory: HeldDirectory) -> None:
        """Give the new archive the mode and group of the old one, or those of the dataset's sharing, durably."""
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
        """Remove the objects with a verified copy in the current archive, which has `mark`."""
        checked = {each.object.member for each in self._packed}
        checked |= {each.member for each in await self._already_packed(mark)}
        self._removed = [each for each in self._survey.chosen if each.member in checked]
        self._inodes = remove_objects(self._dataset.objects, self._removed, self._dataset.archives, mark, self._watcher)

    async def _already_packed(self, mark: FileMark) -> Sequence[LooseObject]:
        """The objects of which the old archive had a good copy."""
        if not self._survey.already:
            return ()
        descriptor = open_file(self._dataset.archives)
        source = file_bytes(descriptor, self._dataset.archives)
        try:
            if FileMark.of(os.fstat(descriptor)) != mark:
                raise Busy(f"{os.fsdecode(self._path)} was changed by another program meanwhile; run this again")
            archive = await Archive.open(source, self._dataset.tools, self._path)
            self._watcher.begin(PackingStep.CHECKING, sum(each.size for each in self._survey.already))
            good, damaged = await check_already_packed(archive, self._survey.already, self._reader, self._watcher)
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
            packed_bytes=sum(each.checked.size for each in self._packed),
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
    """Remove `objects` below `directory`, and directories that become empty, durably. Returns the number of inodes.

    `mark` is that of the checked archive. Raises Busy if it is not the archive in `archives` any more, StoreDenied,
    StoreError.
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
    # git-annex removes the write permission from the directories of objects.
    try:
        os.unlink(name, dir_fd=directory)
    except PermissionError:
        os.fchmod(directory, os.fstat(directory).st_mode & 0o7777 | 0o200)
        os.unlink(name, dir_fd=directory)


def _remove_empty(root: int, path: bytes) -> int:
    """Remove the directory `path` and its parents while they are empty. Returns their number."""
    removed = 0
    while path:
        above, name = os.path.split(path)
        try:
            with posix.opened_directory(root, above) as directory:
                os.rmdir(name, dir_fd=directory)
        except OSError:  # not empty, or another program has removed it
            return removed
        removed += 1
        path = above
    return removed
