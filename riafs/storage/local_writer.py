"""Writing to a store in a directory of this machine.

The kernel resolves every path below the root. Each method takes a batch and runs it in one thread, so that many small
files cost few changes of thread. `_unsynced` has the paths of names and modes that changed since `sync_changes`.
"""

import errno
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar, TypeVarTuple

import trio

from riafs.errors import OutsideStore, StoreTimeout
from riafs.formats.names import joined, parents_of
from riafs.storage import posix
from riafs.storage.bytesource import Buffer
from riafs.storage.deadline import Deadline
from riafs.storage.openat import DIRECTORY_FLAGS, READ_FLAGS, open_beneath, open_regular
from riafs.storage.permissions import Sharing, with_executable
from riafs.storage.posix import HeldDirectory, make_durable, opened_directory, start_writing, write_all, write_failure
from riafs.storage.protocol import NewFile
from riafs.storage.staging import DIRECTORY, Workspace, new_workspace, remove_workspace

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SLOWEST = 1 << 20  # bytes a second, on top of the deadline
_FILES_A_SECOND = 20
_DURABLE_SECONDS = 600.0
"""A busy file system may first write the data of other programs."""
_WRITE_OUT_BYTES = 32 << 20
_OUTSIDE = frozenset((errno.EXDEV, errno.ELOOP))
_TEMPORARY = b"tmp_obj_"
"""Prefix of temporary files, the same as git's: ``git gc`` removes those that were left among its objects."""


