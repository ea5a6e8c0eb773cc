"""The overlay's data files: one for each file with local bytes, sparse, called by its number.

Invariants: numbers grow, so that whichever file has a greater one was made later; a file is removed only after the rows
that no longer name it are durable (`doom`, then `purge`); what lies beyond the end of the data reads as zeros.
"""

import contextlib
import errno
import os
import stat

from riafs.errors import FileTooLarge, OverlayFailed, OverlayFull, RiafsError
from riafs.storage.deadline import Deadline

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class DataFiles:
    """The directory `path`, which exists."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._prefix = os.fsencode(path)
        self._doomed: list[int] = []
        self._last = self._named = 0
        """The file that was made last; up to which file names survive the loss of power."""

    def name(self, number: int) -> bytes:
        """Absolute path of a data file."""
        return b"%s/%x" % (self._prefix, number)

    def create(self, number: int) -> int:
        """A descriptor of a new data file. Raises OverlayFull, OverlayFailed."""
        descriptor = self._open(number, _FLAGS | os.O_CREAT | os.O_EXCL)
        self._last = max(self._last, number)
        return descriptor

    async def sync(self, number: int, descriptor: int, patience: Deadline) -> None:
        """Make a data file survive the loss of power, its name once. Raises OSError, StoreTimeout."""
        if number > self._named:
            last = max(self._last, number)
            await patience.run(_sync, descriptor, self.directory)
            self._named = max(self._named, last)
        else:
            await patience.run(os.fdatasync, descriptor)

    def open(self, number: int) -> int:
        """A descriptor of a data file. Raises OverlayFailed, also for what was put in the place of one."""
        descriptor = self._open(number, _FLAGS)
        if not is_ours(os.fstat(descriptor)):
            os.close(descriptor)
            raise OverlayFailed(
                f"{self.path}/{number:x} cannot be used: it is not a regular file of user {os.geteuid()}, so something "
                "else was put in its place"
            )
        return descriptor

    def _open(self, number: int, flags: int) -> int:
        try:
            return os.open(f"{number:x}", flags, 0o600, dir_fd=self.directory)
        except OSError as error:
            raise failure(error, f"{self.path}/{number:x}") from error

    @property
    def doomed(self) -> int:
        """How many files `purge` would remove."""
        return len(self._doomed)

    @property
    def doomed_numbers(self) -> list[int]:
        """Those."""
        return list(self._doomed)

    def doom(self, number: int) -> None:
        """No row names this file any more, once what is pending is durable."""
        if number:
            self._doomed.append(number)

    def take_doomed(self, most: int | None = None) -> list[int]:
        """The files to remove, after the rows have been made durable; not more than `most` of them."""
        rest = len(self._doomed) if most is None else most
        taken, self._doomed = self._doomed[:rest], self._doomed[rest:]
        return taken

    def purge(self, numbers: list[int]) -> None:
        """Remove files."""
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{number:x}", dir_fd=self.directory)

    def status(self, number: int) -> os.stat_result | None:
        """Of a data file; None where there is none, or where what is there is not a regular file of this user."""
        try:
            found = os.stat(f"{number:x}", dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found if is_ours(found) else None

    def numbers(self) -> set[int]:
        """Of all there are, whatever they are."""
        found = set()
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(ValueError):
                    found.add(int(entry.name, 16))
        return found

    def close(self) -> None:
        """Give back the directory's descriptor."""
        os.close(self.directory)


def is_ours(status: os.stat_result) -> bool:
    """Whether that may be a data file: a regular one of this user."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _sync(descriptor: int, directory: int) -> None:
    os.fdatasync(descriptor)
    os.fsync(directory)


def failure(error: OSError, path: str) -> RiafsError:
    """What an error of the overlay's file system is to a program."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OverlayFull(f"no room left for {path}")
    if error.errno == errno.EFBIG:
        return FileTooLarge(f"{path} cannot get that large on its file system")
    return OverlayFailed(f"{path} cannot be used: {error.strerror}")
