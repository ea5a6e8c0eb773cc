"""``riafs unarchive``: the keys in the dataset's archive become loose objects again.

An object is written to a temporary file, hashed, made durable, and then renamed to its path; a damaged loose object
would hide the good copy in the archive from DataLad's ORA. The archive is removed, if requested, after all its objects
were read back from their files. A killed run leaves only complete objects, and the next one continues.
"""

import os
from contextlib import suppress
from dataclasses import dataclass

from riafs.archive.archive import Archive
from riafs.errors import Busy, MalformedKey, NotInStore, RiafsError, StoreError
from riafs.formats.annex import likely_path
from riafs.formats.keys import Key, parse_file_name
from riafs.formats.names import parents_of
from riafs.formats.sevenzip.header import Member
from riafs.packing.archive_file import ARCHIVE, FileMark, file_bytes, in_reading_order, mark_at, open_file, path_in
from riafs.packing.dataset import PackedDataset, workspace
from riafs.packing.loose_objects import Checked, ContentCheck, Damage, ObjectReader, read_object
from riafs.storage import posix
from riafs.storage.openat import READ_FLAGS, open_beneath
from riafs.storage.permissions import object_mode
from riafs.storage.posix import HeldDirectory, make_durable, start_writing, write_all, writing_to
from riafs.watching import PackingStep, Watcher

_CHUNK = 1 << 20
_UNNAMED = b"object-%d"
_MOST_UNNAMED, _MOST_UNNAMED_BYTES = 1000, 256 << 20
"""So many objects are made durable at once."""
_AGAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INODES_EACH = 2
"""Inodes for an object at least: a file and its directory."""


