"""Temporary directories of mounts: gone at the end, removed by the next mount where one was killed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.storage.temporary import Scratch


def test_a_scratch_directory_is_private_and_goes_away(tmp_path: Path) -> None:
    scratch = Scratch(str(tmp_path / "cache"))
    assert os.stat(scratch.path).st_mode & 0o777 == 0o700
    scratch.close()
    assert os.listdir(tmp_path / "cache") == []


def test_only_what_no_process_holds_is_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    held = Scratch(str(cache))
    (cache / "riafs-scratch-left").mkdir()
    (cache / "riafs-scratch-left" / "file").touch()
    (cache / "riafs-scratch-link").symlink_to(tmp_path)
    (cache / "verified.sqlite").touch()
    other = Scratch(str(cache))
    assert {held.path, other.path} < {str(path) for path in cache.iterdir()}
    assert not (cache / "riafs-scratch-left").exists()
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


@pytest.mark.parametrize("cache", ["cache", None])
def test_what_a_killed_process_left_is_removed_wherever_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str | None
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    place = tmp_path if cache is None else tmp_path / cache
    given = None if cache is None else str(place)
    program = f"import os; from riafs.storage.temporary import Scratch; Scratch({given!r}); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(Path.cwd())}, check=False)
    [left] = place.glob("riafs-*")
    others = ("riafs-test", "riafs-scratch", "new-riafs-scratch-now", "new-riafs-scratch-before")
    for name in others:
        (place / name).mkdir()
    os.utime(place / others[-1], (0, 0))
    Scratch(given).close()
    assert not left.exists()
    assert {path.name for path in place.iterdir()} == {*others[:-1]}
