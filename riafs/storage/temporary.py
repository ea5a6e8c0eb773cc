"""Temporary files: a mount's scratch directory, files that need no room on its disk, and private directories.

The scratch directory is in the cache directory, or else in a directory for temporary files such as /var/tmp. Its
process locks it (flock), and the kernel releases the lock when the process ends, however it ends. So the next mount
recognises the directory of a killed one by its free lock, and removes it.

Temporary files are made in the scratch directory while there is room on its disk, else on another disk or in memory.
They have no name, so that none is left by a killed process. A temporary directory on another disk has a link ``of`` to
the scratch directory; where that is gone, its process was killed, and `remove_abandoned` removes it. Files are never
mapped into memory: reading from a failing disk would then kill this process.

Other users cannot enter private directories nor read private files. Their modes are set explicitly: the umask is the
user's, as a mount also makes files in stores, which others are to read.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, TypeVar, cast

import trio

from riafs import memory
from riafs.errors import StoreDenied, StoreError
from riafs.formats.columns import PAGE, GrowingColumn
from riafs.storage.posix import write_all

PREFIX = "riafs-scratch-"
_NOT_LOCKED_YET = "new-riafs-scratch-"
_LOCKING_SECONDS = 3600.0
"""A directory that is not locked after this time was left by a process that was killed in between."""
log = logging.getLogger(__name__)


class Scratch:
    """The scratch directory `path`, made at once. `cache`: the cache directory, None if it cannot be used.

    Without a cache directory a mount works as well, but keeps nothing for the next one.
    """

    def __init__(self, cache_dir: str | None) -> None:
        self.cache: str | None = None
        try:
            if cache_dir is not None:
                self.cache = private_directory(cache_dir)
        except StoreDenied as error:
            log.warning("%s; which content is verified is remembered by this mount only", error)
        for place in (*(() if self.cache is None else (os.fsencode(self.cache),)), *places_elsewhere()):
            _remove_abandoned(place)
        remove_abandoned()
        new = _make_directory(self.cache)
        self._lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        # It gets its final name only when it is locked: a mount that starts now would take it for an abandoned one.
        self.path = os.path.join(os.path.dirname(new), PREFIX + os.path.basename(new).removeprefix(_NOT_LOCKED_YET))
        os.rename(new, self.path)

    def close(self) -> None:
        """Remove the temporary files."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _make_directory(cache: str | None) -> str:
    """A new directory in `cache`, or elsewhere if there is no room. Raises StoreDenied where none can be made."""
    problem: OSError | None = None
    for place in (*(() if cache is None else (cache,)), *map(os.fsdecode, places_elsewhere())):
        try:
            path = tempfile.mkdtemp(prefix=_NOT_LOCKED_YET, dir=place)
        except OSError as error:
            problem = problem or error
            continue
        if problem is not None and cache is not None:
            log.warning("no temporary files can be made in %s: %s; they are in %s", cache, problem.strerror, place)
        return path
    assert problem is not None
    raise StoreDenied(f"no directory for temporary files can be made: {problem.strerror}") from problem


def _remove_abandoned(place: bytes) -> None:
    for entry in own_directories(place, PREFIX.encode()):
        with contextlib.suppress(OSError), _locked_alone(entry.path):
            shutil.rmtree(entry.path, ignore_errors=True)
    for entry in own_directories(place, _NOT_LOCKED_YET.encode()):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LOCKING_SECONDS:
                os.rmdir(entry.path)


