"""Eviction of blocks on the disk, least recently used first, except those of pinned contents; a check of all blocks.

Any number of processes share the directory, and none keeps a list of its files. An eviction looks at all files, under a
lock, and keeps the names of one of the 256 directories in memory at a time; `disk` evicts rarely. A block's time of use
is the mtime of its file, which readers update at most once a minute.

A pin is a file in ``pins`` beside the blocks, whose name is the content's digest. So several processes can pin and
unpin at once without a lock. The file has the content's name, which is only shown: an incomplete one does no harm.
"""

import contextlib
import fcntl
import heapq
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from riafs.cache.block_files import (
    HEADER_SIZE,
    MAX_LENGTH,
    NEW,
    BlockFile,
    BlockName,
    check_block,
    content_digest,
    remove,
    unreadable_as_damaged,
    walk,
    walk_directory,
)
from riafs.errors import CorruptContent
from riafs.watching import NoWatcher, Reading, Watcher

ABANDONED_SECONDS = 600.0
"""An unfinished file that is older was left by a process that was killed."""
_AT_ONCE = 16_384
_EXTRA_SHARE = 16
"""Eviction frees this part of the limit in addition, so that it is not needed again at once."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """Limits of the blocks on the disk."""

    size: int = 10 << 30
    """Bytes of all blocks; 0 for no blocks on the disk."""
    min_free: float = 5.0
    """Per cent of the file system that stay free."""

    def missing(self, root: int) -> int:
        """Bytes by which the free room of `root`'s file system is below `min_free`; negative if it is above."""
        status = os.statvfs(root)
        return int(status.f_blocks * status.f_frsize * self.min_free / 100) - status.f_bavail * status.f_frsize


@dataclass(slots=True)
class Usage:
    """Numbers and sizes (bytes on the disk) of blocks."""

    blocks: int = 0
    size: int = 0
    pinned_blocks: int = 0
    pinned_size: int = 0

    def add(self, found: BlockFile, *, pinned: bool) -> None:
        """Count a file."""
        self.size += found.size
        self.blocks += found.block is not None
        self.pinned_blocks += pinned
        self.pinned_size += found.size if pinned else 0


def survey(root: int) -> Usage:
    """Count all blocks."""
    usage, pinned = Usage(), pinned_digests(root)
    for found in walk(root):
        usage.add(found, pinned=found.block is not None and found.block.digest in pinned)
    return usage


def make_room(root: int, limits: DiskLimits, room: int) -> Usage:
    """Evict until `room` more bytes fit into the limits, or nothing is left that may be evicted.

    Waits while another process evicts. Returns the usage afterwards. Raises OSError.
    """
    fcntl.flock(root, fcntl.LOCK_EX)
    try:
        while True:
            usage, removed, more = _one_round(root, limits, room)
            usage.size -= removed
            if not more:
                return usage
    finally:
        fcntl.flock(root, fcntl.LOCK_UN)


def _one_round(root: int, limits: DiskLimits, room: int) -> tuple[Usage, int, bool]:
    """The usage before, the bytes that were removed, and whether another round would remove more."""
    usage = Usage()
    oldest = heapq.nsmallest(_AT_ONCE, _removable(root, usage), key=lambda found: found.used_ns)
    excess = _excess(root, limits, room, usage)
    removed = 0
    for found in oldest:
        if removed >= excess:
            break
        if remove(root, found):
            removed += found.size
            usage.blocks -= 1
    return usage, removed, removed < excess and len(oldest) == _AT_ONCE and removed > 0


def _removable(root: int, usage: Usage) -> Iterator[BlockFile]:
    """Blocks that are not pinned. Counts all files in `usage`, and removes unfinished files of killed processes."""
    pinned = pinned_digests(root)
    abandoned_ns = time.time_ns() - int(ABANDONED_SECONDS * 1e9)
    for found in walk(root):
        if found.block is None and found.used_ns < abandoned_ns and f"/{NEW}" in found.path and remove(root, found):
            continue
        keep = found.block is not None and found.block.digest in pinned
        usage.add(found, pinned=keep)
        if found.block is not None and not keep:
            yield found


