"""Directories for blocks: on the disk, and on file systems that are small."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.blocks import small_file_system


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache directory that is not there yet."""
    return str(tmp_path / "cache")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """A cache directory on a file system of 64 KiB."""
    with small_file_system(tmp_path / "tiny", "64k") as path:
        yield str(path)


@pytest.fixture
def megabyte(tmp_path: Path) -> Iterator[str]:
    """A cache directory on a file system of 1 MiB."""
    with small_file_system(tmp_path / "megabyte", "1m") as path:
        yield str(path)