class LocalWriter:
    """`WritableStorage` at `root`, an absolute path free of links; it owns `descriptor`, the open root."""

    def __init__(self, root: bytes, descriptor: int, deadline: Deadline) -> None:
        self._name = os.fsdecode(root)
        self._root = descriptor
        self._deadline = deadline
        self._unsynced: set[bytes] = set()
        self._workspaces: dict[bytes, HeldDirectory] = {}

    @classmethod
    async def open_root(cls, root: bytes, deadline: Deadline) -> "LocalWriter":
        """A writer to the directory `root`. Raises StoreDenied, StoreTimeout, StoreError."""
        try:
            return cls(root, await deadline.run(os.open, root, DIRECTORY_FLAGS), deadline)
        except OSError as error:
            raise write_failure(error, os.fsdecode(root)) from error

    def close(self) -> None:
        """Close the root's descriptor."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def __del__(self) -> None:
        self.close()

    async def _run(self, extra: float, path: bytes, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        with self._translating(path):
            return await self._deadline.run_longer(extra, function, *arguments)

    @contextmanager
    def _translating(self, path: bytes) -> Iterator[None]:
        """Turn an OSError into one of our failures, whose message names `path`."""
        try:
            yield
        except OSError as error:
            name = f"{self._name}/{os.fsdecode(path)}"
            if error.errno in _OUTSIDE:
                raise OutsideStore(
                    f"{name} leads out of the store; nothing is written through links out of a store"
                ) from error
            raise write_failure(error, name) from error

    async def check_writable(self, directories: Sequence[bytes]) -> None:
        for path in directories:
            await self._run(0, path, self._check_writable, path)

    def _check_writable(self, path: bytes) -> None:
        while True:
            try:
                with opened_directory(self._root, path) as directory:
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
        new = await self._run(_DURABLE_SECONDS, above, self._new_workspace, above)
        path = joined(above, DIRECTORY + b"/" + new.name)
        self._workspaces[path] = new.held
        try:
            yield path
        finally:
            del self._workspaces[path]
            with trio.CancelScope(shield=True):
                await self._run(_DURABLE_SECONDS, path, remove_workspace, new)

    def _new_workspace(self, above: bytes) -> Workspace:
        descriptor = open_beneath(self._root, above or b".", DIRECTORY_FLAGS)
        return new_workspace(HeldDirectory(descriptor, joined(os.fsencode(self._name), above).rstrip(b"/")))

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[int]:
        """A descriptor of the directory that `path` is in."""
        directory = os.path.dirname(path)
        if (workspace := self._workspaces.get(directory)) is not None:
            yield workspace.descriptor
        else:
            with opened_directory(self._root, directory) as descriptor:
                yield descriptor

    async def make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        if paths:
            await self._run(len(paths) / _FILES_A_SECOND, paths[0], self._make_directories, paths, sharing)

    def _make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        known: set[bytes] = set()
        for path in paths:
            with self._translating(path):
                posix.make_directories(self._root, path, sharing, known)
            self._unsynced.update((b"", *parents_of(path)))

    # -- files --------------------------------------------------------------------------------------------------------

    async def write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        if files:
            seconds = len(files) / _FILES_A_SECOND + sum(len(file.data) for file in files) / _SLOWEST
            await self._run(seconds, files[0].path, self._write_files, files, sharing)

    def _write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        for file in files:
            descriptor = self._create(file.path, file.mode, sharing)
            try:
                write_all(descriptor, file.data)
            finally:
                os.close(descriptor)

    async def place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        if files:
            await self._run(_DURABLE_SECONDS, files[0].path, self._place_files, files, sharing)

    def _place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        self._make_directories(list(dict.fromkeys(os.path.dirname(file.path) for file in files)), sharing)
        temporary = [
            os.path.join(os.path.dirname(file.path), _TEMPORARY + secrets.token_hex(8).encode()) for file in files
        ]
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
        descriptor = await self._run(0, path, self._create, path, mode, sharing)
        return LocalUpload(descriptor, f"{self._name}/{os.fsdecode(path)}", self._deadline)

    def _create(self, path: bytes, mode: int, sharing: Sharing) -> int:
        with self._parent(path) as directory:
            descriptor = os.open(os.path.basename(path), _NEW, mode, dir_fd=directory)
        sharing.apply(descriptor)
        return descriptor

    async def set_executable(self, path: bytes, *, executable: bool) -> bool:
        return await self._run(0, path, self._set_executable, path, executable)

    def _set_executable(self, path: bytes, executable: bool) -> bool:  # noqa: FBT001 - called in a thread
        descriptor = open_regular(self._root, path, os.O_RDONLY)
        try:
            os.fchmod(descriptor, with_executable(os.fstat(descriptor).st_mode, executable=executable))
            self._unsynced.add(path)
        except PermissionError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        if pairs:
            await self._run(len(pairs) / _FILES_A_SECOND, pairs[0][1], self._rename_each, pairs)

    def _rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        for source, target in pairs:
            with self._translating(target), self._parent(source) as old, self._parent(target) as new:
                os.rename(os.path.basename(source), os.path.basename(target), src_dir_fd=old, dst_dir_fd=new)
            self._unsynced.update((b"", *parents_of(target)))

    async def remove_each(self, paths: Sequence[bytes]) -> None:
        if paths:
            await self._run(len(paths) / _FILES_A_SECOND, paths[0], self._remove_each, paths)

    def _remove_each(self, paths: Sequence[bytes]) -> None:
        for path in paths:
            with self._parent(path) as directory:
                os.unlink(os.path.basename(path), dir_fd=directory)

    # -- durability ---------------------------------------------------------------------------------------------------

    async def sync(self, paths: Sequence[bytes]) -> None:
        if paths:
            await self._run(_DURABLE_SECONDS, paths[0], self._sync, paths)

    async def sync_changes(self, files: Sequence[bytes] = (), *, everything: bool = False) -> None:
        # With each name also the names of all directories above it: another process may have made them just before.
        paths, self._unsynced = self._unsynced, set()
        if not paths and not files and not everything:
            return
        paths.update([b"", *files], *(parents_of(path) for path in files))
        await self._run(_DURABLE_SECONDS, b"", self._sync, sorted(paths), everything)

    def _sync(self, paths: Sequence[bytes], everything: bool = False) -> None:  # noqa: FBT001, FBT002 - for threads
        make_durable(paths, self._opened, everything=everything)

    def _opened(self, path: bytes) -> int:
        if os.path.dirname(path) not in self._workspaces:
            return open_beneath(self._root, path or b".", READ_FLAGS)
        with self._parent(path) as directory:
            return os.open(os.path.basename(path), READ_FLAGS | os.O_NOFOLLOW, dir_fd=directory)


class LocalUpload:
    """`Upload` to an open file, which it owns; messages call it `name`."""

    def __init__(self, descriptor: int, name: str, deadline: Deadline) -> None:
        self._descriptor = descriptor
        self._name = name
        self._deadline = deadline
        self._end = 0
        self._started = 0

    async def write(self, data: Buffer) -> None:
        try:
            await self._deadline.run_longer(len(data) / _SLOWEST, self._write, data)
        except OSError as error:
            raise write_failure(error, self._name) from error
        except StoreTimeout:
            self._descriptor = -1  # not closed: the thread that was left behind may still write to it, and the number
            # would go to another file
            raise

    def _write(self, data: Buffer) -> None:
        # The disk starts to write early, so that `sync` has less to wait for.
        write_all(self._descriptor, data)
        self._end += len(data)
        if self._end - self._started >= _WRITE_OUT_BYTES:
            start, self._started = self._started, self._end
            start_writing(self._descriptor, start, self._end - start)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
