"""A 7z archive around one folder of another: what a decoder gets to see of an archive that nobody vouches for.

Owns the writing of its header: one packed row of streams, one folder, one file called ``folder`` that holds all of the
folder's bytes. Format as in ``7zFormat.txt`` of 7-Zip's sources.
"""

from riafs.formats.sevenzip_folder import Folder
from riafs.formats.sevenzip_streams import SIGNATURE_HEADER_SIZE
from riafs.formats.sevenzip_writing import number, write_signature

_NAME = "folder\0".encode("utf-16-le")


def single_folder_ends(folder: Folder) -> tuple[bytes, bytes]:
    """What goes before and after the packed bytes of `folder` to make them an archive."""
    header = _header(folder)
    return write_signature(SIGNATURE_HEADER_SIZE + folder.pack_size, header), header


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
