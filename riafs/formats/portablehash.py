"""Portable data hashes: ``md5+length`` of a manifest's text without the hints of its locators.

Nothing else is changed before hashing, neither the order nor how names are written, so that equal trees may have
different hashes (Arvados' documentation of manifests).
"""

import hashlib
import re

from riafs.errors import MalformedManifest

_MAX_ITEM = 4 << 20
# A locator with hints; no first item of a line, and no token, which has a colon.
_HINTS = re.compile(rb"( [^ :+\n]*+\+[0-9]++)\+[^ :\n]*+(?=[ \n])")


class PortableHash:
    """The hash of a text that comes in parts: with `update` whole items and lines, with `feed` cut anywhere."""

    def __init__(self) -> None:
        self._md5 = hashlib.md5()
        self._length = 0
        self._rest = b""
        self._in_line = False

    def update(self, text: bytes, *, in_line: bool) -> None:
        """The next part; `in_line`: whether it goes on with a line."""
        stripped = _HINTS.sub(rb"\1", b" " + text)[1:] if in_line else _HINTS.sub(rb"\1", text)
        self._md5.update(stripped)
        self._length += len(stripped)

    def feed(self, chunk: bytes) -> None:
        """The next part, wherever it ends. Raises MalformedManifest for a text without blanks and lines."""
        data = self._rest + chunk
        whole = max(data.rfind(b" "), data.rfind(b"\n")) + 1
        self._rest = data[whole:]
        if len(self._rest) > _MAX_ITEM:
            raise MalformedManifest(f"a name or token of more than {_MAX_ITEM >> 20} MiB")
        if whole:
            self.update(data[:whole], in_line=self._in_line)
            self._in_line = data[whole - 1 : whole] == b" "

    def value(self) -> bytes:
        """The hash of all parts."""
        self.update(self._rest, in_line=self._in_line)
        self._rest = b""
        return b"%b+%d" % (self._md5.hexdigest().encode(), self._length)


def portable_data_hash(text: bytes) -> bytes:
    """The hash of a whole manifest; its grammar is not checked.

    >>> portable_data_hash(b"")
    b'd41d8cd98f00b204e9800998ecf8427e+0'
    """
    whole = PortableHash()
    whole.update(text, in_line=False)
    return whole.value()
