"""Which pages an open may use: those of one version, and only if all that was read of it was proven."""

from dataclasses import dataclass

from riafs.storage.bytesource import PROVEN, Buffer, MemoryBytes
from riafs.storage.local_file import LocalVersion
from riafs.vfs.kernel_cache import CachedPages, UseOfPages

KEPT, DROPPED, PAST = (
    UseOfPages(kept=True, past=False),
    UseOfPages(kept=False, past=False),
    UseOfPages(kept=False, past=True),
)
INODE = 1
ONE, OTHER = LocalVersion(1, 2, 3, 4, 5), LocalVersion(1, 2, 3, 4, 6)


@dataclass
class Content:
    """Content of a version; `provisional` as long as it is not proven."""

    shown_version: object = PROVEN
    provisional: bool = False
    size: int = 1

    async def read(self, offset: int, length: int) -> Buffer:
        return b""

    def close(self) -> None:
        """Nothing."""


def test_proven_content_keeps_its_pages() -> None:
    pages = CachedPages()
    for content in (MemoryBytes(b"x"), Content(), Content()):
        assert pages.opened(INODE, content, ()) == KEPT
        pages.left(INODE, content)


def test_pages_of_content_that_was_not_proven_are_dropped_once_it_is() -> None:
    pages, doubtful = CachedPages(), Content("a hashing", provisional=True)
    assert pages.opened(INODE, doubtful, ()) == DROPPED
    pages.left(INODE, doubtful)
    assert pages.opened(INODE, Content(), ()) == DROPPED
    assert pages.opened(INODE, Content(), ()) == KEPT


def test_doubt_that_came_while_it_was_open_counts_when_it_is_left() -> None:
    pages, content = CachedPages(), Content()
    assert pages.opened(INODE, content, ()) == KEPT
    content.provisional = True
    pages.left(INODE, content)
    assert pages.opened(INODE, Content(), ()) == DROPPED


def test_doubt_of_what_is_open_counts_at_once() -> None:
    pages, content = CachedPages(), Content(ONE)
    pages.opened(INODE, content, ())
    content.provisional = True
    assert pages.opened(INODE, Content(ONE), [content]) == DROPPED


def test_two_versions_share_no_pages() -> None:
    pages, content = CachedPages(), Content()
    assert pages.opened(INODE, content, ()) == KEPT
    doubtful = Content("a hashing", provisional=True)
    assert pages.opened(INODE, doubtful, [content]) == PAST


def test_what_no_digest_vouches_for_keeps_the_pages_of_its_version() -> None:
    pages = CachedPages()
    shown = [pages.opened(INODE, Content(version), ()) for version in (ONE, ONE, OTHER, OTHER, ONE)]
    assert shown == [DROPPED, KEPT, DROPPED, KEPT, DROPPED]
