"""git's objects: trees, commits and tags as ``git cat-file`` gives them, and trees, commits and packs to be written.

To be shown, a tree becomes a `Tree`: three sequences of one length, in git's order, that only hold names a directory
may show. To be changed, it is read by `read_tree_entries`, which loses nothing: every other entry stays as it was, odd
modes and names that no directory shows included. Commits and tags are read as far as riafs needs them; an impossible
time in them is not fatal, a commit without a tree is. Object names are raw bytes (20 or 32) in trees and hex digits
elsewhere, as git has them.
"""

import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, repeat
from operator import lt
from typing import NamedTuple

from riafs.errors import MalformedObject
from riafs.formats.names import valid_name, valid_names
from riafs.formats.text import shown

DIRECTORY = 0o040000
FILE = 0o100644
EXECUTABLE = 0o100755
LINK = 0o120000
SUBMODULE = 0o160000

MAX_PARENTS = 10_000
KEPT_DROPPED_NAMES = 5
_MAX_TIME = 2**33
# What is no entry is swallowed in one piece, as an entry without a mode: scanning stays linear on hostile input.
_ENTRY = {length: re.compile(rb"([0-7]{1,7}) ([^\0]*+)\0(.{%d})|.+" % length, re.DOTALL).split for length in (20, 32)}
_FIRST_WINDOW, _WINDOW = 4 << 10, 256 << 10
"""Bytes of a tree that are read in one call: in a thread, it keeps others waiting for so long. Names that begin with a
point stand nearly first."""
_LONGEST_ENTRY = 300
_OID = rb"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_TREE_LINE = re.compile(rb"tree (" + _OID + rb")(?:\n|\Z)")
_PARENT_LINE = re.compile(rb"parent (" + _OID + rb")(?:\n|\Z)")
_COMMITTER_TIME = re.compile(rb"^committer [^\n]*> ?(\d{1,19})(?: [^\n]*)?$", re.MULTILINE)
_AUTHOR = re.compile(rb"^author ([^<\n]*)<[^\n]*> (\d{1,19}) ([+-])(\d\d)(\d\d)$", re.MULTILINE)
_ENCODING = re.compile(rb"^encoding ([\w.:-]{1,40})$", re.MULTILINE)
_MAX_OFFSET = 14 * 3600
_TAG_LINES = re.compile(rb"object (" + _OID + rb")\ntype (commit|tree|blob|tag)(?:\n|\Z)")
_KINDS = {mode >> 12: mode for mode in (DIRECTORY, FILE, LINK, SUBMODULE)}
_MODES = {b"%o" % mode: mode for mode in (DIRECTORY, FILE, EXECUTABLE, LINK, SUBMODULE)}
_ROW = {
    (octal, length): re.compile(rb"%b ([^\0/.][^\0/]{0,254}+)\0(.{%d})" % (octal, length), re.DOTALL).split
    for octal in _MODES
    for length in (20, 32)
}


@dataclass(frozen=True, slots=True)
class Tree:
    """One directory of a commit. `names`, `modes` and `oids` run in parallel, in the order of the tree object.

    Every name passes `valid_name` and occurs once. Modes are exactly DIRECTORY, FILE, EXECUTABLE, LINK or SUBMODULE.
    """

    names: tuple[bytes, ...]
    modes: tuple[int, ...]
    oids: tuple[bytes, ...]
    """Raw object names of 20 or 32 bytes; ``.hex()`` gives what git prints."""
    dropped: int
    """Number of entries that are left out: impossible names, unknown types, and names that an earlier entry has."""
    dropped_names: tuple[bytes, ...]
    """The first few of them, for the log."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The fields of a commit that riafs uses."""

    tree: bytes
    """Hex digits."""
    time: int
    """When it was committed, in seconds since the epoch, at most 2**33; 0 where the commit gives no usable time."""
    parents: tuple[bytes, ...]
    """Hex digits each."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A commit as a list of commits shows it. The text is from strangers: anything may be in it."""

    author: str
    """The name without the address."""
    time: int
    """When it was authored, in seconds since the epoch; that of the commit where this is unusable."""
    offset: int
    """Time zone of the author, in seconds east of Greenwich."""
    subject: str
    """The first paragraph of the message, on one line."""


@dataclass(frozen=True, slots=True)
class Tag:
    """The object that an annotated tag points at."""

    object: bytes
    """Hex digits."""
    type: bytes
    """``commit``, ``tree``, ``blob`` or ``tag``."""


def parse_tree(raw: bytes, oid_length: int = 20) -> Tree:
    """The entries of a raw tree object whose object names have `oid_length` bytes (20 for SHA-1, 32 for SHA-256).

    Memory is proportional to `raw`. Raises MalformedObject where `raw` is no sequence of entries.
    """
    columns = _Columns(oid_length)
    columns.read(raw)
    names, modes, oids = columns.names, columns.modes, columns.oids
    if columns.are_valid and _are_distinct(names):
        return Tree(tuple(names), tuple(modes), tuple(oids), 0, ())
    return _filtered(names, modes, oids)


