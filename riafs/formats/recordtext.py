"""JSON of one record, of which one long text is taken out while it comes: what remains is small enough to be parsed.

Every byte is looked at once, wherever chunks are cut: of a token whose end is not there yet only what may be the
member's name, or an escape, is looked at again.
"""

import codecs
import enum
import json
import re
from collections.abc import Callable

# No group is repeated possessively: Python before 3.11.5 continues in the middle of a repetition that failed.
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*', re.DOTALL)
"""A string after its first quote, as far as it is there; not a backslash alone."""
_BETWEEN = re.compile(rb'[^"{}\[\]]*+(["{}\[\]])')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_HIGH = rb"[dD][89abAB][0-9a-fA-F]{2}"
# Whole characters and escapes; the first half of a surrogate pair only with what follows it.
_BODY = re.compile(
    rb'(?:[^"\\]++|\\[^u]|\\u(?!' + _HIGH + rb")[0-9a-fA-F]{4}"
    rb"|\\u" + _HIGH + rb"(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\]|\\[^u]|\\u(?![dD][c-fC-F])[0-9a-fA-F]{4})))*",
    re.DOTALL,
)
_LONGEST_ESCAPE = 12


class _Place(enum.Enum):
    """The context of the next byte."""

    OUTSIDE = enum.auto()
    """In a string."""
    NAME = enum.auto()
    """A string that may be the member's name."""
    OTHER = enum.auto()
    """Another string."""
    COLON = enum.auto()
    """After the name, up to a colon,"""
    VALUE = enum.auto()
    """and then up to the value."""
    TEXT = enum.auto()
    """The text that is wanted."""


class RecordReader:
    """Reads an object that comes in chunks. The string that is its member `name` goes to `keep`, in UTF-8; in `rest`
    it is empty."""

    def __init__(self, name: str, keep: Callable[[bytes], None]) -> None:
        self._name = json.dumps(name).encode()[1:]
        self._keep = keep
        self._pending = b""
        """Bytes that were fed and not parsed yet: less than a name or an escape."""
        self._depth = 0
        self._place = _Place.OUTSIDE
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self._steps: dict[_Place, Callable[[bytes, int], int]] = {
            _Place.OUTSIDE: self._outside, _Place.NAME: self._maybe_name, _Place.OTHER: self._other,
            _Place.COLON: self._colon, _Place.VALUE: self._value, _Place.TEXT: self._text,
        }  # fmt: skip
        self.rest = bytearray()
        """The JSON without that text, all of it once the last chunk was fed and `finish` called."""
        self.found = False
        """Whether there was such a string."""

    def feed(self, chunk: bytes) -> None:
        """The next part, of any size. Raises ValueError for what is no JSON, and what keeping the text raises."""
        data, at = self._pending + chunk, 0
        while at < len(data):
            before = at, self._place
            at = self._steps[self._place](data, at)
            if (at, self._place) == before:
                break
        self._pending = data[at:]

    def finish(self) -> None:
        """The end of it. Raises ValueError."""
        if self._place is _Place.TEXT:
            raise ValueError("a text without an end")
        self.rest += self._pending
        self._pending = b""

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.rest) + len(self._pending)

    # Each step returns where the next one begins; where it stays and nothing has changed, more has to come.

    def _outside(self, data: bytes, at: int) -> int:
        match = _BETWEEN.match(data, at)
        if match is None:
            return self._rests(data, at, len(data))
        if match[1] == b'"':
            self._place = _Place.NAME if self._depth == 1 else _Place.OTHER
        else:
            self._depth += 1 if match[1] in b"{[" else -1
        return self._rests(data, at, match.end())

    def _maybe_name(self, data: bytes, at: int) -> int:
        beginning = data[at : at + len(self._name)]
        if beginning == self._name:
            self._place = _Place.COLON
            return self._rests(data, at, at + len(self._name))
        if not self._name.startswith(beginning):
            self._place = _Place.OTHER
        return at

    def _other(self, data: bytes, at: int) -> int:
        match = _STRING.match(data, at)
        assert match is not None
        end = match.end()
        if data[end : end + 1] == b'"':
            self._place, end = _Place.OUTSIDE, end + 1
        return self._rests(data, at, end)

    def _colon(self, data: bytes, at: int) -> int:
        return self._after_space(data, at, b":", _Place.VALUE)

    def _value(self, data: bytes, at: int) -> int:
        at = self._after_space(data, at, b'"', _Place.TEXT)
        if self._place is _Place.TEXT:
            if self.found:
                raise ValueError("a text twice")
            self.found = True
        return at

    def _after_space(self, data: bytes, at: int, wanted: bytes, place: _Place) -> int:
        match = _SPACE.match(data, at)
        assert match is not None
        end = match.end()
        if data[end : end + 1] == wanted:
            self._place, end = place, end + 1
        elif end < len(data):
            self._place = _Place.OUTSIDE
        return self._rests(data, at, end)

    def _rests(self, data: bytes, at: int, end: int) -> int:
        self.rest += data[at:end]
        return end

    def _text(self, data: bytes, at: int) -> int:
        """Hand on what there is of the text."""
        match = _BODY.match(data, at)
        assert match is not None
        end = match.end()
        ends = data[end : end + 1] == b'"'
        text = self._decoder.decode(data[at:end], ends)
        self._keep(json.loads(f'"{text}"').encode("utf-8", "surrogatepass"))
        if not ends:
            if len(data) - end > _LONGEST_ESCAPE:
                raise ValueError("an impossible escape")
            return end
        self._place = _Place.OUTSIDE
        self.rest += b'"'
        return end + 1
