"""The kernel's table of mounts, as far as riafs is concerned.

Owns the reading of ``/proc/self/mountinfo`` (proc(5)). Reading it asks no file system anything, so a mount that does
not answer can be seen here without waiting for it.
"""

import os
import re
from dataclasses import dataclass

TYPE = "fuse.riafs"
_MARK = "riafs:"
_TABLE = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_FIELDS_BEFORE_DASH = 6


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table."""

    mountpoint: str
    device: str
    """``major:minor``, unique among the mounts of this machine at one time."""
    type: str
    source: str
    owner: int
    """Number of the user who mounted a FUSE file system; 0 for others."""
    writable: bool = False
    """Whether the kernel lets programs change something in it."""


def shown_source(source: str, *, marked: bool) -> str:
    """How the kernel's table shows a source. What mount(8) mounts is `marked`, so that it never is the text in
    /etc/fstab: mount(8) would take a mount whose daemon has died as mounted, and never ask for a new one.
    """
    return _MARK + source if marked else source


def parse_mountinfo(text: bytes) -> tuple[Mount, ...]:
    """All mounts in the table's order: of two on one directory the later covers the other. Odd lines are left out."""
    return tuple(mount for line in text.splitlines() if (mount := _parse_line(line)) is not None)


def _parse_line(line: bytes) -> Mount | None:
    before, dash, after = line.partition(b" - ")
    first, last = before.split(b" "), after.split(b" ")
    if not dash or len(first) < _FIELDS_BEFORE_DASH or len(last) < 2:
        return None
    owner = re.search(rb"(?:^|,)user_id=([0-9]{1,10})(?:,|$)", last[2] if len(last) > 2 else b"")
    return Mount(
        mountpoint=unescaped(first[4]),
        device=first[2].decode("ascii", "replace"),
        type=unescaped(last[0]),
        source=unescaped(last[1]).removeprefix(_MARK),
        owner=int(owner[1]) if owner else 0,
        writable=b"rw" in first[5].split(b",") and b"rw" in last[2].split(b",") if len(last) > 2 else False,
    )


def unescaped(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), field))


def all_mounts() -> tuple[Mount, ...]:
    """The mounts that this process sees."""
    with open(_TABLE, "rb") as file:
        return parse_mountinfo(file.read())


def riafs_mounts() -> tuple[Mount, ...]:
    """The mounts of type riafs that this process sees."""
    return tuple(mount for mount in all_mounts() if mount.type == TYPE)


def copies_of(device: str) -> list[tuple[int, str]]:
    """Processes in whose mount namespaces a device is mounted, with where; one a namespace, as far as one may look.

    Such copies are made by unshare(1), containers and services with ``PrivateMounts=``; an unmount here leaves them.
    """
    found: dict[str, tuple[int, str]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace in found:
                continue
            with open(f"/proc/{process}/mountinfo", "rb") as file:
                mounts = parse_mountinfo(file.read())
        except OSError:  # it has ended, or is another user's
            continue
        places = [mount.mountpoint for mount in mounts if mount.device == device and mount.type == TYPE]
        if places:
            found[namespace] = int(process), places[0]
    return list(found.values())


def mount_at(path: str) -> Mount | None:
    """What is mounted at exactly this absolute path without symbolic links, or None."""
    found = [mount for mount in all_mounts() if mount.mountpoint == path]
    return found[-1] if found else None


def is_at_or_below(path: str, directory: str) -> bool:
    """Whether an absolute path is that of `directory`, or of something in it, by their texts."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def resolve(path: str) -> str:
    """`path` as the table spells it. Only the part above its last name is looked up, unless that is no mountpoint.

    The last name may be a mount that does not answer.
    """
    path = os.path.abspath(path)
    parent, name = os.path.split(path)
    candidate = os.path.join(os.path.realpath(parent), name) if name else path
    return candidate if mount_at(candidate) is not None else os.path.realpath(path)
