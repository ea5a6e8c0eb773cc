"""Files and trees of riafs mounts, as commands are given them."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.errors import UsageError

Complain = Callable[[str, OSError], None]


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `size` in bytes."""

    path: str
    size: int
    mount: Mount

    @property
    def dataset(self) -> str:
        """What to call the dataset or collection that it is in."""
        _, mark, label = self.mount.source.rpartition("#")
        if mark and "/" not in label:
            return label.removeprefix("~")
        names = os.path.relpath(self.path, self.mount.mountpoint).split("/")
        return "/".join(names[: 2 if names[0] in ("by-id", "by_id") else 1])


def files_below(paths: Iterable[str], complain: Complain) -> Iterator[File]:
    """The regular files at and below `paths`, which may be links themselves; links in a tree are not followed.

    `complain` hears what cannot be looked at. Raises UsageError for a path that is not in a riafs mount.
    """
    mounts = {mount.device: mount for mount in riafs_mounts()}
    for path in paths:
        real = os.path.realpath(path)
        try:
            status = os.lstat(real)
        except OSError as error:
            complain(path, error)
            continue
        mount = mounts.get(f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}")
        if mount is None:
            raise UsageError(f"{path} is not in a riafs mount")
        if stat.S_ISREG(status.st_mode):
            yield File(real, status.st_size, mount)
        elif stat.S_ISDIR(status.st_mode):
            yield from _below(real, mount, complain)


def _below(top: str, mount: Mount, complain: Complain) -> Iterator[File]:
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                listed = list(entries)  # at once: whoever takes what this gives may stop in the middle
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield File(entry.path, entry.stat(follow_symlinks=False).st_size, mount)
        except OSError as error:
            complain(path, error)
