"""Directories below ``annex/objects``, opened so that no link in a store leads a writer out of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from riafs.packing.sharing import Sharing
from riafs.storage.beneath import DIRECTORY_FLAGS, open_beneath


@contextmanager
def opened(root: int, path: bytes) -> Iterator[int]:
    """A descriptor of the directory `path` below the descriptor `root`. Raises OSError."""
    descriptor = open_beneath(root, path or b".", DIRECTORY_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def make(root: int, path: bytes, sharing: Sharing) -> None:
    """Make the directory `path` below `root`, and what is missing above it, with the dataset's modes. Raises OSError.

    A directory of git-annex's, which nobody may write to, is made writable for its owner, as DataLad's ORA does.
    """
    try:
        with opened(root, path) as directory:
            _let_owner_write(directory)
    except FileNotFoundError:
        above, name = os.path.split(path)
        make(root, above, sharing)
        _make_one(root, above, name, sharing)


def _let_owner_write(directory: int) -> None:
    mode = os.fstat(directory).st_mode
    if not mode & 0o200:
        os.fchmod(directory, mode & 0o7777 | 0o200)


def _make_one(root: int, above: bytes, name: bytes, sharing: Sharing) -> None:
    with opened(root, above) as directory:
        try:
            os.mkdir(name, dir_fd=directory)
        except FileExistsError:
            return
        with opened(directory, name) as made:
            os.fchmod(made, sharing.directory_mode())
