"""Archives that stay open for whoever reads the next member, and what is wrong with those that cannot be opened.

An open archive takes two descriptors (its file and its index), and a mount may show thousands of datasets. Invariant:
at most `MOST` are known; those unused for longest are let go. Members that are open then stay readable, as they keep
the file themselves.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from riafs.archive.archive import Archive
    from riafs.errors import ArchiveError
    from riafs.storage.bytesource import Version

MOST = 128


@dataclass(frozen=True, slots=True)
class Known:
    """An archive's file as it was looked at, and what came of opening it: the archive, or what is wrong with it."""

    version: "Version"
    archive: "Archive | None"
    problem: "ArchiveError | None" = None


class OpenArchives(LRUCache[tuple[object, bytes], Known]):
    """By owner, and place among the owner's archives."""

    def __init__(self) -> None:
        super().__init__(MOST)

    def __delitem__(self, name: tuple[object, bytes]) -> None:
        """Let one go, also when it has to make room."""
        known: Known = self[name]
        super().__delitem__(name)
        if known.archive is not None:
            known.archive.close()
