"""From columns to the bytes of a 7z header, plain or encoded, and the 32 bytes at an archive's front.

The inverse of what `sevenzip`, `sevenzip_streams` and `sevenzip_columns` read. Formats as in ``7zFormat.txt`` of
7-Zip's sources; what is written here is read by 7-Zip 26.02 and py7zr 1.1.
"""

import lzma
import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator

from riafs.formats.sevenzip.columns import (
    ANTI,
    ATTRIBUTES,
    EMPTY_FILE,
    EMPTY_STREAM,
    FILES_INFO,
    HAS_STREAM,
    HEADER,
    IS_ANTI_DIRECTORY,
    IS_ANTI_FILE,
    IS_EMPTY_FILE,
    MAIN_STREAMS_INFO,
    NAMES,
    Columns,
    Optional,
    shape_of_lzma2,
)
from riafs.formats.sevenzip.cursor import write_number
from riafs.formats.sevenzip.header import SIGNATURE
from riafs.formats.sevenzip.streams import END

_PACK_INFO, _UNPACK_INFO, _SUBSTREAMS_INFO = b"\x06", b"\x07", b"\x08"
_SIZE, _CRC, _FOLDER, _UNPACK_SIZE, _NUM_STREAMS = b"\x09", b"\x0a", b"\x0b", b"\x0c", b"\x0d"
_ENCODED_HEADER = b"\x17"
_END = bytes([END])
_HEADER_DICTIONARY, _HEADER_DICTIONARY_CODE = 1 << 20, 16
_HEADER_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": _HEADER_DICTIONARY}


def write_signature(header_offset: int, header: bytes) -> bytes:
    """The first 32 bytes of an archive whose header, as stored, lies at `header_offset` from the first byte on."""
    start = struct.pack("<QQI", header_offset - 32, len(header), zlib.crc32(header))
    return SIGNATURE + b"\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start


def write_header(columns: Columns) -> bytes:
    """The plain header; empty for an archive without members."""
    if not columns.kinds:
        return b""
    return b"".join((bytes([HEADER]), *_streams(columns), bytes([FILES_INFO]), *_members(columns), _END))


def encode_header(header: bytes, offset: int) -> tuple[bytes, bytes]:
    """What is stored instead of a plain header: its packed bytes, to lie at `offset` of the archive, and a record that
    describes them, to lie right behind."""
    packed = lzma.compress(header, lzma.FORMAT_RAW, filters=[_HEADER_FILTER])
    pack = _PACK_INFO + write_number(offset - 32) + write_number(1) + _SIZE + write_number(len(packed)) + _END
    folder = _FOLDER + write_number(1) + b"\x00" + shape_of_lzma2(_HEADER_DICTIONARY_CODE)
    sizes = _UNPACK_SIZE + write_number(len(header)) + _CRC + b"\x01" + struct.pack("<I", zlib.crc32(header)) + _END
    return packed, _ENCODED_HEADER + pack + _UNPACK_INFO + folder + sizes + _END


def _streams(columns: Columns) -> Iterator[bytes]:
    if not columns.descriptions:
        return
    yield (
        bytes([MAIN_STREAMS_INFO])
        + _PACK_INFO
        + write_number(columns.pack_position)
        + write_number(len(columns.pack_sizes))
    )
    yield _SIZE + _numbers(columns.pack_sizes) + _END
    yield _UNPACK_INFO + _FOLDER + write_number(len(columns.descriptions)) + b"\x00"
    yield b"".join(columns.descriptions)
    yield _UNPACK_SIZE + _numbers(columns.unpack_sizes)
    yield from _digests(columns.folder_crcs)
    yield _END + _SUBSTREAMS_INFO
    if set(columns.stream_counts) != {1}:
        yield _NUM_STREAMS + _numbers(columns.stream_counts)
        sizes = _numbers(_written_sizes(columns))
        yield _SIZE + sizes if sizes else b""
    yield from _digests(columns.stream_crcs)
    yield _END + _END


def _written_sizes(columns: Columns) -> Iterator[int]:
    """Of all streams but the last of each folder, whose size is what the others leave."""
    first = 0
    for count in columns.stream_counts:
        yield from columns.stream_sizes[first : first + max(0, count - 1)]
        first += count


def _digests(crcs: Optional) -> Iterator[bytes]:
    if 1 in crcs.defined:
        yield _CRC + _flags(crcs.defined) + _defined_values(crcs)


def _members(columns: Columns) -> Iterator[bytes]:
    yield write_number(len(columns.kinds))
    empty = bytes(kind != HAS_STREAM for kind in columns.kinds)
    if 1 in empty:
        kinds = [kind for kind in columns.kinds if kind != HAS_STREAM]
        yield _property(EMPTY_STREAM, _bits(empty))
        yield from _optional_bits(EMPTY_FILE, [kind in (IS_EMPTY_FILE, IS_ANTI_FILE) for kind in kinds])
        yield from _optional_bits(ANTI, [kind in (IS_ANTI_FILE, IS_ANTI_DIRECTORY) for kind in kinds])
    yield _property(NAMES, b"\x00" + columns.names)
    for record, values in (*sorted(columns.longs.items()), (ATTRIBUTES, columns.attributes)):
        if 1 in values.defined:
            yield _property(record, _flags(values.defined) + b"\x00" + _defined_values(values))
    yield _END


def _property(record: int, content: bytes) -> bytes:
    return bytes([record]) + write_number(len(content)) + content


def _optional_bits(record: int, flags: list[bool]) -> Iterator[bytes]:
    if any(flags):
        yield _property(record, _bits(bytes(flags)))


def _flags(defined: bytes | bytearray) -> bytes:
    return b"\x00" + _bits(defined) if 0 in defined else b"\x01"


def _bits(flags: bytes | bytearray) -> bytes:
    """Bytes 0 or 1 as bits, highest of each byte first."""
    digits = flags.translate(bytes.maketrans(b"\0\1", b"01")) + b"0" * (-len(flags) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big") if digits else b""


def _defined_values(values: Optional) -> bytes:
    found = values.values
    if 0 in values.defined:
        pairs = zip(values.values, values.defined, strict=True)
        found = array(found.typecode, [value for value, flag in pairs if flag])
    if sys.byteorder == "big":
        found = array(found.typecode, found)
        found.byteswap()
    return found.tobytes()


def _numbers(values: Iterable[int]) -> bytes:
    return b"".join(map(write_number, values))
