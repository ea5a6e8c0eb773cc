"""Decoding from packed bytes to as many decoded ones as there are before damage: the same ones every time.

A decoder of a library gives nothing of a call that met damage, so what it made depends on how much it was asked for.
Here it is always asked for the same pieces; where one fails, decoding begins again and goes on byte by byte from the
piece before. So the bytes before the damage are all there, whatever their reader asked for and whoever decodes them.
"""

import math
from collections.abc import Callable

from riafs.archive.coders import DAMAGE, Step
from riafs.errors import DecodeFailed, OutOfMemory, RiafsError

_PIECE = 8 << 10  # small enough to go through it byte by byte; PPMd takes up to 0.1 ms for each


class Chain:
    """Decodes `size` bytes with what `make` makes; `shown` is what messages call them.

    It has to be given the packed bytes from `position` on, which goes back to 0 once where they are damaged, in the
    same pieces as before. Raises what `make` raises, and OutOfMemory.
    """

    def __init__(self, make: Callable[[], Step], size: int, shown: str) -> None:
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
