"""Directories that nobody else can look into or put something into."""

import os
import stat

from riafs.errors import StoreDenied


def private_directory(path: str) -> str:
    """`path`, made with mode 0700 if missing. Raises StoreDenied for a link, or if others own or may write it."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise StoreDenied(f"cannot make {path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StoreDenied(f"{path} must be a directory of user {os.geteuid()} that nobody else can write to")
    return path
