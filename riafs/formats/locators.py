"""Names in Keep: locators of blocks, portable data hashes and uuids of collections, and where a block is looked for.

A locator is ``digest+size`` and hints (Arvados' documentation of manifests). A hint begins with a
capital letter: ``+A…@…`` is the permission to read the block until a time, ``+R…`` the same for a block of another
cluster, ``+K…`` a place to look at. Hints belong to a reader and a time, not to the content.

A portable data hash is ``md5+length`` of a manifest's text without the hints of its locators. Nothing else is changed
before hashing, neither the order nor how names are written, so equal trees may have different hashes.
"""

import hashlib
import re
from typing import NamedTuple

from riafs.errors import MalformedLocator, MalformedManifest
from riafs.formats.text import shown

MAX_BLOCK = 1 << 26
"""Bytes in the largest block that servers take."""
MAX_LOCATOR_SIZE = (1 << 31) - 1
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
        """The locator in a request to a server.

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
    if size > MAX_LOCATOR_SIZE:
        raise MalformedLocator(f"locator {shown(text)} is for more than {MAX_LOCATOR_SIZE} bytes")
    return Locator(match[1], size, tuple(match[3][1:].split(b"+")) if match[3] else ())


# -- uuids and portable data hashes -----------------------------------------------------------------------------------

_UUID = re.compile(rb"[0-9a-z]{5}-([0-9a-z]{5})-[0-9a-z]{15}")
_HASH = re.compile(rb"[0-9a-f]{32}\+(?:0|[1-9][0-9]{0,18})")
_COLLECTION, _PROJECT = b"4zz18", (b"j7d0g", b"tpzed")


def is_portable_data_hash(text: bytes) -> bool:
    """Whether `text` is the name of a collection by its content.

    >>> is_portable_data_hash(b"d41d8cd98f00b204e9800998ecf8427e+0")
    True
    """
    return _HASH.fullmatch(text) is not None


def is_collection_uuid(text: bytes) -> bool:
    """Whether `text` is the uuid of a collection."""
    return _kind(text) == _COLLECTION


def is_project_uuid(text: bytes) -> bool:
    """Whether `text` is the uuid of a project, or of a user, who has a home project."""
    return _kind(text) in _PROJECT


def is_identifier(text: bytes) -> bool:
    """Whether `text` can be looked up where collections and projects are found by uuid or portable data hash."""
    return is_portable_data_hash(text) or is_collection_uuid(text) or is_project_uuid(text)


def _kind(text: bytes) -> bytes:
    match = _UUID.fullmatch(text)
    return b"" if match is None else match[1]


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
        """The next part; `in_line`: whether it continues a line."""
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


def service_weight(digest: bytes, uuid: bytes) -> bytes:
    """The weight of the service with that uuid for a block: clients ask the one of the greatest weight first.

    Rendezvous hashing, so that all clients look first where the block was written (as in Arvados' sources).
    """
    return hashlib.md5(digest + uuid[-15:], usedforsecurity=False).digest()
