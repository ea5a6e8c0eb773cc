"""Mounting riafs through its command line, and its peers, each for the length of a ``with``."""

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
RIAFS = (sys.executable, "-m", "riafs.cli.main")
_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")
_PATIENCE = 30.0
_LAST_SECONDS = 5.0


def riafs(*words: str | Path, patience: float = _PATIENCE * 4) -> str:
    """Run the command line of this repository's riafs, for so many seconds at most; its output.

    Raises CalledProcessError, TimeoutExpired.
    """
    result = subprocess.run(
        [*RIAFS, *words], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True, text=True, timeout=patience
    )
    return result.stdout


@contextmanager
def mountpoint(data: Path) -> Iterator[Path]:
    """An empty directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="mnt-", dir=data))
    try:
        yield directory
    finally:
        directory.rmdir()


@contextmanager
def riafs_mount(
    data: Path, source: str, *words: str, remembered: bool = False, forget_blocks: bool = False
) -> Iterator[Path]:
    """A fresh mount of `source`, with `words` for ``riafs mount``.

    Unless `remembered`, it knows nothing of what earlier mounts verified, indexed or decoded; with `forget_blocks`
    it has no decoded content.
    """
    memory = data / "verified"
    if not remembered:
        shutil.rmtree(memory, ignore_errors=True)
    elif forget_blocks:
        shutil.rmtree(memory / "blocks-1", ignore_errors=True)
    with mountpoint(data) as directory:
        riafs("mount", source, directory, "--cache-dir", memory, "--log", data / "riafs.log", *words)
        try:
            yield directory
        finally:
            process = daemon(directory)
            riafs("umount", directory)
            _wait_for_end(process)


def status(directory: Path) -> dict[str, Any]:
    """What the daemon behind a mount says of itself."""
    [report] = json.loads(riafs("status", "--json", directory))
    assert isinstance(report, dict)
    return report


def daemon(directory: Path) -> int:
    """The process behind a mount."""
    return int(status(directory)["pid"])


def _wait_for_end(process: int) -> None:
    """A daemon writes down what it verified before it ends, and would take time from the next measurement."""
    until = time.monotonic() + _PATIENCE
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.01)


# -- peers ------------------------------------------------------------------------------------------------------------


def passthrough_ll(data: Path) -> Path | None:
    """libfuse's example file system in C, compiled at first use; None where its source or a compiler is missing."""
    program = data / "bin/passthrough_ll"
    if program.exists():
        return program
    if not shutil.which("gcc") or not shutil.which("pkg-config"):
        return None
    program.parent.mkdir(parents=True, exist_ok=True)
    try:
        for name in ("passthrough_ll.c", "passthrough_helpers.h"):
            (program.parent / name).write_bytes(_example(name))
        flags = subprocess.run(
            ["pkg-config", "fuse3", "--cflags", "--libs"], check=True, capture_output=True, text=True
        ).stdout.split()
        source = program.with_suffix(".c")
        subprocess.run(["gcc", "-O2", "-D_GNU_SOURCE", source, *flags, "-o", program], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return program


def _example(name: str) -> bytes:
    packed = _EXAMPLES / f"{name}.gz"
    return gzip.decompress(packed.read_bytes()) if packed.exists() else (_EXAMPLES / name).read_bytes()


def passthrough_mount(data: Path, program: Path, source: Path) -> AbstractContextManager[Path]:
    """`source` through passthrough_ll with its own defaults. It holds a descriptor for each inode the kernel knows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return peer(data, "prlimit", f"--nofile={most}", program, "-f", "-o", f"source={source}")


def bindfs() -> Path | None:
    """The program, None where it is not installed."""
    found = shutil.which("bindfs")
    return Path(found) if found else None


def bindfs_mount(data: Path, program: Path, source: Path) -> AbstractContextManager[Path]:
    """`source` through bindfs with its own defaults."""
    return peer(data, program, "-f", source)


@contextmanager
def peer(data: Path, *command: str | Path, patience: float = _PATIENCE) -> Iterator[Path]:
    """The file system that `command` mounts within `patience` seconds on a directory of its own, its last argument.

    Raises CalledProcessError where it does not.
    """
    with mountpoint(data) as directory, subprocess.Popen([*command, directory], stdout=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + patience
            while not os.path.ismount(directory):
                if process.poll() is not None or time.monotonic() > until:
                    raise subprocess.CalledProcessError(process.returncode or -1, command)
                time.sleep(0.005)
            yield directory
        finally:
            if os.path.ismount(directory):
                subprocess.run(["fusermount3", "-uz", directory], check=False)
            process.terminate()
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a peer that was asked to end, and make it end if it is too busy to listen."""
    try:
        process.wait(timeout=_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
