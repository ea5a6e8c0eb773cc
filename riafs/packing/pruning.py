"""Removing loose objects that an archive holds as well.

Invariant: an object is removed only while the file in which its content was verified lies at the archive's place.
"""

import os
from collections.abc import Sequence

from riafs.errors import Busy
from riafs.packing.archives import FileMark, mark_at, path_in
from riafs.packing.loose import LooseObject
from riafs.packing.watching import Step, Watcher
from riafs.storage import posix
from riafs.storage.posix import HeldDirectory, sync_file_system, writing_to


def remove_objects(
    directory: HeldDirectory, objects: Sequence[LooseObject], archives: HeldDirectory, mark: FileMark, watcher: Watcher
) -> int:
    """Remove `objects` below `directory`, and the directories that are empty then. Returns how many inodes were freed.

    `mark` is that of the checked archive, which has to be in `archives`. That they are gone lasts. Raises Busy where it
    no longer is, StoreDenied, StoreError.
    """
    watcher.begin(Step.REMOVING, len(objects))
    freed = 0
    for found in objects:
        watcher.advance(1)
        if mark_at(archives) != mark:
            raise Busy(f"{os.fsdecode(path_in(archives))} was changed by another program; the remaining objects stay")
        with writing_to(directory.path + b"/" + found.path):
            freed += _remove(directory.descriptor, found.path)
    if objects:
        with writing_to(directory.path):
            sync_file_system(directory.descriptor)
    return freed


def _remove(root: int, path: bytes) -> int:
    above, name = os.path.split(path)
    try:
        with posix.opened_directory(root, above) as directory:
            _unlink(name, directory)
    except FileNotFoundError:
        return 0
    return 1 + _remove_empty(root, above)


def _unlink(name: bytes, directory: int) -> None:
    """git-annex takes the write bit from the directories of objects."""
    try:
        os.unlink(name, dir_fd=directory)
    except PermissionError:
        os.fchmod(directory, os.fstat(directory).st_mode & 0o7777 | 0o200)
        os.unlink(name, dir_fd=directory)


def _remove_empty(root: int, path: bytes) -> int:
    """The directory `path` and those above it, as far as they are empty."""
    removed = 0
    while path:
        above, name = os.path.split(path)
        try:
            with posix.opened_directory(root, above) as directory:
                os.rmdir(name, dir_fd=directory)
        except OSError:  # not empty, or somebody was faster: both leave nothing to do
            return removed
        removed += 1
        path = above
    return removed
