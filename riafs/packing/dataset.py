"""The dataset that is packed or unpacked, as open directories on this machine, and its staging directory.

Only datasets with a known layout version are changed, as in DataLad's ORA, which only reads from others.

One process at a time packs or unpacks a dataset. It locks the file ``lock`` in the directory
``archives/.riafs-packing`` and keeps all unfinished files there: the new archive, objects that are being unpacked. The
kernel releases the lock when the process ends, so files found under a free lock were left by a killed process, and are
removed.

As others may write to the store, only a directory that riafs has made for this user is used: no link, no directory of
another user or that others can write to, none with files but without a lock. It stays open and is used by descriptor.
"""

import fcntl
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from riafs.archive.archive import ArchiveTools
from riafs.errors import BadSource, Busy, NotInStore, NotOurs, ReadOnly
from riafs.formats.annex import Layout, parse_dataset_version
from riafs.formats.sources import RiaUrl
from riafs.git.repository import Repository
from riafs.storage.deadline import Deadline
from riafs.storage.local_writer import LocalWriter
from riafs.storage.openat import DIRECTORY_FLAGS, open_regular, open_resolved
from riafs.storage.permissions import Sharing, parse_sharing
from riafs.storage.posix import ABSENT, HeldDirectory, lock_holder, writing_to
from riafs.storage.protocol import local_store
from riafs.storage.staging import is_ours, open_working_directory, remove_content
from riafs.tree.dataset_files import read_layout_version, read_settings
from riafs.tree.source import open_store, path_of_named
from riafs.tree.store import Store
from riafs.tree.tools import CommandSettings, StoreTools, working_tools

DIRECTORY = b".riafs-packing"
_LOCK = b"lock"
_NEW_LOCK = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class PackedDataset:
    """A dataset of a local store. Its directories are open; a missing one is `ABSENT` in a dry run."""

    name: str
    objects: HeldDirectory
    archives: HeldDirectory
    layout: Layout
    sharing: Sharing
    repository: Repository
    tools: ArchiveTools


@asynccontextmanager
async def open_dataset(source: RiaUrl, means: CommandSettings, *, dry_run: bool) -> AsyncIterator[PackedDataset]:
    """The dataset that `source` names. Directories for objects and archives are made if missing, unless `dry_run`.

    Raises BadSource if it names no dataset, or a version; SourceNotFound, ReadOnly (unknown layout), OutsideStore,
    StoreDenied, StoreTimeout, StoreError.
    """
    if source.dataset is None and source.alias is None:
        raise BadSource(f"{source} names no dataset; one is named with #ID or #~ALIAS")
    if source.version is not None:
        raise BadSource(f"{source} names a version, but objects belong to all versions of a dataset")
    async with working_tools(means) as tools:
        store = await open_store(source, tools.seconds, tools)
        path = await path_of_named(store, source)
        version = parse_dataset_version(await read_layout_version(store.storage, path))
        if not version.known:
            raise ReadOnly(
                f"dataset {os.fsdecode(path)} is not changed, as the paths of its objects are unknown: {version.reason}"
            )
        dataset = await store.dataset(path)
        sharing = parse_sharing((await read_settings(store.storage, path, tools.git.gits)).items())
        made = None if dry_run else sharing
        with ExitStack() as stack:
            objects = await _held(store, path + b"/annex/objects", made, tools)
            stack.callback(objects.close)
            archives = await _held(store, path + b"/archives", made, tools)
            stack.callback(archives.close)
            yield PackedDataset(
                dataset.name, objects, archives, version.layout, sharing, dataset.repository, tools.content.archives
            )


