"""Directories for blocks: on the disk, and on file systems that are small."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache directory that is not there yet."""
    return str(tmp_path / "cache")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """A cache directory on a file system of 64 KiB."""
    yield from _tmpfs(tmp_path / "tiny", "64k")


@pytest.fixture
def megabyte(tmp_path: Path) -> Iterator[str]:
    """A cache directory on a file system of 1 MiB."""
    yield from _tmpfs(tmp_path / "megabyte", "1m")


def _tmpfs(path: Path, size: str) -> Iterator[str]:
    path.mkdir()
    if os.getuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", path], check=True)
    yield str(path)
    subprocess.run(["umount", "-l", path], check=True)
