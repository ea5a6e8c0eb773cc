"""Which git blobs stand for annexed content: targets of locked links, and pointer files of unlocked ones.

Both are recognised by the blob's bytes alone, by git-annex's rules (each row of the tests was tried with git-annex 10).
The hash directories in a link are not looked at: they may be those of another layout, or lies.
"""

import re
from typing import NamedTuple

from riafs.errors import MalformedKey
from riafs.formats.keys import Key, parse_file_name

MAX_POINTER = 32768
"""Bytes of the largest blob that git-annex takes for a pointer."""

# What nearly every locked link ends in: a key with a size, an extension that is not too long for any backend, and
# nothing in it that is escaped. Such a key is recognised in a third of the time.
_COMMON_KEY = re.compile(
    rb"[A-Z0-9_]+-s(0|[1-9][0-9]{0,17})--[A-Za-z0-9_-]{1,200}(?:\.[A-Za-z0-9._-]{0,63})?"
).fullmatch


class Pointed(NamedTuple):
    """What a listing wants of a key that a blob points at."""

    serialised: bytes
    file_name: bytes
    size: int | None
    mtime: int | None


def pointed(blob: bytes) -> Pointed | None:
    """As `parse_pointer`, quicker for the usual ones."""
    path, _, file_name = blob.rpartition(b"/")
    common = _COMMON_KEY(file_name)
    if common is not None and b"/annex/objects/" in path and b"\n" not in path and len(blob) <= MAX_POINTER:
        return Pointed(file_name, file_name, int(common[1]), None)
    key = parse_pointer(blob)
    return None if key is None else Pointed(key.serialised, key.file_name, key.size, key.mtime)


def parse_pointer(blob: bytes) -> Key | None:
    """The key that a blob points at, or None where it is ordinary content."""
    if len(blob) > MAX_POINTER:
        return None
    first, _, remarks = blob.partition(b"\n")
    if b"/annex/objects/" not in first or (remarks and not _is_annex_remark(remarks)):
        return None
    file_name = first[first.rindex(b"/") + 1 :]
    try:
        return parse_file_name(file_name.removesuffix(b"\r"))
    except MalformedKey:
        return None


def _is_annex_remark(rest: bytes) -> bool:
    """Whether what follows a pointer's first line belongs to it: whole lines that each contain ``/annex/``."""
    return rest.endswith(b"\n") and all(b"/annex/" in line for line in rest[:-1].split(b"\n"))
