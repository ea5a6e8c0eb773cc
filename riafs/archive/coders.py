"""The decoder of each coder of 7z, and of a row of them: the standard library's first, then py7zr's, then our own.

Method numbers as in ``Methods.txt`` of 7-Zip's sources; Zstandard and Brotli as in 7-Zip ZS. Nothing here reads or
waits: steps are fed, in this process or in a child, and libraries are imported where they decode. `IN_PROCESS` are the
methods whose decoders are the standard library's; the others belong into the limited child (see archive/extractor).
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from riafs.archive.conversions import Convert, arm64, riscv, swap
from riafs.errors import DecodeFailed, MalformedArchive, MissingProgram, UnsupportedArchive
from riafs.formats.sevenzip.folder import COPY, DELTA, LZMA, LZMA2, PPMD, Coder, Folder

Filter = dict[str, int]

BZIP2 = b"\x04\x02\x02"
DEFLATE = b"\x04\x01\x08"
DEFLATE64 = b"\x04\x01\x09"
ZSTANDARD = b"\x04\xf7\x11\x01"
BROTLI = b"\x04\xf7\x11\x02"

_MIN_DICTIONARY = 4096
_MAX_LITERAL_BITS = 4
_MOST_IN_CHUNK = 1 << 16
_LARGEST_WINDOW = 30  # of Zstandard, as a power of two: what archives may claim for a dictionary
_PIECES = 32
_PPMD_PADDING = 16
_PPMD_START = 8
_BROTLI_FRAME = struct.Struct("<IIIHH")
_BROTLI_FRAME_MAGIC = b"\x50\x2a\x4d\x18"

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


class Step(Protocol):
    """The decoder of one coder or of several, as those of the standard library are.

    It is given bytes only while it needs them, and none while it needs them says that there are no more. The same bytes
    in the same pieces with the same `max_length` always come to the same bytes and the same failure.
    """

    @property
    def needs_input(self) -> bool:
        """Whether nothing more can be decoded of what it was given."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` more bytes, none where it needs more input. Raises one of `DAMAGE`."""


DAMAGE = (lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, OverflowError, DecodeFailed)
"""What steps raise on bytes that cannot be decoded."""


def is_decodable(folder: Folder, methods: frozenset[bytes]) -> bool:
    """Whether `step_of` decodes a folder with methods out of `methods` alone."""
    chain = folder.chain
    return chain is not None and all(
        coder.method in methods and (coder.method != LZMA or _lzma(coder, folder.size) is not None) for coder in chain
    )


def is_foreign(folder: Folder) -> bool:
    """Whether a folder has a method that 7-Zip has not."""
    return any(coder.method in (ZSTANDARD, BROTLI) for coder in folder.shape.coders)


def step_of(folder: Folder) -> Step:
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
        step: Step | None = None
        packed = 0
        for coder, size in reversed(row):
            outer = _step(coder, size)
            step = outer if step is None else _Piped(step, packed, outer)
            packed = size
        return step or _Converted(lambda data, _position, _last: len(data), folder.size)
    except (lzma.LZMAError, ValueError, OverflowError, struct.error) as error:
        raise MalformedArchive(f"7z folder is packed with impossible parameters: {error}") from error
    except ImportError as error:
        raise MissingProgram(f"archive members of this method need the Python package {error.name}") from error


def _step(coder: Coder, size: int) -> Step:
    """The decoder of one coder that makes `size` bytes. Raises UnsupportedArchive, ImportError, ValueError, …"""
    method, properties = coder.method, coder.properties
    if (filters := _all_filters([coder], size)) is not None:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    if (one := _filter(coder)) is not None:
        return _LiblzmaFilter(one, size)
    if method in _CONVERSIONS and len(properties) in (0, 4):
        return _Converted(_CONVERSIONS[method](int.from_bytes(properties, "little")), size)
    if method == BZIP2:
        return _Streams(bz2.BZ2Decompressor)
    if method == DEFLATE:
        return _deflate()
    if method == DEFLATE64:
        return _deflate64()
    if method == PPMD:
        return _Ppmd(properties)
    if method == ZSTANDARD:
        return _zstandard()
    if method == BROTLI:
        return _brotli()
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


