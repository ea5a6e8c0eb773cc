"""git's objects and packs as bytes to be written: trees, commits, loose objects, packs with their index.

A tree that is changed keeps every other entry as it was, odd modes and names that no directory shows included: for
this it is read by `read_items`, which loses nothing, and not by gitobjects.parse_tree. Object names are raw bytes in
trees and hex digits elsewhere, as git has them.
"""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

from riafs.errors import MalformedObject

SHA1_DIGITS = 40
_ITEM = {length: re.compile(rb"([0-7]{1,7}) ([^\0]++)\0(.{%d})|.+" % length, re.DOTALL).findall for length in (20, 32)}
_TREE_MODE = b"40000"
_KINDS = {b"commit": 1, b"tree": 2, b"blob": 3}
_FAR = 1 << 31
"""Offsets from here on stand in a table of their own."""
_FASTEST = 1  # links, logs and trees: small, and half of a tree is digests


class Item(NamedTuple):
    """What a tree says about a name."""

    mode: bytes
    """Octal digits, as they stand there."""
    oid: bytes
    """Raw object name."""

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory."""
        return self.mode.lstrip(b"0") == _TREE_MODE


def item(mode: int, oid: bytes) -> Item:
    """The item with one of git's modes and an object name in hex."""
    return Item(b"%o" % mode, bytes.fromhex(oid.decode()))


def read_items(raw: bytes, oid_length: int = 20) -> dict[bytes, Item]:
    """Name → item of a raw tree. Raises MalformedObject where it is damaged, or has a name twice: no change of it
    could be told from damage.
    """
    found = _ITEM[oid_length](raw)
    items = {name: Item(mode, oid) for mode, name, oid in found}
    if found and (not found[-1][0] or len(items) != len(found)):
        raise MalformedObject(f"a tree object of {len(raw)} bytes that is damaged or has a name twice")
    return items


def encode_tree(items: Mapping[bytes, Item]) -> bytes:
    """The raw tree, in git's order: directories as if their names ended in a slash."""
    return b"".join(map(encode_item, sorted(items.items(), key=place)))


def encode_item(entry: tuple[bytes, Item]) -> bytes:
    """A name of a raw tree."""
    name, value = entry
    return b"%b %b\0%b" % (value.mode, name, value.oid)


def place(entry: tuple[bytes, Item]) -> bytes:
    """What items of a tree are sorted by."""
    name, value = entry
    return name + b"/" if value.is_tree else name


def object_name(kind: bytes, data: bytes, digits: int) -> bytes:
    """The name that git gives to an object: the digest of its header and bytes, SHA-1 (40 digits) or SHA-256 (64)."""
    digest = hashlib.sha1 if digits == SHA1_DIGITS else hashlib.sha256
    return digest(object_header(kind, len(data)) + data).hexdigest().encode()


# -- commits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who made a commit, and when."""

    ident: bytes
    """``Name <address> <seconds since the epoch> <zone>``, as ``git var GIT_AUTHOR_IDENT`` prints it."""


@dataclass(frozen=True, slots=True)
class NewCommit:
    """A commit to be made. Object names in hex."""

    tree: bytes
    parents: Sequence[bytes]
    author: Stamp
    committer: Stamp
    message: bytes


def encode_commit(commit: NewCommit) -> bytes:
    """The raw commit; its message ends with one line end."""
    lines = [b"tree " + commit.tree, *(b"parent " + parent for parent in commit.parents)]
    lines += [b"author " + commit.author.ident, b"committer " + commit.committer.ident]
    message = commit.message.replace(b"\0", b"").strip(b"\n")
    return b"\n".join([*lines, b"", message, b""])


# -- packs ------------------------------------------------------------------------------------------------------------


class GitBytes(NamedTuple):
    """An object to be written."""

    kind: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack and the index that belongs to it. `name`: as in ``pack-NAME.pack``."""

    name: bytes
    data: bytes
    index: bytes


def loose_object(each: GitBytes) -> bytes:
    """The bytes of a loose object's file."""
    return zlib.compress(object_header(each.kind, len(each.data)) + each.data, _FASTEST)


def object_header(kind: bytes, size: int) -> bytes:
    """What comes before an object's bytes, in its file and in what is hashed for its name."""
    return b"%b %d\0" % (kind, size)


def pack_stream(objects: Sequence[GitBytes], digits: int) -> Iterator[bytes]:
    """The pieces of a pack (version 2) with whole objects, none as a delta (gitformat-pack(5)): its header, a piece for
    each object, its digest.
    """
    total = hashlib.sha1() if digits == SHA1_DIGITS else hashlib.sha256()
    header = b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")
    entries = (_pack_header(_KINDS[kind], len(data)) + zlib.compress(data, _FASTEST) for kind, data in objects)
    for piece in chain((header,), entries):
        total.update(piece)
        yield piece
    yield total.digest()


def make_pack(objects: Sequence[GitBytes], digits: int) -> Pack:
    """A pack of `objects`, each once, and its index (version 2)."""
    header, *entries, total = pack_stream(objects, digits)
    found: list[tuple[bytes, int, int]] = []
    offset = len(header)
    for (kind, data), piece in zip(objects, entries, strict=True):
        found.append((bytes.fromhex(object_name(kind, data, digits).decode()), zlib.crc32(piece), offset))
        offset += len(piece)
    index = _index(sorted(found)) + total
    digest = hashlib.sha1 if digits == SHA1_DIGITS else hashlib.sha256
    return Pack(total.hex().encode(), b"".join([header, *entries, total]), index + digest(index).digest())


def _index(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """An index without its two digests: how many names begin with at most each byte, names, CRC32s, offsets."""
    counts = Counter(oid[0] for oid, _, _ in entries)
    totals = accumulate(counts[first] for first in range(256))
    far = [offset for _, _, offset in entries if offset >= _FAR]
    places = {offset: _FAR | number for number, offset in enumerate(far)}
    return b"".join(
        [
            b"\xfftOc" + (2).to_bytes(4, "big"),
            *(total.to_bytes(4, "big") for total in totals),
            *(oid for oid, _, _ in entries),
            *(crc.to_bytes(4, "big") for _, crc, _ in entries),
            *(places.get(offset, offset).to_bytes(4, "big") for _, _, offset in entries),
            *(offset.to_bytes(8, "big") for offset in far),
        ]
    )


def _pack_header(kind: int, size: int) -> bytes:
    """Type and size: four bits of the size in the first byte, seven in each further one."""
    current, rest = kind << 4 | size & 15, size >> 4
    header = bytearray()
    while rest:
        header.append(current | 0x80)
        current, rest = rest & 0x7F, rest >> 7
    header.append(current)
    return bytes(header)
