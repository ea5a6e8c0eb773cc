"""git-annex in a tree and in a RIA store: pointers, hash directories, layout versions.

A pointer is a git blob that refers to annexed content: the target of a locked link, or the pointer file of an unlocked
one. It is recognised by its bytes alone, by git-annex's rules (each row of the tests was tried with git-annex 10). The
hash directories in a link are not looked at: they may be those of another layout, or lies.

The two kinds of hash directories below ``annex/objects`` are made from the MD5 of a serialised key without its chunk
fields. git-annex hashes the key itself, DataLad's ORA hashes its escaped form; they differ for keys with ``/ : % &``
(URL, VURL, WORM), so that both have to be tried.

The two ``ria-layout-version`` files, one of the store and one of each dataset, have one line, ``VERSION`` or
``VERSION|FLAGS``; white space around it does not count (DataLad's ORA). A file that is missing or unknown never fails
here: it gives a value with `known` false, a reason to log, and the layout that ORA would read with, since a store shown
read-only is better than none.
"""

import enum
import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from riafs.errors import MalformedKey
from riafs.formats.keys import Key, escape, parse_file_name
from riafs.formats.text import shown

MAX_POINTER = 32768
"""Bytes of the largest blob that git-annex takes for a pointer."""

# What nearly every locked link ends in: a key with a size, an extension that is not too long for any backend, and
# nothing in it that is escaped. Such a key is recognised in a third of the time.
_COMMON_KEY = re.compile(
    rb"[A-Z0-9_]+-s(0|[1-9][0-9]{0,17})--[A-Za-z0-9_-]{1,200}(?:\.[A-Za-z0-9._-]{0,63})?"
).fullmatch


class Pointed(NamedTuple):
    """The fields of a pointer's key that a listing needs."""

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


def locked_target(key: Key, path: bytes) -> bytes:
    """The target of the link at `path` (from the dataset's top), without a line end.

    The hash directories are those of a working tree: mixed case, of the unescaped key.
    """
    up = b"../" * path.count(b"/")
    name = key.file_name
    return b"%b.git/annex/objects/%b/%b/%b" % (up, hash_mixed(key.serialised), name, name)


def pointer_text(key: Key) -> bytes:
    """The content of an unlocked file in git."""
    return b"/annex/objects/" + key.file_name + b"\n"


# -- layout versions --------------------------------------------------------------------------------------------------


class Layout(enum.Enum):
    """The layout of a dataset's objects in directories; the value is the version in ``ria-layout-version``."""

    LOWER = "1"
    MIXED = "2"


@dataclass(frozen=True, slots=True)
class StoreVersion:
    """The store's version file: how datasets lie in the store."""

    version: bytes
    flags: bytes
    known: bool
    reason: str
    """Why `known` is false; empty otherwise."""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A dataset's version file: how objects lie in the dataset."""

    layout: Layout
    flags: bytes
    known: bool
    reason: str
    """Why `known` is false; empty otherwise."""


_LAYOUTS = {layout.value.encode(): layout for layout in Layout}


def parse_store_version(text: bytes | None) -> StoreVersion:
    """The store's version from the file's bytes; None for a missing file. Only version 1 is known."""
    if text is None:
        return StoreVersion(b"1", b"", known=False, reason="the store has no ria-layout-version, read as version 1")
    version, flags = _split(text)
    if version == b"1":
        return StoreVersion(version, flags, known=True, reason="")
    return StoreVersion(version, flags, known=False, reason=f"unknown store version {shown(text)}, read as version 1")


def parse_dataset_version(text: bytes | None) -> DatasetVersion:
    """A dataset's layout from the file's bytes; None for a missing file. Anything unknown reads as 2."""
    if text is None:
        reason = "the dataset has no ria-layout-version, read as version 2"
        return DatasetVersion(Layout.MIXED, b"", known=False, reason=reason)
    version, flags = _split(text)
    layout = _LAYOUTS.get(version)
    if layout is not None:
        return DatasetVersion(layout, flags, known=True, reason="")
    reason = f"unknown dataset version {shown(text)}, read as version 2"
    return DatasetVersion(Layout.MIXED, flags, known=False, reason=reason)


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Version and flags; with more than one ``|`` there is no version, as in ORA."""
    parts = text.strip().split(b"|", 2)
    if len(parts) > 2:
        return b"", b""
    return parts[0], parts[1] if len(parts) == 2 else b""


# -- hash directories -------------------------------------------------------------------------------------------------

_ALPHABET = b"0123456789zqjxkmvwgpfZQJXKMVWGPF"
# Two letters for 11 bits of the hash: letters are 5 bits each, taken every 6 bits, the later one written first.
_LETTERS = tuple(bytes((_ALPHABET[(bits >> 6) & 31], _ALPHABET[bits & 31])) for bits in range(1 << 11))
_MASK = (1 << 11) - 1


def hash_lower(name: bytes) -> bytes:
    """The lower-case directories of layout 1 and of the git-annex branch, for example ``e43/794``."""
    return _lower(_digest(name))


def hash_mixed(name: bytes) -> bytes:
    """The mixed-case directories of layout 2 and of a working tree, for example ``F4/53``."""
    return _mixed(_digest(name))


def object_directories(key: Key, first: Layout) -> tuple[bytes, ...]:
    """The possible paths of the directory of `key` below ``annex/objects``, likeliest first, two or four without
    repeats.

    The dataset's own layout `first` comes before the other one, ORA's hash of the escaped key before git-annex's.
    """
    serialised = key.unchunked().serialised
    escaped = escape(serialised)
    digest = _digest(escaped)
    lower, mixed = _lower(digest), _mixed(digest)
    if escaped == serialised:
        return (lower, mixed) if first is Layout.LOWER else (mixed, lower)
    plain = _digest(serialised)
    lowers, mixeds = (lower, _lower(plain)), (mixed, _mixed(plain))
    ordered = lowers + mixeds if first is Layout.LOWER else mixeds + lowers
    return tuple(dict.fromkeys(ordered))


def likely_path(file_name: bytes, layout: Layout) -> bytes:
    """The path below ``annex/objects`` that ORA writes the object of a key (no chunk) with this file name to."""
    digest = _digest(file_name)
    return b"%b/%b/%b" % (_lower(digest) if layout is Layout.LOWER else _mixed(digest), file_name, file_name)


def _digest(name: bytes) -> bytes:
    return hashlib.md5(name, usedforsecurity=False).digest()


def _lower(digest: bytes) -> bytes:
    text = digest[:3].hex().encode()
    return text[:3] + b"/" + text[3:]


def _mixed(digest: bytes) -> bytes:
    word = int.from_bytes(digest[:4], "little")
    return _LETTERS[word & _MASK] + b"/" + _LETTERS[(word >> 12) & _MASK]
