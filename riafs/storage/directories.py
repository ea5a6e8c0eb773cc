"""Directories of a store, opened and made so that no link in the store leads a writer out of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from riafs.storage.beneath import DIRECTORY_FLAGS, open_beneath, open_plain
from riafs.storage.sharing import DIRECTORY_MODE, Sharing

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
    if path in known:
        return
    try:
        with opened(root, path) as directory:
            _let_owner_write(directory)
    except FileNotFoundError:
        above, name = os.path.split(path)
        make(root, above, sharing, known)
        _make_one(root, above, name, sharing)
    known.add(path)


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