@contextlib.contextmanager
def _locked_alone(path: bytes) -> Iterator[None]:
    """Raises BlockingIOError if a living process uses the directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


_SPARE = b"riafs-spare-"
_OF = b"of"
_MARGIN = 1 << 20
"""Bytes that must be free beside those that are wanted."""
_IN_MEMORY = 256 << 20
"""Bytes up to which a file may be kept in memory."""
_ELSEWHERE = (b"/var/tmp", b"/tmp", b"/dev/shm")
T = TypeVar("T")


def temporary_file(scratch: bytes, size: int = 0) -> BinaryIO:
    """A file without a name and without a buffer, for `size` bytes if that is known.

    Raises OSError where there is no room for them on any disk.
    """
    for place in _places(scratch):
        with suppress(OSError):
            figures = os.statvfs(place)
            if figures.f_bavail * figures.f_frsize >= size + _MARGIN:
                file = tempfile.TemporaryFile(dir=place, buffering=0)  # noqa: SIM115  # the caller's
                _log_place(scratch, None if place == scratch else place)
                return cast("BinaryIO", file)
    if size > _IN_MEMORY:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch)
    _log_place(scratch, b"memory")
    return cast("BinaryIO", os.fdopen(os.memfd_create("riafs-temporary", os.MFD_CLOEXEC), "w+b", buffering=0))


def temporary_directory(scratch: bytes, prefix: bytes, fill: Callable[[bytes], T]) -> tuple[bytes, T]:
    """A directory that `fill` has written files to, and the result of `fill`. The caller removes the directory.

    Raises StoreError where no disk has room.
    """
    problem: OSError | None = None
    for place in _places(scratch):
        path = b""
        try:
            path = tempfile.mkdtemp(prefix=prefix if place == scratch else _SPARE, dir=place)
            if place != scratch:
                os.symlink(scratch, path + b"/" + _OF)
            filled = fill(path)
        except OSError as error:
            problem = problem or error
            shutil.rmtree(path, ignore_errors=True)
            continue
        _log_place(scratch, None if place == scratch else place)
        return path, filled
    assert problem is not None
    raise StoreError(f"no room for temporary files in {os.fsdecode(scratch)}: {problem.strerror}") from problem


def remove_abandoned() -> None:
    """Remove directories of this user on other disks whose scratch directory is gone."""
    for place in places_elsewhere():
        for entry in own_directories(place, _SPARE):
            with suppress(OSError):
                if not os.path.lexists(os.readlink(entry.path + b"/" + _OF)):
                    shutil.rmtree(entry.path, ignore_errors=True)


def own_directories(place: bytes, prefix: bytes) -> list[os.DirEntry[bytes]]:
    """This user's directories in `place` whose names begin with `prefix`; none if it cannot be read. Others may write
    to `place`.
    """
    found = []
    with suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                        found.append(entry)
    return found


def places_elsewhere() -> Iterator[bytes]:
    """The directories for temporary files when the disk of the scratch directory is full; ``TMPDIR`` is the first."""
    chosen = os.environb.get(b"TMPDIR")
    yield from dict.fromkeys((*((chosen,) if chosen else ()), *_ELSEWHERE))


def _places(scratch: bytes) -> Iterator[bytes]:
    yield scratch
    yield from places_elsewhere()


def _log_place(scratch: bytes, instead: bytes | None) -> None:
    if instead is None:
        if _warn_once.cache_info().currsize:
            _warn_once.cache_clear()
            log.info("there is room for temporary files in %s again", os.fsdecode(scratch))
    else:
        _warn_once(scratch, instead)


@functools.lru_cache(maxsize=64)
def _warn_once(scratch: bytes, instead: bytes) -> None:
    """One warning for each place, until there is room again."""
    log.warning(
        "no room for temporary files in %s; they are kept in %s meanwhile", os.fsdecode(scratch), os.fsdecode(instead)
    )


def private_directory(path: str) -> str:
    """`path`; it and its missing parents are made with mode 0700.

    Raises StoreDenied for a link, or if another user owns it or may write to it.
    """
    try:
        _make(path)
        status = os.lstat(path)
    except OSError as error:
        raise StoreDenied(f"cannot make {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StoreDenied(f"{path} must be a directory of user {os.geteuid()} that nobody else can write to")
    return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        _make(os.path.dirname(path))
        _make(path)
    except FileExistsError:
        pass


def private_opener(path: str | bytes, flags: int) -> int:
    """For `open`: a new file is accessible to this user only."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def prompt_opener(path: str | bytes, flags: int) -> int:
    """As `private_opener`, for a path where only a file is expected: a link fails, and a fifo does not block."""
    return private_opener(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def ensure_private_file(path: str | bytes) -> None:
    """Make an empty file of this user alone, unless it exists, for a library that would make it with another mode.

    An existing file is not opened: closing it would release the (POSIX) locks that this process has on it. Raises
    OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


_PAGES_IN_MEMORY = 64
TEXT_PIECE = 1 << 20


class SpillFile:
    """`Pages` in a file without a name in `directory`, made with the first page; pages that the disk has no room for
    stay in memory. Written in one thread at a time, read in any number of threads.
    """

    def __init__(self, directory: bytes, what: str) -> None:
        self._directory = directory
        self._what = what
        self._descriptor = -1
        self._count = 0
        self._kept: dict[int, bytes] = {}
        """Pages for which the disk had no room."""
        self._read: dict[int, bytes] = {}
        """Pages that were read last. Each use of it is a single operation of the dictionary, which needs no lock."""

    def write(self, data: bytes) -> int:
        # Raises OutOfMemory before the process has no memory left for pages that cannot be written.
        memory.ensure(len(data), self._what)
        first = self._count
        self._count += len(data) // PAGE
        try:
            self._write(data, first * PAGE)
        except OSError as error:
            if not self._kept:
                log.warning("%s takes memory, as it cannot be written to disk: %s", self._what, error.strerror)
            self._kept.update({first + at // PAGE: data[at : at + PAGE] for at in range(0, len(data), PAGE)})
        return first

    def _write(self, data: bytes, offset: int) -> None:
        if self._descriptor < 0:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        write_all(self._descriptor, data, offset)

    @property
    def descriptors(self) -> Sequence[int]:
        """The descriptors that a forked process needs to use the file."""
        return [self._descriptor] if self._descriptor >= 0 else []

    def page(self, number: int) -> bytes:
        page = self._read.get(number) or self._kept.get(number)
        if page is None:
            page = self._load(number)
            if len(self._read) >= _PAGES_IN_MEMORY:
                self._read.clear()
            self._read[number] = page
        return page

    def _load(self, number: int) -> bytes:
        try:
            page = os.pread(self._descriptor, PAGE, number * PAGE)
        except OSError as error:
            raise StoreError(f"{self._what} cannot be read from its temporary file: {error.strerror}") from error
        if len(page) != PAGE:
            raise StoreError(f"{self._what} cannot be read from its temporary file, which was cut short")
        return page

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class SpilledText:
    """A text that arrives piece by piece and may be large: its beginning is in memory, the rest in a `SpillFile`. Used
    by one thread at a time.
    """

    def __init__(self, directory: bytes, what: str) -> None:
        self._file = SpillFile(directory, what)
        self._growing = GrowingColumn("B", self._file)

    def __len__(self) -> int:
        return len(self._growing)

    @property
    def descriptors(self) -> Sequence[int]:
        """As those of `SpillFile`."""
        return self._file.descriptors

    def append(self, data: bytes) -> None:
        """Append a piece. Raises OutOfMemory."""
        self._growing.extend(data)

    def piece(self, start: int, length: int) -> bytes:
        """A part of the text. Raises StoreError."""
        return bytes(self._growing.finished()[start : start + length])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The text, `TEXT_PIECE` bytes at a time, read in a thread where it is on disk. Raises StoreError."""
        for start in range(0, len(self), TEXT_PIECE):
            if len(self) <= TEXT_PIECE:
                yield self.piece(start, TEXT_PIECE)
            else:
                yield await trio.to_thread.run_sync(self.piece, start, TEXT_PIECE)
