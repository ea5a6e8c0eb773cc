"""A 7z archive around one folder of another: what a decoder gets to see of an archive that nobody vouches for.

Owns the writing of its header: one packed row of streams, one folder, one file called ``folder`` that holds all of the
folder's bytes. Format as in ``7zFormat.txt`` of 7-Zip's sources.
"""

import struct
import zlib

from riafs.formats.sevenzip import SIGNATURE
from riafs.formats.sevenzip_folder import Folder

_VERSION = b"\0\x04"
_NAME = "folder\0".encode("utf-16-le")


def number(value: int) -> bytes:
    """`value` (0 to 2**64 - 1) as a 7z number, as short as possible."""
    for extra in range(8):
        if value < 1 << 7 * (extra + 1):
            first = (0xFF00 >> extra) & 0xFF | value >> 8 * extra
            return bytes([first]) + (value & (1 << 8 * extra) - 1).to_bytes(extra, "little")
    return b"\xff" + value.to_bytes(8, "little")


def single_folder_ends(folder: Folder) -> tuple[bytes, bytes]:
    """What goes before and after the packed bytes of `folder` to make them an archive."""
    header = _header(folder)
    start = struct.pack("<QQI", folder.pack_size, len(header), zlib.crc32(header))
    return SIGNATURE + _VERSION + struct.pack("<I", zlib.crc32(start)) + start, header


def _header(folder: Folder) -> bytes:
    pack_sizes = b"".join(map(number, folder.pack_sizes))
    unpack_sizes = b"".join(map(number, folder.unpack_sizes))
    names = b"\0" + _NAME
    return b"".join(
        [
            b"\x01\x04",
            b"\x06\x00" + number(len(folder.pack_sizes)) + b"\x09" + pack_sizes + b"\0",
            b"\x07\x0b\x01\x00" + folder.description + b"\x0c" + unpack_sizes + b"\0",
            b"\0",
            b"\x05\x01\x11" + number(len(names)) + names + b"\0",
            b"\0",
        ]
    )
