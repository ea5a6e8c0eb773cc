"""Filters alone: liblzma's, and those that no library undoes: ARM64, RISC-V, swapped bytes.

Branch filters turn relative addresses in machine code into absolute ones, which repeat more often; undoing them needs
the position of each instruction. Instructions and conditions as the documents of the two architectures and of the
filters describe them (``bcj`` in the xz file format, 1.2.0), checked with 7-Zip 26.02. Candidates are found by regular
expressions, so that what is no code passes at the speed of `re`.
"""

import lzma
import re
from collections.abc import Callable

Convert = Callable[[bytearray, int, bool], int]
"""(bytes, position of the first one, whether they are the last ones) → how many from the front are done; the others are
given again with more behind them. Changes them in place."""

_WORD = 0xFFFFFFFF
_MIN_DICTIONARY = 4096
_MOST_IN_CHUNK = 1 << 16

_ARM64_TOPS = re.compile(rb"[\x90\x94-\x97\xb0\xd0\xf0]")
_RISCV_LOWS = re.compile(rb"[\x17\x97\xef]")


def arm64(start: int) -> Convert:
    """ARM64's BL and near ADRP instructions, of which the first is at address `start`."""

    def convert(data: bytearray, position: int, last: bool) -> int:  # noqa: FBT001 - as Convert says
        done = len(data) & ~3
        for found in _ARM64_TOPS.finditer(bytes(data[3:done:4])):
            at = 4 * found.start()
            address = start + position + at
            word = int.from_bytes(data[at : at + 4], "little")
            if word >> 26 == 0x25:  # BL: 26 bits count instructions
                word = 0x94000000 | (word - (address >> 2)) & 0x03FFFFFF
            else:  # ADRP: 21 bits count pages of 4 KiB; only those within 512 MiB were changed
                page = word >> 29 & 3 | word >> 3 & 0x1FFFFC
                if (page + 0x20000) & 0x1C0000:
                    continue
                page -= address >> 12
                word = word & 0x9000001F | (page & 3) << 29 | (page & 0x3FFFC) << 3 | -(page & 0x20000) & 0xE00000
            data[at : at + 4] = word.to_bytes(4, "little")
        return len(data) if last else done

    return convert


def riscv(start: int) -> Convert:
    """RISC-V's JAL, and AUIPC with the instruction after it, of which the first is at address `start`."""

    def convert(data: bytearray, position: int, last: bool) -> int:  # noqa: FBT001 - as Convert says
        end = len(data) - 8
        lows = bytes(data[::2])
        at = 0
        while (found := _RISCV_LOWS.search(lows, at // 2)) is not None and 2 * found.start() <= end:
            at = 2 * found.start()
            at += _riscv_instruction(data, at, start + position + at)
        return len(data) if last else max(at, end + 2 & ~1, 0)

    return convert


def _riscv_instruction(data: bytearray, at: int, address: int) -> int:
    """Undo what begins at `at`; returns by how many bytes to go on."""
    if data[at] == 0xEF:
        return _riscv_jal(data, at, address)
    first = int.from_bytes(data[at : at + 4], "little")
    second = int.from_bytes(data[at + 4 : at + 8], "little")
    if first & 0xE80:  # a register other than x0 and x2: an AUIPC that was left, or that stands for a changed x2
        if (first << 8 ^ second - 3) & 0xF8003:
            return 6
        first, second = 0x17 | 2 << 7 | second << 12 & _WORD, (first & 0xFFFFF000) + (second >> 20) & _WORD
    else:
        register = first >> 27
        if (first - 0x3117 << 18) & _WORD >= register & 0x1D:
            return 4
        target = int.from_bytes(data[at + 4 : at + 8], "big") - address & _WORD
        first, second = 0x17 | register << 7 | target + 0x800 & 0xFFFFF000, first >> 12 | target << 20 & _WORD
    data[at : at + 8] = first.to_bytes(4, "little") + second.to_bytes(4, "little")
    return 8


def _riscv_jal(data: bytearray, at: int, address: int) -> int:
    one, two, three = data[at + 1 : at + 4]
    if one & 0x0D:  # only calls, which keep the return address in x1 or x5
        return 2
    target = (one & 0xF0) << 13 | two << 9 | three << 1
    target -= address
    data[at + 1] = one & 0x0F | target >> 8 & 0xF0
    data[at + 2] = target >> 16 & 0x0F | target >> 7 & 0x10 | target << 4 & 0xE0
    data[at + 3] = target >> 4 & 0x7F | target >> 13 & 0x80
    return 4


def swap(width: int) -> Convert:
    """Groups of `width` bytes in the other order; what is no whole group at the end stays."""

    def convert(data: bytearray, _position: int, last: bool) -> int:  # noqa: FBT001 - as Convert says
        done = len(data) - len(data) % width
        swapped = bytearray(done)
        for byte in range(width):
            swapped[byte::width] = data[width - 1 - byte : done : width]
        data[:done] = swapped
        return len(data) if last else done

    return convert


class Converted:
    """A filter that is a function, over `size` bytes."""

    def __init__(self, convert: Convert, size: int) -> None:
        self._convert = convert
        self._left = size
        self._position = 0
        self._held = bytearray()
        self._output = b""

    @property
    def needs_input(self) -> bool:
        return not self._output

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._held += data
            self._left -= len(data)
            done = self._convert(self._held, self._position, self._left <= 0)
            self._output += bytes(self._held[:done])
            del self._held[:done]
            self._position += done
        decoded, self._output = self._output[:max_length], self._output[max_length:]
        return decoded


class LiblzmaFilter:
    """One of liblzma's filters alone: it gets its bytes as LZMA2 chunks that are stored."""

    def __init__(self, one: dict[str, int], size: int) -> None:
        filters = [one, {"id": lzma.FILTER_LZMA2, "dict_size": _MIN_DICTIONARY}]
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
        self._left = size
        self._control = b"\x01"  # the first chunk resets the dictionary

    @property
    def needs_input(self) -> bool:
        return self._decoder.needs_input

    def decompress(self, data: bytes, max_length: int) -> bytes:
        chunks = b""
        for start in range(0, len(data), _MOST_IN_CHUNK):
            chunk = data[start : start + _MOST_IN_CHUNK]
            chunks += self._control + (len(chunk) - 1).to_bytes(2, "big") + chunk
            self._control = b"\x02"
        self._left -= len(data)
        if data and self._left <= 0:
            chunks += b"\x00"
        return self._decoder.decompress(chunks, max_length)
