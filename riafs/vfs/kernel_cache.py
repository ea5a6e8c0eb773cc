"""The kernel's page cache: which version of each file its pages are of, which reads it repeats, and whether files that
are opened are going to be read.

The kernel keeps the pages of an inode from one open to the next, and all who have it open share them. Invariants: pages
that were read while nothing was proven, or of a version that is gone, are dropped when the file is opened the next
time; and a file of another version than the one that is open bypasses the pages.

A file that is opened to be read is best verified at once: damage then is reported by `open`, and small content is put
into the kernel's cache with the answer, which saves a request. A file that is only looked at, as backups and ``lsattr``
do with each file, should cost no digest. Nothing in an `open` says which it is, so now and then one is answered
without, a probe, and the others by what came of it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import trio
from cachetools import LRUCache

from riafs.errors import StoreTimeout
from riafs.storage.bytesource import PROVEN, DeferredBytes, RangedBytes, is_provisional, shown_version_of

_MOST = 100_000
_SILENT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class UseOfPages:
    """What an open may do with them."""

    kept: bool
    """Those that are there may be used."""
    past: bool
    """None may be used or made."""


class CachedPages:
    """Knows of the inodes with doubtful pages, and of those whose content no digest vouches for."""

    def __init__(self) -> None:
        self._doubtful: set[int] = set()
        self._versions: LRUCache[int, object] = LRUCache(_MOST)

    def opened(self, inode: int, content: RangedBytes, others: Collection[RangedBytes]) -> UseOfPages:
        """`content` is opened, beside `others` of the same inode."""
        version = shown_version_of(content)
        if any(shown_version_of(each) != version for each in others):
            return UseOfPages(kept=False, past=True)
        provisional = is_provisional(content) or any(map(is_provisional, others))
        known = inode not in self._doubtful
        if version is not PROVEN:
            known = known and self._versions.get(inode) == version
            self._versions[inode] = version
        if provisional:
            self._doubtful.add(inode)
        else:
            self._doubtful.discard(inode)
        return UseOfPages(kept=known and not provisional, past=False)

    def left(self, inode: int, content: RangedBytes) -> None:
        """`content` is closed."""
        if is_provisional(content):
            self._doubtful.add(inode)


class SilentReads:
    """Reads that have just run into the deadline. The kernel asks for them once more, page by page, for the same call
    of a program: that does not wait for as long again.
    """

    def __init__(self) -> None:
        self.any: dict[int, tuple[StoreTimeout, float]] = {}
        """Inode → what was told, and until when it is told again."""

    def note(self, inode: int, problem: StoreTimeout) -> None:
        """A read of an inode was not answered in time."""
        self.any[inode] = problem, trio.current_time() + _SILENT_SECONDS

    def refuse(self, inode: int) -> None:
        """Raises StoreTimeout where one of an inode was not answered a moment ago."""
        now = trio.current_time()
        self.any = {each: (problem, until) for each, (problem, until) in self.any.items() if now < until}
        if inode in self.any:
            again = StoreTimeout(*self.any[inode][0].args)
            again.reported = True
            raise again


PROBE, RAREST_PROBE = 8, 64
"""Opens from one probe to the next: at first, and at most after files have always been read."""


class Readers:
    """Of one mount: whether the files that are opened are being read."""

    def __init__(self) -> None:
        self._do_read = True
        self._interval = PROBE
        self._until_probe = PROBE

    async def prepare(self, content: RangedBytes) -> RangedBytes:
        """`content`, which is taken over: verified, if it is likely to be read. Raises what verifying does."""
        if not isinstance(content, DeferredBytes):
            return content
        self._until_probe -= 1
        if self._do_read and self._until_probe:
            try:
                return await content.open()
            except BaseException:
                content.close()
                raise
        self._until_probe = self._interval
        content.on_first_use = self._note
        return content

    def _note(self, was_read: bool) -> None:  # noqa: FBT001  # as it is called
        """A probe has ended. One that is read costs its reader a request more than other files, so it gets rarer."""
        self._interval = min(2 * self._interval, RAREST_PROBE) if was_read and self._do_read else PROBE
        self._until_probe = min(self._until_probe, self._interval)
        self._do_read = was_read