class _LiblzmaFilter:
    """One of liblzma's filters alone: it gets its bytes as LZMA2 chunks that are stored."""

    def __init__(self, one: Filter, size: int) -> None:
        filters = [one, {"id": lzma.FILTER_LZMA2, "dict_size": _MIN_DICTIONARY}]
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
        self._left = size
        self._control = b"\x01"  # the first chunk resets the dictionary

    @property
    def needs_input(self) -> bool:
        """See Step."""
        return self._decoder.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        chunks = b""
        for start in range(0, len(data), _MOST_IN_CHUNK):
            chunk = data[start : start + _MOST_IN_CHUNK]
            chunks += self._control + (len(chunk) - 1).to_bytes(2, "big") + chunk
            self._control = b"\x02"
        self._left -= len(data)
        if data and self._left <= 0:
            chunks += b"\x00"
        return self._decoder.decompress(chunks, max_length)


# -- steps around other libraries -------------------------------------------------------------------------------------


class _Piped:
    """The step `outer` after `inner`, which makes `size` bytes."""

    def __init__(self, inner: Step, size: int, outer: Step) -> None:
        self._inner = inner
        self._left = size
        self._outer = outer

    @property
    def needs_input(self) -> bool:
        """See Step."""
        return self._outer.needs_input and self._inner.needs_input and self._left > 0

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        may_feed = self.needs_input
        while True:
            piece = b""
            if self._outer.needs_input and self._left:
                if self._inner.needs_input and not may_feed:
                    return b""
                piece = self._inner.decompress(data, min(max_length, self._left))
                data, may_feed = b"", False
                self._left -= len(piece)
                if not piece:
                    return b""
            decoded = self._outer.decompress(piece, max_length)
            if decoded or not (piece or self._left):
                return decoded


class _Streams:
    """Streams one after the other, each for a decoder of its own: BZip2, Zstandard."""

    def __init__(self, make: "Callable[[], _StreamDecoder]") -> None:
        self._make = make
        self._decoder = make()

    @property
    def needs_input(self) -> bool:
        """See Step."""
        return not self._decoder.unused_data if self._decoder.eof else self._decoder.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        while True:
            if self._decoder.eof:
                data = self._decoder.unused_data + data
                if not data:
                    return b""
                self._decoder = self._make()
            decoded = self._decoder.decompress(data, max_length)
            data = b""
            if decoded or not self._decoder.eof or not self._decoder.unused_data:
                return decoded


