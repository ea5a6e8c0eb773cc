"""Directories with the git objects of other machines, kept from mount to mount up to a limit.

Each has two locks: ``in-use``, which every mount that reads it shares, so that it is not removed, and ``fetching``, for
one git that writes at a time. Both are released when a process ends, however it ends.
"""

import errno
import fcntl
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import trio

from riafs.children import remove_lock
from riafs.errors import StoreTimeout

log = logging.getLogger(__name__)

LIMIT = 4 << 30
"""Bytes of all repositories of a user together."""
_POLL_SECONDS = 0.05
_TRIES = 100


@dataclass(slots=True)
class KeptRepository:
    """The directory `place`, made if it is missing, and kept from removal until `close`."""

    place: str
    _in_use: int = -1

    def open(self) -> None:
        """Raises OSError. Blocking, for a moment where it is being removed."""
        for _ in range(_TRIES):
            with suppress(BlockingIOError, FileNotFoundError):
                for part in ("objects/pack", "fetch/refs", "fetch/objects"):
                    os.makedirs(f"{self.place}/{part}", mode=0o700, exist_ok=True)
                lock = _locked(f"{self.place}/in-use", fcntl.LOCK_SH)
                if _is_at(lock, f"{self.place}/in-use"):
                    os.utime(self.place)
                    self._in_use = lock
                    return
                os.close(lock)
            time.sleep(_POLL_SECONDS)
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), self.place)

    @asynccontextmanager
    async def fetching(self, seconds: float) -> AsyncIterator[None]:
        """Hold the lock of those that fetch, and remove what a killed one has left. Raises StoreTimeout, OSError."""
        if self._in_use < 0:  # it was closed because of too many others, and may have been removed since
            await trio.to_thread.run_sync(self.open)
        lock = None
        with trio.move_on_after(seconds):
            while (lock := _tried(f"{self.place}/fetching")) is None:  # noqa: ASYNC110  # another process has it
                await trio.sleep(_POLL_SECONDS)
        if lock is None:
            raise StoreTimeout(f"another mount has been fetching into {self.place} for {seconds:g} s")
        try:
            self._clean()
            yield
        finally:
            os.close(lock)

    def _clean(self) -> None:
        remove_lock(f"{self.place}/fetch/shallow.lock")
        for name in os.listdir(f"{self.place}/objects/pack"):
            if name.startswith("tmp_"):
                remove_lock(f"{self.place}/objects/pack/{name}")

    def close(self) -> None:
        """From now on it may be removed."""
        if self._in_use >= 0:
            os.close(self._in_use)
            self._in_use = -1


def _locked(path: str, kind: int) -> int:
    """A descriptor of the file with a lock. Raises BlockingIOError where others have it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_at(descriptor: int, path: str) -> bool:
    """Whether the file of a descriptor is still the one of that name, and not removed since."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _tried(path: str) -> int | None:
    try:
        return _locked(path, fcntl.LOCK_EX)
    except BlockingIOError:
        return None


def remove_unused(root: str, limit: int = LIMIT) -> None:
    """Remove repositories below ``root/STORE/`` until all have at most `limit` bytes, those first that were not opened
    for the longest time, and none that is in use. Blocking; for a thread.
    """
    sizes = sorted((used, size, place) for place, used, size in _repositories(root))
    excess = sum(size for _, size, _ in sizes) - limit
    for _, size, place in sizes:
        if excess <= 0:
            return
        if _removed(place):
            excess -= size


def _repositories(root: str) -> Iterator[tuple[str, float, int]]:
    """Directory, time of its last use, and bytes of each."""
    with suppress(FileNotFoundError):
        for store in os.scandir(root):
            for each in os.scandir(store.path):
                with suppress(OSError):
                    yield each.path, each.stat().st_mtime, _size(each.path)


def _size(place: str) -> int:
    total = 0
    for above, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{above}/{name}").st_size
    return total


@contextmanager
def _unused(place: str) -> Iterator[bool]:
    """Whether nobody has it open; nobody can open it meanwhile."""
    lock = _tried(f"{place}/in-use")
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _removed(place: str) -> bool:
    """Remove a repository; False if it is in use, or cannot be removed."""
    try:
        with _unused(place) as unused:
            if unused:
                shutil.rmtree(place)
            return unused
    except OSError as error:
        log.info("%s cannot be removed: %s", place, error.strerror)
        return False
