"""A mount's directory for temporary files: in the cache directory, or where temporary files of all programs lie.

Invariant: a directory is locked as long as its mount's process lives, whatever ends it; so the next mount can tell and
remove what a killed one left, wherever it is.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

from riafs.cache.private import private_directory
from riafs.cache.temporary import own_directories, places_elsewhere, remove_abandoned
from riafs.errors import StoreDenied

PREFIX = "riafs-scratch-"
_NOT_LOCKED_YET = "new-riafs-scratch-"
_LOCKING_SECONDS = 3600.0
"""After which an empty directory that is not locked yet never will be: its process was killed in between."""
_log = logging.getLogger(__name__)


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
            _log.warning("%s; what is verified is remembered by this mount only", error)
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
            _log.warning("no temporary files can be made in %s: %s; they are in %s", cache, problem.strerror, place)
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
