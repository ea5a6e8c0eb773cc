"""Whether bytes are a key's, for those who pack and unpack: stricter than for readers.

Where a key has no digest (WORM, URL, encrypted content) its bytes are told by their SHA-256, so that what came out of
an archive can still be compared with what went in.
"""

import hashlib
import zlib
from dataclasses import dataclass

from riafs.formats.digests import DigestChecker, checker
from riafs.formats.keys import Key


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes that were read. `sha256` is None where the key's own digest was checked instead."""

    size: int
    crc: int
    sha256: bytes | None
    problem: str
    """Why they are not the key's; empty where nothing is known against them."""


class ContentCheck:
    """Takes bytes in order."""

    __slots__ = ("_checker", "_crc", "_key", "_sha256", "_size")

    def __init__(self, key: Key) -> None:
        self._key = key
        self._checker: DigestChecker | None = checker(key)
        self._sha256 = None if self._checker else hashlib.sha256()
        self._size = 0
        self._crc = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes."""
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._checker is not None:
            self._checker.update(data)
        if self._sha256 is not None:
            self._sha256.update(data)

    def seen(self) -> Seen:
        """What is known of the bytes so far."""
        digest = None if self._sha256 is None else self._sha256.digest()
        return Seen(self._size, self._crc, digest, self._problem())

    def _problem(self) -> str:
        expected = expected_size(self._key)
        if expected is not None and expected != self._size:
            return f"has {self._size} bytes, its key says {expected}"
        if self._checker is not None and not self._checker.matches():
            return "does not have the digest of its key"
        return ""


def expected_size(key: Key) -> int | None:
    """Bytes that the key says its object has: a chunk's where it names one; None where it does not tell."""
    if key.chunk_size is None or key.chunk_number is None:
        return key.size
    return key.chunk_length(key.chunk_size, key.chunk_number)
