"""Paths in a tree: names with ``/`` between them, from a root whose own path is empty. Pure."""

from collections.abc import Sequence, Set


def joined(directory: bytes, path: bytes) -> bytes:
    """The path of what is at `path` in `directory`."""
    return directory + b"/" + path if directory else path


def below(path: bytes, directory: bytes) -> bytes:
    """`path` from `directory` on, which it is or is in; the inverse of `joined`."""
    return path[len(directory) + 1 :] if directory else path


def is_in(path: bytes, directory: bytes) -> bool:
    """Whether `path` is `directory` or in it."""
    return not directory or path == directory or path.startswith(directory + b"/")


def is_in_one(path: bytes, directories: Set[bytes]) -> bool:
    """Whether `path` is one of these paths, or below one."""
    return path in directories or not directories.isdisjoint(parents_of(path))


def parents_of(path: bytes) -> Sequence[bytes]:
    """The directories above `path`, the outermost first, without the root."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]
