"""Times that a writable mount shows instead of the commit's, so that a push leaves them as they are.

A push makes all files of a dataset ones of a new commit. Shown with its time, sources would become newer than what was
made of them, and a copy would be older in every file. So what was written here keeps the time it was written at, and
what is as it was in the commit that the first push was made over keeps that commit's time: each as long as there is the
same content under the same name.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Written(NamedTuple):
    """A file, link or directory that was pushed from here."""

    content: bytes
    """Its serialised key; for what is not annexed, the object's name in hex."""
    mtime_ns: int


class KeptTimes(Protocol):
    """Where times are kept. Short calls, made on the event loop."""

    def since(self, dataset: bytes) -> bytes | None:
        """The commit (hex) that the first push of a dataset was made over, None where there was none."""

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, Written]:
        """What was pushed into a directory (a path from the dataset's top), by name."""


class Times:
    """One per mount. Until something is laid over it, all times are the commits'."""

    def __init__(self) -> None:
        self._kept: KeptTimes | None = None

    def come_from(self, kept: KeptTimes) -> None:
        """Times are kept there from now on."""
        self._kept = kept

    def since(self, dataset: bytes) -> bytes | None:
        """See KeptTimes."""
        return None if self._kept is None else self._kept.since(dataset)

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, Written]:
        """See KeptTimes."""
        return {} if self._kept is None else self._kept.written(dataset, directory)
