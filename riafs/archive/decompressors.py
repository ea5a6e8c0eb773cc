"""Decompressors for what the standard library cannot decode as it is: several streams, several coders, other libraries.

Each is fed like those of the standard library. Libraries are imported where they decode, so that a method costs nothing
where it is not used.
"""

import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from riafs.errors import DecodeFailed

_LARGEST_WINDOW = 30  # of Zstandard, as a power of two: what archives may claim for a dictionary
_PIECES = 32
_PPMD_PADDING = 16
_PPMD_START = 8
_BROTLI_FRAME = struct.Struct("<IIIHH")
_BROTLI_FRAME_MAGIC = b"\x50\x2a\x4d\x18"


class Decompressor(Protocol):
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


class Piped:
    """The step `outer` after `inner`, which makes `size` bytes."""

    def __init__(self, inner: Decompressor, size: int, outer: Decompressor) -> None:
        self._inner = inner
        self._left = size
        self._outer = outer

    @property
    def needs_input(self) -> bool:
        return self._outer.needs_input and self._inner.needs_input and self._left > 0

    def decompress(self, data: bytes, max_length: int) -> bytes:
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


class ConcatenatedStreams:
    """Streams one after the other, each for a decoder of its own: BZip2, Zstandard."""

    def __init__(self, make: "Callable[[], _StreamDecoder]") -> None:
        self._make = make
        self._decoder = make()

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unused_data if self._decoder.eof else self._decoder.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
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


class _StreamDecoder(Decompressor, Protocol):
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


def deflate() -> Decompressor:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    return _Fed(
        lambda piece, most: decoder.decompress(decoder.unconsumed_tail + piece, most),
        lambda: not decoder.unconsumed_tail,
    )


def deflate64() -> Decompressor:
    import inflate64

    decoder = inflate64.Inflater()
    return _Fed(lambda piece, _: decoder.inflate(piece) if piece else b"")


def zstandard() -> Decompressor:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        from backports import zstd
    options = {zstd.DecompressionParameter.window_log_max: _LARGEST_WINDOW}

    def decoder() -> _StreamDecoder:
        made: _StreamDecoder = zstd.ZstdDecompressor(options=options)
        return made

    return _Translated(ConcatenatedStreams(decoder), zstd.ZstdError)


def brotli() -> Decompressor:
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

    def __init__(self, step: Decompressor, error: type[Exception]) -> None:
        self._step = step
        self._error = error

    @property
    def needs_input(self) -> bool:
        return self._step.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return self._step.decompress(data, max_length)
        except self._error as error:
            raise DecodeFailed(str(error)) from error


class Ppmd:
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
