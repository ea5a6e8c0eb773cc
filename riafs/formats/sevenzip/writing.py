"""7z headers as bytes: a whole header, plain or encoded, the 32 bytes at the front, and an archive around one folder.

The inverse of `fullheader` and `header`; the format is that of ``7zFormat.txt`` in 7-Zip's sources. What is written is
read by 7-Zip 26.02 and py7zr 1.1.

An archive around a single folder of another one is what a decoder in the limited child gets to see: one row of packed
streams, one folder, one file called ``folder`` that holds all of the folder's bytes.
"""

import lzma
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator

from riafs.errors import MalformedArchive
from riafs.formats.sevenzip.cursor import SIGNATURE_HEADER_SIZE, Cursor, Record, write_number
from riafs.formats.sevenzip.folder import Folder, parse_shape, write_shape
from riafs.formats.sevenzip.fullheader import FullHeader, OptionalNumbers, shape_of_lzma2
from riafs.formats.sevenzip.header import HAS_STREAM, IS_ANTI_DIRECTORY, IS_ANTI_FILE, IS_EMPTY_FILE, SIGNATURE

_END = Record.END.byte
_HEADER_DICTIONARY, _HEADER_DICTIONARY_CODE = 1 << 20, 16
_HEADER_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": _HEADER_DICTIONARY}
# The same in every archive around a single folder.
_SINGLE_FRONT = Record.HEADER.byte + Record.MAIN_STREAMS.byte + Record.PACK_INFO.byte + write_number(0)
_SINGLE_UNPACK_INFO = Record.UNPACK_INFO.byte + Record.FOLDER.byte + write_number(1) + b"\0"
_SINGLE_NAME = b"\0" + "folder\0".encode("utf-16-le")


def write_signature(header_offset: int, header: bytes) -> bytes:
    """The first 32 bytes of an archive whose header, as stored, lies at `header_offset` from the first byte on."""
    start = struct.pack("<QQI", header_offset - SIGNATURE_HEADER_SIZE, len(header), zlib.crc32(header))
    return SIGNATURE + b"\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start


def write_header(header: FullHeader) -> bytes:
    """The plain header; empty for an archive without members."""
    if not header.kinds:
        return b""
    return b"".join((Record.HEADER.byte, *_streams(header), Record.FILES.byte, *_members(header), _END))


def encode_header(header: bytes, offset: int) -> tuple[bytes, bytes]:
    """A plain header in the form in which archives store it.

    Returns its packed bytes, to lie at `offset` of the archive, and the record that describes them, to lie right
    behind.
    """
    packed = lzma.compress(header, lzma.FORMAT_RAW, filters=[_HEADER_FILTER])
    parts = (
        Record.ENCODED_HEADER.byte,
        Record.PACK_INFO.byte + write_number(offset - SIGNATURE_HEADER_SIZE) + write_number(1),
        Record.SIZE.byte + write_number(len(packed)) + _END,
        _SINGLE_UNPACK_INFO + shape_of_lzma2(_HEADER_DICTIONARY_CODE),
        Record.CODERS_UNPACK_SIZE.byte + write_number(len(header)),
        Record.CRC.byte + b"\x01" + struct.pack("<I", zlib.crc32(header)) + _END,
        _END,
    )
    return packed, b"".join(parts)


def _streams(header: FullHeader) -> Iterator[bytes]:
    if not header.descriptions:
        return
    yield Record.MAIN_STREAMS.byte + Record.PACK_INFO.byte
    yield write_number(header.pack_position) + write_number(len(header.pack_sizes))
    yield Record.SIZE.byte + _numbers(header.pack_sizes) + _END
    yield Record.UNPACK_INFO.byte + Record.FOLDER.byte + write_number(len(header.descriptions)) + b"\x00"
    yield b"".join(header.descriptions)
    yield Record.CODERS_UNPACK_SIZE.byte + _numbers(header.unpack_sizes)
    yield from _digests(header.folder_crcs)
    yield _END + Record.SUBSTREAMS_INFO.byte
    if set(header.stream_counts) != {1}:
        yield Record.NUM_UNPACK_STREAM.byte + _numbers(header.stream_counts)
        sizes = _numbers(_written_sizes(header))
        yield Record.SIZE.byte + sizes if sizes else b""
    yield from _digests(header.stream_crcs)
    yield _END + _END


