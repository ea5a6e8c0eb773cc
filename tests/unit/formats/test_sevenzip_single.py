"""An archive around one folder: our own parser reads back what was written."""

import dataclasses

import pytest

from riafs.formats.sevenzip.cursor import Cursor, Limits
from riafs.formats.sevenzip.folder import Folder, parse_shape, write_shape
from riafs.formats.sevenzip.header import parse_header, parse_signature
from riafs.formats.sevenzip.single import single_folder_ends

BCJ2 = (
    b"\x04\x14\x03\x03\x01\x1b\x04\x01\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00"
    b"\x23\x03\x01\x01\x05\x5d\x00\x00\x10\x00\x00\x01\x01\x02\x02\x03\x03\x04\x05\x06"
)


@pytest.mark.parametrize(
    ("description", "packs", "sizes"),
    [(b"\x01\x01\x00", (5,), (5,)), (b"\x01\x21\x21\x01\x18", (300,), (1 << 40,)), (BCJ2, (9, 8, 7, 6), (5, 4, 3, 2))],
    ids=["Copy", "LZMA2", "BCJ2"],
)
def test_the_folder_is_read_back(description: bytes, packs: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    shape = parse_shape(Cursor(description))
    if len(shape.coders) != len(sizes):
        sizes = sizes[: len(shape.coders)]
    folder = Folder(shape, 1234, packs, sizes, None)
    front, header = single_folder_ends(folder)
    place = parse_signature(front)
    assert (place.offset, place.size) == (32 + folder.pack_size, len(header))
    listing = parse_header(header, Limits())
    read = listing.folder(0)
    assert read == dataclasses.replace(folder, pack_offset=32)
    assert write_shape(read.shape) == description
    member = listing.find(b"folder")
    assert member is not None
    assert (member.size, member.offset) == (folder.size, 0)
