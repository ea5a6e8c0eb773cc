"""The files of the block cache: their format, their names and their directory.

A block is the `length` bytes of a content at `offset`. Its file has a header of 64 bytes and the payload. The header
names the content and the block, so that a file with another block's name is noticed; its checksum covers its fields and
the payload. A CRC32 is enough against failing disks and incomplete writes; no other user can write to the directory.

All blocks are in ``blocks-1`` in the cache directory, in one directory for each first byte of a content's digest.
Invariant: files are accessed only through a descriptor of that directory which was checked (it belongs to this user,
and no other user can enter it), so that it cannot be replaced between the check and the access.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from riafs.errors import CorruptContent, StoreDenied
from riafs.formats.digests import crc32
from riafs.storage.temporary import private_directory

VERSION = 1
"""Version of the header and of the directory's layout; another version uses another directory."""
_MAGIC = b"riafsblk"
_HEADER = struct.Struct("<8sII32sQQ")  # magic, version, checksum; then what is checked: digest, offset, length
_CHECKED_FROM = 16
HEADER_SIZE = _HEADER.size
MAX_LENGTH = 64 << 20
"""Bytes of the longest block."""
_NAME = re.compile(r"([0-9a-f]{64})-([0-9a-f]{1,16})-([0-9a-f]{1,8})", re.ASCII)


def annex_content(key: bytes) -> bytes:
    """The name of the content of an annex key (serialised form), for keys with a digest."""
    return b"annex:" + key


def keep_content(locator: bytes) -> bytes:
    """The name of the content of a block of Keep; `locator` has digest and size, and no hints."""
    return b"keep:" + locator


def content_digest(content: bytes) -> bytes:
    """32 bytes that identify the content named `content` in file names and headers."""
    return hashlib.blake2b(content, digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class BlockName:
    """A range of bytes of a content."""

    digest: bytes
    """`content_digest` of the content."""
    offset: int
    length: int

    @property
    def directory(self) -> str:
        """The directory of the file, below that of all blocks; the same for all blocks of a content."""
        return self.digest.hex()[:2]

    @property
    def path(self) -> str:
        """The path of the file, below the directory of all blocks."""
        return f"{self.directory}/{self.digest.hex()}-{self.offset:x}-{self.length:x}"


def parse_file_name(name: str) -> BlockName | None:
    """The block with the file name `name`, None if that is no block's name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return BlockName(bytes.fromhex(found[1]), int(found[2], 16), int(found[3], 16))


def make_header(block: BlockName, payload: bytes) -> bytes:
    """The header for a payload of ``block.length`` bytes."""
    unchecked = _HEADER.pack(_MAGIC, VERSION, 0, block.digest, block.offset, block.length)
    return _HEADER.pack(_MAGIC, VERSION, _checksum(unchecked, payload), block.digest, block.offset, block.length)


def check_block(block: BlockName, header: bytes, payload: bytes) -> None:
    """Raises CorruptContent unless these are the header and payload of `block`, undamaged."""
    problem = _problem(block, header, payload)
    if problem:
        raise CorruptContent(f"block {block.path} of the cache is damaged: {problem}")


@contextmanager
def unreadable_as_damaged(block: BlockName) -> Iterator[None]:
    """Raises CorruptContent for a read error of the disk (EIO): the block is lost, and the cache goes on."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise CorruptContent(f"block {block.path} of the cache cannot be read: {error.strerror}") from error


def _problem(block: BlockName, header: bytes, payload: bytes) -> str:
    if len(header) != HEADER_SIZE or len(payload) != block.length:
        return f"it has {len(header) + len(payload)} bytes"
    magic, version, checksum, digest, offset, length = _HEADER.unpack(header)
    if (magic, version) != (_MAGIC, VERSION):
        return "it has no valid header"
    if (digest, offset, length) != (block.digest, block.offset, block.length):
        return "it is another block"
    return "" if checksum == _checksum(header, payload) else "its checksum differs"


def _checksum(header: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(header[_CHECKED_FROM:], 0))


NEW = "new-"
"""Prefix of files that are being written."""
_DIRECTORY = f"blocks-{VERSION}"
OBSTRUCTED = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO))
"""Errors of opening or replacing a file if it, or a directory above it, is a link, a socket, or of the wrong kind."""
DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_UNIT = 512  # stat(2) counts allocated blocks in these


@dataclass(frozen=True, slots=True)
class BlockFile:
    """A file among the blocks."""

    path: str
    """Below the directory of all blocks."""
    block: BlockName | None
    """None for a file that is being written, was left by a killed process, or is foreign."""
    size: int
    """Bytes that it takes on the disk."""
    used_ns: int
    """When it was used last, to the minute, in nanoseconds since 1970."""


@contextlib.contextmanager
def open_blocks(cache: str, *, make: bool) -> Iterator[int]:
    """A descriptor of the directory of all blocks in the cache directory `cache`; with `make`, it is made if missing.

    Raises FileNotFoundError if it is missing, StoreDenied if other users can enter it, OSError.
    """
    path = f"{cache}/{_DIRECTORY}"
    if make and not os.path.isdir(path):
        private_directory(cache)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o700)
    root = os.open(path, DIRECTORY_FLAGS)
    try:
        status = os.fstat(root)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise StoreDenied(
                f"{path} must be a directory of user {os.geteuid()} that nobody else can enter (chmod 700)"
            )
        yield root
    finally:
        os.close(root)


def walk(root: int) -> Iterator[BlockFile]:
    """All files, directory by directory, except those that are removed meanwhile."""
    for number in range(256):
        yield from walk_directory(root, f"{number:02x}")


def walk_directory(root: int, name: str) -> Iterator[BlockFile]:
    """The files in one of the directories; none if it is missing."""
    try:
        directory = os.open(name, DIRECTORY_FLAGS, dir_fd=root)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in OBSTRUCTED:
            raise
        remove_obstacle(root, name)
        return
    try:
        with os.scandir(directory) as entries:
            listed = list(entries)  # the scan is closed here even if the caller stops in the middle
        for entry in listed:
            with contextlib.suppress(FileNotFoundError):
                yield _found(name, entry)
    finally:
        os.close(directory)


def _found(directory: str, entry: "os.DirEntry[str]") -> BlockFile:
    status = entry.stat(follow_symlinks=False)
    block = parse_file_name(entry.name) if stat.S_ISREG(status.st_mode) else None
    return BlockFile(f"{directory}/{entry.name}", block, status.st_blocks * _DISK_UNIT, status.st_mtime_ns)


def remove(root: int, found: BlockFile) -> bool:
    """Remove a file; False if it was gone."""
    try:
        os.unlink(found.path, dir_fd=root)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def remove_obstacle(root: int, directory: str) -> None:
    """Remove a file or link that is in the place of a directory of blocks. Raises OSError.

    A directory stays: another thread or process may have made it since.
    """
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(directory, dir_fd=root)


def clear_away(root: int, path: str) -> None:
    """Remove anything at `path` below `root`, which is for a block. Raises OSError.

    Of a link, the link is removed and not its target.
    """
    try:
        os.unlink(path, dir_fd=root)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        shutil.rmtree(path, dir_fd=root)
