"""A small store, and riafs as a program, for tests with real mounts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = "import sys; from riafs.cli.main import run; sys.exit(run(sys.argv[1], sys.argv[2:]))"


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one dataset, alias ``demo``, whose HEAD has ``a.txt`` and the executable ``run``."""
    base = tmp_path_factory.mktemp("small")
    store, work = base / "store", base / "work"
    (store / "alias").mkdir(parents=True)
    (store / "ria-layout-version").write_text("1\n")
    subprocess.run(["git", "init", "-q", "-b", "main", work], check=True)
    (work / "a.txt").write_text("hello\n")
    (work / "run").write_text("#!/bin/sh\necho ran\n")
    (work / "run").chmod(0o755)
    for command in (["add", "."], ["commit", "-q", "-m", "one"], ["tag", "v1"]):
        subprocess.run(["git", "-C", work, *command], check=True)
    dataset = store / "abc" / "d0000-0001"
    subprocess.run(["git", "clone", "-q", "--bare", work, dataset], check=True)
    (dataset / "ria-layout-version").write_text("2\n")
    (store / "alias" / "demo").symlink_to("../abc/d0000-0001")
    return store


@pytest.fixture
def riafs(tmp_path: Path, no_mounts_left: None) -> Run:
    """Run riafs with these words; its log and cache are below the test's directory."""
    places = {"RIAFS_LOG": str(tmp_path / "log"), "RIAFS_CACHE_DIR": str(tmp_path / "cache")}

    def run(*words: object, name: str = "riafs", bare: bool = False) -> "subprocess.CompletedProcess[str]":
        environment = {} if bare else {**os.environ, **places}
        command = [sys.executable, "-c", PROGRAM, name, *map(str, words)]
        return subprocess.run(
            command, env=environment | {"PYTHONPATH": str(Path.cwd())}, capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"
