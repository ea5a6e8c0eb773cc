"""Which character encoding a file's bytes are in, as libmagic tells it: for rules that keep text in git.

``annex.largefiles`` may say ``mimeencoding=binary``, which DataLad's ``text2git`` does. The rules are those of
file(1): a table of the bytes that occur in text, tried as ASCII, UTF-8, UTF-16, Latin-1 and other 8-bit encodings.
"""

import codecs
import re

LOOKED_AT = 1 << 20
"""Bytes at the beginning of a file that decide."""

# Bell, backspace, white space of all kinds and escape occur in text, beside printable characters.
_ASCII = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e]*\Z").match
_LATIN = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e\x85\xa0-\xff]*\Z").match
_EXTENDED = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e\x80-\xff]*\Z").match
_CONTROL = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]").search
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))


def encoding_of(head: bytes) -> bytes:
    """``us-ascii``, ``utf-8``, ``utf-16le``, ``utf-16be``, ``iso-8859-1``, ``unknown-8bit`` or ``binary``.

    `head` holds the first LOOKED_AT bytes, or all there are. An empty file is binary.
    """
    if not head:
        return b"binary"
    if _ASCII(head):
        return b"us-ascii"
    if _is_text(head, "utf-8"):
        return b"utf-8"
    for mark, name in _MARKS:
        if head.startswith(mark) and _is_text(head[2:], name):
            return name.encode()
    if _LATIN(head):
        return b"iso-8859-1"
    return b"unknown-8bit" if _EXTENDED(head) else b"binary"


def _is_text(head: bytes, encoding: str) -> bool:
    """Whether `head`, which may end within a character, is text in `encoding`; half a character alone tells nothing."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(head)
    except UnicodeDecodeError:
        return False
    return _CONTROL(text) is None and not (encoding == "utf-8" and text.isascii())
