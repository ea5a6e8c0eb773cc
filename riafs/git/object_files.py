"""A reader of git objects without a child process: entering a dataset needs its commit, a tree and the blobs of some
links, and starting git for them costs ten times as much as reading them.

It reads small objects only: loose ones, and those in packs with an index of version 2 (gitformat-pack(5)). For all
others (missing, large, damaged, in an alternate) the result is None, and the caller asks git, which alone decides that
an object is missing or damaged. Files are read and not mapped, so that a truncated one cannot kill the process; sizes
are limited before memory is allocated; and an object is only returned if its bytes have its name, whatever a hostile
pack says.
"""

import contextlib
import os
import stat
import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from riafs.errors import MalformedObject, RiafsError
from riafs.formats.gitobjects import DIRECTORY, SUBMODULE, Tree, object_name, parse_commit, parse_tree
from riafs.storage.openat import DIRECTORY_FLAGS, READ_FLAGS
from riafs.storage.protocol import Opener

MOST_BYTES = 256 << 10
"""Size limit of an object, and of each base of a delta."""
_SMALL_TREE, _SMALL_BLOB = 4 << 10, 16 << 10
"""Size limits of objects that are read ahead: a tree of some hundred entries at most."""
_MOST_PACKS = 8
_MOST_NAMES = 1 << 20  # bytes of the names that begin with one byte: ten million objects in a pack
_LONGEST_CHAIN = 50  # as git makes them
_HEADER = 32  # bytes of a loose object's header, at most
_PACK_HEADER = 64  # bytes before the compressed ones of a packed object, at most
_MAGIC = b"\xfftOc\0\0\0\x02"
_FAN_OUT = 256 * 4
_KINDS = {1: b"commit", 2: b"tree", 3: b"blob", 4: b"tag"}
_OFS_DELTA, _REF_DELTA = 6, 7
_LARGE_OFFSET = 1 << 31
_WRONG = (OSError, RiafsError, ValueError, IndexError, struct.error, zlib.error)
"""Exceptions from reading a damaged, hostile or missing file."""


class ReadObject(NamedTuple):
    """Type, size in bytes, and content if that was requested."""

    kind: bytes
    size: int
    data: bytes


class Wanted(NamedTuple):
    """An object's name in hex, and whether its content is wanted."""

    oid: bytes
    content: bool


