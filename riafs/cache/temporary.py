"""Temporary files and directories that a full disk does not stop: in a mount's scratch directory while there is room,
else on another disk or in memory. Each new one is made in the scratch directory again as soon as there is room.

Files have no name, so nothing of them is left. A directory elsewhere has a link ``of`` to the scratch directory that it
stands in for; where that is gone, the process was killed, and `remove_abandoned` removes it.
"""

import errno
import functools
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, TypeVar, cast

from riafs.errors import StoreError

log = logging.getLogger(__name__)

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
