"""Seeds: good inputs that mutations start from, small and as different as possible."""

import functools
import lzma
import os
import random
import subprocess
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

from riafs.archive.header import decode_header
from riafs.archive.index import write_columns
from riafs.cache.block_files import BlockName, make_header
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sevenzip.header import is_encoded, parse_encoded_header, parse_signature
from tests.archive.headers import File, copy_streams, files_record, header, number, optional, sized
from tests.archive.test_methods import METHODS

BLOCK = BlockName(bytes(range(32)), 1 << 20, 100)
INDEX_NAME = b"an archive"
INDEX_COLUMNS = {"names": "B", "sizes": "Q"}
INDEX_VALUES = {"names": array("B", b"names\0" * 20), "sizes": array("Q", range(3000))}

_FILES = (File(b"a", b"one"), File(b"d", None), File(b"e", b""), File(b"z\xff", b"three"), File(b"m", b"m", None))
_TIMES = b"\x01\x00" + bytes(range(40))
_LZMA = b"\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00"
_BCJ2 = b"\x04\x14\x03\x03\x01\x1b\x04\x01" + _LZMA * 3 + b"\x00\x01\x01\x02\x02\x03" + b"\x03\x04\x05\x06"
_AES = b"\x01\x24\x06\xf1\x07\x01\x0a\x53\x07" + bytes(8)
_DELTA = b"\x02\x21\x03\x01\x03\x21\x21\x01\x10\x00\x01"
_CODERS = ((1, 2, _DELTA), (4, 4, _BCJ2), (1, 1, _AES))
"""Packed streams, coders, description."""


@functools.cache
def archives() -> Sequence[bytes]:
    """An archive of every method, made by the real 7z."""
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made, "tree")
        tree.mkdir()
        for name, content in ((b"t", b"text " * 300), (b"n\xff", random.Random(1).randbytes(2000)), (b"\xc3\xa4", b"")):
            Path(os.fsdecode(os.path.join(os.fsencode(tree), name))).write_bytes(content)
        (tree / "directory").mkdir()
        return [_packed(Path(made, "archive.7z"), tree, switches) for switches in METHODS.values()]


def _packed(path: Path, tree: Path, switches: Sequence[str]) -> bytes:
    command = ["7z", "a", "-bd", *switches, "--", str(path), "."]
    subprocess.run(command, cwd=tree, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    data = path.read_bytes()
    path.unlink()
    return data


def _stored_header(archive: bytes) -> bytes:
    place = parse_signature(archive[:32])
    return archive[place.offset : place.offset + place.size]


def _plain_header(archive: bytes) -> bytes:
    stored = _stored_header(archive)
    if not is_encoded(stored):
        return stored
    folder = parse_encoded_header(stored, Limits())
    return decode_header(folder, archive[folder.pack_offset :][: folder.pack_size], Limits())


@functools.cache
def plain_headers() -> Sequence[bytes]:
    """Headers as they are once decoded."""
    crcs = optional([1, None, 3])
    solid = b"\x06\x00\x01\x09\x0a\x00\x07\x0b\x01\x00\x01\x21\x21\x01\x10\x0c" + number(300) + b"\x00"
    solid += b"\x08\x0d\x03\x09\x64\x65\x0a" + crcs + b"\x00\x00"
    names = files_record([File(b"%d" % place, b"x") for place in range(3)])
    times = names[:-1] + sized(0x14, _TIMES[:26]) + sized(0x12, b"\x00\xa0\x00" + bytes(16)) + b"\x00"
    by_hand = [header(_FILES), header([]), b"\x01\x04" + solid + names + b"\x00", b"\x01\x04" + solid + times + b"\x00"]
    by_hand += [
        b"\x01\x04" + copy_streams([1, 2, 3], [7, None, 9], 5) + names + b"\x00",
        b"\x01\x00",
        b"\x01\x05\x00\x00\x00",
    ]
    return [*by_hand, *map(_plain_header, archives())]


@functools.cache
def encoded_headers() -> Sequence[bytes]:
    """Descriptions of packed headers."""
    found = [stored for stored in map(_stored_header, archives()) if is_encoded(stored)]
    for packed, coders, folder in _CODERS:
        streams = b"\x06\x00" + number(packed) + b"\x09" + b"\x05" * packed + b"\x00\x07\x0b\x01\x00" + folder
        found.append(b"\x17" + streams + b"\x0c" + b"\x32" * coders + b"\x00\x00")
    return found


@functools.cache
def fronts() -> Sequence[bytes]:
    """The first 32 bytes of archives."""
    return [archive[:32] for archive in archives()]


@functools.cache
def chunk_rows() -> Sequence[bytes]:
    """LZMA2 streams with stored and packed chunks, of which several reset the dictionary."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    parts = [
        lzma.compress(content, lzma.FORMAT_RAW, filters=filters)[:-1]
        for content in (b"text " * 200, random.Random(2).randbytes(300), bytes(3000), b"x")
    ]
    return [b"".join(parts) + b"\0"]


@functools.cache
def indexes() -> Sequence[bytes]:
    """A saved index of two columns."""
    with tempfile.TemporaryDirectory() as made:
        path = os.fsencode(Path(made, "index"))
        write_columns(path, INDEX_NAME, {name: (code, INDEX_VALUES[name]) for name, code in INDEX_COLUMNS.items()})
        return [Path(os.fsdecode(path)).read_bytes()]


@functools.cache
def blocks() -> Sequence[bytes]:
    """A file of the block cache."""
    payload = bytes(range(BLOCK.length))
    return [make_header(BLOCK, payload) + payload]
