"""Keys for content that is added: which part of a file's name becomes a key's extension, and the key itself.

The rules are git-annex's (its internals documentation; each row of the tests was tried with git-annex 10).
"""

from dataclasses import dataclass
from itertools import islice, takewhile

from riafs.formats.digests import Hash, new_hash
from riafs.formats.keys import Key

DEFAULT_BACKEND = b"SHA256E"
"""git-annex's, where a dataset says nothing."""


@dataclass(frozen=True, slots=True)
class ExtensionRules:
    """How much of a name counts as extension: ``annex.maxextensionlength``, ``annex.maxextensions``."""

    length: int = 4
    """Bytes of one component."""
    count: int = 2
    """Components."""


class KeyMaker:
    """Takes content in order, then tells its key. `backend` must be one that `supported` knows."""

    __slots__ = ("_backend", "_hash", "_size")

    def __init__(self, backend: bytes) -> None:
        digest = new_hash(backend)
        assert digest is not None, "backends are looked at before content is"
        self._backend = backend
        self._hash: Hash = digest
        self._size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes."""
        self._hash.update(data)
        self._size += len(data)

    def key(self, name: bytes, rules: ExtensionRules) -> Key:
        """The key of the bytes so far, in a file called `name`."""
        extension = file_extension(name, rules) if self._backend.endswith(b"E") else b""
        return Key(self._backend, self._hash.hexdigest().encode() + extension, self._size, None, None, None)


def supported(backend: bytes) -> bool:
    """Whether riafs can make keys of `backend`: those that are a digest of the content."""
    return new_hash(backend) is not None


def file_extension(name: bytes, rules: ExtensionRules) -> bytes:
    """What a key of an ``E`` backend keeps of a file's name, its dot included: ``.nii.gz`` of ``a.nii.gz``."""
    components = name.rpartition(b"/")[2].lstrip(b".").split(b".")[1:]
    short = takewhile(lambda component: len(component) <= rules.length, reversed(components))
    kept = list(islice((component for component in short if all(map(_allowed, component))), rules.count))
    return b"".join(b"." + component for component in reversed(kept) if component)


def _allowed(byte: int) -> bool:
    return byte >= 0x80 or bytes((byte,)).isalnum()