def _written_sizes(header: FullHeader) -> Iterator[int]:
    """The sizes of all streams but the last of each folder, whose size is what the others leave."""
    first = 0
    for count in header.stream_counts:
        yield from header.stream_sizes[first : first + max(0, count - 1)]
        first += count


def _digests(crcs: OptionalNumbers) -> Iterator[bytes]:
    if 1 in crcs.defined:
        yield Record.CRC.byte + _flags(crcs.defined) + _defined_values(crcs)


def _members(header: FullHeader) -> Iterator[bytes]:
    yield write_number(len(header.kinds))
    kinds = bytes(kind for kind in header.kinds if kind != HAS_STREAM)
    if kinds:
        yield _property(Record.EMPTY_STREAM, _bits(bytes(kind != HAS_STREAM for kind in header.kinds)))
        for record, marked in (
            (Record.EMPTY_FILE, (IS_EMPTY_FILE, IS_ANTI_FILE)),
            (Record.ANTI, (IS_ANTI_FILE, IS_ANTI_DIRECTORY)),
        ):
            flags = bytes(kind in marked for kind in kinds)
            if any(flags):
                yield _property(record, _bits(flags))
    yield _property(Record.NAMES, b"\x00" + header.names)
    for number, values in (*sorted(header.longs.items()), (Record.ATTRIBUTES, header.attributes)):
        if 1 in values.defined:
            yield _property(number, _flags(values.defined) + b"\x00" + _defined_values(values))
    yield _END


def _property(record: int, content: bytes) -> bytes:
    return bytes([record]) + write_number(len(content)) + content


def _flags(defined: bytes | bytearray) -> bytes:
    return b"\x00" + _bits(defined) if 0 in defined else b"\x01"


def _bits(flags: bytes | bytearray) -> bytes:
    """Bytes 0 or 1 as bits, highest of each byte first."""
    digits = flags.translate(bytes.maketrans(b"\0\1", b"01")) + b"0" * (-len(flags) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big") if digits else b""


def _defined_values(values: OptionalNumbers) -> bytes:
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


# -- an archive around a single folder --------------------------------------------------------------------------------


def single_folder_ends(folder: Folder) -> tuple[bytes, bytes]:
    """The bytes before and after the packed bytes of `folder` that make them an archive."""
    header = b"".join(
        [
            _SINGLE_FRONT
            + write_number(len(folder.pack_sizes))
            + Record.SIZE.byte
            + _numbers(folder.pack_sizes)
            + _END,
            _SINGLE_UNPACK_INFO + write_shape(folder.shape),
            Record.CODERS_UNPACK_SIZE.byte + _numbers(folder.unpack_sizes) + _END,
            Record.SUBSTREAMS_INFO.byte + _END,  # libarchive 3.6 takes an archive without this record for damaged
            _END,
            Record.FILES.byte + write_number(1) + _property(Record.NAMES, _SINGLE_NAME) + _END,
            _END,
        ]
    )
    return write_signature(SIGNATURE_HEADER_SIZE + folder.pack_size, header), header


def parse_single_folder(read: Callable[[int, int], bytes]) -> Folder:
    """The folder of an archive with such ends, of which `read(offset, length)` gives bytes. Raises MalformedArchive."""
    start = read(0, SIGNATURE_HEADER_SIZE)
    if len(start) < SIGNATURE_HEADER_SIZE:
        raise MalformedArchive("archive of a single folder ends too early")
    offset, size = struct.unpack_from("<QQ", start, 12)
    cursor = Cursor(read(SIGNATURE_HEADER_SIZE + offset, size))
    cursor.skip(len(_SINGLE_FRONT))
    packs = cursor.number()
    cursor.skip(1)
    pack_sizes = tuple(cursor.numbers(packs))
    cursor.skip(1 + len(_SINGLE_UNPACK_INFO))
    shape = parse_shape(cursor)
    cursor.skip(1)
    return Folder(shape, SIGNATURE_HEADER_SIZE, pack_sizes, tuple(cursor.numbers(len(shape.coders))), None)
