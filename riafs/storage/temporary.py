"""Temporary files: a mount's scratch directory, files that a full disk does not stop, and private directories.

A mount's scratch directory lies in the cache directory, or where temporary files of all programs lie. It is locked as
long as its mount's process lives, whatever ends it; so the next mount can tell which one a killed process left, and
removes it, wherever it is.

Temporary files are made in the scratch directory while there is room, else on another disk or in memory; each new one
is made in the scratch directory again as soon as there is room. They have no name, so nothing of them is left. A
directory elsewhere has a link ``of`` to the scratch directory that it replaces; where that is gone, the process was
killed, and `remove_abandoned` removes it. Nothing is mapped into memory: a disk that fails must not kill this process.

Private directories cannot be entered by other users, and private files not be read. Their mode says so and not the
umask, which is the user's, since a mount also makes files in stores that others are to read.
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

PREFIX = "riafs-scratch-"
_NOT_LOCKED_YET = "new-riafs-scratch-"
_LOCKING_SECONDS = 3600.0
"""After which an empty directory that is not locked yet never will be: its process was killed in between."""
log = logging.getLogger(__name__)


class Scratch:
    """Made at once; `path` is the directory, `cache` the cache directory or None where that cannot be used.

    Without a cache directory a mount works all the same, and remembers nothing for the next one.
    """

    def __init__(self, cache_dir: str | None) -> None:
        self.cache: str | None = None
        try:
            if cache_dir is not None:
                self.cache = private_directory(cache_dir)
        except StoreDenied as error:
            log.warning("%s; what is verified is remembered by this mount only", error)
        for place in (*(() if self.cache is None else (os.fsencode(self.cache),)), *places_elsewhere()):
            _remove_abandoned(place)
        remove_abandoned()
        made = _made(self.cache)
        self._lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        # Under its final name only when it is locked, so that nobody takes it for an abandoned one in between.
        self.path = os.path.join(os.path.dirname(made), PREFIX + os.path.basename(made).removeprefix(_NOT_LOCKED_YET))
        os.rename(made, self.path)

    def close(self) -> None:
        """Remove the temporary files."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _made(cache: str | None) -> str:
    """A new directory in `cache`, elsewhere where there is no room. Raises StoreDenied where none can be made."""
    problem: OSError | None = None
    for place in (*(() if cache is None else (cache,)), *map(os.fsdecode, places_elsewhere())):
        try:
            made = tempfile.mkdtemp(prefix=_NOT_LOCKED_YET, dir=place)
        except OSError as error:
            problem = problem or error
            continue
        if problem is not None and cache is not None:
            log.warning("no temporary files can be made in %s: %s; they are in %s", cache, problem.strerror, place)
        return made
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
    """Raises BlockingIOError where a living process has the directory."""
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
    """A file without a name and without a buffer. `size`: bytes that it will have, as far as that is known.

    Raises OSError where that is no room for anywhere.
    """
    for place in _places(scratch):
        with suppress(OSError):
            if _free(place) >= size + _MARGIN:
                file = tempfile.TemporaryFile(dir=place, buffering=0)  # noqa: SIM115  # the caller's
                _tell(scratch, None if place == scratch else place)
                return cast("BinaryIO", file)
    if size > _IN_MEMORY:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch)
    _tell(scratch, b"memory")
    return cast("BinaryIO", os.fdopen(os.memfd_create("riafs-temporary", os.MFD_CLOEXEC), "w+b", buffering=0))


def temporary_directory(scratch: bytes, prefix: bytes, fill: Callable[[bytes], T]) -> tuple[bytes, T]:
    """A directory that `fill` has put files into, and what it returned; whoever asks removes it.

    Raises StoreError where there is no room anywhere.
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
        _tell(scratch, None if place == scratch else place)
        return path, filled
    assert problem is not None
    raise StoreError(f"no room for temporary files in {os.fsdecode(scratch)}: {problem.strerror}") from problem


def remove_abandoned() -> None:
    """Remove directories of this user elsewhere whose scratch directory is gone."""
    for place in places_elsewhere():
        for entry in own_directories(place, _SPARE):
            with suppress(OSError):
                if not os.path.lexists(os.readlink(entry.path + b"/" + _OF)):
                    shutil.rmtree(entry.path, ignore_errors=True)


def own_directories(place: bytes, prefix: bytes) -> list[os.DirEntry[bytes]]:
    """This user's directories in `place` with such names; none where it cannot be read. Others may write there too."""
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
    """Where temporary files may go if the disk of the scratch directory is full; ``TMPDIR`` counts."""
    chosen = os.environb.get(b"TMPDIR")
    yield from dict.fromkeys((*((chosen,) if chosen else ()), *_ELSEWHERE))


