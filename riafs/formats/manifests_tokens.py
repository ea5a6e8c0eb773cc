"""File tokens: ``position:length:name``, split many at a time.

A piece is some tokens with one blank between them. Nearly all are plain (no escapes, no paths, no colons in names), and
those are checked and taken apart by a few passes over the whole piece; others token by token.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from riafs.formats.manifests_names import unescaped

_CONTROLS = bytes(range(0x20))
PIECE = 1 << 20

TOKEN = re.compile(rb"([0-9]{1,99}):([0-9]{1,99}):([^ ]*+)")


class Columns(NamedTuple):
    """Tokens as columns."""

    positions: Sequence[int]
    """Where each begins in its stream."""
    lengths: Sequence[int]
    names: Sequence[bytes]


def plain_columns(piece: bytes) -> Columns | None:
    """The tokens of a piece if all are plain and well formed: each name is a name. None says nothing about why."""
    if b"\\" in piece or b"/" in piece or len(piece.translate(None, _CONTROLS)) != len(piece):
        return None
    columns = _split(piece)
    if columns is None or not all(columns.names) or not _free_of_dots(piece + b" ") or not is_utf8(piece):
        return None
    return columns


def _split(piece: bytes) -> Columns | None:
    """The fields of tokens that have two colons each; None if one has more or fewer."""
    count = piece.count(b" ") + 1
    if piece.count(b":") != 2 * count:
        return None
    # A blank stays with the field behind it, where int() does not mind it, and is counted: so no token can lend another
    # one a colon.
    fields = piece.replace(b" ", b": ").split(b":")
    starts, lengths, names = fields[0::3], fields[1::3], fields[2::3]
    joined = b"".join(starts)
    if joined.count(b" ") != count - 1 or not joined.replace(b" ", b"").isdigit() or not b"".join(lengths).isdigit():
        return None
    try:
        return Columns(list(map(int, starts)), list(map(int, lengths)), names)
    except ValueError:  # an empty field, or more digits than Python takes
        return None


def _free_of_dots(piece: bytes) -> bool:
    return b":. " not in piece and b":.. " not in piece


def is_utf8(text: bytes) -> bool:
    """Whether `text` is UTF-8, as Arvados wants all of a manifest to be."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def pieces(text: bytes | bytearray, start: int, end: int) -> Iterator[bytes]:
    """Tokens that were found well formed, each with a blank behind it, from `start` to `end` in `text`."""
    while start < end:
        stop = end if end - start <= PIECE else text.index(b" ", start + PIECE) + 1
        yield bytes(text[start : stop - 1])
        start = stop


def columns_of(piece: bytes) -> Columns:
    """The tokens of a piece that was found well formed."""
    columns = None if b"\\" in piece else _split(piece)
    if columns is not None:
        return columns
    found = TOKEN.findall(piece)
    names = [unescaped(name) for _, _, name in found]
    return Columns([int(start) for start, _, _ in found], [int(length) for _, length, _ in found], names)
