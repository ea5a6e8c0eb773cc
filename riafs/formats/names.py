"""The one rule for names that stores, trees and archives offer as directory entries."""

from collections.abc import Set as AbstractSet
from itertools import product

MAX_NAME = 255
"""Bytes in a file name on Linux."""

_SLASH = ord("/")
_REFUSED = frozenset({b"", b".", b".."}) | {"".join(letters).encode() for letters in product(".", "gG", "iI", "tT")}


def valid_name(name: bytes) -> bool:
    """Whether `name` may be shown as a directory entry: 1 to 255 bytes without ``/`` and NUL, but not ``.``, ``..`` or
    ``.git`` in any case, which git itself refuses in a tree.
    """
    return name not in _REFUSED and len(name) <= MAX_NAME and _SLASH not in name and 0 not in name


def valid_names(names: AbstractSet[bytes]) -> bool:
    """Whether every name is valid; for many names much faster than one by one."""
    if not _REFUSED.isdisjoint(names) or max(map(len, names), default=0) > MAX_NAME:
        return False
    text = b"".join(names)
    return _SLASH not in text and 0 not in text
