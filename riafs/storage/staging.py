"""Workspaces: directories in a store for unfinished files, one for each process.

How it works: a workspace ``NAME`` is in the directory ``.riafs-push`` beside a file ``NAME.lock``, which its process
locks (flock) before it makes the workspace. The kernel releases the lock when the process ends, however it ends. So a
workspace whose lock is free was left by a killed process, and the next process of the same user removes it. Nothing is
lost by that, as workspaces have only unfinished files.

A store may be shared, and others may put links into it. So all directories are opened without following links and kept
open, and files are removed by name from an open directory that belongs to this user. All users who may push can make
workspaces in ``.riafs-push``; each owns his.
"""

import fcntl
import os
import secrets
import stat
from contextlib import ExitStack, suppress
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
    """An open directory of this process alone."""

    name: bytes
    held: HeldDirectory
    lock: int
    """Descriptor of ``NAME.lock``."""
    parent: HeldDirectory
    """``.riafs-push``."""
    above: HeldDirectory
    """The directory that has ``.riafs-push``."""


def new_workspace(above: HeldDirectory) -> Workspace:
    """A new workspace below the directory `above`, which it then owns. Raises NotOurs, OSError."""
    with ExitStack() as stack:
        stack.callback(above.close)
        for left in reversed(range(_ATTEMPTS)):
            try:
                workspace = _make_workspace(above)
            except (FileNotFoundError, BlockingIOError):  # another process removed `.riafs-push` or the new lock
                if not left:
                    raise
            else:
                stack.pop_all()
                return workspace
    raise AssertionError("the last attempt returns or raises")


def _make_workspace(above: HeldDirectory) -> Workspace:
    with ExitStack() as stack:
        parent = open_working_directory(above, DIRECTORY, os.fstat(above.descriptor).st_mode)
        stack.callback(parent.close)
        _remove_abandoned(parent)
        name, lock = _make_lock(parent)
        stack.callback(os.close, lock)
        stack.callback(_remove_lock, parent, name)
        os.mkdir(name, 0o700, dir_fd=parent.descriptor)
        held = HeldDirectory(open_plain(parent.descriptor, name, DIRECTORY_FLAGS), parent.path + b"/" + name)
        stack.pop_all()
        return Workspace(name, held, lock, parent, above)


def remove_workspace(workspace: Workspace) -> None:
    """Remove a workspace with the files in it, and the directory of all workspaces if it was the last."""
    above, parent = workspace.above, workspace.parent
    with ExitStack() as stack:
        for descriptor in (above.descriptor, parent.descriptor, workspace.held.descriptor, workspace.lock):
            stack.callback(os.close, descriptor)
        with suppress(OSError):
            remove_content(workspace.held)
            os.rmdir(workspace.name, dir_fd=parent.descriptor)
        _remove_lock(parent, workspace.name)
        with suppress(OSError):
            os.rmdir(DIRECTORY, dir_fd=above.descriptor)


def open_working_directory(above: HeldDirectory, name: bytes, mode: int) -> HeldDirectory:
    """A directory of riafs in a store, made with the permissions in `mode` if missing. Raises NotOurs, OSError."""
    path = above.path + b"/" + name
    while True:
        try:
            os.mkdir(name, 0o700, dir_fd=above.descriptor)
            is_new = True
        except FileExistsError:
            is_new = False
        try:
            held = HeldDirectory(open_plain(above.descriptor, name, DIRECTORY_FLAGS), path)
        except FileNotFoundError:  # removed in between
            continue
        except (NotADirectoryError, PermissionError) as error:
            raise _not_ours(above, name) from error
        if is_new:
            os.fchmod(held.descriptor, stat.S_IMODE(mode))
        return held


def _not_ours(above: HeldDirectory, name: bytes) -> NotOurs:
    mode = os.stat(name, dir_fd=above.descriptor, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode):
        reason = "is not open to this user"
    else:
        reason = "is a link" if stat.S_ISLNK(mode) else "is no directory"
    return NotOurs(f"{above.named(name)} {reason}, where riafs keeps unfinished work: it is left alone; remove it")


def is_ours(status: os.stat_result, above: HeldDirectory) -> bool:
    """Whether a file or directory belongs to this user alone, by the user that the file system of `above` gives to new
    files: a file server may give those of root to another user (``root_squash``).
    """
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    if status.st_uid == os.geteuid():
        return True
    name = b".riafs-" + secrets.token_hex(8).encode()
    os.close(os.open(name, _NEW_LOCK, 0o600, dir_fd=above.descriptor))
    try:
        return status.st_uid == os.stat(name, dir_fd=above.descriptor, follow_symlinks=False).st_uid
    finally:
        os.unlink(name, dir_fd=above.descriptor)


def remove_content(held: HeldDirectory, keep: bytes = b"") -> None:
    """Remove everything in a directory of this user alone but the entry `keep`. Raises OSError."""
    for file_name in os.listdir(held.descriptor):
        name = os.fsencode(file_name)
        if name == keep:
            continue
        try:
            os.unlink(name, dir_fd=held.descriptor)
        except IsADirectoryError:  # earlier versions of riafs made some
            remove_tree(held.descriptor, name)


def _make_lock(parent: HeldDirectory) -> tuple[bytes, int]:
    """The name of a new workspace, and a descriptor of its lock, which is held."""
    name = secrets.token_hex(8).encode()
    lock = os.open(name + _LOCK, _NEW_LOCK, 0o600, dir_fd=parent.descriptor)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return name, lock


def _remove_lock(parent: HeldDirectory, name: bytes) -> None:
    # After the workspace: one without a lock would never be found again.
    with suppress(OSError):
        os.unlink(name + _LOCK, dir_fd=parent.descriptor)


def _remove_abandoned(parent: HeldDirectory) -> None:
    """Remove the workspaces of killed processes of this user."""
    for file_name in os.listdir(parent.descriptor):
        name = os.fsencode(file_name)
        if name.endswith(_LOCK):
            with suppress(OSError):
                _remove_if_abandoned(parent, name.removesuffix(_LOCK))


def _remove_if_abandoned(parent: HeldDirectory, name: bytes) -> None:
    with ExitStack() as stack:
        lock = open_regular(parent.descriptor, name + _LOCK, os.O_RDWR)
        stack.callback(os.close, lock)
        status = os.fstat(lock)
        if status.st_nlink != 1 or not is_ours(status, parent):
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises BlockingIOError while its process lives
        with suppress(FileNotFoundError):
            abandoned = HeldDirectory(open_plain(parent.descriptor, name, DIRECTORY_FLAGS), parent.path + b"/" + name)
            stack.callback(abandoned.close)
            if not is_ours(os.fstat(abandoned.descriptor), parent):
                return
            remove_content(abandoned)
            os.rmdir(name, dir_fd=parent.descriptor)
        _remove_lock(parent, name)
