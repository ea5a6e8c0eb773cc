"""From an archive's bytes to the list of its members.

Owns the steps: signature, place of the header, decoding it as often as it is encoded. Decoding and parsing run in
worker threads, since a header of a million members takes seconds. Invariant: at most ``limits.header`` bytes are read
or decoded at once, and a decoder's dictionary is never larger than what it decodes.
"""

import lzma
import zlib

import trio

from riafs.errors import EncryptedArchive, MalformedArchive, ShortRead, UnsupportedArchive
from riafs.formats.sevenzip import (
    Listing,
    is_encoded,
    parse_encoded_header,
    parse_header,
    parse_signature,
)
from riafs.formats.sevenzip_cursor import Limits
from riafs.formats.sevenzip_folder import LZMA, LZMA2, Coder, Folder
from riafs.formats.sevenzip_streams import SIGNATURE_HEADER_SIZE
from riafs.storage.ranged import RangedBytes

# 7-Zip encodes a header once; its reader would follow any number.
_MAX_ENCODINGS = 4
# A header of distinct names does not shrink this much; beyond it a small file could make us allocate for nothing.
_MAX_RATIO = 1000
_RATIO_COUNTS_FROM = 64 << 20
_MIN_DICTIONARY = 4096


async def read_listing(source: RangedBytes, limits: Limits) -> Listing:
    """The members of the 7z archive `source`.

    Raises NotAnArchive, MalformedArchive, UnsupportedArchive, EncryptedArchive (a header that needs a password),
    ShortRead (the header lies beyond the end), and what reading `source` raises.
    """
    place = parse_signature(bytes(await source.read(0, SIGNATURE_HEADER_SIZE)))
    header = await _read_packed(source, place.offset, place.size, limits)
    _check(header, place.crc)
    for _ in range(_MAX_ENCODINGS):
        if not is_encoded(header):
            return await trio.to_thread.run_sync(parse_header, header, limits, abandon_on_cancel=True)
        folder = parse_encoded_header(header, limits)
        packed = await _read_packed(source, folder.pack_offset, folder.pack_size, limits)
        header = await trio.to_thread.run_sync(decode_header, folder, packed, limits, abandon_on_cancel=True)
    raise MalformedArchive(f"7z header is encoded more than {_MAX_ENCODINGS} times")


async def _read_packed(source: RangedBytes, offset: int, size: int, limits: Limits) -> bytes:
    if size > limits.header:
        raise MalformedArchive(f"7z header of {size} bytes, the bound is {limits.header}")
    if offset + size > source.size:
        raise ShortRead(f"7z archive of {source.size} bytes has its header at {offset} to {offset + size}")
    return bytes(await source.read(offset, size))


def _check(header: bytes, crc: int | None) -> None:
    if crc is not None and zlib.crc32(header) != crc:
        raise MalformedArchive("7z header has a wrong checksum")


def decode_header(folder: Folder, packed: bytes, limits: Limits) -> bytes:
    """The header that `folder` describes, from its packed bytes.

    Raises EncryptedArchive, UnsupportedArchive (a chain of coders, a method other than Copy, LZMA, LZMA2),
    MalformedArchive (over the bounds, too short, wrong checksum, not decodable).
    """
    if folder.is_encrypted:
        raise EncryptedArchive("7z archive whose list of members needs a password")
    _refuse_bombs(folder, limits)
    header = packed if folder.is_stored else _decode(folder, packed)
    if len(header) != folder.size:
        raise MalformedArchive(f"7z header decodes to {len(header)} bytes instead of {folder.size}")
    _check(header, folder.crc)
    return header


def _refuse_bombs(folder: Folder, limits: Limits) -> None:
    if folder.size > limits.header:
        raise MalformedArchive(f"7z header claims to decode to {folder.size} bytes, the bound is {limits.header}")
    if folder.size > max(_RATIO_COUNTS_FROM, _MAX_RATIO * folder.pack_size):
        raise MalformedArchive(f"7z header claims to decode from {folder.pack_size} bytes to {folder.size}")
    if folder.memory > limits.dictionary:
        raise MalformedArchive(f"7z header needs a dictionary of {folder.memory} bytes")


def _decode(folder: Folder, packed: bytes) -> bytes:
    coder = folder.only_coder
    if coder is None or coder.method not in (LZMA, LZMA2):
        methods = " ".join(coder.method.hex() for coder in folder.shape.coders)
        raise UnsupportedArchive(f"7z header is packed with method {methods}")
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_filter(coder, folder.size)])
        return decoder.decompress(packed, max_length=folder.size)
    except lzma.LZMAError as error:
        raise MalformedArchive(f"7z header cannot be decoded: {error}") from error


def _filter(coder: Coder, decoded_size: int) -> dict[str, int]:
    """liblzma's description of the coder. No match reaches back further than the decoded bytes, so neither need we."""
    dictionary = max(_MIN_DICTIONARY, min(coder.memory, decoded_size))
    if coder.method == LZMA2:
        return {"id": lzma.FILTER_LZMA2, "dict_size": dictionary}
    # One byte holds literal context bits, literal position bits and position bits as (pb * 5 + lp) * 9 + lc.
    rest, literal_context = divmod(coder.properties[0], 9)
    position, literal_position = divmod(rest, 5)
    return {
        "id": lzma.FILTER_LZMA1,
        "dict_size": dictionary,
        "lc": literal_context,
        "lp": literal_position,
        "pb": position,
    }
