"""What is shown in place of a collection that cannot be: a directory in which everything fails, and says why."""

import errno
from collections.abc import Mapping, Sequence

from riafs.errors import BrokenCollection, RiafsError
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import Directory, Entry, Found, Versions

_ABOUT_CONTENT = (errno.EIO, errno.EACCES, errno.ETIMEDOUT, errno.ENOENT, errno.ENOMEM)


class BrokenDirectory:
    """Looking into it raises `reason`, or BrokenCollection where that is a text or would deny the directory.
    ``user.riafs.error`` has the reason too.
    """

    renewable = False

    def __init__(self, reason: str | RiafsError, mtime_ns: int = 0, **attributes: bytes) -> None:
        self._kind: type[RiafsError] = BrokenCollection
        if isinstance(reason, RiafsError) and reason.errno in _ABOUT_CONTENT:
            self._kind = type(reason)
        self._reason = str(reason)
        self._attributes = attributes
        self.mtime_ns = mtime_ns

    def _failure(self) -> RiafsError:
        # A new one each time: an exception that is raised again grows by the places where it was raised.
        return self._kind(self._reason)

    async def entries(self, start: int) -> Sequence[Entry]:
        """Raises the reason, as all that follows."""
        raise self._failure()

    async def prepare(self, start: int) -> None:
        """See Directory: nothing can be read before."""

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        raise self._failure()

    async def versions(self) -> Versions:
        """Nothing, so that it can be told from what comes to stand in its place."""
        return Versions({}, frozenset())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        raise self._failure()

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        raise self._failure()

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise self._failure()

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        raise self._failure()

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {**self._attributes, "error": self._reason.encode(errors="surrogateescape")}

    async def renewed(self, turn: int) -> Directory | None:
        """It stays broken; what has its name may be replaced."""
        return None
