"""Writing to a store in a directory of this machine: see storage/writing.

Every path is resolved below the root by the kernel. Calls come in batches, so that many small files cost few changes of
thread.
"""

import ctypes
import errno
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import trio

from riafs.errors import OutsideStore, RiafsError, StoreTimeout
from riafs.formats.paths import parents_of
from riafs.storage import directories
from riafs.storage.beneath import DIRECTORY_FLAGS, READ_FLAGS, open_beneath
from riafs.storage.directories import opened
from riafs.storage.failures import translated
from riafs.storage.patience import Patience
from riafs.storage.ranged import Buffer
from riafs.storage.sharing import Sharing, with_executable
from riafs.storage.workspaces import new_workspace, remove_workspace
from riafs.storage.writing import NewFile

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SYNCED_ONE_BY_ONE = 64
"""More paths than these are made durable by one syncfs(2)."""
_SLOWEST = 1 << 20  # bytes a second, on top of the deadline
_FILES_A_SECOND = 20
_DURABLE_SECONDS = 600.0
"""A busy file system may have to write out first what others wrote before."""
_STARTED_AT_ONCE = 32 << 20
_SYNC_FILE_RANGE_WRITE = 2
_OUTSIDE = frozenset((errno.EXDEV, errno.ELOOP))
_TEMPORARY = b"tmp_obj_"
"""Begins the names of files on their way, as git's own do: ``git gc`` removes what is left among its objects."""
_libc = ctypes.CDLL(None, use_errno=True)


