"""Contents that are kept when blocks have to go.

A pin is a file in ``pins`` among the blocks, named by the content's digest and holding the content's name. So several
processes can pin and unpin at once without a lock, and nothing can be half written that matters.
"""

import contextlib
import os
from collections.abc import Mapping

from riafs.cache.blocks_file import content_digest

_DIRECTORY = "pins"
_MAX_NAME = 1 << 16
_DIGEST_HEX = 64


def pin(root: int, content: bytes) -> bool:
    """Keep the blocks of a content, those to come as well; whether that is new. Raises OSError."""
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
    """The blocks of the content with that digest may go again; whether it was pinned. Raises OSError."""
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
        return [name for name in os.listdir(directory) if _is_digest(name)]
    finally:
        os.close(directory)


def _is_digest(name: str) -> bool:
    return len(name) == _DIGEST_HEX and set(name) <= set("0123456789abcdef")
