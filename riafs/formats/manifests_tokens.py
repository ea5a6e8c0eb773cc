"""File tokens: ``position:length:name``, split many at a time.

A piece is some tokens with one blank between them. Nearly all are plain (no paths, no colons in names), and those are
checked and taken apart by a few passes over the whole piece; others token by token.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from riafs.formats.manifests.text import unescaped_names

_CONTROLS = bytes(range(0x20))
# A backslash that begins no escape, or one for a dot or a slash.
_SPECIAL = re.compile(rb"\\(?![0-3][0-7][0-7])|\\05[67]")
# The simplest token alone, as in folders of one file: the passes over a piece would take longer.
_ONE = re.compile(rb"([0-9]{1,18}):([0-9]{1,18}):((?!\.\.?\Z)[^\x00-\x20\\/:\x80-\xff]++)")
PIECE = 1 << 20

TOKEN = re.compile(rb"([0-9]{1,99}):([0-9]{1,99}):([^ ]*+)")


class Columns(NamedTuple):
    """Tokens as columns."""

    positions: Sequence[int]
    """Where each begins in its stream."""
    lengths: Sequence[int]
    names: Sequence[bytes]


def plain_columns(piece: bytes) -> Columns | None:
    """The tokens of a piece, names as they are written, if all are plain and well formed: each name is that of a file.
    None says nothing about why.
    """
    if b" " not in piece:
        match = _ONE.fullmatch(piece)
        return Columns((int(match[1]),), (int(match[2]),), (match[3],)) if match else None
    if b"/" in piece or (b"\\" in piece and _SPECIAL.search(piece)) or not is_utf8(piece):
        return None
    if len(piece.translate(None, _CONTROLS)) != len(piece) or _names_no_file(piece + b" "):
        return None
    return _split(piece)


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


def _names_no_file(piece: bytes) -> bool:
    return b": " in piece or b":. " in piece or b":.. " in piece


def is_utf8(text: bytes) -> bool:
    """Whether `text` is UTF-8, as Arvados wants all of a manifest to be."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def columns_of(piece: bytes) -> Columns:
    """The tokens of a piece that was found well formed, names as they are on disk."""
    columns = _split(piece)
    if columns is None:
        found = TOKEN.findall(piece)
        starts, lengths, names = map(list, zip(*found, strict=True))
        columns = Columns(list(map(int, starts)), list(map(int, lengths)), names)
    if b"\\" in piece:
        columns = columns._replace(names=unescaped_names(columns.names))
    return columns
