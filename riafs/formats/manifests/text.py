"""The text of manifests: how names are written, and file tokens ``position:length:name``, split many at a time.

A blank, a control character, a colon and a backslash are written as a backslash and three octal digits, one byte each
(Arvados' documentation of manifests). Readers differ over names that are not UTF-8: here an escape is a byte, as in
Arvados' Go programs, and ``\\\\`` is one backslash.

A piece is some tokens with one blank between them. Nearly all are plain (no paths, no colons in names), and those are
checked and parsed by a few passes over the whole piece; others token by token.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PATH = re.compile(
    rb"(?:[^\x00-\x20\\]++|\\(?:[0-3][0-7][0-7]|\\))+"
)  # the group not possessively: see formats/recordtext
"""A path as it is written, every character and escape allowed."""

_NO_NAMES = frozenset((b"", b".", b".."))
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7]|\\)")
_DIGITS = re.compile(rb"\\[0-7]{3}")
_ESCAPED = re.compile(rb"[\x00-\x20\\:]")


def _byte(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    return digits if digits == b"\\" else bytes((int(digits, 8),))


def unescaped(text: bytes) -> bytes:
    """The bytes of an escaped name or path; backslashes that begin no escape stay.

    >>> unescaped(rb"a\\040b")
    b'a b'
    """
    return _ESCAPE.sub(_byte, text) if b"\\" in text else text


def unescaped_names(names: Sequence[bytes]) -> list[bytes]:
    """The bytes of many escaped names without slashes, and with escapes of three digits only."""
    text = b"/".join(names)
    # No other escape makes a backslash, so that none can come of two.
    for escape in sorted(set(_DIGITS.findall(text)), key=lambda escape: escape == rb"\134"):
        text = text.replace(escape, bytes((int(escape[1:], 8),)))
    return text.split(b"/")


def lightly_escaped(name: bytes) -> bytes:
    """`name` escaped, so that it has no blanks and can be read back, whatever its bytes are."""
    return _ESCAPED.sub(lambda match: b"\\%03o" % match[0][0], name)


def possible(parts: Iterable[bytes]) -> bool:
    """Whether each of the parts of a path is the name of a file or folder."""
    return _NO_NAMES.isdisjoint(parts)


def resolved(parts: Sequence[bytes]) -> list[bytes] | None:
    """A path without parts that are no names, as Arvados' Go programs read it; None where it leads above its start."""
    kept: list[bytes] = []
    for part in parts:
        if part == b"..":
            if not kept:
                return None
            kept.pop()
        elif part not in (b"", b"."):
            kept.append(part)
    return kept


# -- file tokens ------------------------------------------------------------------------------------------------------

_CONTROLS = bytes(range(0x20))
# A backslash that begins no escape, or one for a dot or a slash.
_SPECIAL = re.compile(rb"\\(?![0-3][0-7][0-7])|\\05[67]")
# The simplest token alone, as in folders of one file: the passes over a piece would take longer.
_ONE = re.compile(rb"([0-9]{1,18}):([0-9]{1,18}):((?!\.\.?\Z)[^\x00-\x20\\/:\x80-\xff]++)")
PIECE = 1 << 20

TOKEN = re.compile(rb"([0-9]{1,99}):([0-9]{1,99}):([^ ]*+)")


class TokenColumns(NamedTuple):
    """Tokens as columns."""

    positions: Sequence[int]
    """The beginning of each in its stream."""
    lengths: Sequence[int]
    names: Sequence[bytes]


def plain_columns(piece: bytes) -> TokenColumns | None:
    """The tokens of a piece, names as they are written, if all are plain and well formed: each name is that of a file.
    None does not have a reason.
    """
    if b" " not in piece:
        match = _ONE.fullmatch(piece)
        return TokenColumns((int(match[1]),), (int(match[2]),), (match[3],)) if match else None
    if b"/" in piece or (b"\\" in piece and _SPECIAL.search(piece)) or not is_utf8(piece):
        return None
    if len(piece.translate(None, _CONTROLS)) != len(piece) or _names_no_file(piece + b" "):
        return None
    return _split(piece)


def _split(piece: bytes) -> TokenColumns | None:
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
        return TokenColumns(list(map(int, starts)), list(map(int, lengths)), names)
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


def columns_of(piece: bytes) -> TokenColumns:
    """The tokens of a piece that was found well formed, names as they are on disk."""
    columns = _split(piece)
    if columns is None:
        found = TOKEN.findall(piece)
        starts, lengths, names = map(list, zip(*found, strict=True))
        columns = TokenColumns(list(map(int, starts)), list(map(int, lengths)), names)
    if b"\\" in piece:
        columns = columns._replace(names=unescaped_names(columns.names))
    return columns
