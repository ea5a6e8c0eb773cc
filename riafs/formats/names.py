"""Names that stores, trees and archives offer as directory entries, and paths made of them.

A path has ``/`` between its names and begins at a root whose own path is empty.
"""

import re
from collections.abc import Collection, Sequence, Set
from itertools import product

MAX_NAME = 255
"""Bytes in a file name on Linux."""

_SLASH, _BACKSLASH = ord("/"), ord("\\")
_REFUSED = frozenset({b"", b".", b".."}) | {"".join(letters).encode() for letters in product(".", "gG", "iI", "tT")}
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_NTFS_DOTGIT = re.compile(rb"(?:\.git|git~1)[. ]*(?:[\\:]|\Z)", re.IGNORECASE)
_SHORT = "|".join(f"{'gi7eba'[:kept]}~[1-9][0-9]{{{6 - kept}}}" for kept in range(7))
_NTFS_MODULES = re.compile(rf"(?:\.gitmodules|gitmod~[1-4]|{_SHORT})[. ]*(?::|\Z)".encode(), re.IGNORECASE)


def valid_name(name: bytes) -> bool:
    """Whether `name` may be shown as a directory entry: 1 to 255 bytes without ``/`` and NUL, but not ``.``, ``..`` or
    ``.git`` in any case, which git itself refuses in a tree.
    """
    return name not in _REFUSED and len(name) <= MAX_NAME and _SLASH not in name and 0 not in name


def valid_names(names: Collection[bytes]) -> bool:
    """Whether every name is valid; for many names much faster than one by one."""
    if not _REFUSED.isdisjoint(names) or max(map(len, names), default=0) > MAX_NAME:
        return False
    text = b"".join(names)
    return _SLASH not in text and 0 not in text


def git_takes(name: bytes, *, is_link: bool) -> bool:
    """Whether git puts a valid name into a tree and checks it out, on every system: not what may stand for ``.git`` on
    NTFS (trailing dots and blanks, streams, short names, behind backslashes) or HFS+ (characters that it ignores), and
    no link with a name that means ``.gitmodules``. As verify_path in git's read-cache.c with core.protectNTFS and
    core.protectHFS, verified with git 2.39 and its source.
    """
    parts = [name, *(name[at + 1 :] for at in range(len(name)) if name[at] == _BACKSLASH)]
    if not valid_name(name) or any(map(_NTFS_DOTGIT.match, parts)) or _hfs_name(name) == ".git":
        return False
    return not is_link or not (any(map(_NTFS_MODULES.match, parts)) or _hfs_name(name) == ".gitmodules")


def _hfs_name(name: bytes) -> str:
    """As HFS+ compares it, as far as git does: up to where it is no UTF-8, and case only of ASCII."""
    text = re.split("[\udc80-\udcff]", name.decode("utf-8", "surrogateescape"), maxsplit=1)[0]
    plain = _HFS_IGNORED.sub("", text)
    return plain.lower() if plain.isascii() else plain


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