class _Columns:
    """Names, modes (0: none of git's five) and object names of a raw tree, read in windows: each takes milliseconds,
    whatever the tree holds.

    Large directories have files of one kind, so a window is first read as a row of entries of one mode with names that
    need no further check, which takes half the time; as soon as a large one is something else, all others are not.
    """

    def __init__(self, oid_length: int) -> None:
        self._oid_length = oid_length
        self.names: list[bytes] = []
        self.modes: list[int] = []
        self.oids: list[bytes] = []
        self.are_valid = True
        """Whether all modes and names may be shown."""

    def read(self, raw: bytes) -> None:
        """Read all of it. Raises MalformedObject."""
        position, window, tries_rows = 0, _FIRST_WINDOW, True
        while position < len(raw):
            piece = raw[position : position + window]
            taken = self._row(piece) if tries_rows else 0
            if not taken:
                tries_rows = tries_rows and window == _FIRST_WINDOW
                taken = self._entries(piece)
            if not taken and position + window >= len(raw):
                count = len(self.names)
                raise MalformedObject(f"a tree object of {len(raw)} bytes that is damaged after {count} entries")
            position += taken
            window = _WINDOW if taken else 2 * window

    def _row(self, piece: bytes) -> int:
        """Read entries of one mode up to the last whole one; how many bytes these are, 0 if there are others."""
        octal = piece[: piece.find(b" ")]
        if octal not in _MODES:
            return 0
        parts = _ROW[octal, self._oid_length](piece)
        rest = len(parts.pop())
        if any(parts[::3]) or rest > _LONGEST_ENTRY:  # with nothing between the entries
            return 0
        names = parts[1::3]
        self.names += names
        self.oids += parts[2::3]
        self.modes += repeat(_MODES[octal], len(names))
        return len(piece) - rest

    def _entries(self, piece: bytes) -> int:
        """Read any entries up to the last whole one; how many bytes these are."""
        parts = _ENTRY[self._oid_length](piece)  # with nothing between the entries
        if parts[-4] is None:  # the piece ends within an entry, or what follows is none
            del parts[-4:]
        octals, names = parts[1::4], parts[2::4]
        known = {octal: _MODES.get(octal) or _mode(octal) for octal in set(octals)}
        self.are_valid = self.are_valid and 0 not in known.values() and valid_names(names)
        self.names += names
        self.oids += parts[3::4]
        self.modes += map(known.__getitem__, octals)
        return sum(map(len, octals)) + sum(map(len, names)) + len(names) * (self._oid_length + 2)


def _are_distinct(names: Sequence[bytes]) -> bool:
    """Whether no name occurs twice. They nearly always stand in order; git sorts directories as if they ended in ``/``,
    so that not all of them need to."""
    return all(map(lt, names, islice(names, 1, None))) or len(frozenset(names)) == len(names)


def parse_commit(raw: bytes) -> Commit:
    """The commit of a raw commit object. Raises MalformedObject where it names no tree."""
    header = raw.partition(b"\n\n")[0]
    match = _TREE_LINE.match(header)
    if match is None:
        raise MalformedObject(f"a commit that names no tree: {shown(raw)}")
    parents: list[bytes] = []
    position = match.end()
    while (parent := _PARENT_LINE.match(header, position)) and len(parents) < MAX_PARENTS:
        parents.append(parent[1])
        position = parent.end()
    return Commit(match[1], _committer_time(header), tuple(parents))


def parse_heading(raw: bytes) -> Heading:
    """Author, time and subject of a raw commit object; nothing in it is fatal."""
    header, _, message = raw.partition(b"\n\n")
    declared = _ENCODING.search(header)
    encoding = "utf-8" if declared is None else declared[1].decode("ascii", "replace")
    match = _AUTHOR.search(header)
    name, seconds, sign, hours, minutes = match.groups() if match else (b"", b"0", b"+", b"00", b"00")
    time = int(seconds) if int(seconds) <= _MAX_TIME else _committer_time(header)
    offset = min(int(hours) * 3600 + int(minutes) * 60, _MAX_OFFSET) * (-1 if sign == b"-" else 1)
    paragraph = message.lstrip(b"\n").partition(b"\n\n")[0]
    return Heading(_text(name, encoding).strip(), time, offset, " ".join(_text(paragraph, encoding).split()))


def _text(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding, "replace")
    except (LookupError, ValueError):  # no encoding that Python knows, or none of text
        return raw.decode("utf-8", "replace")


def parse_tag(raw: bytes) -> Tag:
    """The tag of a raw tag object. Raises MalformedObject where it names no object."""
    match = _TAG_LINES.match(raw)
    if match is None:
        raise MalformedObject(f"a tag that names no object: {shown(raw)}")
    return Tag(match[1], match[2])


def _mode(octal: bytes) -> int:
    """One of git's five modes, or 0. Old trees hold other permission bits, which git reads like this too."""
    mode = int(octal, 8)
    kind = _KINDS.get(mode >> 12, 0)
    return EXECUTABLE if kind == FILE and mode & 0o100 else kind