class LocalWriting:
    """See WritableStorage. `root`: an absolute path free of links, of which `descriptor` is a descriptor it owns."""

    def __init__(self, root: bytes, descriptor: int, patience: Patience) -> None:
        self._name = os.fsdecode(root)
        self._root = descriptor
        self._patience = patience
        self._unsettled: set[bytes] = set()

    @classmethod
    async def open_root(cls, root: bytes, patience: Patience) -> "LocalWriting":
        """For the directory `root`. Raises StoreDenied, StoreTimeout, StoreError."""
        try:
            return cls(root, await patience.run(os.open, root, DIRECTORY_FLAGS), patience)
        except OSError as error:
            raise translated(error, os.fsdecode(root)) from error

    def close(self) -> None:
        """Close the root's descriptor."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __del__(self) -> None:
        self.close()

    async def _run(self, extra: float, path: bytes, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        try:
            return await self._patience.run_longer(extra, function, *arguments)
        except OSError as error:
            raise _failure(error, f"{self._name}/{os.fsdecode(path)}") from error

    async def check_writable(self, directories: Sequence[bytes]) -> None:
        """See WritableStorage."""
        for path in directories:
            await self._run(0, path, self._check_writable, path)

    def _check_writable(self, path: bytes) -> None:
        while True:
            try:
                with opened(self._root, path) as directory:
                    if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
                        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
                    if not os.access(b".", os.W_OK | os.X_OK, dir_fd=directory):
                        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            except FileNotFoundError:
                if not path:
                    raise
                path = os.path.dirname(path)
            else:
                return

    # -- directories --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def workspace(self, above: bytes) -> AsyncIterator[bytes]:
        """See WritableStorage."""
        path, lock = await self._run(_DURABLE_SECONDS, above, new_workspace, self._root, above)
        try:
            yield path
        finally:
            with trio.CancelScope(shield=True):
                await self._run(_DURABLE_SECONDS, path, remove_workspace, self._root, path, lock)

    async def make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        """See WritableStorage."""
        if paths:
            await self._run(len(paths) / _FILES_A_SECOND, paths[0], self._make_directories, paths, sharing)

    def _make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        known: set[bytes] = set()
        for path in paths:
            directories.make(self._root, path, sharing, known)
            self._unsettled.update((b"", *parents_of(path)))

    # -- files --------------------------------------------------------------------------------------------------------

    async def write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """See WritableStorage."""
        if files:
            seconds = len(files) / _FILES_A_SECOND + sum(len(file.data) for file in files) / _SLOWEST
            await self._run(seconds, files[0].path, self._write_files, files, sharing)

    def _write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        for file in files:
            descriptor = self._create(file.path, file.mode, sharing)
            try:
                _write_all(descriptor, file.data)
            finally:
                os.close(descriptor)

    async def place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """See WritableStorage."""
        if files:
            await self._run(_DURABLE_SECONDS, files[0].path, self._place_files, files, sharing)

    def _place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        self._make_directories(list(dict.fromkeys(os.path.dirname(file.path) for file in files)), sharing)
        temporary = [os.path.join(os.path.dirname(file.path), _TEMPORARY + _token()) for file in files]
        try:
            self._write_files([replace(file, path=path) for file, path in zip(files, temporary, strict=True)], sharing)
            self._sync(temporary)
            self._rename_each([(path, file.path) for file, path in zip(files, temporary, strict=True)])
        except BaseException:
            for path in temporary:
                with suppress(OSError):
                    self._remove_each([path])
            raise

    async def create(self, path: bytes, mode: int, sharing: Sharing) -> "LocalUpload":
        """See WritableStorage."""
        descriptor = await self._run(0, path, self._create, path, mode, sharing)
        return LocalUpload(descriptor, f"{self._name}/{os.fsdecode(path)}", self._patience)

    def _create(self, path: bytes, mode: int, sharing: Sharing) -> int:
        above, name = os.path.split(path)
        with opened(self._root, above) as directory:
            descriptor = os.open(name, _NEW, mode, dir_fd=directory)
        sharing.settle(descriptor)
        return descriptor

    async def set_executable(self, path: bytes, *, executable: bool) -> bool:
        """See WritableStorage."""
        return await self._run(0, path, self._set_executable, path, executable)

    def _set_executable(self, path: bytes, executable: bool) -> bool:  # noqa: FBT001 - called in a thread
        descriptor = open_beneath(self._root, path, READ_FLAGS | os.O_NOFOLLOW)
        try:
            os.fchmod(descriptor, with_executable(os.fstat(descriptor).st_mode, executable=executable))
        except PermissionError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """See WritableStorage."""
        if pairs:
            await self._run(len(pairs) / _FILES_A_SECOND, pairs[0][1], self._rename_each, pairs)

    def _rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        for source, target in pairs:
            (above, name), (below, new) = os.path.split(source), os.path.split(target)
            with opened(self._root, above) as old_place, opened(self._root, below) as place:
                os.rename(name, new, src_dir_fd=old_place, dst_dir_fd=place)
            self._unsettled.update((b"", *parents_of(target)))

    async def remove_each(self, paths: Sequence[bytes]) -> None:
        """See WritableStorage."""
        if paths:
            await self._run(len(paths) / _FILES_A_SECOND, paths[0], self._remove_each, paths)

    def _remove_each(self, paths: Sequence[bytes]) -> None:
        for path in paths:
            above, name = os.path.split(path)
            with opened(self._root, above) as directory:
                os.unlink(name, dir_fd=directory)

    # -- durability ---------------------------------------------------------------------------------------------------

    async def sync(self, paths: Sequence[bytes]) -> None:
        """See WritableStorage."""
        if paths:
            await self._run(_DURABLE_SECONDS, paths[0], self._sync, paths)

    async def settle(self) -> None:
        """See WritableStorage. With each name also those of all directories above it: others may have made them."""
        paths, self._unsettled = self._unsettled, set()
        await self.sync(sorted(paths))

    def _sync(self, paths: Sequence[bytes]) -> None:
        if len(paths) > _SYNCED_ONE_BY_ONE:
            with opened(self._root, os.path.dirname(paths[0])) as directory:
                _sync_file_system(directory)
            return
        with ExitStack() as stack:
            descriptors = []
            for path in paths:
                descriptors.append(open_beneath(self._root, path or b".", READ_FLAGS))
                stack.callback(os.close, descriptors[-1])
                _start_writing(descriptors[-1], 0, 0)
            for descriptor in descriptors:
                os.fsync(descriptor)


class LocalUpload:
    """See Upload. `name` stands in messages."""

    def __init__(self, descriptor: int, name: str, patience: Patience) -> None:
        self._descriptor = descriptor
        self._name = name
        self._patience = patience
        self._end = 0
        self._started = 0

    async def write(self, data: Buffer) -> None:
        """See Upload."""
        try:
            await self._patience.run_longer(len(data) / _SLOWEST, self._write, data)
        except OSError as error:
            raise translated(error, self._name) from error
        except StoreTimeout:
            self._descriptor = -1  # never closed: the thread that was left behind may still write to it
            raise

    def _write(self, data: Buffer) -> None:
        """The disk begins at once with what `sync` will wait for."""
        _write_all(self._descriptor, data)
        self._end += len(data)
        if self._end - self._started >= _STARTED_AT_ONCE:
            start, self._started = self._started, self._end
            _start_writing(self._descriptor, start, self._end - start)

    def close(self) -> None:
        """See Upload."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _failure(error: OSError, path: str) -> RiafsError:
    if error.errno in _OUTSIDE:
        return OutsideStore(
            f"{path} leads out of the store, or through an absolute link; nothing is written through such links"
        )
    return translated(error, path)


def _token() -> bytes:
    return secrets.token_hex(8).encode()


def _write_all(descriptor: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_file_system(descriptor: int) -> None:
    """syncfs(2), which Python does not have; it also reports what could not be written before. Raises OSError."""
    if _libc.syncfs(descriptor):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _start_writing(descriptor: int, start: int, length: int) -> None:
    """Let the kernel write out a range without waiting for it; a hint, of which failures are found out by `sync`."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, ctypes.c_int64(start), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
