"""Directories in a store for unfinished files, one for each process, and the removal of those that killed ones left.

A workspace ``NAME`` lies in the directory ``.riafs-push`` beside a file ``NAME.lock``, which its process has locked
since before the workspace was made. The lock is the kernel's and ends with its process, so a workspace whose lock is
free was left behind, and the next process of the same user removes it. Only unfinished files lie in workspaces, so
that nothing is lost.

Everything here works by descriptors. A directory is opened without following a link and kept open, so that a link put
in its place later has no effect; files are removed by their names in an open directory, and only where that is this
user's own. ``.riafs-push`` is for all users who may push, and each of them owns the workspaces in it.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from riafs.errors import NotOurs
from riafs.storage.openat import DIRECTORY_FLAGS, open_plain, open_regular
from riafs.storage.posix import HeldDirectory, remove_tree

DIRECTORY = b".riafs-push"
_LOCK = b".lock"
_ATTEMPTS = 100
_NEW_LOCK = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory of this process alone, called `name`; its `lock` and those it lies in are open as well."""

    name: bytes
    held: HeldDirectory
    lock: int
    place: HeldDirectory
    above: HeldDirectory


def new_workspace(above: HeldDirectory) -> Workspace:
    """A new workspace below the directory `above`, which then belongs to it. Raises NotOurs, OSError."""
    with ExitStack() as stack:
        stack.callback(above.close)
        for left in reversed(range(_ATTEMPTS)):
            try:
                made = _made(above)
            except (FileNotFoundError, BlockingIOError):  # removed or swept by another process in between
                if not left:
                    raise
            else:
                stack.pop_all()
                return made
    raise AssertionError("the last attempt returns or raises")


def _made(above: HeldDirectory) -> Workspace:
    with ExitStack() as stack:
        place = open_working_directory(above, DIRECTORY, os.fstat(above.descriptor).st_mode)
        stack.callback(place.close)
        _sweep(place)
        name, lock = _locked(place)
        stack.callback(os.close, lock)
        stack.callback(_remove_lock, place, name)
        os.mkdir(name, 0o700, dir_fd=place.descriptor)
        held = HeldDirectory(open_plain(place.descriptor, name, DIRECTORY_FLAGS), place.path + b"/" + name)
        stack.pop_all()
        return Workspace(name, held, lock, place, above)


def remove_workspace(made: Workspace) -> None:
    """Remove a workspace with the files in it, and the directory of all workspaces if it was the last."""
    with ExitStack() as stack:
        for descriptor in (made.above.descriptor, made.place.descriptor, made.held.descriptor, made.lock):
            stack.callback(os.close, descriptor)
        with suppress(OSError):
            remove_content(made.held)
            os.rmdir(made.name, dir_fd=made.place.descriptor)
        _remove_lock(made.place, made.name)
        with suppress(OSError):
            os.rmdir(DIRECTORY, dir_fd=made.above.descriptor)


def open_working_directory(above: HeldDirectory, name: bytes, mode: int) -> HeldDirectory:
    """A directory of riafs in a store, made with the permissions in `mode` if missing. Raises NotOurs, OSError."""
    path = above.path + b"/" + name
    while True:
        try:
            os.mkdir(name, 0o700, dir_fd=above.descriptor)
            made = True
        except FileExistsError:
            made = False
        try:
            held = HeldDirectory(open_plain(above.descriptor, name, DIRECTORY_FLAGS), path)
        except FileNotFoundError:  # removed in between
            continue
        except (NotADirectoryError, PermissionError) as error:
            raise _strange(above, name) from error
        if made:
            os.fchmod(held.descriptor, stat.S_IMODE(mode))
        return held


def _strange(above: HeldDirectory, name: bytes) -> NotOurs:
    mode = os.stat(name, dir_fd=above.descriptor, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        reason = "is not open to this user"
    else:
        reason = "is a link" if stat.S_ISLNK(mode) else "is no directory"
    return NotOurs(f"{above.named(name)} {reason}, where riafs keeps unfinished work: it is left alone; remove it")


def is_ours(status: os.stat_result, above: HeldDirectory) -> bool:
    """Whether a file or directory belongs to this user alone, as the file system of `above` has it: a server may give
    all that root makes to another user.
    """
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if status.st_uid == os.geteuid():
        return True
    with _named_at_random(above) as name:
        return status.st_uid == os.stat(name, dir_fd=above.descriptor, follow_symlinks=False).st_uid


@contextmanager
def _named_at_random(above: HeldDirectory) -> Iterator[bytes]:
    name = b".riafs-" + secrets.token_hex(8).encode()
    os.close(os.open(name, _NEW_LOCK, 0o600, dir_fd=above.descriptor))
    try:
        yield name
    finally:
        os.unlink(name, dir_fd=above.descriptor)


def remove_content(held: HeldDirectory, keep: bytes = b"") -> None:
    """Remove all that is in a directory of this user alone but what is called `keep`. Raises OSError."""
    for file_name in os.listdir(held.descriptor):
        name = os.fsencode(file_name)
        if name == keep:
            continue
        try:
            os.unlink(name, dir_fd=held.descriptor)
        except IsADirectoryError:  # riafs makes none there any more
            remove_tree(held.descriptor, name)


def _locked(place: HeldDirectory) -> tuple[bytes, int]:
    name = secrets.token_hex(8).encode()
    lock = os.open(name + _LOCK, _NEW_LOCK, 0o600, dir_fd=place.descriptor)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return name, lock


def _remove_lock(place: HeldDirectory, name: bytes) -> None:
    """The lock goes last: what has none is never looked at."""
    with suppress(OSError):
        os.unlink(name + _LOCK, dir_fd=place.descriptor)


def _sweep(place: HeldDirectory) -> None:
    """Remove what processes of this user left that are no more."""
    for file_name in os.listdir(place.descriptor):
        name = os.fsencode(file_name)
        if name.endswith(_LOCK):
            with suppress(OSError):
                _remove_if_left(place, name.removesuffix(_LOCK))


def _remove_if_left(place: HeldDirectory, name: bytes) -> None:
    with ExitStack() as stack:
        lock = open_regular(place.descriptor, name + _LOCK, os.O_RDWR)
        stack.callback(os.close, lock)
        status = os.fstat(lock)
        if status.st_nlink != 1 or not is_ours(status, place):
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            left = HeldDirectory(open_plain(place.descriptor, name, DIRECTORY_FLAGS), place.path + b"/" + name)
            stack.callback(left.close)
            if not is_ours(os.fstat(left.descriptor), place):
                return
            remove_content(left)
            os.rmdir(name, dir_fd=place.descriptor)
        _remove_lock(place, name)
