"""One folder of a 7z archive: a solid block, and the chain of coders that makes its bytes.

Owns the description of coders and how they are bound to each other. Invariants of a `Shape`: every bond and packed
stream names an existing stream, none twice; exactly one coder's output is not bound: the folder's own bytes.
"""

from dataclasses import dataclass, replace

from riafs.errors import MalformedArchive, UnsupportedArchive
from riafs.formats.sevenzip.cursor import Cursor, write_number

COPY = b"\x00"
LZMA = b"\x03\x01\x01"
LZMA2 = b"\x21"
PPMD = b"\x03\x04\x01"
AES = b"\x06\xf1\x07\x01"
DELTA = b"\x03"

# 7-Zip's own reader refuses more than 32 of each.
_MAX_CODERS = 32
_MAX_INPUTS = 32
_MAX_LZMA2_DICTIONARY_CODE = 40


@dataclass(frozen=True, slots=True)
class Coder:
    """One step of decoding: `inputs` streams in, one out."""

    method: bytes
    inputs: int
    properties: bytes

    @property
    def memory(self) -> int:
        """Bytes the decoder needs for its dictionary or model, 0 for methods with a small fixed need.

        Raises MalformedArchive where the properties do not say it.
        """
        if self.method == LZMA2:
            return _lzma2_dictionary(self.properties)
        if self.method in (LZMA, PPMD):
            if len(self.properties) < 5:
                raise MalformedArchive(f"7z coder {self.method.hex()} has properties {self.properties.hex() or 'none'}")
            return int.from_bytes(self.properties[1:5], "little")
        return 0


