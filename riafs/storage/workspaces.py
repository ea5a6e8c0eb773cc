"""Directories for what is unfinished, each of one process alone, and no traces of killed ones.

A workspace ``NAME`` goes with a file ``NAME.lock``, which its process has locked since before the directory was made.
The lock is the kernel's and ends with its process, so what has a free lock was left behind and is removed by whoever
comes next. What has no place yet lies in workspaces: it is nobody's loss.
"""

import fcntl
import os
import secrets
from contextlib import suppress

from riafs.storage.beneath import open_beneath
from riafs.storage.directories import opened, remove_tree

DIRECTORY = b".riafs-push"
_LOCK = b".lock"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def new_workspace(root: int, above: bytes) -> tuple[bytes, int]:
    """The path of a new workspace below the directory `above`, and the descriptor of its lock. Raises OSError."""
    directory = os.path.join(above, DIRECTORY)
    while True:
        with suppress(FileExistsError), opened(root, above) as parent:
            os.mkdir(DIRECTORY, dir_fd=parent)
            with opened(parent, DIRECTORY) as made:  # whoever may push may make workspaces
                os.fchmod(made, os.fstat(parent).st_mode & 0o7777)
        try:
            with opened(root, directory) as place:
                _sweep(place)
                name, lock = _locked(place)
                os.mkdir(name, 0o700, dir_fd=place)
        except (FileNotFoundError, BlockingIOError):  # removed or swept by another process in between
            continue
        return directory + b"/" + name, lock


def remove_workspace(root: int, path: bytes, lock: int) -> None:
    """Remove the workspace, and the directory of all workspaces if it was the last."""
    directory, name = os.path.split(path)
    above, last = os.path.split(directory)
    try:
        with suppress(OSError), opened(root, directory) as place:
            _remove(place, name)
        with suppress(OSError), opened(root, above) as place:
            os.rmdir(last, dir_fd=place)
    finally:
        os.close(lock)


def _locked(place: int) -> tuple[bytes, int]:
    name = secrets.token_hex(8).encode()
    lock = os.open(name + _LOCK, _LOCK_FLAGS | os.O_EXCL, 0o600, dir_fd=place)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return name, lock


def _sweep(place: int) -> None:
    """Remove what processes left that are no more, and that this user may remove."""
    for file_name in os.listdir(place):
        name = os.fsencode(file_name)
        if name.endswith(_LOCK):
            with suppress(OSError):
                _remove_if_left(place, name.removesuffix(_LOCK))


def _remove_if_left(place: int, name: bytes) -> None:
    lock = open_beneath(place, name + _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(place, name)
    finally:
        os.close(lock)


def _remove(place: int, name: bytes) -> None:
    """The lock goes last: what has none is never looked at."""
    with suppress(OSError):
        remove_tree(place, name)
    os.unlink(name + _LOCK, dir_fd=place)
