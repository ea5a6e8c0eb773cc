"""git's conversions of a file between work tree and blob, by attributes: line ends, encodings, ``$Id$``.

After git's convert.c, for a git without ``core.autocrlf`` and ``core.eol`` on Linux. Pure: bytes in, bytes out.
Filters (``filter=…``) are programs of the user's configuration, and are only named here.
"""

import codecs
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from riafs.errors import MalformedText

ATTRIBUTES = ("text", "crlf", "eol", "working-tree-encoding", "ident", "filter")
"""The attributes that `conversion_of` uses."""
SET, UNSET = b"set", b"unset"
"""git's values of attributes without a value."""
_OWN_FILTER = b"annex"
_ID = re.compile(rb"\$Id:[^$\n]*\$")
_KEYWORD = re.compile(rb"\$Id(?:\$|:[^$\n]*\$)")
_FOREIGN = re.compile(rb"\$Id: .*[ \t\v\f\r][^$]", re.DOTALL).match
_LONE_LF = re.compile(rb"(?<!\r)\n")
_LONE_CR = re.compile(rb"\r(?!\n)").search
_CONTROL = re.compile(rb"[\0-\x07\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_UNPRINTED = re.compile(rb"[\0-\x07\n\x0b\r\x0e-\x1a\x1c-\x1f\x7f]")
_PRINTABLE_EACH = 7  # in bits: one byte in 128 may be no text
_UTF = re.compile(r"utf-?(8|16|32)(le|be)?(-bom)?", re.IGNORECASE)
_MARKS = {"16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


class Ends(enum.Enum):
    """The conversion of line ends."""

    KEPT = "kept"
    TEXT = "text"
    """CRLF becomes LF on the way in."""
    GUESSED = "auto"
    """The same for content that looks like text."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The conversion of one path."""

    ends: Ends = Ends.KEPT
    crlf: bool = False
    """Whether a checkout has CRLF."""
    encoding: str | None = None
    """Encoding of a checkout; the blob has UTF-8."""
    ident: bool = False
    filter: bytes | None = None
    """The driver that git would run, if it is configured; git-annex's own is none."""

    @property
    def changes_nothing(self) -> bool:
        """Whether every file is stored as it is; filters do not count."""
        return self.ends is Ends.KEPT and self.encoding is None and not self.ident

    @property
    def changes_checkouts(self) -> bool:
        """Whether a checkout may have other bytes than the blob."""
        return self.crlf or self.encoding is not None or self.ident

    def stored(self, data: bytes, before: bytes = b"") -> bytes:
        """The blob for a file with the bytes `data`. `before`: the blob that git has at this path.

        Raises MalformedText where the file is not in the encoding that it should be in.
        """
        if self.encoding is not None and data:
            data = _decoded(data, self.encoding)
        if b"\r\n" in data and self._strips(data, before):
            data = data.replace(b"\r\n", b"\n")
        return _ID.sub(b"$Id$", data) if self.ident else data

    def _strips(self, data: bytes, before: bytes) -> bool:
        """Whether CRLF become LF. A file that git has with CRLF keeps them if its line ends are only guessed."""
        if self.ends is Ends.GUESSED:
            return not looks_binary(data) and (b"\r\n" not in before or looks_binary(before))
        return self.ends is Ends.TEXT

    def checked_out(self, data: bytes, name: bytes) -> bytes:
        """The file that a checkout has for the blob `data` called `name` (hex).

        What cannot be encoded is left as it is, as git does it. Of keywords that are not whole git itself makes two
        things, as it writes a file piece by piece or at once.
        """
        if self.ident:
            data = _KEYWORD.sub(lambda match: _expanded(match[0], name), data)
        if self.crlf and self._adds(data):
            data = _LONE_LF.sub(b"\r\n", data)
        if self.encoding is not None and data:
            return _encoded(data, self.encoding)
        return data

    def _adds(self, data: bytes) -> bool:
        guessed = self.ends is Ends.GUESSED
        return not (guessed and (b"\r" in data or looks_binary(data)))


def conversion_of(attributes: Mapping[bytes, bytes]) -> Conversion:
    """The conversion for a path with these attributes; SET and UNSET are the values of those without a value."""
    text = _ends(attributes.get(b"text")) or _ends(attributes.get(b"crlf"))
    eol = attributes.get(b"eol")
    if text is not Ends.KEPT and eol in (b"lf", b"crlf"):
        text = text or Ends.TEXT
    encoding = attributes.get(b"working-tree-encoding", UNSET).decode("ascii", "replace")
    driver = attributes.get(b"filter", UNSET)
    return Conversion(
        ends=text or Ends.KEPT,
        crlf=eol == b"crlf" and text not in (None, Ends.KEPT),
        encoding=None if encoding in ("", "set", "unset") or encoding.lower() in ("utf-8", "utf8") else encoding,
        ident=attributes.get(b"ident") == SET,
        filter=None if driver in (b"", SET, UNSET, _OWN_FILTER) else driver,
    )


def _ends(value: bytes | None) -> Ends | None:
    known = {SET: Ends.TEXT, b"input": Ends.TEXT, b"auto": Ends.GUESSED, UNSET: Ends.KEPT}
    return None if value is None else known.get(value)


def looks_binary(data: bytes) -> bool:
    """git's guess: a NUL, a CR without LF, or many control characters."""
    if b"\0" in data or _LONE_CR(data):
        return True
    control = len(_CONTROL.findall(data)) - data.endswith(b"\x1a")
    return (len(data) - len(_UNPRINTED.findall(data))) >> _PRINTABLE_EACH < control


def _expanded(found: bytes, name: bytes) -> bytes:
    """The expanded keyword; one that another system has expanded, with white space in it, stays."""
    return found if _FOREIGN(found) else b"$Id: " + name + b" $"


def _codec(encoding: str) -> str:
    """Raises MalformedText."""
    try:
        return codecs.lookup(re.sub(r"-bom\Z", "", encoding, flags=re.IGNORECASE)).name
    except (LookupError, ValueError) as error:
        raise MalformedText(f"{encoding}, which .gitattributes demands, is no known encoding") from error


def _decoded(data: bytes, encoding: str) -> bytes:
    """UTF-8. git demands a byte order mark if the encoding's name has no byte order, and forbids it otherwise."""
    utf = _UTF.fullmatch(encoding)
    codec = _codec(encoding)
    if utf is not None and utf[1] in _MARKS:
        marked = data.startswith(_MARKS[utf[1]])
        if marked and utf[2] and not utf[3]:
            raise MalformedText(f"it has a byte order mark, which {encoding} does not allow")
        if not marked and not utf[2]:
            raise MalformedText(f"it has no byte order mark, which {encoding} requires")
        if marked:
            codec = f"utf-{utf[1]}"  # which takes the mark away
    try:
        return data.decode(codec).encode()
    except ValueError as error:
        raise MalformedText(f"it is not in {encoding}, which .gitattributes demands") from error


def _encoded(data: bytes, encoding: str) -> bytes:
    utf = _UTF.fullmatch(encoding)
    try:
        text = data.decode().encode(_codec(encoding))
    except (ValueError, MalformedText):
        return data
    if utf is not None and utf[3] and utf[2] and utf[1] in _MARKS:
        return _MARKS[utf[1]][utf[2].lower() == "be"] + text
    return text
