"""The form of a block's file, and how blocks are called.

A block is the part of a content that begins at `offset` and has `length` bytes. Its file is a header of 64 bytes and
the payload. The header says which block of which content it is, so that a file under another block's name is noticed;
the checksum covers what the header says and the payload. CRC32 is meant for failing disks and torn writes, not for
people: nobody else can write to the directory.
"""

import errno
import hashlib
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from riafs.errors import CorruptContent
from riafs.formats.digests import crc32

VERSION = 1
"""Of the header and of the directory's layout; another version has a directory of its own."""
_MAGIC = b"riafsblk"
_HEADER = struct.Struct("<8sII32sQQ")  # magic, version, checksum; then what is checked: digest, offset, length
_CHECKED_FROM = 16
HEADER_SIZE = _HEADER.size
MAX_LENGTH = 64 << 20
"""Bytes of the longest block."""
_NAME = re.compile(r"([0-9a-f]{64})-([0-9a-f]{1,16})-([0-9a-f]{1,8})", re.ASCII)


def annex_content(key: bytes) -> bytes:
    """The name of the content of an annex key (serialised form). Only for content that the key's digest vouches for."""
    return b"annex:" + key


def keep_content(locator: bytes) -> bytes:
    """The name of a block of Keep; `locator` has digest and size, and no hints."""
    return b"keep:" + locator


def content_digest(content: bytes) -> bytes:
    """The 32 bytes that stand for the content named `content` in file names and headers."""
    return hashlib.blake2b(content, digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class BlockName:
    """Which bytes of which content."""

    digest: bytes
    """See `content_digest`."""
    offset: int
    length: int

    @property
    def directory(self) -> str:
        """The directory of the file, below that of all blocks. All blocks of a content share one."""
        return self.digest.hex()[:2]

    @property
    def path(self) -> str:
        """The path of the file, below the directory of all blocks."""
        return f"{self.directory}/{self.digest.hex()}-{self.offset:x}-{self.length:x}"


def parse_file_name(name: str) -> BlockName | None:
    """The block whose file is called `name`, None if that is no block's name."""
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
    """Raises CorruptContent where the disk cannot read the file's bytes: the block is lost, not the cache."""
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
        return "its header is none"
    if (digest, offset, length) != (block.digest, block.offset, block.length):
        return "it is another block"
    return "" if checksum == _checksum(header, payload) else "its checksum differs"


def _checksum(header: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(header[_CHECKED_FROM:], 0))
