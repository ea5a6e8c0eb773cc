"""The decompressor of each method of 7z, and of a folder whose methods follow each other.

The standard library's where it has one, then py7zr's, then our own (archive/decompressors, archive/filters). Method
numbers as in ``Methods.txt`` of 7-Zip's sources; Zstandard and Brotli as in 7-Zip ZS. Nothing here reads or waits:
decompressors are fed, in this process or in a child, and libraries are imported where they decode. `IN_PROCESS` are the
methods that the standard library decodes; the others belong into the limited child (see archive/extractor).

A library's decompressor gives nothing of a call that met damage, so what it gave before depends on how much it was
asked for. `RestartingDecompressor` always asks for the same pieces; where one fails, it begins again and goes on byte
by byte from the piece before. So all bytes before the damage are there, however much their reader asked for.
"""

import bz2
import lzma
import math
import struct
from collections.abc import Callable, Sequence

from riafs.archive import decompressors
from riafs.archive.decompressors import DAMAGE, Decompressor
from riafs.archive.filters import Convert, Converted, LiblzmaFilter, arm64, riscv, swap
from riafs.errors import DecodeFailed, MalformedArchive, MissingProgram, OutOfMemory, RiafsError, UnsupportedArchive
from riafs.formats.sevenzip.folder import COPY, DELTA, LZMA, LZMA2, PPMD, Coder, Folder

Filter = dict[str, int]

BZIP2 = b"\x04\x02\x02"
DEFLATE = b"\x04\x01\x08"
DEFLATE64 = b"\x04\x01\x09"
ZSTANDARD = b"\x04\xf7\x11\x01"
BROTLI = b"\x04\xf7\x11\x02"

_MIN_DICTIONARY = 4096
_MAX_LITERAL_BITS = 4
_PIECE = 8 << 10  # small enough to go through it byte by byte; PPMd takes up to 0.1 ms for each

_BRANCH_FILTERS = {
    b"\x04": lzma.FILTER_X86,
    b"\x05": lzma.FILTER_POWERPC,
    b"\x06": lzma.FILTER_IA64,
    b"\x07": lzma.FILTER_ARM,
    b"\x08": lzma.FILTER_ARMTHUMB,
    b"\x09": lzma.FILTER_SPARC,
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
}
_CONVERSIONS: dict[bytes, Callable[[int], Convert]] = {
    b"\x0a": arm64,
    b"\x0b": riscv,
    b"\x02\x03\x02": lambda _: swap(2),
    b"\x02\x03\x04": lambda _: swap(4),
}

IN_PROCESS = frozenset({COPY, LZMA, LZMA2, DELTA, BZIP2, DEFLATE, *_BRANCH_FILTERS})
"""Methods that the standard library decodes without holding up the event loop's thread."""
IN_CHILD = frozenset({PPMD, DEFLATE64, ZSTANDARD, BROTLI, *_CONVERSIONS})
"""Methods of py7zr's decoders, and of those that are written in Python."""


def is_decodable(folder: Folder, methods: frozenset[bytes]) -> bool:
    """Whether `decompressor_of` decodes a folder with methods out of `methods` alone."""
    chain = folder.chain
    return chain is not None and all(
        coder.method in methods and (coder.method != LZMA or _lzma(coder, folder.size) is not None) for coder in chain
    )


def is_foreign(folder: Folder) -> bool:
    """Whether a folder has a method that 7-Zip has not."""
    return any(coder.method in (ZSTANDARD, BROTLI) for coder in folder.shape.coders)


def decompressor_of(folder: Folder) -> Decompressor:
    """A decoder of a folder whose coders are a row, from the front, or of LZMA2 alone from one of its resets.

    Raises UnsupportedArchive, MalformedArchive (impossible parameters), MissingProgram (a library that is not there).
    """
    chain = folder.chain
    if chain is None:
        raise UnsupportedArchive("7z folder with several packed streams")
    row = [(coder, size) for coder, size in zip(chain, folder.chain_sizes, strict=True) if coder.method != COPY]
    try:
        if row and (filters := _all_filters([coder for coder, _ in row], folder.size)) is not None:
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
        step: Decompressor | None = None
        packed = 0
        for coder, size in reversed(row):
            outer = _decompressor(coder, size)
            step = outer if step is None else decompressors.Piped(step, packed, outer)
            packed = size
        return step or Converted(lambda data, _position, _last: len(data), folder.size)
    except (lzma.LZMAError, ValueError, OverflowError, struct.error) as error:
        raise MalformedArchive(f"7z folder is packed with impossible parameters: {error}") from error
    except ImportError as error:
        raise MissingProgram(f"archive members of this method need the Python package {error.name}") from error