def _filtered(names: Sequence[bytes], modes: Sequence[int], oids: Sequence[bytes]) -> Tree:
    seen: set[bytes] = set()
    kept: list[int] = []
    dropped: list[bytes] = []
    for position, name in enumerate(names):
        if modes[position] and name not in seen and valid_name(name):
            seen.add(name)
            kept.append(position)
        else:
            dropped.append(name)
    return Tree(
        tuple([names[position] for position in kept]),
        tuple([modes[position] for position in kept]),
        tuple([oids[position] for position in kept]),
        len(dropped),
        tuple(dropped[:KEPT_DROPPED_NAMES]),
    )


def _committer_time(header: bytes) -> int:
    match = _COMMITTER_TIME.search(header)
    time = int(match[1]) if match else 0
    return time if time <= _MAX_TIME else 0


# -- trees to be changed ----------------------------------------------------------------------------------------------

SHA1_DIGITS = 40
_ITEM = {length: re.compile(rb"([0-7]{1,7}) ([^\0]++)\0(.{%d})|.+" % length, re.DOTALL).findall for length in (20, 32)}
_TREE_MODE = b"40000"
_PACK_KINDS = {b"commit": 1, b"tree": 2, b"blob": 3}
_FAR = 1 << 31
"""Offsets from here on stand in a table of their own."""
_FASTEST = 1  # links, logs and trees: small, and half of a tree is digests


class TreeEntry(NamedTuple):
    """A mode and an object, as a tree has them for a name."""

    mode: bytes
    """Octal digits, as the tree has them."""
    oid: bytes
    """Raw object name."""

    @property
    def is_tree(self) -> bool:
        """Whether it is a directory."""
        return self.mode.lstrip(b"0") == _TREE_MODE


def tree_entry(mode: int, oid: bytes) -> TreeEntry:
    """The entry with one of git's modes and an object name in hex."""
    return TreeEntry(b"%o" % mode, bytes.fromhex(oid.decode()))


def read_tree_entries(raw: bytes, oid_length: int = 20) -> dict[bytes, TreeEntry]:
    """Name → entry of a raw tree. Raises MalformedObject where it is damaged, or has a name twice: no change of it
    could be told from damage.
    """
    found = _ITEM[oid_length](raw)
    items = {name: TreeEntry(mode, oid) for mode, name, oid in found}
    if found and (not found[-1][0] or len(items) != len(found)):
        raise MalformedObject(f"a tree object of {len(raw)} bytes that is damaged or has a name twice")
    return items


def encode_tree(items: Mapping[bytes, TreeEntry]) -> bytes:
    """The raw tree, in git's order: directories as if their names ended in a slash."""
    return b"".join(map(encode_item, sorted(items.items(), key=place)))


def encode_item(entry: tuple[bytes, TreeEntry]) -> bytes:
    """A name of a raw tree."""
    name, value = entry
    return b"%b %b\0%b" % (value.mode, name, value.oid)


def place(entry: tuple[bytes, TreeEntry]) -> bytes:
    """The sort key of items of a tree."""
    name, value = entry
    return name + b"/" if value.is_tree else name


def object_name(kind: bytes, data: bytes, digits: int) -> bytes:
    """The name that git gives to an object: the digest of its header and bytes, SHA-1 (40 digits) or SHA-256 (64)."""
    header = object_header(kind, len(data))
    digest = hashlib.sha1(header) if digits == SHA1_DIGITS else hashlib.sha256(header)
    digest.update(data)
    return digest.hexdigest().encode()


# -- commits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stamp:
    """The author or committer of a commit, and the time."""

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


class NewObject(NamedTuple):
    """An object to be written."""

    kind: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack and the index that belongs to it. `name`: as in ``pack-NAME.pack``."""

    name: bytes
    data: bytes
    index: bytes


def loose_object(each: NewObject) -> bytes:
    """The bytes of a loose object's file."""
    return zlib.compress(object_header(each.kind, len(each.data)) + each.data, _FASTEST)


def object_header(kind: bytes, size: int) -> bytes:
    """The header before an object's bytes, in its file and in what is hashed for its name."""
    return b"%b %d\0" % (kind, size)


def pack_stream(objects: Sequence[NewObject], digits: int) -> Iterator[bytes]:
    """The pieces of a pack (version 2) with whole objects, none as a delta (gitformat-pack(5)): its header, a piece for
    each object, its digest.
    """
    total = hashlib.sha1() if digits == SHA1_DIGITS else hashlib.sha256()
    header = b"PACK" + (2).to_bytes(4, "big") + len(objects).to_bytes(4, "big")
    entries = (_pack_header(_PACK_KINDS[kind], len(data)) + zlib.compress(data, _FASTEST) for kind, data in objects)
    for piece in chain((header,), entries):
        total.update(piece)
        yield piece
    yield total.digest()


def make_pack(objects: Sequence[NewObject], digits: int) -> Pack:
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
