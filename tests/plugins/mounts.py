"""Finding and taking down mounts of riafs that tests left behind."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

PREFIX = "riafs-test-home-"
TEST_DIRECTORIES = ("/pytest-of-", f"/{PREFIX}")


def fuse_usable() -> bool:
    """Whether this user may mount."""
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


def riafs_mounts() -> list[Path]:
    """Mountpoints of all riafs file systems, innermost last."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split(b" ") for line in file]
    return [Path(os.fsdecode(unescape(fields[4]))) for fields in lines if kind(fields).startswith(b"fuse.riafs")]


def kind(fields: list[bytes]) -> bytes:
    """File system type in a line of mountinfo: the field after the lone hyphen."""
    return fields[fields.index(b"-") + 1]


def unescape(path: bytes) -> bytes:
    """A path of mountinfo, where blank, tab, newline and backslash are octal."""
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def below(directory: Path) -> list[Path]:
    """riafs mounts at or under a directory."""
    return [path for path in riafs_mounts() if path.is_relative_to(directory)]


def abandoned() -> list[Path]:
    """Dead riafs mounts in pytest's directories: their daemon is gone, so no running test uses them."""
    return [path for path in riafs_mounts() if any(part in str(path) for part in TEST_DIRECTORIES) and dead(path)]


def dead(path: Path) -> bool:
    """Whether the daemon behind a mountpoint is gone."""
    try:
        os.statvfs(path)
    except OSError:
        return True
    return False


def sweep(paths: Iterable[Path]) -> None:
    """Unmount lazily, innermost first."""
    for path in reversed(list(paths)):
        subprocess.run(["fusermount3", "-u", "-z", "--", path], check=False, stdin=subprocess.DEVNULL)
