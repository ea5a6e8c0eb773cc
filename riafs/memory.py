"""The memory that this process may use: what its control group allows, if that sets a limit.

The kernel ends a process of a group that has used its memory up, a mount or one of its children, without a warning. So
`ensure` is called before much is kept, and limits that a user did not set follow `share`.
Formats of the files: the kernel's documentation of control groups, versions 1 and 2.
"""

import os
from dataclasses import dataclass

from riafs.errors import OutOfMemory

_ROOT = "/sys/fs/cgroup"
_OWN = "/proc/self/cgroup"
_NO_LIMIT = 1 << 60
_RESERVE = 8 << 20
"""Bytes that are left for answering with an error, beside a sixteenth of all."""
_COUNTED_1 = frozenset((b"total_rss", b"total_shmem"))
"""In ``memory.stat``: what cannot be given back, unlike the page cache of files; in a group of version 1,"""
_COUNTED_2 = frozenset(
    (b"anon", b"shmem", b"kernel_stack", b"pagetables", b"percpu", b"sock", b"vmalloc", b"slab_unreclaimable")
)
"""and of version 2, where the kernel's own memory counts too."""


@dataclass(frozen=True, slots=True)
class Group:
    """The control group whose limit is reached first. `path`: its directory; `limit`: bytes."""

    path: str
    limit: int

    def used(self) -> int:
        """Bytes that all its processes use and cannot give back. Raises OSError, ValueError."""
        with open(f"{self.path}/memory.stat", "rb") as file:
            fields = dict(line.split() for line in file)
        counted = _COUNTED_1 if b"total_rss" in fields else _COUNTED_2
        return sum(int(fields[name]) for name in counted & fields.keys())


def group_of(cgroups: str, root: str) -> Group | None:
    """The tightest group among those in the text of ``/proc/self/cgroup`` and above them; None without any limit."""
    found = []
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_limits(f"{root}{mount}", path, ("memory.max", "memory.high")) for mount in ("", "/unified")]
        elif "memory" in controllers.split(","):
            found += [_limits(f"{root}/{controllers}", path, ("memory.limit_in_bytes",))]
    groups = [group for each in found for group in each]
    return min(groups, key=lambda group: group.limit, default=None)


def _limits(mount: str, path: str, names: tuple[str, ...]) -> list[Group]:
    """The limits of a group and of those above it. In a container its path may not be there: then the mount is it."""
    groups = []
    while True:
        directory = mount + path.rstrip("/")
        limits = [_number(f"{directory}/{name}") for name in names]
        if min(limits) < _NO_LIMIT:
            groups.append(Group(directory, min(limits)))
        if path in ("/", ""):
            return groups
        path = os.path.dirname(path)


def _number(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read())
    except (OSError, ValueError):  # not there, or "max"
        return _NO_LIMIT


def own_group(cgroups: str = _OWN, root: str = _ROOT) -> Group | None:
    """That of this process, None where nothing limits it or nothing can be told. `cgroups`: the file that names its
    groups; `root`: where they are mounted.
    """
    try:
        with open(cgroups) as file:
            return group_of(file.read(), root)  # each time, as a process may be put into another group
    except (OSError, ValueError):
        return None


def share(size: int, parts: int) -> int:
    """`size` bytes, but at most one of `parts` equal parts of what the control group allows."""
    group = own_group()
    return size if group is None else min(size, group.limit // parts)


def ensure(size: int, what: str) -> None:
    """See to it that `size` more bytes can be kept. Raises OutOfMemory, which says what for.

    A process that is not limited gets MemoryError from Python, if anything.
    """
    group = own_group()
    if group is None:
        return
    try:
        used = group.used()
    except (OSError, ValueError):
        return
    if used + size + _RESERVE + group.limit // 16 > group.limit:
        allowed = f"the {group.limit >> 20} MiB that the control group allows"
        raise OutOfMemory(f"out of memory for {what}: {used >> 20} of {allowed} are used")