@dataclass(frozen=True, slots=True)
class UnarchiveRequest:
    """The options of a run."""

    remove_archive: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class UnarchiveReport:
    """The result of a run; for a dry run the expected result if nothing is damaged."""

    dataset: str
    archive: str
    dry_run: bool
    keys: int
    """Keys in the archive."""
    unpacked: int
    unpacked_bytes: int
    already: int
    """Keys with a good loose object."""
    others: int
    """Files in the archive that are no objects; if there are any, the archive is not removed."""
    archive_removed: bool
    damaged: tuple[Damage, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A key of the archive; `path`: that of its loose object, relative to ``annex/objects``."""

    key: Key
    member: Member
    path: bytes


async def unarchive_objects(dataset: PackedDataset, request: UnarchiveRequest, watcher: Watcher) -> UnarchiveReport:
    """Unpack and check the objects, and remove the archive if requested.

    Raises NotInStore if there is no archive, Busy (another run, or the archive was changed meanwhile), ReadOnly,
    StoreDenied, StoreError (no room, …), ArchiveError and its kinds.
    """
    if mark_at(dataset.archives) is None:
        raise NotInStore(f"dataset {dataset.name} has no archive {os.fsdecode(path_in(dataset.archives))}")
    if request.dry_run:
        return await _with_archive(dataset, request, watcher, None)
    with workspace(dataset.archives) as directory:
        return await _with_archive(dataset, request, watcher, directory)


async def _with_archive(
    dataset: PackedDataset, request: UnarchiveRequest, watcher: Watcher, directory: HeldDirectory | None
) -> UnarchiveReport:
    descriptor = open_file(dataset.archives)
    mark = FileMark.of(os.fstat(descriptor))
    source = file_bytes(descriptor, dataset.archives)
    try:
        archive = await Archive.open(source, dataset.tools, path_in(dataset.archives))
        run = _Run(dataset, request, watcher, ObjectReader(dataset.objects), archive)
        if directory is not None:
            await run.unpack(directory)
            if request.remove_archive and run.complete:
                run.remove_archive(mark)
        return run.report()
    finally:
        source.close()


class _Run:
    """One run over the archive."""

    def __init__(
        self,
        dataset: PackedDataset,
        request: UnarchiveRequest,
        watcher: Watcher,
        reader: ObjectReader,
        archive: Archive,
    ) -> None:
        self._dataset = dataset
        self._request = request
        self._watcher = watcher
        self._reader = reader
        self._archive = archive
        self._wanted, self._others = _contents(archive, dataset)
        self._unpacked: list[_Wanted] = []
        self._already = 0
        self._expected: list[tuple[_Wanted, Checked]] = []
        self._damaged: list[Damage] = []
        self._unnamed: list[_Wanted] = []
        self._removed = False

    @property
    def complete(self) -> bool:
        """Whether all files of the archive are loose objects now."""
        return not self._damaged and not self._others

    async def unpack(self, directory: HeldDirectory) -> None:
        """Write missing and damaged objects, durably; `directory` is for unfinished files."""
        self._check_room()
        self._watcher.begin(PackingStep.UNPACKING, sum(each.member.size for each in self._wanted))
        for number, wanted in enumerate(self._wanted):
            self._watcher.files(number, len(self._wanted))
            try:
                await self._unpack(wanted, directory)
            except _Damaged as problem:
                key = wanted.key.serialised
                self._damaged.append(Damage(key, "archives/archive.7z", str(problem)))
        self._publish(directory)
        self._make_names_durable()

    def _check_room(self) -> None:
        missing = [each for each in self._wanted if not self._reader.exists(each.path)]
        with writing_to(self._dataset.objects.path):
            status = os.statvfs(self._dataset.objects.descriptor)
        size = sum(each.member.size for each in missing)
        if size > status.f_bavail * status.f_frsize:
            free = status.f_bavail * status.f_frsize
            raise StoreError(f"the objects take {size} bytes, where {free} are free")
        if status.f_files and _INODES_EACH * len(missing) > status.f_favail:
            wanted = _INODES_EACH * len(missing)
            raise StoreError(f"the objects take at least {wanted} inodes, where {status.f_favail} are free")

    async def _unpack(self, wanted: _Wanted, directory: HeldDirectory) -> None:
        present = read_object(self._reader, wanted.key, wanted.path)
        if present is not None and present.sha256 is None:
            self._watcher.advance(wanted.member.size)
            self._already += 1
            self._expected.append((wanted, present))
            return
        written = await self._write(wanted, directory)
        if present is None:
            self._unnamed.append(wanted)
            size = sum(each.member.size for each in self._unnamed)
            if len(self._unnamed) >= _MOST_UNNAMED or size >= _MOST_UNNAMED_BYTES:
                self._publish(directory)
        elif present == written:
            self._already += 1
        else:
            raise _Damaged("is not the same as the loose object, and its key has no digest: the loose one stays")
        self._expected.append((wanted, written))

    async def _write(self, wanted: _Wanted, directory: HeldDirectory) -> Checked:
        """Write the member's bytes to the next temporary file. Raises _Damaged if they are not the key's."""
        check = ContentCheck(wanted.key)
        unnamed = _UNNAMED % len(self._unnamed)
        temporary = directory.path + b"/" + unnamed
        with writing_to(temporary):
            with suppress(FileNotFoundError):
                os.unlink(unnamed, dir_fd=directory.descriptor)
            executable = wanted.member.mode is not None and bool(wanted.member.mode & 0o100)
            mode = object_mode(executable=executable)
            file = os.open(unnamed, _NEW, mode, dir_fd=directory.descriptor)
        try:
            await self._copy(wanted, file, temporary, check)
            with writing_to(temporary):
                self._dataset.sharing.apply(file)
                start_writing(file, 0, 0)
        finally:
            os.close(file)
        written = check.result()
        if wanted.member.crc not in (None, written.crc):
            raise _Damaged("does not have the CRC32 of the archive's header")
        if written.problem:
            raise _Damaged(written.problem)
        return written

    async def _copy(self, wanted: _Wanted, file: int, temporary: bytes, check: ContentCheck) -> None:
        try:
            content = await self._archive.open_member(wanted.member)
        except RiafsError as error:
            raise _Damaged(f"cannot be read: {error}") from error
        try:
            for offset in range(0, content.size, _CHUNK):
                try:
                    data = await content.read(offset, _CHUNK)
                except RiafsError as error:
                    raise _Damaged(f"cannot be read: {error}") from error
                self._watcher.advance(len(data))
                check.update(data)
                with writing_to(temporary):
                    write_all(file, data)
        finally:
            content.close()

    def _publish(self, directory: HeldDirectory) -> None:
        """Make the temporary files durable, all at once, and rename them to their paths."""
        with writing_to(directory.path):
            unnamed = [_UNNAMED % number for number in range(len(self._unnamed))]
            make_durable(unnamed, lambda name: os.open(name, _AGAIN, dir_fd=directory.descriptor))
        for name, wanted in zip(unnamed, self._unnamed, strict=True):
            with writing_to(self._dataset.objects.path + b"/" + wanted.path):
                self._name(name, wanted, directory)
        self._unpacked += self._unnamed
        self._unnamed.clear()

    def _name(self, unnamed: bytes, wanted: _Wanted, directory: HeldDirectory) -> None:
        root = self._dataset.objects.descriptor
        above, name = os.path.split(wanted.path)
        file = os.open(unnamed, _AGAIN, dir_fd=directory.descriptor)
        try:  # so that it is read back from the disk, and not from the kernel's cache
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
        posix.make_directories(root, above, self._dataset.sharing, set())
        with posix.opened_directory(root, above) as place:
            os.rename(unnamed, name, src_dir_fd=directory.descriptor, dst_dir_fd=place)

    # -- removing the archive -----------------------------------------------------------------------------------------

    def remove_archive(self, mark: FileMark) -> None:
        """Read every object back from its file, then remove the archive. Raises Busy, StoreError."""
        self._watcher.begin(PackingStep.CHECKING, sum(checked.size for _, checked in self._expected))
        for number, (wanted, checked) in enumerate(self._expected):
            self._watcher.files(number, len(self._expected))
            self._watcher.advance(checked.size)
            if read_object(self._reader, wanted.key, wanted.path) != checked:
                key = wanted.key.serialised.decode(errors="replace")
                raise StoreError(f"the loose object of {key} is gone or damaged again; the archive stays")
        self._watcher.begin(PackingStep.REMOVING, 1)
        self._watcher.advance(1)
        archives = self._dataset.archives
        with writing_to(path_in(archives)):
            if mark_at(archives) != mark:
                raise Busy(f"{os.fsdecode(path_in(archives))} was changed by another program meanwhile; it stays")
            os.unlink(ARCHIVE, dir_fd=archives.descriptor)
            os.fsync(archives.descriptor)
        self._removed = True

    def _make_names_durable(self) -> None:
        """Those of objects and of all directories above them; also of objects that another program has written."""
        expected = [wanted.path for wanted, _ in self._expected]
        paths = {b"", *expected, *(above for path in expected for above in parents_of(path))}
        root = self._dataset.objects.descriptor
        with writing_to(self._dataset.objects.path):
            make_durable(sorted(paths), lambda path: open_beneath(root, path or b".", READ_FLAGS))

    def report(self) -> UnarchiveReport:
        """The report of the run."""
        planned = self._request.dry_run
        missing = [each for each in self._wanted if planned and not self._reader.exists(each.path)]
        unpacked = missing if planned else self._unpacked
        return UnarchiveReport(
            dataset=self._dataset.name,
            archive=os.fsdecode(path_in(self._dataset.archives)),
            dry_run=planned,
            keys=len(self._wanted),
            unpacked=len(unpacked),
            unpacked_bytes=sum(each.member.size for each in unpacked),
            already=len(self._wanted) - len(missing) if planned else self._already,
            others=self._others,
            archive_removed=self._removed or (planned and self._request.remove_archive and not self._others),
            damaged=tuple(self._damaged),
        )


class _Damaged(Exception):
    """A member that is not the content of its key; the argument is the reason."""


def _contents(archive: Archive, dataset: PackedDataset) -> tuple[list[_Wanted], int]:
    """The keys in the order of their bytes, each once, and the number of files that are no objects."""
    found: dict[bytes, _Wanted] = {}
    others = 0
    for member in archive.listing:
        if member.is_directory:
            continue
        key = _key(member.name)
        if key is None:
            others += 1
            continue
        wanted = _Wanted(key, member, likely_path(key.file_name, dataset.layout))
        if wanted.path not in found or member.name == wanted.path:  # of several, the one that ORA reads
            found[wanted.path] = wanted
    return sorted(found.values(), key=lambda each: in_reading_order(each.member)), others


def _key(name: bytes) -> Key | None:
    """The key of a member named ``…/KEY/KEY``."""
    *_, above, file = (b"/" + name).split(b"/")
    try:
        key = parse_file_name(file)
    except MalformedKey:
        return None
    return key if above == file == key.file_name else None
