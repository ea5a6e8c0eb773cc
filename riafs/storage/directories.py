"""Directories of a store, opened and made so that no link in the store leads a writer out of it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from riafs.storage.beneath import DIRECTORY_FLAGS, open_beneath, open_plain
from riafs.storage.sharing import DIRECTORY_MODE, Sharing

_ITSELF = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ABSENT = -1
"""The descriptor of a directory that is not there."""


@dataclass(frozen=True, slots=True)
class HeldDirectory:
    """A directory that is open: whatever comes to be called like it, this one is meant. `path`: for messages."""

    descriptor: int
    path: bytes

    def named(self, name: bytes) -> str:
        """How messages call what is called `name` in it."""
        return os.fsdecode(self.path + b"/" + name)

    def close(self) -> None:
        """Close the descriptor."""
        if self.descriptor != ABSENT:
            os.close(self.descriptor)


@contextmanager
def opened(root: int, path: bytes) -> Iterator[int]:
    """A descriptor of the directory `path` below the descriptor `root`. Raises OSError."""
    descriptor = open_beneath(root, path or b".", DIRECTORY_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make(root: int, path: bytes, sharing: Sharing, known: set[bytes]) -> None:
    """Make the directory `path` below `root`, and what is missing above it, with the modes that `sharing` gives.

    A directory of git-annex's, which nobody may write to, is made writable for its owner, as DataLad's ORA does.
    Directories in `known` are known to be there; all others that are met are added. Raises OSError.
    """
    missing = []
    while path not in known:
        missing.append(path)
        try:
            with opened(root, path) as directory:
                _let_owner_write(directory)
        except FileNotFoundError:
            if not path:
                raise
            path = os.path.dirname(path)
        else:
            known.add(path)
    for path in reversed([each for each in missing if each not in known]):
        _make_one(root, *os.path.split(path), sharing)
        known.add(path)


def remove_tree(parent: int, name: bytes) -> None:
    """Remove the directory `name` in the descriptor `parent` with all in it. Raises OSError.

    Directories in it are moved up to its top first, so that no depth is too much for descriptors or for a stack; and
    whatever ends this in the middle, what is left is still in `name`.
    """
    with _opened_itself(parent, name) as top:
        moved = 0
        while directories := _emptied(top):
            for each in directories:
                with _opened_itself(top, each) as directory:
                    for below in _emptied(directory):
                        moved = _move_up(top, directory, below, moved)
                os.rmdir(each, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


@contextmanager
def _opened_itself(parent: int, name: bytes) -> Iterator[int]:
    """A descriptor of a directory, never of what a link leads to."""
    descriptor = os.open(name, _ITSELF, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _emptied(directory: int) -> list[bytes]:
    """Remove what is no directory; the names of those that are."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories


def _move_up(top: int, directory: int, name: bytes, number: int) -> int:
    """Move a directory to `top`, under a name that nothing has there. Returns the number for the next one."""
    while True:
        number += 1
        lifted = b".%d" % number
        try:
            os.rename(name, lifted, src_dir_fd=directory, dst_dir_fd=top)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        else:
            return number


def _let_owner_write(directory: int) -> None:
    mode = os.fstat(directory).st_mode
    if not mode & 0o200:
        os.fchmod(directory, mode & 0o7777 | 0o200)


def _make_one(root: int, above: bytes, name: bytes, sharing: Sharing) -> None:
    with opened(root, above) as directory:
        try:
            os.mkdir(name, DIRECTORY_MODE, dir_fd=directory)
        except FileExistsError:
            return
        made = open_plain(directory, name, DIRECTORY_FLAGS)
        try:
            sharing.settle(made)
        finally:
            os.close(made)
