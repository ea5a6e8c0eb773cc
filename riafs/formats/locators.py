"""Locators of Keep: the names of blocks, ``digest+size`` and hints (Arvados' documentation of manifests).

A hint is a capital letter and what belongs to it: ``+A…@…`` is the permission to read the block until a time, ``+R…``
the same for a block of another cluster, ``+K…`` a place to look at. Hints belong to a reader and a time, not to the
content.
"""

import re
from typing import NamedTuple

from riafs.errors import MalformedLocator
from riafs.formats.text import shown

MAX_BLOCK = 1 << 26
"""Bytes in the largest block that servers take."""
MAX_SIZE = (1 << 31) - 1
"""The largest size that may stand in a locator; Arvados' Go programs read it as 32 bits with a sign."""

_LOCATOR = re.compile(rb"([0-9a-f]{32})\+([0-9]{1,32})((?:\+[A-Z][A-Za-z0-9_@-]*)*)")
_SIGNATURE = re.compile(rb"(?:A|R[A-Za-z0-9]{5}-)[0-9a-f]{40}@([0-9a-f]{8})")


class Locator(NamedTuple):
    """One block as a manifest names it."""

    digest: bytes
    """MD5 of the block's bytes: 32 hexadecimal digits."""
    size: int
    """Length of the block in bytes."""
    hints: tuple[bytes, ...] = ()
    """In their order, without the ``+``."""

    @property
    def text(self) -> bytes:
        """What a server is asked with.

        >>> parse_locator(b"acbd18db4cc2f85cedef654fccc4a4d8+3+K@zzzzz").text
        b'acbd18db4cc2f85cedef654fccc4a4d8+3+K@zzzzz'
        """
        return b"+".join((self.unsigned, *self.hints))

    @property
    def unsigned(self) -> bytes:
        """Digest and size: the same for every reader."""
        return b"%b+%d" % (self.digest, self.size)

    @property
    def expires(self) -> int | None:
        """When the permission in it ends, in seconds since the epoch; None if it has none.

        >>> parse_locator(b"acbd18db4cc2f85cedef654fccc4a4d8+3+A" + b"0" * 40 + b"@7fffffff").expires
        2147483647
        """
        times = [int(match[1], 16) for match in map(_SIGNATURE.fullmatch, self.hints) if match]
        return min(times, default=None)


EMPTY_BLOCK = Locator(b"d41d8cd98f00b204e9800998ecf8427e", 0)
"""The block of no bytes, which servers do not have."""
ZERO_BLOCK = Locator(b"7f614da9329cd3aebf59b91aadc30bf0", MAX_BLOCK)
"""MAX_BLOCK bytes of zeros, as sparse files have."""


def parse_locator(text: bytes) -> Locator:
    """The locator that `text` is. Raises MalformedLocator."""
    match = _LOCATOR.fullmatch(text)
    if match is None:
        raise MalformedLocator(f"{shown(text)} is not the locator of a block (digest+size, hints)")
    size = int(match[2])
    if size > MAX_SIZE:
        raise MalformedLocator(f"locator {shown(text)} is for more than {MAX_SIZE} bytes")
    return Locator(match[1], size, tuple(match[3][1:].split(b"+")) if match[3] else ())