async def _held(store: Store, path: bytes, sharing: Sharing | None, tools: StoreTools) -> HeldDirectory:
    """An open directory of the store. A missing one is made with the modes of `sharing`, without that it is ABSENT."""
    storage = local_store(store.storage)
    try:
        place = await storage.local_path(path)
    except NotInStore:
        if sharing is None:
            return HeldDirectory(ABSENT, os.path.join(os.fsencode(storage.name), path))
        deadline = Deadline(f"store {storage.name}", tools.seconds, tools.counters)
        making = await LocalWriter.open_root(await storage.local_path(b"."), deadline)
        try:
            await making.make_directories([path], sharing)
            await making.sync_changes()
        finally:
            making.close()
        place = await storage.local_path(path)
    with writing_to(place):
        return HeldDirectory(open_resolved(place, DIRECTORY_FLAGS), place)


# -- the staging directory --------------------------------------------------------------------------------------------


@contextmanager
def workspace(archives: HeldDirectory) -> Iterator[HeldDirectory]:
    """An empty directory in `archives` for this process alone, removed at the end.

    Raises Busy if another process uses it, NotOurs, ReadOnly, StoreDenied, StoreError.
    """
    with ExitStack() as stack:
        with writing_to(archives.path + b"/" + DIRECTORY):
            held = _locked(archives, stack)
            remove_content(held, keep=_LOCK)
        try:
            yield held
        finally:
            _remove(archives, held)


def _locked(archives: HeldDirectory, stack: ExitStack) -> HeldDirectory:
    """The locked directory. The process that had the lock before may have removed the directory meanwhile; then a new
    one is made. `stack` closes the descriptors.
    """
    while True:
        held = open_working_directory(archives, DIRECTORY, 0o700)
        with ExitStack() as attempt:
            attempt.callback(held.close)
            _check(held, archives)
            try:
                lock = _lock_file(held)
            except FileNotFoundError:  # the directory was removed in between
                continue
            attempt.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                place = os.fsdecode(held.path)
                raise Busy(f"another riafs archive or unarchive{lock_holder(lock)} is at work in {place}") from error
            if _is_current(lock, held, archives):
                stack.push(attempt.pop_all())
                return held


def _check(held: HeldDirectory, archives: HeldDirectory) -> None:
    status = os.fstat(held.descriptor)
    names = os.listdir(held.descriptor)
    if not is_ours(status, archives):
        reason = f"belongs to user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}, not to this user alone"
    elif status.st_dev != os.fstat(archives.descriptor).st_dev:
        reason = "is another file system"
    elif names and os.fsdecode(_LOCK) not in names:
        reason = "has files in it but no lock"
    else:
        return
    raise NotOurs(
        f"{os.fsdecode(held.path)}, where riafs keeps unfinished work, {reason}: it is left alone; "
        "if no riafs is at work there and nobody needs what is in it, remove it"
    )


def _lock_file(held: HeldDirectory) -> int:
    with suppress(FileExistsError):
        return os.open(_LOCK, _NEW_LOCK, 0o600, dir_fd=held.descriptor)
    try:
        lock = open_regular(held.descriptor, _LOCK, os.O_RDWR)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotOurs(f"{held.named(_LOCK)} is left alone: {error.strerror}") from error
    status = os.fstat(lock)
    if not is_ours(status, held) or status.st_nlink > 1:
        os.close(lock)
        raise NotOurs(f"{held.named(_LOCK)} is left alone: it is no lock of this user")
    return lock


def _is_current(lock: int, held: HeldDirectory, archives: HeldDirectory) -> bool:
    """Whether the lock and the directory were not replaced or removed meanwhile."""
    try:
        named = os.stat(_LOCK, dir_fd=held.descriptor, follow_symlinks=False)
        above = os.stat(DIRECTORY, dir_fd=archives.descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(lock), named) and os.path.samestat(os.fstat(held.descriptor), above)


def _remove(archives: HeldDirectory, held: HeldDirectory) -> None:
    # The lock is removed last: after that, the next process may put files there.
    with suppress(OSError):
        remove_content(held, keep=_LOCK)
        os.unlink(_LOCK, dir_fd=held.descriptor)
        os.rmdir(DIRECTORY, dir_fd=archives.descriptor)