def _decompressor(coder: Coder, size: int) -> Decompressor:
    """The decoder of one coder that makes `size` bytes. Raises UnsupportedArchive, ImportError, ValueError, …"""
    method, properties = coder.method, coder.properties
    if (filters := _all_filters([coder], size)) is not None:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    if (one := _filter(coder)) is not None:
        return LiblzmaFilter(one, size)
    if method in _CONVERSIONS and len(properties) in (0, 4):
        return Converted(_CONVERSIONS[method](int.from_bytes(properties, "little")), size)
    if method == BZIP2:
        return decompressors.ConcatenatedStreams(bz2.BZ2Decompressor)
    if method == DEFLATE:
        return decompressors.deflate()
    if method == DEFLATE64:
        return decompressors.deflate64()
    if method == PPMD:
        return decompressors.Ppmd(properties)
    if method == ZSTANDARD:
        return decompressors.zstandard()
    if method == BROTLI:
        return decompressors.brotli()
    raise UnsupportedArchive(f"7z method {method.hex()} with properties {properties.hex() or 'none'}")


# -- liblzma ----------------------------------------------------------------------------------------------------------


def _all_filters(chain: Sequence[Coder], decoded_size: int) -> list[Filter] | None:
    """liblzma's filters for coders in the order of `Folder.chain`; None where it cannot decode them all at once.

    A filter after LZMA without an end mark is not for it: it keeps back the last bytes (seen with 5.4).
    """
    *filters, last = chain
    if last.method == LZMA and not filters:
        return _lzma(last, decoded_size)
    if last.method != LZMA2:
        return None
    known = [_filter(coder) for coder in filters]
    found = [each for each in known if each is not None]
    return [*found, _lzma2(last, decoded_size)] if len(found) == len(known) <= 3 else None


def _filter(coder: Coder) -> Filter | None:
    if coder.method == DELTA and len(coder.properties) == 1:
        return {"id": lzma.FILTER_DELTA, "dist": coder.properties[0] + 1}
    if coder.method in _BRANCH_FILTERS and not coder.properties:
        return {"id": _BRANCH_FILTERS[coder.method]}
    return None


def _dictionary(coder: Coder, decoded_size: int) -> int:
    """No match reaches back further than the decoded bytes, so neither need we."""
    return max(_MIN_DICTIONARY, min(coder.memory, decoded_size))


def _lzma2(coder: Coder, decoded_size: int) -> Filter:
    return {"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(coder, decoded_size)}


def _lzma(coder: Coder, decoded_size: int) -> list[Filter] | None:
    # One byte holds literal context bits, literal position bits and position bits as (pb * 5 + lp) * 9 + lc.
    rest, literal_context = divmod(coder.properties[0], 9)
    position, literal_position = divmod(rest, 5)
    if literal_context + literal_position > _MAX_LITERAL_BITS:
        return None  # LZMA allows 12, liblzma 4
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "dict_size": _dictionary(coder, decoded_size),
            "lc": literal_context,
            "lp": literal_position,
            "pb": position,
        }
    ]


# -- damage -----------------------------------------------------------------------------------------------------------


class RestartingDecompressor:
    """Decodes `size` bytes with what `make` makes; `shown` is what messages call them.

    It has to be given the packed bytes from `position` on, which goes back to 0 once where they are damaged, in the
    same pieces as before. Raises what `make` raises, and OutOfMemory.
    """

    def __init__(self, make: Callable[[], Decompressor], size: int, shown: str) -> None:
        self.position = 0
        self._make = make
        self._size = size
        self._shown = shown
        self._begin()
        self._output = bytearray()
        self._made = 0
        self._given_until = 0
        self._careful_from: float = math.inf
        self._failure: RiafsError | None = None

    @property
    def needs_input(self) -> bool:
        """Whether `decode` has to be given more packed bytes, or none where there are no more."""
        return not self._output and self._failure is None and self._step.needs_input

    def decode(self, data: bytes, most: int) -> bytes:
        """The next bytes, at most `most`; none where more packed ones are needed, or others.

        Raises DecodeFailed, OutOfMemory.
        """
        ended = self.needs_input and not data
        if not self._output and self._failure is None:
            self.position += len(data)
            self._fill(data, most, ended=ended)
        if not self._output and self._failure is not None:
            raise self._failure
        decoded = bytes(memoryview(self._output)[:most])
        del self._output[:most]
        return decoded

    def _fill(self, data: bytes, most: int, *, ended: bool) -> None:
        try:
            self._decode(data, most)
            if ended and not self._output and self._step.needs_input:
                self._failure = DecodeFailed(f"{self._shown} ends too early")
        except MemoryError as error:
            raise OutOfMemory(f"{self._shown}: out of memory for decoding it") from error
        except DAMAGE as error:
            if self._careful_from < math.inf:
                self._failure = DecodeFailed(f"{self._shown} cannot be decoded: {error or 'it ends too early'}")
                return
            self._careful_from, self.position, self._made = self._made, 0, 0
            del self._step  # before there is another one, as each may have a large dictionary
            self._begin()

    def _begin(self) -> None:
        try:
            self._step = self._make()
        except MemoryError as error:
            raise OutOfMemory(f"{self._shown}: out of memory for decoding it") from error

    def _decode(self, data: bytes, most: int) -> None:
        while len(self._output) < most and self._made < self._size:
            piece = _PIECE if self._made < self._careful_from else 1
            decoded = self._step.decompress(data, min(piece, self._size - self._made))
            data = b""
            if not decoded:
                if not self._step.needs_input:
                    raise EOFError
                return
            self._made += len(decoded)
            if self._made > self._given_until:
                self._output += decoded
                self._given_until = self._made
            if self._step.needs_input:
                return
