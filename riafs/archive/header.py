"""From an archive's bytes to the list of its members.

Owns the steps: signature, place of the header, decoding it as often as it is encoded. Decoding and parsing run in
worker threads, since a header of a million members takes seconds. Invariant: at most ``limits.header`` bytes are read
or decoded at once, and a decoder's dictionary is never larger than what it decodes.
"""

import contextlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from riafs.archive.encryption import Unlocker
from riafs.archive.methods import IN_PROCESS, RestartingDecompressor, decompressor_of, is_decodable
from riafs.errors import (
    ArchiveError,
    DecodeFailed,
    EncryptedArchive,
    MalformedArchive,
    OutOfMemory,
    OversizedArchive,
    ShortRead,
    UnsupportedArchive,
)
from riafs.formats.sevenzip.cursor import SIGNATURE_HEADER_SIZE, Limits
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.header import (
    SIGNATURE,
    Listing,
    is_encoded,
    parse_encoded_header,
    parse_header,
    parse_signature,
)
from riafs.storage.bytesource import Extent, RangedBytes

# 7-Zip encodes a header once; its reader would follow any number.
_MAX_ENCODINGS = 4
# A header of distinct names does not shrink this much; beyond it a small file could make us allocate for nothing.
_MAX_RATIO = 1000
_RATIO_COUNTS_FROM = 64 << 20
_PIECE = 256 << 10
_STUB = 8 << 20
_STUB_PIECE = 1 << 20


async def read_listing(source: RangedBytes, limits: Limits, unlocker: Unlocker) -> tuple[Listing, bool]:
    """The members of the 7z archive `source`, and whether a password was needed to see them.

    Raises NotAnArchive, MalformedArchive, UnsupportedArchive, EncryptedArchive (a header that needs a password, or
    another one), ShortRead (the header lies beyond the end), OutOfMemory, and what reading `source` raises.
    """
    with _memory_as_failure():
        header, encrypted = await _read_header(source, limits, unlocker)
        return await trio.to_thread.run_sync(parse_header, header, limits, abandon_on_cancel=True), encrypted


async def find_archive(source: RangedBytes) -> RangedBytes:
    """The 7z archive in `source` without the program in front of it that unpacks it (SFX): offsets in an archive count
    from its signature, which is looked for in the first 8 MiB. `source` itself where there is none.

    Raises what reading `source` raises.
    """
    start = bytes(await source.read(0, len(SIGNATURE)))
    if start == SIGNATURE:
        return source
    for begin in range(0, min(_STUB, source.size), _STUB_PIECE):
        piece = bytes(await source.read(begin, _STUB_PIECE + SIGNATURE_HEADER_SIZE - 1))
        at = -1
        while 0 <= (at := piece.find(SIGNATURE, at + 1)) < _STUB_PIECE:
            with contextlib.suppress(ArchiveError):  # the program has the signature in itself
                place = parse_signature(piece[at : at + SIGNATURE_HEADER_SIZE])
                if place.offset + place.size <= source.size - begin - at:
                    return Extent(source, begin + at, source.size - begin - at)
    return source


async def read_plain_header(source: RangedBytes, limits: Limits) -> bytes:
    """The header of an archive, decoded as often as it is encoded. Raises the same; EncryptedArchive if it needs a
    password."""
    with _memory_as_failure():
        header, _ = await _read_header(source, limits, None)
        return header


@contextmanager
def _memory_as_failure() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory("out of memory for the archive's list of members") from error


async def _read_header(source: RangedBytes, limits: Limits, unlocker: Unlocker | None) -> tuple[bytes, bool]:
    """The plain header, and whether it was encrypted."""
    place = parse_signature(bytes(await source.read(0, SIGNATURE_HEADER_SIZE)))
    header = await _read_packed(source, place.offset, place.size, limits)
    _check(header, place.crc)
    encrypted = False
    for _ in range(_MAX_ENCODINGS):
        if not is_encoded(header):
            return header, encrypted
        folder = parse_encoded_header(header, limits)
        packed = await _read_packed(source, folder.pack_offset, folder.pack_size, limits)
        if folder.is_encrypted and unlocker is not None:
            encrypted = True
            header = await _decode_encrypted(folder, source, limits, unlocker)
        else:
            header = await trio.to_thread.run_sync(decode_header, folder, packed, limits, abandon_on_cancel=True)
    raise MalformedArchive(f"7z header is encoded more than {_MAX_ENCODINGS} times")


async def _read_packed(source: RangedBytes, offset: int, size: int, limits: Limits) -> bytes:
    if size > limits.header:
        raise OversizedArchive(f"7z header of {size} bytes, the bound is {limits.header}")
    if offset + size > source.size:
        raise ShortRead(f"7z archive of {source.size} bytes has its header at {offset} to {offset + size}")
    return bytes(await source.read(offset, size))


def _check(header: bytes, crc: int | None) -> None:
    if crc is not None and zlib.crc32(header) != crc:
        raise MalformedArchive("7z header has a wrong checksum")


async def _decode_encrypted(folder: Folder, source: RangedBytes, limits: Limits, unlocker: Unlocker) -> bytes:
    """The same as `decode_header`, with a password."""
    _refuse_bombs(folder, limits)
    plain, opened = await unlocker.open(folder, source)
    packed = bytes(await opened.read(0, opened.size))
    try:
        return await trio.to_thread.run_sync(_decode, plain, packed, abandon_on_cancel=True)
    except MalformedArchive as error:
        raise EncryptedArchive("the password of the archive is wrong, or its list of members is damaged") from error


def decode_header(folder: Folder, packed: bytes, limits: Limits) -> bytes:
    """The header that `folder` describes, from its packed bytes.

    Raises EncryptedArchive, UnsupportedArchive (not a method of the standard library), MalformedArchive (over the
    bounds, too short, wrong checksum, not decodable).
    """
    if folder.is_encrypted:
        raise EncryptedArchive("7z archive whose list of members needs a password")
    _refuse_bombs(folder, limits)
    return _decode(folder, packed)


def _refuse_bombs(folder: Folder, limits: Limits) -> None:
    if folder.size > limits.header:
        raise OversizedArchive(f"7z header claims to decode to {folder.size} bytes, the bound is {limits.header}")
    if folder.size > max(_RATIO_COUNTS_FROM, _MAX_RATIO * folder.pack_size):
        raise OversizedArchive(f"7z header claims to decode from {folder.pack_size} bytes to {folder.size}")
    if folder.memory > limits.dictionary:
        raise OversizedArchive(f"7z header needs a dictionary of {folder.memory} bytes")


def _decode(folder: Folder, packed: bytes) -> bytes:
    if not is_decodable(folder, IN_PROCESS):
        methods = " ".join(coder.method.hex() for coder in folder.shape.coders)
        raise UnsupportedArchive(f"7z header is packed with method {methods}")
    decompressor = RestartingDecompressor(lambda: decompressor_of(folder), folder.size, "7z header")
    header = bytearray()
    try:
        while len(header) < folder.size:
            data = packed[decompressor.position : decompressor.position + _PIECE] if decompressor.needs_input else b""
            header += decompressor.decode(data, folder.size)
    except DecodeFailed as error:
        raise MalformedArchive(str(error)) from error
    _check(bytes(header), folder.crc)
    return bytes(header)
