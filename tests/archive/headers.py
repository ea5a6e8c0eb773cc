"""A small writer of 7z headers and archives, for what the real program cannot be made to write.

Members are stored, one folder each. `Raw` pieces are put together by hand where a test wants a wrong header.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

SIGNATURE = b"7z\xbc\xaf\x27\x1c"
COPY_FOLDER = b"\x01\x01\x00"
END = b"\0"


@dataclass(frozen=True, slots=True)
class File:
    """A member to write: `content` None is a directory."""

    name: bytes
    content: bytes | None
    mode: int | None = 0o100444
    crc: int | None = None


def number(value: int) -> bytes:
    """A 7z number, as short as possible."""
    for extra in range(8):
        if value < 1 << 7 * (extra + 1):
            first = (0xFF00 >> extra) & 0xFF | value >> 8 * extra
            return bytes([first]) + (value & (1 << 8 * extra) - 1).to_bytes(extra, "little")
    return b"\xff" + value.to_bytes(8, "little")


def sized(record: int, data: bytes) -> bytes:
    """A property: number, size, data."""
    return bytes([record]) + number(len(data)) + data


def bits(flags: Sequence[bool]) -> bytes:
    """A bit vector, highest bit first."""
    padded = [*flags, *[False] * (-len(flags) % 8)]
    return bytes(
        sum(flag << 7 - place for place, flag in enumerate(padded[at : at + 8])) for at in range(0, len(padded), 8)
    )


def optional(values: Sequence[int | None]) -> bytes:
    """A vector of words of which some are undefined: flags, then the defined ones."""
    defined = [value is not None for value in values]
    flags = b"\x01" if all(defined) else b"\0" + bits(defined)
    return flags + b"".join(struct.pack("<I", value) for value in values if value is not None)


def name_text(name: bytes) -> bytes:
    """A name as 7-Zip writes it: bytes that are no UTF-8, and characters that would be mistaken for them, escaped."""
    text = name.decode("utf-8", "surrogateescape")
    escaped = "".join(
        "".join(chr(0xEF00 + byte) for byte in part.encode("utf-8", "surrogateescape"))
        if "\uef80" <= part <= "\uefff" or "\udc80" <= part <= "\udcff"
        else part
        for part in text
    )
    return (escaped + "\0").encode("utf-16-le")


def copy_streams(sizes: Sequence[int], crcs: Sequence[int | None], pack_position: int = 0) -> bytes:
    """A streams record of stored folders with one stream each."""
    count = number(len(sizes))
    written = b"".join(map(number, sizes))
    return b"".join(
        [
            b"\x06" + number(pack_position) + count + b"\x09" + written + END,
            b"\x07\x0b" + count + b"\0" + COPY_FOLDER * len(sizes) + b"\x0c" + written + END,
            b"\x08\x0a" + optional(crcs) + END,
            END,
        ]
    )


def files_record(files: Sequence[File]) -> bytes:
    """The record with names, empty members and attributes."""
    empty = [not file.content for file in files]
    names = b"".join(name_text(file.name) for file in files)
    attributes = [None if file.mode is None else file.mode << 16 | 0x8000 for file in files]
    defined = optional(attributes)
    flag_bytes = 1 if defined[:1] == b"\x01" else 1 + (len(files) + 7) // 8
    return b"".join(
        [
            b"\x05" + number(len(files)),
            sized(0x0E, bits(empty)),
            sized(0x0F, bits([file.content is not None for file in files if not file.content])),
            sized(0x19, bytes(3)),
            sized(0x11, b"\0" + names),
            sized(0x15, defined[:flag_bytes] + b"\0" + defined[flag_bytes:]),
            END,
        ]
    )


def header(files: Sequence[File]) -> bytes:
    """A plain header of stored members."""
    contents = [file.content for file in files if file.content]
    crcs = [zlib.crc32(file.content) if file.crc is None else file.crc for file in files if file.content]
    streams = b"\x04" + copy_streams(list(map(len, contents)), crcs) if contents else b""
    return b"\x01" + streams + files_record(files) + END


def signature_header(offset: int, size: int, crc: int) -> bytes:
    """The 32 bytes at the front."""
    start = struct.pack("<QQI", offset, size, crc)
    return SIGNATURE + b"\0\x04" + struct.pack("<I", zlib.crc32(start)) + start


def archive(data: bytes, plain_header: bytes) -> bytes:
    """An archive of packed `data` and any header, whose checksums are right."""
    return signature_header(len(data), len(plain_header), zlib.crc32(plain_header)) + data + plain_header


def stored_archive(files: Sequence[File]) -> bytes:
    """An archive of stored members."""
    return archive(b"".join(file.content or b"" for file in files), header(files))
