"""Temporary directories of mounts: gone at the end, removed by the next mount where one was killed."""

import os
from collections.abc import Callable
from pathlib import Path

from riafs.cache.scratch import Scratch


def test_a_scratch_directory_is_private_and_goes_away(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "cache"))
    assert os.stat(scratch.path).st_mode & 0o777 == 0o700
    scratch.close()
    assert os.listdir(tmp_path / "cache") == []


def test_only_what_no_process_holds_is_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    held = Scratch(str(cache))
    (cache / "riafs-left").mkdir()
    (cache / "riafs-left" / "file").touch()
    (cache / "riafs-link").symlink_to(tmp_path)
    (cache / "verified.sqlite").touch()
    other = Scratch(str(cache))
    assert {held.path, other.path} < {str(path) for path in cache.iterdir()}
    assert not (cache / "riafs-left").exists()
    assert (cache / "verified.sqlite").exists()
    assert tmp_path.exists()
    held.close()
    other.close()


def test_without_a_usable_cache_directory_there_is_another_one(
    tmp_path: Path, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("remembered by this mount only")
    (tmp_path / "file").touch()
    scratch = Scratch(str(tmp_path / "file" / "cache"))
    assert scratch.cache is None
    assert os.path.isdir(scratch.path)
    scratch.close()
