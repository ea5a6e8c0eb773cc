"""Names in manifests: how they are written, and which may stand in a path.

A blank, a control character, a colon and a backslash are written as a backslash and three octal digits, one byte each
(Arvados' documentation of manifests). Readers differ over what is not UTF-8: here an escape is a byte, as in Arvados'
Go programs, and ``\\\\`` is one backslash.
"""

import re
from collections.abc import Iterable, Sequence

PATH = re.compile(rb"(?:[^\x00-\x20\\]++|\\(?:[0-3][0-7][0-7]|\\))++")
"""A path as it is written, every character and escape allowed."""

_NO_NAMES = frozenset((b"", b".", b".."))
_ESCAPE = re.compile(rb"\\([0-3][0-7][0-7]|\\)")
_DIGITS = re.compile(rb"\\[0-7]{3}")
_ESCAPED = re.compile(rb"[\x00-\x20\\:]")
_NOT_TEXT = re.compile("[\udc80-\udcff]")


def _byte(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    return digits if digits == b"\\" else bytes((int(digits, 8),))


def unescaped(text: bytes) -> bytes:
    """The bytes that a written name or path stands for; what is no escape stays as it is.

    >>> unescaped(rb"a\\040b")
    b'a b'
    """
    return _ESCAPE.sub(_byte, text) if b"\\" in text else text


def unescaped_names(names: Sequence[bytes]) -> list[bytes]:
    """What many names stand for that have no slash in them, and escapes of three digits only."""
    text = b"/".join(names)
    # No other escape makes a backslash, so that none can come of two.
    for escape in sorted(set(_DIGITS.findall(text)), key=lambda escape: escape == rb"\134"):
        text = text.replace(escape, bytes((int(escape[1:], 8),)))
    return text.split(b"/")


def lightly_escaped(name: bytes) -> bytes:
    """`name` written such that it can stand between blanks and is read back the same, whatever its bytes are."""
    return _ESCAPED.sub(lambda match: b"\\%03o" % match[0][0], name)


def escaped(name: bytes) -> bytes:
    """`name` written as all programs of Arvados do, and what is not UTF-8 by its bytes.

    >>> escaped(b"a b:c")
    b'a\\040b\\072c'
    """
    text = lightly_escaped(name)
    return text if text.isascii() else _NOT_TEXT.sub(_octal, text.decode(errors="surrogateescape")).encode()


def _octal(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]) & 0xFF:03o}"


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