def _places(scratch: bytes) -> Iterator[bytes]:
    yield scratch
    yield from places_elsewhere()


def _free(place: bytes) -> int:
    figures = os.statvfs(place)
    return figures.f_bavail * figures.f_frsize


def _tell(scratch: bytes, instead: bytes | None) -> None:
    if instead is None:
        if _told.cache_info().currsize:
            _told.cache_clear()
            log.info("there is room for temporary files in %s again", os.fsdecode(scratch))
    else:
        _told(scratch, instead)


@functools.lru_cache(maxsize=64)
def _told(scratch: bytes, instead: bytes) -> None:
    """Once for each of them in a process, until there is room again."""
    log.warning(
        "no room for temporary files in %s; they are kept in %s meanwhile", os.fsdecode(scratch), os.fsdecode(instead)
    )


def private_directory(path: str) -> str:
    """`path`, made with mode 0700 if missing, as is what is missing above it.

    Raises StoreDenied for a link, or if others own or may write it.
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
    """For `open`: a new file is its user's alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def prompt_opener(path: str | bytes, flags: int) -> int:
    """The same for what is a file and nothing else: a link in its place fails, a fifo is empty or fails at once."""
    return private_opener(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def ensure_private_file(path: str | bytes) -> None:
    """Make an empty file of this user alone, unless there is one, for a library that makes it with other modes.

    An existing file is not opened: closing it again would give up the locks that this process has on it.
    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


_PAGES_IN_MEMORY = 64
TEXT_PIECE = 1 << 20


class SpillFile:
    """See Pages. Made when the first page comes, in `directory`. Written in one thread at a time, read in any."""

    def __init__(self, directory: bytes, what: str) -> None:
        self._directory = directory
        self._what = what
        self._descriptor = -1
        self._count = 0
        self._kept: dict[int, bytes] = {}
        """Pages for which the disk had no room."""
        self._read: dict[int, bytes] = {}
        """Pages that were read last. Each use of it is one step, so that threads do not disturb each other."""

    def write(self, data: bytes) -> int:
        """See Pages. Raises OutOfMemory."""
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
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    @property
    def descriptors(self) -> Sequence[int]:
        """What has to stay open in a process that goes on with it."""
        return [self._descriptor] if self._descriptor >= 0 else []

    def page(self, number: int) -> bytes:
        """See Pages. Raises StoreError."""
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
    """A text that may be large, as it comes: its beginning in memory, the rest in a `SpillFile`. Belongs to one thread
    at a time."""

    def __init__(self, directory: bytes, what: str) -> None:
        self._file = SpillFile(directory, what)
        self._growing = GrowingColumn("B", self._file)

    def __len__(self) -> int:
        return len(self._growing)

    @property
    def descriptors(self) -> Sequence[int]:
        """See SpillFile."""
        return self._file.descriptors

    def append(self, data: bytes) -> None:
        """More of it. Raises OutOfMemory."""
        self._growing.extend(data)

    def piece(self, start: int, length: int) -> bytes:
        """A part of what there is. Raises StoreError."""
        return bytes(self._growing.settled()[start : start + length])

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """All of it, `TEXT_PIECE` bytes at a time, read in a thread where it is on disk. Raises StoreError."""
        for start in range(0, len(self), TEXT_PIECE):
            if len(self) <= TEXT_PIECE:
                yield self.piece(start, TEXT_PIECE)
            else:
                yield await trio.to_thread.run_sync(self.piece, start, TEXT_PIECE)
