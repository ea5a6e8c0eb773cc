"""``annex.largefiles``: which files go to the annex, by git-annex's expressions; and the text encodings they ask about.

``and``, ``or`` and terms side by side are taken from left to right, none binds closer; ``not`` holds for the next term
(seen with git-annex 10). Globs are matched against the path from the dataset's top, and ``*`` matches slashes.

Encodings are those of libmagic, for ``mimeencoding=binary``, which DataLad's ``text2git`` uses. The rules are
those of file(1): a table of the bytes that occur in text, tried as ASCII, UTF-8, UTF-16, Latin-1 and other 8-bit
encodings.
"""

import codecs
import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.errors import MalformedLog
from riafs.formats.specialremotes import parse_size
from riafs.formats.text import shown

MAX_EXPRESSION = 4096
_MAX_DEPTH = 100
_TOKEN = re.compile(rb"[()]|[^\s()]+")
_CONTENT = (b"mimetype", b"mimeencoding")


class Facts(Protocol):
    """A file as far as an expression may ask about it."""

    @property
    def path(self) -> bytes:
        """From the dataset's top."""

    @property
    def size(self) -> int:
        """Bytes."""

    def mime_type(self) -> bytes:
        """The result of ``file --mime-type``."""

    def mime_encoding(self) -> bytes:
        """The result of ``file --mime-encoding``."""


Test = Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class LargeFiles:
    """A parsed expression."""

    matches: Test
    reads_content: bool
    """Whether the expression may depend on the file's bytes."""


def parse_large_files(text: bytes) -> LargeFiles:
    """The expression. Raises MalformedLog for one that git-annex would refuse, too."""
    if len(text) > MAX_EXPRESSION:
        raise MalformedLog(f"an expression of {len(text)} bytes")
    tokens = _TOKEN.findall(text)
    reader = _Reader(tokens, text)
    test = reader.group()
    if reader.left():
        raise reader.wrong()
    return LargeFiles(test, any(token.startswith(_CONTENT) for token in tokens))


class _Reader:
    """Takes tokens from the front."""

    def __init__(self, tokens: Sequence[bytes], text: bytes) -> None:
        self._tokens: Iterator[bytes] = iter(tokens)
        self._next = next(self._tokens, b"")
        self._text = text
        self._depth = 0

    def left(self) -> bool:
        return self._next != b""

    def wrong(self) -> MalformedLog:
        return MalformedLog(f"annex.largefiles is no expression: {shown(self._text)}")

    def _take(self) -> bytes:
        token, self._next = self._next, next(self._tokens, b"")
        return token

    def group(self) -> Test:
        """Terms up to a closing parenthesis or the end."""
        test = self._term()
        while self.left() and self._next != b")":
            either = self._next == b"or"
            if self._next in (b"or", b"and"):
                self._take()
            test = _joined(test, self._term(), either=either)
        return test

    def _term(self) -> Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.wrong()
        test = self._inner_term(self._take())
        self._depth -= 1
        return test

    def _inner_term(self, token: bytes) -> Test:
        if token == b"not":
            negated = self._term()
            return lambda facts: not negated(facts)
        if token == b"(":
            inner = self.group()
            if self._take() != b")":
                raise self.wrong()
            return inner
        return self._leaf(token)

    def _leaf(self, token: bytes) -> Test:
        name, equals, value = token.partition(b"=")
        if not equals:
            if name not in (b"anything", b"nothing"):
                raise self.wrong()
            return lambda _facts: name == b"anything"
        if name in (b"largerthan", b"smallerthan"):
            return self._size(value, larger=name == b"largerthan")
        ask = _GLOBBED.get(name)
        if ask is None:
            raise self.wrong()
        glob = re.compile(fnmatch.translate(value.decode("latin-1"))).match
        wanted = name != b"exclude"
        return lambda facts: (glob(ask(facts).decode("latin-1")) is not None) == wanted

    def _size(self, value: bytes, *, larger: bool) -> Test:
        size = parse_size(value)
        if size is None:
            raise self.wrong()
        limit = size
        return (lambda facts: facts.size > limit) if larger else (lambda facts: facts.size < limit)


def _joined(first: Test, second: Test, *, either: bool) -> Test:
    if either:
        return lambda facts: first(facts) or second(facts)
    return lambda facts: first(facts) and second(facts)


_GLOBBED: dict[bytes, Callable[[Facts], bytes]] = {
    b"include": lambda facts: facts.path,
    b"exclude": lambda facts: facts.path,
    b"mimetype": lambda facts: facts.mime_type(),
    b"mimeencoding": lambda facts: facts.mime_encoding(),
}


# -- text encodings ---------------------------------------------------------------------------------------------------

LOOKED_AT = 1 << 20
"""Bytes at the beginning of a file that decide."""

# Bell, backspace, white space of all kinds and escape occur in text, beside printable characters.
_ASCII = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e]*\Z").match
_LATIN = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e\x85\xa0-\xff]*\Z").match
_EXTENDED = re.compile(rb"[\x07-\x0d\x1b\x20-\x7e\x80-\xff]*\Z").match
_CONTROL = re.compile("[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]").search
_MARKS = ((codecs.BOM_UTF16_LE, "utf-16le"), (codecs.BOM_UTF16_BE, "utf-16be"))


def mime_encoding_of(head: bytes) -> bytes:
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
    """Whether `head`, which may end within a character, is text in `encoding`; half a character alone does not
    decide.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        text = decoder.decode(head)
    except UnicodeDecodeError:
        return False
    return _CONTROL(text) is None and not (encoding == "utf-8" and text.isascii())
