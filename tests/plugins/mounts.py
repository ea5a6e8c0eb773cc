"""Finding and taking down mounts of riafs, and private homes, that killed test runs left behind."""

import getpass
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

PREFIX = "riafs-test-home-"
"""Of the names of private homes; the process that made it and some random letters follow."""


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
    """riafs mounts below temporary directories of this user's test runs that have ended."""
    ended = [
        run for run in Path(tempfile.gettempdir()).glob(f"pytest-of-{getpass.getuser()}/pytest-*") if has_ended(run)
    ]
    return [path for path in riafs_mounts() if any(path.is_relative_to(run) for run in ended + abandoned_homes())]


def has_ended(run: Path) -> bool:
    """Whether the process is gone that pytest has written into the lock of a run's temporary directory."""
    try:
        return not is_alive(int((run / ".lock").read_text()))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def abandoned_homes() -> list[Path]:
    """Private homes whose processes are gone."""
    homes = [path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if path.stat().st_uid == os.getuid()]
    pattern = re.compile(rf"{PREFIX}(\d+)-")
    return [home for home in homes if (found := pattern.match(home.name)) and not is_alive(int(found[1]))]


def is_alive(process: int) -> bool:
    return os.path.exists(f"/proc/{process}")


def sweep(paths: Iterable[Path]) -> None:
    """Unmount lazily, innermost first."""
    for path in reversed(list(paths)):
        subprocess.run(["fusermount3", "-u", "-z", "--", path], check=False, stdin=subprocess.DEVNULL)
