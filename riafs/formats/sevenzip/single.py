"""A 7z archive around one folder of another: what a decoder gets to see of an archive that nobody vouches for.

Owns the writing of its header, and reading what was written: one packed row of streams, one folder, one file called
``folder`` that holds all of the folder's bytes. Format as in ``7zFormat.txt`` of 7-Zip's sources.
"""

import struct
from collections.abc import Callable

from riafs.errors import MalformedArchive
from riafs.formats.sevenzip.cursor import Cursor, write_number
from riafs.formats.sevenzip.folder import Folder, parse_shape, write_shape
from riafs.formats.sevenzip.streams import SIGNATURE_HEADER_SIZE
from riafs.formats.sevenzip.writing import write_signature

_FRONT = b"\x01\x04\x06\x00"
_FOLDER_FRONT = b"\x07\x0b\x01\x00"
_NO_SUBSTREAMS = b"\x08\x00"  # libarchive 3.6 takes an archive without this record for damaged
_NAME = "folder\0".encode("utf-16-le")


def single_folder_ends(folder: Folder) -> tuple[bytes, bytes]:
    """What goes before and after the packed bytes of `folder` to make them an archive."""
    header = _header(folder)
    return write_signature(SIGNATURE_HEADER_SIZE + folder.pack_size, header), header


def _header(folder: Folder) -> bytes:
    pack_sizes = b"".join(map(write_number, folder.pack_sizes))
    unpack_sizes = b"".join(map(write_number, folder.unpack_sizes))
    names = b"\0" + _NAME
    return b"".join(
        [
            _FRONT + write_number(len(folder.pack_sizes)) + b"\x09" + pack_sizes + b"\0",
            _FOLDER_FRONT + write_shape(folder.shape) + b"\x0c" + unpack_sizes + b"\0",
            _NO_SUBSTREAMS + b"\0",
            b"\x05\x01\x11" + write_number(len(names)) + names + b"\0",
            b"\0",
        ]
    )


def parse_single_folder(read: Callable[[int, int], bytes]) -> Folder:
    """The folder of an archive with such ends, of which `read(offset, length)` gives bytes. Raises MalformedArchive."""
    start = read(0, SIGNATURE_HEADER_SIZE)
    if len(start) < SIGNATURE_HEADER_SIZE:
        raise MalformedArchive("archive of a single folder ends too early")
    offset, size = struct.unpack_from("<QQ", start, 12)
    cursor = Cursor(read(SIGNATURE_HEADER_SIZE + offset, size))
    cursor.skip(len(_FRONT))
    packs = cursor.number()
    cursor.skip(1)
    pack_sizes = tuple(cursor.numbers(packs))
    cursor.skip(1 + len(_FOLDER_FRONT))
    shape = parse_shape(cursor)
    cursor.skip(1)
    return Folder(shape, SIGNATURE_HEADER_SIZE, pack_sizes, tuple(cursor.numbers(len(shape.coders))), None)
