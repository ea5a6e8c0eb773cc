"""Directories that nobody else can look into or put something into, and files that nobody else can read.

Whoever makes one says so by its mode: the umask is the user's, since a mount also makes files in stores that others
are to read.
"""

import contextlib
import os
import stat

from riafs.errors import StoreDenied


def private_directory(path: str) -> str:
    """`path`, made with mode 0700 if missing, as is what is missing above it.

    Raises StoreDenied for a link, or if others own or may write it.
    """
    try:
        _make(path)
        status = os.lstat(path)
    except OSError as error:
        raise StoreDenied(f"cannot make {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StoreDenied(f"{path} must be a directory of user {os.geteuid()} that nobody else can write to")
    return path


def _make(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        _make(os.path.dirname(path))
        _make(path)
    except FileExistsError:
        pass


def private_opener(path: str | bytes, flags: int) -> int:
    """For `open`: a new file is its user's alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def prompt_opener(path: str | bytes, flags: int) -> int:
    """The same for what is a file and nothing else: a fifo in its place is empty or fails, but is not waited for."""
    return private_opener(path, flags | os.O_NONBLOCK)


def ensure_private_file(path: str | bytes) -> None:
    """Make an empty file of this user alone, unless there is one, for a library that makes it with other modes.

    An existing file is not opened: closing it again would give up the locks that this process has on it.
    Raises OSError.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