def _lzma2_dictionary(properties: bytes) -> int:
    """The dictionary size of LZMA2's property byte: 40 is 4 GiB - 1, n is (2 or 3) << (n // 2 + 11)."""
    if len(properties) != 1 or properties[0] > _MAX_LZMA2_DICTIONARY_CODE:
        raise MalformedArchive(f"7z coder LZMA2 has properties {properties.hex() or 'none'}")
    code = properties[0]
    return 0xFFFFFFFF if code == _MAX_LZMA2_DICTIONARY_CODE else (2 | code & 1) << (code // 2 + 11)


@dataclass(frozen=True, slots=True)
class Bond:
    """Input stream `input` (counted over all coders of the folder) is what coder `output` makes."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A folder's description without sizes; equal for most folders of an archive."""

    coders: tuple[Coder, ...]
    bonds: tuple[Bond, ...]
    packed: tuple[int, ...]
    """For each packed stream, in the archive's order, the input stream that it is."""
    main: int
    """The coder whose output is the folder's bytes."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder and where its packed bytes lie. Offsets count from the archive's first byte."""

    shape: Shape
    pack_offset: int
    pack_sizes: tuple[int, ...]
    unpack_sizes: tuple[int, ...]
    """Size of each coder's output."""
    crc: int | None
    """CRC32 of the folder's bytes."""

    @property
    def pack_size(self) -> int:
        """Bytes of all packed streams, which lie one after the other."""
        return sum(self.pack_sizes)

    @property
    def size(self) -> int:
        """Bytes of the folder once decoded."""
        return self.unpack_sizes[self.shape.main]

    @property
    def only_coder(self) -> Coder | None:
        """The coder, where there is just one."""
        return self.shape.coders[0] if len(self.shape.coders) == 1 else None

    @property
    def chain(self) -> tuple[Coder, ...] | None:
        """The coders from the one that makes the folder's bytes to the one that reads the archive's, where they are a
        plain row: each with one input."""
        row = self._row
        return None if row is None else tuple(self.shape.coders[number] for number in row)

    @property
    def chain_sizes(self) -> tuple[int, ...]:
        """The output size of each coder of `chain`."""
        return tuple(self.unpack_sizes[number] for number in self._row or ())

    @property
    def _row(self) -> list[int] | None:
        coders = self.shape.coders
        if any(coder.inputs != 1 for coder in coders):
            return None
        maker_of = {bond.input: bond.output for bond in self.shape.bonds}
        order = [self.shape.main]
        while order[-1] in maker_of and len(order) <= len(coders):
            order.append(maker_of[order[-1]])
        return order if len(order) == len(coders) else None

    @property
    def is_stored(self) -> bool:
        """Whether the packed bytes are the folder's bytes."""
        return self.only_coder is not None and self.only_coder.method == COPY

    @property
    def is_encrypted(self) -> bool:
        """Whether decoding needs a password."""
        return any(coder.method == AES for coder in self.shape.coders)

    @property
    def memory(self) -> int:
        """Bytes that the hungriest of the decoders needs. Raises MalformedArchive."""
        return max(coder.memory for coder in self.shape.coders)


def parse_shape(cursor: Cursor) -> Shape:
    """The folder description at `cursor`. Raises MalformedArchive, UnsupportedArchive."""
    number_of_coders = cursor.count("coders in a folder", _MAX_CODERS, bytes_each=1)
    if number_of_coders == 0:
        raise MalformedArchive("7z folder without coders")
    coders = tuple(_parse_coder(cursor) for _ in range(number_of_coders))
    inputs = sum(coder.inputs for coder in coders)
    if inputs > _MAX_INPUTS or inputs < number_of_coders:
        raise MalformedArchive(f"7z folder of {number_of_coders} coders with {inputs} input streams")
    bonds = tuple(Bond(*cursor.numbers(2)) for _ in range(number_of_coders - 1))
    main = _only_free(number_of_coders, [bond.output for bond in bonds])
    packed = _parse_packed(cursor, inputs, [bond.input for bond in bonds])
    return Shape(coders, bonds, packed, main)


def write_shape(shape: Shape) -> bytes:
    """The description from which `shape` is parsed."""
    parts = [write_number(len(shape.coders))]
    for coder in shape.coders:
        flags = len(coder.method) | (0x10 if coder.inputs != 1 else 0) | (0x20 if coder.properties else 0)
        parts.append(bytes([flags]) + coder.method)
        if coder.inputs != 1:
            parts.append(write_number(coder.inputs) + write_number(1))
        if coder.properties:
            parts.append(write_number(len(coder.properties)) + coder.properties)
    numbers = [number for bond in shape.bonds for number in (bond.input, bond.output)]
    if len(shape.packed) > 1:
        numbers += shape.packed
    return b"".join([*parts, *map(write_number, numbers)])


def without_encryption(folder: Folder) -> tuple[Folder, dict[int, Coder]]:
    """The folder as it is once its packed streams are decrypted, and the AES coder of each of them that is encrypted.

    Raises UnsupportedArchive where something else was encrypted than packed streams.
    """
    shape, owners = folder.shape, _input_owners(folder.shape)
    opened = {
        stream: owners[each] for stream, each in enumerate(shape.packed) if shape.coders[owners[each]].method == AES
    }
    if sum(coder.method == AES for coder in shape.coders) != len(opened):
        raise UnsupportedArchive("7z folder that is encrypted in a way 7-Zip does not use")
    coders = {stream: shape.coders[owner] for stream, owner in opened.items()}
    sizes = tuple(
        folder.unpack_sizes[opened[stream]] if stream in opened else size
        for stream, size in enumerate(folder.pack_sizes)
    )
    if shape.main in opened.values():
        plain = Shape((Coder(COPY, 1, b""),), (), (0,), 0)
        return replace(folder, shape=plain, pack_sizes=sizes, unpack_sizes=(folder.size,)), coders
    kept = [number for number in range(len(shape.coders)) if number not in opened.values()]
    inputs = {old: new for new, old in enumerate(each for each, owner in enumerate(owners) if owner in kept)}
    read_by = {bond.output: bond.input for bond in shape.bonds}
    plain = Shape(
        tuple(shape.coders[number] for number in kept),
        tuple(Bond(inputs[each.input], kept.index(each.output)) for each in shape.bonds if each.output in kept),
        tuple(
            inputs[read_by.get(owners[each], each) if stream in opened else each]
            for stream, each in enumerate(shape.packed)
        ),
        kept.index(shape.main),
    )
    unpack_sizes = tuple(folder.unpack_sizes[number] for number in kept)
    return replace(folder, shape=plain, pack_sizes=sizes, unpack_sizes=unpack_sizes), coders


def _input_owners(shape: Shape) -> list[int]:
    """The coder that each input stream belongs to."""
    return [number for number, coder in enumerate(shape.coders) for _ in range(coder.inputs)]


def _parse_coder(cursor: Cursor) -> Coder:
    flags = cursor.byte()
    if flags & 0xC0:
        raise UnsupportedArchive(f"7z coder with flags {flags:#x}")
    # An id is a number of any length: zeros in front change nothing, and no bytes at all are 0, which is Copy.
    method = cursor.take(flags & 0x0F).lstrip(b"\0") or COPY
    inputs, outputs = (cursor.number(), cursor.number()) if flags & 0x10 else (1, 1)
    if outputs != 1 or inputs > _MAX_INPUTS:
        raise UnsupportedArchive(f"7z coder {method.hex()} with {inputs} input and {outputs} output streams")
    properties = cursor.take(cursor.number()) if flags & 0x20 else b""
    return Coder(method, inputs, properties)


def _parse_packed(cursor: Cursor, inputs: int, bound: list[int]) -> tuple[int, ...]:
    """Which inputs come from the archive; written down only where there are several."""
    if inputs - len(bound) == 1:
        return (_only_free(inputs, bound),)
    packed = tuple(cursor.numbers(inputs - len(bound)))
    _refuse_repeats(inputs, [*bound, *packed])
    return packed


def _only_free(streams: int, bound: list[int]) -> int:
    """The one stream that no bond names."""
    _refuse_repeats(streams, bound)
    return next(stream for stream in range(streams) if stream not in bound)


def _refuse_repeats(streams: int, named: list[int]) -> None:
    if len(set(named)) != len(named) or any(stream >= streams for stream in named):
        raise MalformedArchive(f"7z folder binds streams {named} of {streams}")
