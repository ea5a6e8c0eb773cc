"""Blocks on the disk, shared by all mounts of a user.

Blocking calls, for worker threads; any number of threads and processes at once. Invariants: a name has a whole block or
none, since a block is written to another name and renamed; each read compares a block with the checksum in its header.
So fsync is not needed: a block that a power failure damaged is noticed when it is read, and removed.
"""

import contextlib
import errno
import os
import secrets
import stat
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace

from riafs.cache.block_files import (
    DIRECTORY_FLAGS,
    HEADER_SIZE,
    NEW,
    OBSTRUCTED,
    BlockName,
    check_block,
    clear_away,
    make_header,
    open_blocks,
    remove_obstacle,
    unreadable_as_damaged,
)
from riafs.cache.eviction import DiskLimits, make_room
from riafs.errors import CorruptContent
from riafs.storage.posix import write_all

_TOUCH_NS = 60 * 1_000_000_000
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_SLACK_SHARE = 32
_EVICTIONS = 3
"""Attempts to make room for one block: one for each of the mount's two writers, and one for another mount."""
_PAGE = 4096


class DiskBlocks:
    """The blocks below the cache directory `cache`.

    To count what other processes wrote, all files have to be looked at. This is done each time this process has written
    a 32nd of the limit, so that each further process may exceed the limit by a 32nd.
    """

    def __init__(self, cache: str, limits: DiskLimits) -> None:
        self._cache = cache
        self._limits = limits
        self._lock = threading.Lock()  # for the two below; and one thread evicts at a time
        self._used: int | None = None
        self._written = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, block: BlockName) -> bytes | None:
        """The block's bytes, None if it is not cached.

        Raises CorruptContent for a damaged block, which is removed; StoreDenied if other users can enter the directory;
        OSError.
        """
        try:
            with open_blocks(self._cache, make=False) as root:
                return _read(root, block)
        except FileNotFoundError:
            return None

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, block: BlockName, payload: bytes) -> bool:
        """Write a block; False if it was there before.

        Raises OSError, ENOSPC if it does not fit into the limits; StoreDenied if other users can enter the directory.
        """
        try:
            return self._write_once(block, payload)
        except FileNotFoundError:  # the directory of all blocks was removed in between
            return self._write_once(block, payload)

    def _write_once(self, block: BlockName, payload: bytes) -> bool:
        with open_blocks(self._cache, make=True) as root:
            if _is_written(root, block):
                return False
            size = -(-(HEADER_SIZE + block.length) // _PAGE) * _PAGE
            self._reserve(root, size)
            try:
                _write(root, block, payload)
            except OSError as error:
                with self._lock:
                    self._used = max(0, (self._used or 0) - size)
                if error.errno not in _NO_ROOM:
                    raise
                self._write_into_less(root, block, payload, size)
        return True

    def _reserve(self, root: int, size: int) -> None:
        """Count a block in before it is written, after evicting others if need be. Raises OSError.

        What is evicted may be taken at once by a thread that has reserved room and is writing; no thread can reserve
        more meanwhile.
        """
        with self._lock:
            if self._written > self._limits.size // _SLACK_SHARE:
                self._evict(root, self._limits, size)
            for _ in range(_EVICTIONS):
                if self._fits(root, size):
                    break
                self._evict(root, self._limits, size)
            else:
                if not self._fits(root, size):
                    raise OSError(errno.ENOSPC, "no room within cache-size and cache-min-free")
            self._used = (self._used or 0) + size
            self._written += size

    def _fits(self, root: int, size: int) -> bool:
        return self._used is not None and self._used + size <= self._limits.size and self._limits.missing(root) <= -size

    def _write_into_less(self, root: int, block: BlockName, payload: bytes, size: int) -> None:
        """Write to a disk that has less room than statvfs says: a quota, or other programs were faster.

        Each attempt evicts the block's size first. A thread that has reserved room may still take what the first ones
        gain; none can reserve more meanwhile. Raises OSError.
        """
        with self._lock:
            for attempt in range(_EVICTIONS):
                self._evict(root, replace(self._limits, size=max(0, (self._used or 0) - size)), 0)
                try:
                    _write(root, block, payload)
                except OSError as error:
                    if attempt == _EVICTIONS - 1 or error.errno not in _NO_ROOM:
                        raise
                else:
                    self._used = (self._used or 0) + size
                    return

    def _evict(self, root: int, limits: DiskLimits, room: int) -> None:
        self._used = make_room(root, limits, room).size
        self._written = 0


def _read(root: int, block: BlockName) -> bytes:
    try:
        file = os.open(block.path, _READ_FLAGS, dir_fd=root)
    except OSError as error:
        if error.errno not in OBSTRUCTED:
            raise
        os.close(_directory_of(root, block))  # replaces the directory if that is the obstacle
        clear_away(root, block.path)
        raise CorruptContent(f"block {block.path} of the cache is no file: {error.strerror}") from error
    try:
        status = os.fstat(file)
        whole = stat.S_ISREG(status.st_mode) and status.st_size == HEADER_SIZE + block.length
        with unreadable_as_damaged(block):
            header = os.pread(file, HEADER_SIZE, 0) if whole else b""
            payload = os.pread(file, block.length, HEADER_SIZE) if whole else b""
        check_block(block, header, payload)
        # The time of use. One in the future is corrected as well: the clock was wrong once.
        if abs(time.time_ns() - status.st_mtime_ns) > _TOUCH_NS:
            os.utime(file)
    except CorruptContent:
        clear_away(root, block.path)
        raise
    finally:
        os.close(file)
    return payload


def _is_written(root: int, block: BlockName) -> bool:
    """Whether another process has written the block; a damaged one is removed."""
    try:
        _read(root, block)
    except (FileNotFoundError, CorruptContent):
        return False
    return True


def _write(root: int, block: BlockName, payload: bytes) -> None:
    directory = _directory_of(root, block)
    new = f"{NEW}{secrets.token_hex(8)}"
    try:
        file = os.open(new, _WRITE_FLAGS, 0o600, dir_fd=directory)
        try:
            header = make_header(block, payload)
            written = os.writev(file, (header, payload))
            if written < len(header) + len(payload):
                write_all(file, memoryview(header + payload)[written:])
        finally:
            os.close(file)
        os.rename(new, os.path.basename(block.path), src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
    finally:
        os.close(directory)


def _directory_of(root: int, block: BlockName) -> int:
    """A descriptor of the block's directory, which is made if missing; anything else of its name is removed."""
    try:
        return os.open(block.directory, DIRECTORY_FLAGS, dir_fd=root)
    except OSError as error:
        if error.errno not in OBSTRUCTED | {errno.ENOENT}:
            raise
        if error.errno in OBSTRUCTED:
            remove_obstacle(root, block.directory)
    with contextlib.suppress(FileExistsError):
        os.mkdir(block.directory, mode=0o700, dir_fd=root)
    return os.open(block.directory, DIRECTORY_FLAGS, dir_fd=root)


class TemporaryBlocks:
    """Blocks in one unlinked file of at most `bound` bytes in `directory`, the oldest dropped first; gone with the
    process. For mounts without a cache directory.

    Invariant: every byte of the file belongs to at most one of the blocks known by name. Used from the event loop:
    reads and writes are those of the page cache and do not wait, so no range is reused while it is read.
    """

    def __init__(self, directory: bytes, bound: int) -> None:
        self._directory = directory
        self._bound = bound
        self._descriptor = -1
        self._position = 0
        self._places: dict[tuple[bytes, int], tuple[int, int]] = {}
        self._written: deque[tuple[tuple[bytes, int], int, int]] = deque()

    def get(self, content: bytes, index: int, length: int) -> bytes | None:
        """The block, if it is there and `length` bytes long."""
        start, end = self._places.get((content, index), (0, 0))
        if end - start != length or not length:
            return None
        try:
            data = os.pread(self._descriptor, length, start)
        except OSError:
            return None
        return data if len(data) == length else None

    def put(self, content: bytes, index: int, data: bytes) -> None:
        """Keep the block if there is room. Never fails."""
        if not data or len(data) > self._bound:
            return
        try:
            start = self._room_for(len(data))
            if os.pwrite(self._descriptor, data, start) != len(data):
                return
        except OSError:
            return
        self._places[content, index] = (start, start + len(data))
        self._written.append(((content, index), start, start + len(data)))
        self._position = start + len(data)

    def _room_for(self, length: int) -> int:
        """Where to write: behind the last block, or at the front again. Blocks that lie there are forgotten."""
        if self._descriptor < 0:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        start = self._position
        if start + length > self._bound:
            self._forget(start, self._bound)
            start = 0
        self._forget(start, start + length)
        return start

    def _forget(self, start: int, end: int) -> None:
        while self._written and start <= self._written[0][1] < end:
            name, old_start, old_end = self._written.popleft()
            if self._places.get(name) == (old_start, old_end):
                del self._places[name]

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
