"""Blocks for tests: their content follows from their number, so that any reader can tell a wrong one."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from riafs.cache.block_files import BlockName, content_digest

SIZE = 4096


def name_of(number: int, size: int = SIZE) -> BlockName:
    """The block of a content of its own."""
    return BlockName(content_digest(b"content %d" % number), 0, size)


def bytes_of(number: int, size: int = SIZE) -> bytes:
    """What that block holds."""
    return hashlib.shake_128(b"%d" % number).digest(size)


def block_files(cache: str) -> list[Path]:
    """The files of all blocks."""
    return sorted(path for path in Path(cache).glob("blocks-1/??/*") if not path.name.startswith("new-"))


def file_of(cache: str, number: int, size: int = SIZE) -> Path:
    """Where a block lies."""
    return Path(cache, "blocks-1", name_of(number, size).path)


def age(cache: str, number: int, seconds: float, size: int = SIZE) -> None:
    """Let a block be last used at that time since 1970."""
    os.utime(file_of(cache, number, size), (seconds, seconds))


@contextmanager
def small_file_system(path: Path, size: str) -> Iterator[Path]:
    """A new directory that has only so much room."""
    path.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
