"""Which git blobs stand for annexed content: targets of locked links, and pointer files of unlocked ones.

Both are recognised by the blob's bytes alone, by git-annex's rules (each row of the tests was tried with git-annex 10).
The hash directories in a link are not looked at: they may be those of another layout, or lies.
"""

import re

from riafs.errors import MalformedKey
from riafs.formats.keys import Key, parse_file_name, valid_extension

MAX_POINTER = 32768
"""Bytes of the largest blob that git-annex takes for a pointer."""

# What nearly every locked link ends in: a key with a size, and nothing in it that is escaped. Such a key is read in
# half the time; the extension's bound is checked as for any other key.
_COMMON_KEY = re.compile(rb"([A-Z0-9_]+)-s(\d{1,18})--([^&%:\n\r\0]{1,200})").fullmatch


def parse_pointer(blob: bytes) -> Key | None:
    """The key that a blob points at, or None where it is ordinary content."""
    if len(blob) > MAX_POINTER:
        return None
    first, _, remarks = blob.partition(b"\n")
    if b"/annex/objects/" not in first or (remarks and not _is_annex_remark(remarks)):
        return None
    file_name = first[first.rindex(b"/") + 1 :]
    common = _COMMON_KEY(file_name)
    if common is not None:
        backend, size, name = common.groups()
        return Key(backend, name, int(size), None, None, None) if valid_extension(backend, name) else None
    try:
        return parse_file_name(file_name.removesuffix(b"\r"))
    except MalformedKey:
        return None


def _is_annex_remark(rest: bytes) -> bool:
    """Whether what follows a pointer's first line belongs to it: whole lines that each contain ``/annex/``."""
    return rest.endswith(b"\n") and all(b"/annex/" in line for line in rest[:-1].split(b"\n"))