def read_objects(opener: Opener, objects: bytes, wanted: Sequence[Wanted], limit: int) -> list[ReadObject | None]:
    """The objects `wanted` from the object directory at the store's path `objects`, None for those not read here.
    Blocks.
    """
    if not wanted:
        return []
    most = min(limit, MOST_BYTES)
    found: list[ReadObject | None] = [_loose(opener, objects, each, most) for each in wanted]
    missing = [position for position, answer in enumerate(found) if answer is None]
    if missing:
        packs = _packs(opener, objects, len(wanted[0].oid) // 2)
        try:
            for position in missing:
                found[position] = _packed(packs, wanted[position], most)
        finally:
            for pack in packs:
                pack.close()
    return found


def read_beginning(opener: Opener, objects: bytes, oid: bytes, limit: int) -> dict[bytes, ReadObject]:
    """The object `oid`; for a commit also its tree and the blobs in that, if these are small and few. Entering a
    dataset needs them next, and each call in a thread costs as much as reading all of them. Blocks.
    """
    [found] = read_objects(opener, objects, [Wanted(oid, content=True)], limit)
    if found is None:
        return {}
    known = {oid: found}
    if found.kind == b"commit":
        with contextlib.suppress(MalformedObject):
            top = parse_commit(found.data).tree
            [tree] = read_objects(opener, objects, [Wanted(top, content=True)], _SMALL_TREE)
            if tree is not None and tree.kind == b"tree":
                known[top] = tree
                blobs = _blobs(parse_tree(tree.data, len(oid) // 2))
                answers = read_objects(opener, objects, [Wanted(blob, content=True) for blob in blobs], _SMALL_BLOB)
                known |= {blob: answer for blob, answer in zip(blobs, answers, strict=True) if answer is not None}
    return known


def _blobs(tree: Tree) -> list[bytes]:
    """The names of a tree's blobs in hex, each once."""
    pairs = zip(tree.modes, tree.oids, strict=True)
    return list(dict.fromkeys(oid.hex().encode() for mode, oid in pairs if mode not in (DIRECTORY, SUBMODULE)))


def _genuine(oid: bytes, found: ReadObject) -> ReadObject | None:
    return found if object_name(found.kind, found.data, len(oid)) == oid else None


def _loose(opener: Opener, objects: bytes, wanted: Wanted, most: int) -> ReadObject | None:
    try:
        data = _file(opener, b"%b/%b/%b" % (objects, wanted.oid[:2], wanted.oid[2:]), most)
        inflating = zlib.decompressobj()
        begin = inflating.decompress(data, _HEADER)
        header, _, begin = begin.partition(b"\0")
        kind, size = header.split(b" ")
        found = ReadObject(kind, int(size), b"")
        if not wanted.content or found.size > most:
            return None if wanted.content else found
        rest = inflating.decompress(inflating.unconsumed_tail, found.size + 1)
        return _genuine(wanted.oid, found._replace(data=begin + rest))
    except _WRONG:
        return None


def _file(opener: Opener, path: bytes, most: int) -> bytes:
    descriptor = opener(path, READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most + (most >> 8) + _PACK_HEADER:
            raise ValueError(path)
        return os.pread(descriptor, status.st_size, 0)
    finally:
        os.close(descriptor)


# -- packs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pack:
    """An open pack and its index, by descriptors. `begin`: header and fan-out table of the index; names have `width`
    bytes.
    """

    pack: int
    index: int
    begin: bytes
    width: int

    def close(self) -> None:
        os.close(self.pack)
        os.close(self.index)

    def _numbered(self, first: int) -> int:
        """The number of names with a first byte up to `first`."""
        return int.from_bytes(self.begin[len(_MAGIC) + first * 4 : len(_MAGIC) + first * 4 + 4])

    def offset(self, name: bytes) -> int | None:
        """The offset in the pack of the object with a raw name. Raises one of _WRONG for a damaged index."""
        low, high, count = self._numbered(name[0] - 1) if name[0] else 0, self._numbered(name[0]), self._numbered(255)
        width, table = self.width, len(_MAGIC) + _FAN_OUT
        if not low <= high <= count or (high - low) * width > _MOST_NAMES:
            raise ValueError("the index of a pack is damaged, or very large")
        names = os.pread(self.index, (high - low) * width, table + low * width)
        found = bisect_left(range(high - low), name, key=lambda each: names[each * width : (each + 1) * width])
        if names[found * width : (found + 1) * width] != name:
            return None
        offsets = table + count * (width + 4)
        [small] = struct.unpack(">I", os.pread(self.index, 4, offsets + (low + found) * 4))
        if small < _LARGE_OFFSET:
            return int(small)
        [large] = struct.unpack(">Q", os.pread(self.index, 8, offsets + count * 4 + (small - _LARGE_OFFSET) * 8))
        return int(large)


def _packs(opener: Opener, objects: bytes, width: int) -> list[_Pack]:
    """The open packs of a repository; none if it has many."""
    packs: list[_Pack] = []
    try:
        directory = opener(objects + b"/pack", DIRECTORY_FLAGS)
        try:
            stems = [os.fsencode(name)[:-4] for name in os.listdir(directory) if name.endswith(".idx")]
        finally:
            os.close(directory)
        for stem in stems if len(stems) <= _MOST_PACKS else ():
            packs.append(_opened(opener, b"%b/pack/%b" % (objects, stem), width))  # noqa: PERF401  # what is open counts
    except _WRONG:
        return packs
    return packs


def _opened(opener: Opener, place: bytes, width: int) -> _Pack:
    """The pack with the path `place`, without extension. Raises one of _WRONG."""
    descriptors: list[int] = []
    try:
        for ending in (b".pack", b".idx"):
            descriptors.append(opener(place + ending, READ_FLAGS))
            if not stat.S_ISREG(os.fstat(descriptors[-1]).st_mode):
                raise ValueError(place)
        begin = os.pread(descriptors[1], len(_MAGIC) + _FAN_OUT, 0)
        if len(begin) < len(_MAGIC) + _FAN_OUT or not begin.startswith(_MAGIC):
            raise ValueError(place)
        pack, index = descriptors
        return _Pack(pack, index, begin, width)
    except _WRONG:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _packed(packs: Sequence[_Pack], wanted: Wanted, most: int) -> ReadObject | None:
    name = bytes.fromhex(wanted.oid.decode())
    for pack in packs:
        try:
            offset = pack.offset(name)
            if offset is None:
                continue
            found = _in_pack(pack, offset, most, content=wanted.content)
        except _WRONG:
            return None
        return _genuine(wanted.oid, found) if wanted.content else found
    return None


class _ObjectHeader(NamedTuple):
    """The header of a packed object: type, size, offset of the compressed bytes, and the offset of a delta's base."""

    kind: int
    size: int
    at: int
    base: int


def _in_pack(pack: _Pack, offset: int, most: int, *, content: bool) -> ReadObject:
    """The object at `offset`. Raises one of _WRONG."""
    header = _object_header(pack, offset)
    size = header.size if header.kind in _KINDS else _result_size(pack, header)
    deltas: list[_ObjectHeader] = []
    while header.kind not in _KINDS:
        if len(deltas) == _LONGEST_CHAIN:
            raise ValueError("a chain of deltas that is too long")
        deltas.append(header)
        header = _object_header(pack, header.base)
    if not content:
        return ReadObject(_KINDS[header.kind], size, b"")
    data = _inflated(pack, header, most)
    for delta in reversed(deltas):
        data = _applied(_inflated(pack, delta, most), data, most)
    return ReadObject(_KINDS[header.kind], len(data), data)


def _object_header(pack: _Pack, offset: int) -> _ObjectHeader:
    data = os.pread(pack.pack, _PACK_HEADER, offset)
    kind, size, shift, position = data[0] >> 4 & 7, data[0] & 15, 4, 1
    while data[position - 1] & 0x80:
        size |= (data[position] & 0x7F) << shift
        shift += 7
        position += 1
    base = 0
    if kind == _OFS_DELTA:
        back = data[position] & 0x7F
        while data[position] & 0x80:
            position += 1
            back = (back + 1) << 7 | data[position] & 0x7F
        position += 1
        base = offset - back
        if not 0 < base < offset:
            raise ValueError("a delta with an impossible base")
    elif kind == _REF_DELTA:
        named = pack.offset(data[position : position + pack.width])
        position += pack.width
        if named is None:
            raise ValueError("a delta whose base is not in the pack")
        base = named
    elif kind not in _KINDS:
        raise ValueError("no type of an object")
    return _ObjectHeader(kind, size, offset + position, base)


def _inflated(pack: _Pack, header: _ObjectHeader, most: int) -> bytes:
    if header.size > most:
        raise ValueError("too large to be read here")
    data = os.pread(pack.pack, header.size + (header.size >> 8) + _PACK_HEADER, header.at)
    found = zlib.decompressobj().decompress(data, header.size + 1)
    if len(found) != header.size:
        raise ValueError("not as long as it says")
    return found


# -- deltas -----------------------------------------------------------------------------------------------------------


def _result_size(pack: _Pack, header: _ObjectHeader) -> int:
    sizes = zlib.decompressobj().decompress(os.pread(pack.pack, _PACK_HEADER, header.at), _HEADER)
    return _varint(sizes, _varint(sizes, 0)[1])[0]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return number, position


def _applied(delta: bytes, base: bytes, most: int) -> bytes:
    """The result of applying `delta` to `base`: pieces of the base, and new bytes."""
    base_size, position = _varint(delta, 0)
    size, position = _varint(delta, position)
    if base_size != len(base) or size > most:
        raise ValueError("a delta for another base")
    made = bytearray()
    while position < len(delta) and len(made) <= size:
        command = delta[position]
        position += 1
        if command & 0x80:
            place, length = 0, 0
            for bit in range(7):
                if command >> bit & 1:
                    if bit < 4:
                        place |= delta[position] << bit * 8
                    else:
                        length |= delta[position] << (bit - 4) * 8
                    position += 1
            made += base[place : place + (length or 1 << 16)]
        elif command:
            made += delta[position : position + command]
            position += command
        else:
            raise ValueError("a command that is reserved")
    if len(made) != size:
        raise ValueError("a delta with another result")
    return bytes(made)