class _StreamDecoder(Step, Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Fed:
    """A library whose decoder is fed with pieces so small that what it makes of one stays small.

    `decode` makes bytes of a piece, `accepts` says whether it takes one or first gives more of those before.
    """

    def __init__(self, decode: Callable[[bytes, int], bytes], accepts: Callable[[], bool] = lambda: True) -> None:
        self._decode = decode
        self._accepts = accepts
        self._input = self._output = b""
        self._at = 0
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        if data:
            self._input, self._at, self.needs_input = data, 0, False
        size = max(1, max_length // _PIECES)
        while not self._output:
            accepts = self._accepts()
            piece = self._input[self._at : self._at + size] if accepts else b""
            self._at += len(piece)
            self._output = self._decode(piece, max_length)
            if accepts and not piece and not self._output:
                self.needs_input = True
                return b""
        decoded, self._output = self._output[:max_length], self._output[max_length:]
        return decoded


def _deflate() -> Step:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    return _Fed(
        lambda piece, most: decoder.decompress(decoder.unconsumed_tail + piece, most),
        lambda: not decoder.unconsumed_tail,
    )


def _deflate64() -> Step:
    import inflate64

    decoder = inflate64.Inflater()
    return _Fed(lambda piece, _: decoder.inflate(piece) if piece else b"")


def _zstandard() -> Step:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        from backports import zstd
    options = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}

    def decoder() -> _StreamDecoder:
        made: _StreamDecoder = zstd.ZstdDecompressor(options=options)
        return made

    return _Translated(_Streams(decoder), zstd.ZstdError)


def _brotli() -> Step:
    import brotli

    return _Translated(_BrotliFrames(brotli.Decompressor), brotli.error)


class _BrotliFrames:
    """A Brotli stream, or several, each behind a frame that says how long it is, as 7-Zip ZS writes them in threads:
    magic, 8, packed bytes, "BR", a hint (16 bytes, little endian)."""

    def __init__(self, make: "Callable[[], _BrotliDecoder]") -> None:
        self._make = make
        self._front = b""
        self._framed = False
        self._left = 0
        self._step = self._stream()
        self.needs_input = True

    def _stream(self) -> _Fed:
        decoder = self._make()
        return _Fed(lambda piece, most: decoder.process(piece, output_buffer_limit=most), decoder.can_accept_more_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        self._front += data
        while True:
            piece = b""
            if self._step.needs_input:
                if not self._left and not self._begin(ended=not data):
                    self.needs_input = True
                    return b""
                piece, self._front = self._front[: self._left], self._front[self._left :]
                self._left -= len(piece)
                if not piece:
                    self.needs_input = True
                    return b""
            self.needs_input = False
            decoded = self._step.decompress(piece, max_length)
            if decoded:
                return decoded

    def _begin(self, *, ended: bool) -> bool:
        """Go on to the next frame, or to a stream without one; False while too little is there to tell."""
        if len(self._front) < _BROTLI_FRAME.size and not ended:
            return False
        if self._front.startswith(_BROTLI_FRAME_MAGIC) and len(self._front) >= _BROTLI_FRAME.size:
            self._left = _BROTLI_FRAME.unpack_from(self._front)[2]
            self._front = self._front[_BROTLI_FRAME.size :]
            if self._framed:
                self._step = self._stream()
            self._framed = True
            return True
        self._left = 0 if self._framed else 1 << 62
        return not self._framed


class _BrotliDecoder(Protocol):
    def process(self, data: bytes, output_buffer_limit: int) -> bytes: ...
    def can_accept_more_data(self) -> bool: ...


class _Translated:
    """A step of a library that has an exception of its own."""

    def __init__(self, step: Step, error: type[Exception]) -> None:
        self._step = step
        self._error = error

    @property
    def needs_input(self) -> bool:
        """See Step."""
        return self._step.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        try:
            return self._step.decompress(data, max_length)
        except self._error as error:
            raise DecodeFailed(str(error)) from error


class _Ppmd:
    """PPMd, variant H, with a model of the order and size that the properties say.

    The library needs `_PPMD_START` bytes to begin with, reads beyond the end, waits for input whenever it made less
    than it was asked for, whatever it says about that, and reports damage as a lack of memory (pyppmd 1.3).
    """

    def __init__(self, properties: bytes) -> None:
        import pyppmd

        order, memory = struct.unpack_from("<BI", properties)
        self._decoder = pyppmd.Ppmd7Decoder(order, memory)
        self._front: bytes | None = b""
        self._padding = _PPMD_PADDING
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        ended = self.needs_input and not data
        if self._front is not None:
            data = self._front = self._front + data
            if len(data) < _PPMD_START and not ended:
                return b""
            self._front = None
        decoded = b""
        while not decoded:
            if ended and not data:
                if not self._padding:
                    break
                data, self._padding = b"\0", self._padding - 1
            decoded, data = self._decoded(data, max_length), b""
            self.needs_input = len(decoded) < max_length
            if not ended:
                break
        return decoded

    def _decoded(self, data: bytes, max_length: int) -> bytes:
        try:
            decoded: bytes = self._decoder.decode(data, max_length)
        except MemoryError as error:
            raise DecodeFailed("wrong PPMd data") from error
        return decoded


class _Converted:
    """A filter that is a function, over `size` bytes."""

    def __init__(self, convert: Convert, size: int) -> None:
        self._convert = convert
        self._left = size
        self._position = 0
        self._held = bytearray()
        self._output = b""

    @property
    def needs_input(self) -> bool:
        """See Step."""
        return not self._output

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Step."""
        if data:
            self._held += data
            self._left -= len(data)
            done = self._convert(self._held, self._position, self._left <= 0)
            self._output += bytes(self._held[:done])
            del self._held[:done]
            self._position += done
        decoded, self._output = self._output[:max_length], self._output[max_length:]
        return decoded
