"""``riafs cache`` on a directory of blocks, without a mount."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from riafs.cache.block_files import BlockName, annex_content, content_digest, open_blocks
from riafs.cache.disk import DiskBlocks
from riafs.cache.eviction import DiskLimits, pin
from riafs.cli import main

KEYS = [b"MD5E-s4--%032d.dat" % number for number in range(4)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Four blocks, the first one pinned."""
    path = tmp_path / "cache"
    blocks = DiskBlocks(str(path), DiskLimits())
    for key in KEYS:
        blocks.write(BlockName(content_digest(annex_content(key)), 0, 4), b"abcd")
    with open_blocks(str(path), make=False) as root:
        pin(root, annex_content(KEYS[0]))
    return path


def count(cache: Path) -> int:
    return len(list(cache.glob("blocks-1/??/*")))


def run(capsys: pytest.CaptureFixture[str], cache: Path, *words: str, status: int = 0) -> Any:
    assert main.run("riafs", ["cache", "--json", "--cache-dir", str(cache), *words]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [[], ["status"]])
def test_status_counts_blocks_and_lists_pins(words: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(capsys, cache, "--cache-size", "1G", *words)
    assert (shown["blocks"], shown["pinned_blocks"], shown["limit"]) == (4, 1, 1 << 30)
    assert shown["size"] == 4 * shown["pinned_size"] > 0
    assert shown["pins"] == [KEYS[0].decode()]
    assert main.run("riafs", ["cache", "--cache-dir", str(cache), *words]) == 0
    assert "10.0 GiB" in capsys.readouterr().out


def test_an_empty_cache_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, tmp_path / "new")["blocks"] == 0


def test_verify_removes_damage_and_says_so_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, cache, "verify")["damaged"] == 0
    next(cache.glob("blocks-1/??/*")).write_bytes(b"x" * 68)
    assert run(capsys, cache, "verify", status=2)["damaged"] == 1
    assert run(capsys, cache, "verify", "--json") == {"blocks": 3, "size": 3 * 4096, "damaged": 0}


def test_evict_all_keeps_what_is_pinned_until_it_is_unpinned(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, cache, "evict", "--all") == {"removed_blocks": 3, "removed_size": 3 * 4096}
    assert count(cache) == 1
    assert run(capsys, cache, "unpin", "--all") == {"unpinned": 1}
    assert run(capsys, cache, "evict", "--all")["removed_blocks"] == 1
    assert count(cache) == 0


def test_evict_alone_enforces_the_limits(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, cache, "evict")["removed_blocks"] == 0
    assert run(capsys, cache, "--cache-size", "9K", "evict")["removed_blocks"] == 2
    assert count(cache) == 2


@pytest.mark.parametrize("words", [["pin"], ["evict", "--all", "x"], ["unpin"], ["unpin", "--all", "x"], ["wash"]])
def test_wrong_usage_is_told(words: list[str], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["cache", "--cache-dir", str(cache), *words]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_paths_outside_of_mounts_are_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cache", "--cache-dir", str(cache), "pin", "/etc"], ["prefetch", "/etc/passwd"]):
        assert main.run("riafs", words) == 1
        assert "is not in a riafs mount" in capsys.readouterr().err


def test_a_cache_that_others_can_enter_is_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cache / "blocks-1").chmod(0o755)
    assert main.run("riafs", ["cache", "--cache-dir", str(cache)]) == 32
    assert "nobody else can enter" in capsys.readouterr().err
    assert main.run("riafs", ["cache", "--cache-dir", os.devnull]) == 32


@pytest.mark.parametrize("number", ["0", "100", "x", "-1"])
def test_prefetch_takes_a_sensible_number_of_jobs(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["prefetch", "--jobs", number, "/x"]) == 1


def test_evicting_tells_what_it_keeps(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["cache", "--cache-dir", str(cache), "evict"]) == 0
    assert "nothing is over the limits" in capsys.readouterr().err
    assert main.run("riafs", ["cache", "--cache-dir", str(cache), "evict", "--all"]) == 0
    assert "1 pinned file kept" in capsys.readouterr().err