def _excess(root: int, limits: DiskLimits, room: int, usage: Usage) -> int:
    """How many bytes to remove. A `room` that would not fit even without all unpinned blocks is not made."""
    evictable = usage.size - usage.pinned_size
    missing = limits.missing(root)
    if room > evictable - missing or room > limits.size - usage.pinned_size:
        room = 0
    excess = 0
    if usage.size + room > limits.size:
        excess = usage.size + room - limits.size + limits.size // _EXTRA_SHARE
    if missing + room > 0:
        excess = max(excess, missing + room + room // _EXTRA_SHARE)
    return excess


def evict_all(root: int) -> Usage:
    """Remove all blocks except pinned ones; returns the number and size of those that were removed."""
    removed = Usage()
    for found in _removable(root, Usage()):
        if remove(root, found):
            removed.add(found, pinned=False)
    return removed


def evict_content(root: int, digest: bytes) -> Usage:
    """Remove the blocks of one content; returns the number and size of those that were removed."""
    removed = Usage()
    for found in walk_directory(root, digest.hex()[:2]):
        if found.block is not None and found.block.digest == digest and remove(root, found):
            removed.add(found, pinned=False)
    return removed


_DIRECTORY = "pins"
_MAX_NAME = 1 << 16
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def pin(root: int, content: bytes) -> bool:
    """Never evict the blocks of a content, later ones included; False if it was pinned before. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(_DIRECTORY, mode=0o700, dir_fd=root)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(_path(content_digest(content)), flags, 0o600, dir_fd=root)
    except FileExistsError:
        return False
    try:
        os.write(file, content)
    finally:
        os.close(file)
    return True


def unpin(root: int, digest: bytes) -> bool:
    """Evict the blocks of the content with this digest like others; False if it was not pinned. Raises OSError."""
    try:
        os.unlink(_path(digest), dir_fd=root)
    except FileNotFoundError:
        return False
    return True


def _path(digest: bytes) -> str:
    return f"{_DIRECTORY}/{digest.hex()}"


def pinned_digests(root: int) -> frozenset[bytes]:
    """The digests of all pinned contents."""
    return frozenset(bytes.fromhex(name) for name in _names(root))


def pinned_contents(root: int) -> Mapping[bytes, bytes]:
    """Digest → name of each pinned content; the name is empty where it cannot be read."""
    return {bytes.fromhex(name): _content(root, name) for name in _names(root)}


def _content(root: int, name: str) -> bytes:
    try:
        file = os.open(f"{_DIRECTORY}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return b""
    try:
        content = os.read(file, _MAX_NAME)
    finally:
        os.close(file)
    return content if content_digest(content).hex() == name else b""


def _names(root: int) -> list[str]:
    try:
        directory = os.open(_DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except FileNotFoundError:
        return []
    try:
        return [name for name in os.listdir(directory) if _DIGEST.fullmatch(name)]
    finally:
        os.close(directory)


@dataclass(slots=True)
class Checked:
    """The result of a check. Sizes are bytes on the disk."""

    blocks: int = 0
    size: int = 0
    damaged: int = 0


def check_all(root: int, watcher: Watcher | None = None) -> Checked:
    """Read every block below the descriptor `root` and remove damaged ones. Raises OSError."""
    checked, watcher = Checked(), watcher or NoWatcher()
    usage = survey(root)
    watcher.begin(Reading.READING, usage.size)
    for found in walk(root):
        watcher.files(checked.blocks, usage.blocks)
        watcher.advance(found.size)
        if found.block is not None:
            with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
                _check(root, found, found.block, checked)
    return checked


def _check(root: int, found: BlockFile, block: BlockName, checked: Checked) -> None:
    good = _is_good(root, found.path, block)
    checked.blocks += 1
    checked.size += found.size
    if not good and remove(root, found):
        checked.damaged += 1


def _is_good(root: int, path: str, block: BlockName) -> bool:
    if block.length > MAX_LENGTH or block.path != path:
        return False
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    try:
        with unreadable_as_damaged(block):
            content = os.pread(file, HEADER_SIZE + block.length + 1, 0)
        check_block(block, content[:HEADER_SIZE], content[HEADER_SIZE:])
    except CorruptContent:
        return False
    finally:
        os.close(file)
    return True
