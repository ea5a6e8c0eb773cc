"""Making room: the blocks used longest ago go first.

Any number of processes share the directory and none keeps a list of what is in it: whoever evicts looks at all files.
That is done under a lock, one of 256 directories at a time, in memory for its names, and rarely (see blocks_disk).
A block's time of use is its file's mtime, which a reader brings up to date at most once a minute.
"""

import fcntl
import heapq
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from riafs.cache.blocks_directory import NEW, Found, remove, walk, walk_directory
from riafs.cache.blocks_pins import pinned_digests

ABANDONED_SECONDS = 600.0
"""A file that has been written for so long was left by a process that was killed."""
_AT_ONCE = 16_384
_EXTRA_SHARE = 16
"""Eviction goes on until this part of the limit is free, so that it is not needed again at once."""


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much the blocks on the disk may take."""

    size: int = 10 << 30
    """Bytes of all blocks together; 0 keeps none on the disk."""
    min_free: float = 5.0
    """Per cent of the file system that stay free."""

    def missing(self, root: int) -> int:
        """How many bytes fewer than `min_free` are free where `root` lies; negative where more are."""
        status = os.statvfs(root)
        return int(status.f_blocks * status.f_frsize * self.min_free / 100) - status.f_bavail * status.f_frsize


@dataclass(slots=True)
class Usage:
    """What there is. Sizes are bytes on the disk."""

    blocks: int = 0
    size: int = 0
    pinned_blocks: int = 0
    pinned_size: int = 0

    def add(self, found: Found, *, pinned: bool) -> None:
        """Count a file."""
        self.size += found.size
        self.blocks += found.block is not None
        self.pinned_blocks += pinned
        self.pinned_size += found.size if pinned else 0


def survey(root: int) -> Usage:
    """Count everything."""
    usage, pinned = Usage(), pinned_digests(root)
    for found in walk(root):
        usage.add(found, pinned=found.block is not None and found.block.digest in pinned)
    return usage


def make_room(root: int, limits: DiskLimits, room: int) -> Usage:
    """Evict until `room` more bytes fit within the limits, or nothing is left that would help.

    Waits for another process that is evicting. Returns what there is afterwards. Raises OSError.
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
    """What there was, the bytes that went, and whether another round would help."""
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


def _removable(root: int, usage: Usage) -> Iterator[Found]:
    """Blocks that are not pinned. Counts everything in `usage`, and removes what killed processes left."""
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
    """How many bytes have to go; none for a `room` that cannot be had even if all goes that may."""
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
    """Remove all blocks but pinned ones; returns what was removed."""
    removed = Usage()
    for found in _removable(root, Usage()):
        if remove(root, found):
            removed.add(found, pinned=False)
    return removed


def evict_content(root: int, digest: bytes) -> Usage:
    """Remove the blocks of one content; returns what was removed."""
    removed = Usage()
    for found in walk_directory(root, digest.hex()[:2]):
        if found.block is not None and found.block.digest == digest and remove(root, found):
            removed.add(found, pinned=False)
    return removed
