"""JSON of one record, of which one long text is taken out while it comes: what remains is small enough to be parsed."""

import codecs
import json
import re
from collections.abc import Callable

# No group is repeated possessively: Python before 3.11.5 goes on from the middle of a repetition that failed.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*("?)|[{}\[\]]', re.DOTALL)
"""A string, of which the end (its group) may not be there yet, or a bracket."""
_VALUE = re.compile(rb'[ \t\r\n]*+(?::[ \t\r\n]*+("|[^ \t\r\n"])|[^ \t\r\n:])')
_HIGH = rb"[dD][89abAB][0-9a-fA-F]{2}"
# Whole characters and escapes; a first half of a pair only together with what follows it.
_BODY = re.compile(
    rb'(?:[^"\\]++|\\[^u]|\\u(?!' + _HIGH + rb")[0-9a-fA-F]{4}"
    rb"|\\u" + _HIGH + rb"(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\]|\\[^u]|\\u(?![dD][c-fC-F])[0-9a-fA-F]{4})))*",
    re.DOTALL,
)
_LONGEST_ESCAPE = 12


class RecordReader:
    """Reads an object that comes in chunks. The string that is its member `name` goes to `keep`, in UTF-8; in `rest`
    it is empty."""

    def __init__(self, name: str, keep: Callable[[bytes], None]) -> None:
        self._name = json.dumps(name).encode()
        self._keep = keep
        self._rest = b""
        self._depth = 0
        self._within = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self.rest = bytearray()
        """The JSON without that text, all of it once the last chunk was fed and `finish` called."""
        self.found = False
        """Whether there was such a string."""

    def feed(self, chunk: bytes) -> None:
        """The next part, of any size. Raises ValueError for what is no JSON, and what keeping the text raises."""
        data, at = self._rest + chunk, 0
        while True:
            before, within = at, self._within
            at = self._text(data, at) if within else self._other(data, at)
            if self._within == within and (at == before or not within):
                break
        self._rest = data[at:]

    def finish(self) -> None:
        """The end of it. Raises ValueError."""
        if self._within:
            raise ValueError("a text without an end")
        self.rest += self._rest
        self._rest = b""

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.rest) + len(self._rest)

    def _text(self, data: bytes, at: int) -> int:
        """Hand on what there is of the text. Returns where the next look begins."""
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
        self._within = False
        self.rest += b'"'
        return end + 1

    def _other(self, data: bytes, at: int) -> int:
        """Keep whole tokens up to the beginning of the text, if it begins. Returns where that is, or the first token
        of which more may come."""
        start = at
        for token in _TOKEN.finditer(data, at):
            if token[1] == b"":  # brackets in the rest of the string are none
                break
            if token[0] in (b"{", b"["):
                self._depth += 1
            elif token[0] in (b"}", b"]"):
                self._depth -= 1
            elif token[0] == self._name and self._depth == 1:
                value = _VALUE.match(data, token.end())
                if value is None:  # it is not there yet
                    break
                if value[1] == b'"':
                    if self.found:
                        raise ValueError("a text twice")
                    self._within = self.found = True
                    self.rest += data[start : value.end()]
                    return value.end()
            at = token.end()
        self.rest += data[start:at]
        return at
