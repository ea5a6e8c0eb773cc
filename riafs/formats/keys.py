"""git-annex keys: parsing, serialising, and the form they take as file names.

A key is ``BACKEND[-sSIZE][-mMTIME][-SCHUNKSIZE][-CCHUNKNUMBER]--NAME``, fields in that order, numbers in decimal
(git-annex's internals documentation and its parser). Keys come from trees, logs and stores that cannot be trusted, so
every `Key` made by `parse_key` is bounded: at most MAX_KEY bytes, numbers below 2**63, no NUL and no newline. As a key
always contains ``--``, its file name is never empty, ``.`` or ``..``, and never contains ``/``. It may be longer than a
file name can be (255 bytes): such a key is parsed like any other and is simply in no store.
"""

import re
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import NamedTuple

from riafs.errors import MalformedKey
from riafs.formats.text import shown

DEFAULT_BACKEND = b"SHA256E"
"""git-annex's default for datasets without this setting."""
MAX_KEY = 4096
MAX_NUMBER = 2**63 - 1
MAX_EXTENSION = 64

# "E" backends carry a file extension; git-annex knows this one as a name that merely ends in the letter.
_PLAIN_BACKENDS_ENDING_IN_E = frozenset({b"GITBUNDLE"})
_KEY = re.compile(rb"([^-\n\0]+)(?:-s(\d+))?(?:-m(\d+))?(?:-S(\d+))?(?:-C(\d+))?--([^\n\0]*)").fullmatch
# Looking for an int in bytes takes a quarter of the time that looking for one byte takes.
_AMPERSAND = ord("&")
_UNESCAPED = {b"c": b":", b"s": b"%", b"a": b"&"}


class Key(NamedTuple):
    """A git-annex key, or one chunk of it.

    A named tuple, not a dataclass: a listing makes one for every entry, and this costs a third of the time.

    >>> parse_key(b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt").size
    6
    """

    backend: bytes
    name: bytes
    size: int | None
    """Bytes of the whole content, also in a chunk's key; None where the key does not tell."""
    mtime: int | None
    """Seconds since the epoch (WORM keys)."""
    chunk_size: int | None
    chunk_number: int | None
    """Counts from 1."""

    @property
    def serialised(self) -> bytes:
        """The key as git-annex writes it, numbers without leading zeros."""
        if self.mtime is None and self.chunk_size is None and self.chunk_number is None:
            if self.size is None:
                return self.backend + b"--" + self.name
            return b"%b-s%d--%b" % (self.backend, self.size, self.name)
        return b"".join((self.backend, *self._numbers(), b"--", self.name))

    @property
    def file_name(self) -> bytes:
        """The key as the name of its directory and file below ``annex/objects``."""
        return escape(self.serialised)

    def _numbers(self) -> tuple[bytes, ...]:
        numbers = ((b"-s", self.size), (b"-m", self.mtime), (b"-S", self.chunk_size), (b"-C", self.chunk_number))
        return tuple(b"%b%d" % (letter, number) for letter, number in numbers if number is not None)

    def unchunked(self) -> "Key":
        """The key of the whole content: itself, or without its chunk fields."""
        if self.chunk_size is None and self.chunk_number is None:
            return self
        return Key(self.backend, self.name, self.size, self.mtime, None, None)

    def chunk(self, chunk_size: int, number: int) -> "Key":
        """The key of chunk `number` (from 1) where content is stored in chunks of `chunk_size` bytes."""
        return Key(self.backend, self.name, self.size, self.mtime, chunk_size, number)

    def chunk_length(self, chunk_size: int, number: int) -> int | None:
        """Bytes of content in chunk `number` (from 1); None if the key does not tell the size of the whole.

        Content that is empty or smaller than one chunk is still stored as chunk 1 (seen with git-annex 10).
        """
        if self.size is None:
            return None
        return max(0, min(chunk_size, self.size - (number - 1) * chunk_size))


def parse_key(text: bytes) -> Key:
    """The key that `text` serialises. Raises MalformedKey."""
    if len(text) > MAX_KEY:
        raise MalformedKey(f"a key of {len(text)} bytes; at most {MAX_KEY} are accepted")
    match = _KEY(text)
    if match is None:
        raise MalformedKey(f"not a git-annex key: {shown(text)}")
    backend, size, mtime, chunk_size, chunk_number, name = match.groups()
    if not valid_extension(backend, name):
        raise MalformedKey(f"a key with a file extension over {MAX_EXTENSION} bytes: {shown(name)}")
    if mtime is None and chunk_size is None and chunk_number is None:
        return Key(backend, name, None if size is None else _number(size), None, None, None)
    numbers = [None if digits is None else _number(digits) for digits in (size, mtime, chunk_size, chunk_number)]
    return Key(backend, name, *numbers)


def escape(serialised: bytes) -> bytes:
    """A serialised key as a file name: ``& % : /`` become ``&a &s &c %`` (git-annex's internals documentation)."""
    return serialised.replace(b"&", b"&a").replace(b"%", b"&s").replace(b":", b"&c").replace(b"/", b"%")


def unescape(file_name: bytes) -> bytes:
    """The inverse of `escape`; of other text the same as in git-annex: an unknown ``&x`` becomes ``x``."""
    if _AMPERSAND not in file_name:
        return file_name.replace(b"%", b"/")
    return b"/".join(_unescape_ampersands(part) for part in file_name.split(b"%"))


def parse_file_name(file_name: bytes) -> Key:
    """The key of an object's file name. Raises MalformedKey."""
    return parse_key(unescape(file_name))


def _unescape_ampersands(part: bytes) -> bytes:
    first, *rest = part.split(b"&")
    return first + b"".join(_UNESCAPED.get(piece[:1], piece[:1]) + piece[1:] for piece in rest)


def _number(digits: bytes) -> int:
    number = int(digits)
    if number > MAX_NUMBER:
        raise MalformedKey(f"a key with a number of {len(digits)} digits, beyond 2**63")
    return number


def valid_extension(backend: bytes, name: bytes) -> bool:
    """Whether git-annex takes `name` for one of a key of `backend`: the part from the first dot on may have 64 bytes
    where the backend keeps file extensions.
    """
    if not backend.endswith(b"E") or backend in _PLAIN_BACKENDS_ENDING_IN_E:
        return True
    dot = name.find(b".")
    return dot < 0 or len(name) - dot <= MAX_EXTENSION


@dataclass(frozen=True, slots=True)
class ExtensionRules:
    """The limits of a name's extension: ``annex.maxextensionlength``, ``annex.maxextensions``."""

    length: int = 4
    """Bytes of one component."""
    count: int = 2
    """Components."""


def file_extension(name: bytes, rules: ExtensionRules) -> bytes:
    """The part of a file's name that a key of an ``E`` backend keeps, its dot included: ``.nii.gz`` of ``a.nii.gz``.

    The rules are git-annex's (its internals documentation; each row of the tests was tried with git-annex 10).
    """
    components = name.rpartition(b"/")[2].lstrip(b".").split(b".")[1:]
    short = takewhile(lambda component: len(component) <= rules.length, reversed(components))
    kept = list(islice((component for component in short if all(map(_allowed, component))), rules.count))
    return b"".join(b"." + component for component in reversed(kept) if component)


def _allowed(byte: int) -> bool:
    return byte >= 0x80 or bytes((byte,)).isalnum()
