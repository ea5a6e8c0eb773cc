"""A store in a directory of this machine (local disk, NFS, parallel file system)."""

import errno
import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

from riafs.errors import (
    LinkLoop,
    NotAFile,
    NotInStore,
    OutsideStore,
    RiafsError,
    SourceNotFound,
    StoreDenied,
    StoreError,
    StoreTimeout,
    TooLarge,
)
from riafs.formats.names import below, is_in
from riafs.storage.deadline import Deadline
from riafs.storage.local_file import FileBytes, LocalVersion
from riafs.storage.openat import DIRECTORY_FLAGS, PATH_FLAGS, READ_FLAGS, Root, Roots
from riafs.storage.protocol import FileStatus, Item, ItemKind, Opener

log = logging.getLogger(__name__)

_SMALL = 16 << 10
"""Bytes of a file that is read on the event loop."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_List = list  # LocalStorage.list hides the type in annotations

_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG))
_GONE = frozenset((errno.ENOENT, errno.ESTALE))
_DENIED = frozenset((errno.EACCES, errno.EPERM))


def _kind(mode: int) -> ItemKind:
    if stat.S_ISREG(mode):
        return ItemKind.FILE
    if stat.S_ISDIR(mode):
        return ItemKind.DIRECTORY
    return ItemKind.LINK if stat.S_ISLNK(mode) else ItemKind.OTHER


def _status(result: os.stat_result) -> FileStatus:
    return FileStatus(
        kind=_kind(result.st_mode),
        size=result.st_size,
        mtime_ns=result.st_mtime_ns,
        executable=bool(result.st_mode & stat.S_IXUSR),
        path_identity=(result.st_dev, result.st_ino),
    )


def _is_executable(path: bytes, directory: int) -> bool:
    try:
        mode = os.stat(path, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return False
    return mode & stat.S_IXUSR != 0 and stat.S_ISREG(mode)


def _item_kind(item: os.DirEntry[bytes]) -> ItemKind:
    if item.is_symlink():
        return ItemKind.LINK
    if item.is_dir(follow_symlinks=False):
        return ItemKind.DIRECTORY
    return ItemKind.FILE if item.is_file(follow_symlinks=False) else ItemKind.OTHER


class LocalStorage:
    """`LocalStore` by descriptors: of the root directory, and of those that its links may lead into.

    Invariant: the kernel resolves every path below one of these descriptors (`storage/openat`).
    """

    def __init__(self, roots: Roots, deadline: Deadline) -> None:
        self._roots = roots
        self._root = roots.store.descriptor
        self._deadline = deadline

    @classmethod
    async def open_root(cls, root: bytes, deadline: Deadline, allowed: Sequence[bytes] = ()) -> "LocalStorage":
        """The storage below the directory `root`, whose links may also lead into the directories `allowed`.

        One of these that cannot be opened (a disk that is not mounted) is left out, with a warning in the log. Raises
        SourceNotFound, StoreDenied, StoreTimeout, StoreError.
        """
        name = os.fsdecode(root)
        try:
            store = await deadline.run(Root.open, root)
        except OSError as error:
            if error.errno == errno.ENOTDIR:
                raise SourceNotFound(f"{name} is not a directory, so it cannot be a store") from error
            if error.errno in _ABSENT:
                raise SourceNotFound(f"{name} does not exist") from error
            raise _translated(error, name, b"") from error
        others: _List[Root] = []
        for path in allowed:
            try:
                others.append(await deadline.run(Root.open, path))
            except (OSError, StoreTimeout) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                log.warning("links of %s into %s are not followed: %s", name, os.fsdecode(path), reason)
        return cls(Roots(root, store, others), deadline)

    @property
    def name(self) -> str:
        """The root's path."""
        return os.fsdecode(self._roots.name)

    def close(self) -> None:
        """Close the roots' descriptors."""
        if self._root >= 0:
            self._roots.close()
            self._root = -1

    def __del__(self) -> None:
        self.close()

    @property
    def listing(self) -> "LocalStorage":
        return self

    @property
    def links(self) -> "LocalStorage":
        return self

    @property
    def modes(self) -> "LocalStorage":
        return self

    @property
    def local(self) -> "LocalStorage":
        return self

    @property
    def ahead(self) -> None:
        return None

    async def stat(self, path: bytes) -> FileStatus:
        return await self._run(path, self._stat_blocking, path)

    def _stat_blocking(self, path: bytes) -> FileStatus:
        descriptor = self._roots.open(path, PATH_FLAGS)
        try:
            return _status(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        # One descriptor for `directory`, then plain stat calls: nothing is opened through them, so that a link that
        # leads out of the store shows no more than a size.
        try:
            return await self._run(directory, self._stat_objects_blocking, directory, paths)
        except NotInStore:
            return [None] * len(paths)

    def _stat_objects_blocking(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        descriptor = self._roots.open(directory, PATH_FLAGS | os.O_DIRECTORY)
        found: _List[FileStatus | None] = []
        try:
            for path in paths:
                try:
                    found.append(_status(os.stat(path, dir_fd=descriptor, follow_symlinks=False)))
                except OSError:
                    found.append(None)
        finally:
            os.close(descriptor)
        return found

    async def executable_each(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:

        try:
            return await self._run(directory, self._executable_each_blocking, directory, paths)
        except NotInStore:
            return [False] * len(paths)

    def _executable_each_blocking(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:
        descriptor = self._roots.open(directory, PATH_FLAGS | os.O_DIRECTORY)
        try:
            return [_is_executable(path, descriptor) for path in paths]
        finally:
            os.close(descriptor)

    async def list(self, path: bytes) -> Sequence[Item]:
        return await self._run(path, self._list_blocking, path)

    def _list_blocking(self, path: bytes) -> Sequence[Item]:
        descriptor = self._roots.open(path, DIRECTORY_FLAGS)
        try:
            with os.scandir(descriptor) as items:
                return [Item(os.fsencode(item.name), _item_kind(item)) for item in items]  # type: ignore[arg-type]  # a descriptor gives str names
        finally:
            os.close(descriptor)

    async def list_each(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        return await self._run(b"", self._list_each_blocking, paths)

    def _list_each_blocking(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        found: _List[Sequence[Item]] = []
        for path in paths:
            try:
                found.append(self._list_blocking(path))
            except (OSError, OutsideStore):
                found.append(())
        return found

    async def read_file(self, path: bytes, limit: int) -> bytes:
        # A thread costs 50 to 100 µs; a small file that the kernel has cached is read without one.
        known = self._read_file_cached(path, min(limit, _SMALL))
        return await self._run(path, self._read_file_blocking, path, limit) if known is None else known

    def _read_file_cached(self, path: bytes, limit: int) -> bytes | None:
        try:
            descriptor = self._roots.open_cached(path, READ_FLAGS)
        except OSError:
            return None
        if descriptor is None:
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
                return None
            buffer = bytearray(status.st_size)
            return bytes(buffer) if os.preadv(descriptor, (buffer,), 0, os.RWF_NOWAIT) == len(buffer) else None
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _read_file_blocking(self, path: bytes, limit: int) -> bytes:
        descriptor = self._roots.open(path, READ_FLAGS)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotAFile(f"{self._named(path)} is not a regular file")
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise TooLarge(f"{self._named(path)} is larger than {limit} bytes")
        return data

    async def reading(self, function: Callable[[Opener], T]) -> T | None:
        if self._deadline.reserved_are_busy:
            return None
        try:
            return await self._deadline.run_reserved(function, self._roots.open)
        except OSError as error:
            raise _translated(error, self.name, b"") from error

    async def read_link(self, path: bytes) -> bytes:
        return await self._run(path, self._read_link_blocking, path)

    def _read_link_blocking(self, path: bytes) -> bytes:
        descriptor = self._roots.open(path, PATH_FLAGS | os.O_NOFOLLOW)
        try:
            return os.readlink(b"", dir_fd=descriptor)
        finally:
            os.close(descriptor)

    async def open(self, path: bytes) -> FileBytes:
        # Without a thread where the kernel's caches have the path.
        try:
            descriptor = self._roots.open_cached(path, READ_FLAGS)
        except OSError as error:
            if error.errno not in _GONE or os.fstat(self._root).st_nlink > 0:
                raise _translated(error, self.name, path) from error
            descriptor = None
        if descriptor is None:
            descriptor = await self._run(path, self._roots.open, path, READ_FLAGS)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise NotInStore(f"{self._named(path)} is not a regular file")
        return FileBytes(descriptor, status.st_size, self._named(path), self._deadline, LocalVersion.of(status))

    async def local_path(self, path: bytes) -> bytes:
        return await self._run(path, self._local_path_blocking, path)

    def _local_path_blocking(self, path: bytes) -> bytes:
        descriptor = self._roots.open(path, PATH_FLAGS | os.O_DIRECTORY)
        try:
            return os.readlink(b"/proc/self/fd/%d" % descriptor)
        finally:
            os.close(descriptor)

    async def resolve_each(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        return await self._run(b"", self._resolve_each_blocking, paths)

    def _resolve_each_blocking(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        found: _List[bytes | RiafsError] = []
        for path in paths:
            try:
                found.append(self._resolve_blocking(path))
            except OSError as error:
                found.append(self._dangling(path) or _translated(error, self.name, path))
            except OutsideStore as problem:
                found.append(problem)
        return found

    def _resolve_blocking(self, path: bytes) -> bytes:
        real, root = self._local_path_blocking(path), self._roots.store.path
        if is_in(real, root):
            return below(real, root)
        found = self._roots.store_path(path)
        if found is None:
            raise OutsideStore(f"{self._named(path)} leads to {os.fsdecode(real)}, which has no path in the store")
        return found

    def _dangling(self, path: bytes) -> RiafsError | None:
        """The failure for a link whose target is missing, None for anything else."""
        try:
            target = self._read_link_blocking(path)
        except (OSError, OutsideStore):
            return None
        return NotInStore(f"{self._named(path)} is a link to {os.fsdecode(target)}, which does not exist")

    def path_of(self, absolute: bytes) -> bytes | None:
        return self._roots.path_of(absolute)

    async def _run(self, path: bytes, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        for last in (False, True):
            try:
                return await self._deadline.run(function, *arguments)
            except OSError as error:
                if last or error.errno not in _GONE or not await self._deadline.run(self._replaced_root):
                    raise _translated(error, self.name, path) from error
        raise AssertionError("the second round returns or raises")

    def _replaced_root(self) -> bool:
        """Whether the root had been deleted (or its file server restarted) and could be opened again.

        The new directory gets the number of the old descriptor, since other threads may be using that number.
        """
        try:
            if os.fstat(self._root).st_nlink > 0:
                return False
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        try:
            descriptor = os.open(self._roots.name, DIRECTORY_FLAGS)
        except OSError:
            return False
        try:
            os.dup2(descriptor, self._root, inheritable=False)
        finally:
            os.close(descriptor)
        return True

    def _named(self, path: bytes) -> str:
        return f"{self.name}/{os.fsdecode(path)}"


def _translated(error: OSError, store: str, path: bytes) -> RiafsError:
    """The failure class for an errno, with a message that names the path."""
    name = f"{store}/{os.fsdecode(path)}" if path else store
    if error.errno in _ABSENT:
        return NotInStore(f"{name} does not exist")
    if error.errno == errno.ELOOP:
        return LinkLoop(f"{name} leads through too many links, or in a circle")
    if error.errno == errno.EXDEV:
        return OutsideStore(f"{name} leads out of the store; links out of a store are not followed")
    if error.errno in _DENIED:
        return StoreDenied(f"{name} may not be read by this user; ask the store's manager for read permission")
    return StoreError(f"{name} cannot be read: {error.strerror}")
