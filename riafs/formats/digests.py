"""Digests of content: whether bytes are those of a key, keys for new content, and CRC32.

A key's name begins with the digest in lower-case hex, up to the first dot; a ``\\`` before it, which old versions of
git-annex wrote by mistake, is ignored, as git-annex ignores it. Some digests need optional packages (``blake3``,
``xxhash``, ``pyskein``); without them such keys cannot be checked. Checkers compare digests only: sizes are the
reader's business.
"""

import functools
import hashlib
import importlib
import zlib
from collections.abc import Callable
from typing import Protocol

from riafs.formats.keys import ExtensionRules, Key, file_extension

# Its name is ``<uuid>-<SHA-256>``, and the E at its end is no sign of a file extension.
_GITBUNDLE = b"GITBUNDLE"

_Data = bytes | bytearray | memoryview


class Hash(Protocol):
    """The common methods of hashlib's objects and those of the optional packages."""

    def update(self, data: _Data, /) -> object:
        """Add the next bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""


class DigestChecker:
    """Checks the content of a key, which it is given in order."""

    __slots__ = ("_expected", "_hash")

    def __init__(self, digest: Hash, expected: bytes) -> None:
        self._hash = digest
        self._expected = expected

    def update(self, data: _Data) -> None:
        """Add the next bytes."""
        self._hash.update(data)

    def matches(self) -> bool:
        """Whether the bytes so far are the key's content; False too for a key whose digest is malformed."""
        return self._hash.hexdigest().encode() == self._expected


def checker(key: Key) -> DigestChecker | None:
    """A new checker for the content of `key`, or None if it cannot be checked.

    That is: backends without a digest (WORM, URL), unknown ones, those whose package is missing, and chunks, whose key
    holds the digest of the whole.
    """
    factory = _factory(key)
    return None if factory is None else DigestChecker(factory(), _expected(key))


def new_hash(backend: bytes) -> Hash | None:
    """A hash for the keys of `backend`, None for those whose keys are no digest of the content, or unknown ones."""
    factory = None if backend == _GITBUNDLE else _backend_factory(backend)
    return None if factory is None else factory()


def verifiable(key: Key) -> bool:
    """Whether there is a `checker` for `key`."""
    return _factory(key) is not None


class KeyMaker:
    """Computes the key of content, which it is given in order. `backend`: one for which `makes_keys` is true."""

    __slots__ = ("_backend", "_hash", "_size")

    def __init__(self, backend: bytes) -> None:
        digest = new_hash(backend)
        assert digest is not None, "backends are looked at before content is"
        self._backend = backend
        self._hash: Hash = digest
        self._size = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._hash.update(data)
        self._size += len(data)

    def key(self, name: bytes, rules: ExtensionRules) -> Key:
        """The key of the bytes so far, in a file called `name`."""
        extension = file_extension(name, rules) if self._backend.endswith(b"E") else b""
        return Key(self._backend, self._hash.hexdigest().encode() + extension, self._size, None, None, None)


def makes_keys(backend: bytes) -> bool:
    """Whether riafs can make keys of `backend`: those that are a digest of the content."""
    return new_hash(backend) is not None


def _factory(key: Key) -> Callable[[], Hash] | None:
    if key.chunk_size is not None or key.chunk_number is not None:
        return None
    return hashlib.sha256 if key.backend == _GITBUNDLE else _backend_factory(key.backend)


def _expected(key: Key) -> bytes:
    if key.backend == _GITBUNDLE:
        return key.name.rpartition(b"-")[2]
    return key.name.partition(b".")[0].removeprefix(b"\\")


def _backend_factory(backend: bytes) -> Callable[[], Hash] | None:
    """The hash of a backend or of its variant with a file extension (``MD5E``)."""
    factory = _STANDARD.get(backend) or _STANDARD.get(backend.removesuffix(b"E"))
    if factory is not None:
        return factory
    optional = _OPTIONAL.get(backend) or _OPTIONAL.get(backend.removesuffix(b"E"))
    return None if optional is None else _import(*optional)


@functools.cache
def _import(module: str, name: str, bits: int) -> Callable[[], Hash] | None:
    """A hash of an optional package; `bits` is 0 where the digest has one length only."""
    try:
        factory: Callable[..., Hash] = getattr(importlib.import_module(module), name)
    except ImportError:
        return None
    return functools.partial(factory, digest_bits=bits) if bits else factory


# -- backends ---------------------------------------------------------------------------------------------------------


def _plain(algorithm: Callable[..., Hash]) -> Callable[[], Hash]:
    return functools.partial(algorithm, usedforsecurity=False)


def _blake2(algorithm: Callable[..., Hash], bits: int) -> Callable[[], Hash]:
    return functools.partial(algorithm, digest_size=bits // 8)


# -- BLAKE2bp and BLAKE2sp --------------------------------------------------------------------------------------------


class _Node(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> "_Node": ...


class _TreeHash:
    """BLAKE2 over several leaves side by side, for which hashlib has the node parameters (BLAKE2 paper, section 2.10).

    The input is dealt out to the leaves in blocks, one after the other; the root hashes the leaves' digests. `_pending`
    is always shorter than one round of blocks. BLAKE2sp with a 224-bit digest is not possible this way: its leaves
    announce 28 bytes and give 32.
    """

    __slots__ = ("_block", "_leaves", "_new_node", "_pending", "_size")

    def __init__(self, algorithm: Callable[..., _Node], leaves: int, block: int, size: int) -> None:
        def new_node(offset: int, depth: int, *, last: bool) -> _Node:
            return algorithm(
                digest_size=size,
                fanout=leaves,
                depth=2,
                inner_size=size,
                node_offset=offset,
                node_depth=depth,
                last_node=last,
            )

        self._new_node = new_node
        self._leaves = [new_node(leaf, 0, last=leaf == leaves - 1) for leaf in range(leaves)]
        self._block = block
        self._pending = b""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        ready = self._pending + data if self._pending else data
        round_length = self._block * len(self._leaves)
        whole = len(ready) - len(ready) % round_length
        self._deal(self._leaves, memoryview(ready)[:whole])
        self._pending = bytes(ready[whole:])

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        leaves = [leaf.copy() for leaf in self._leaves]
        self._deal(leaves, memoryview(self._pending))
        root = self._new_node(0, 1, last=True)
        for leaf in leaves:
            root.update(leaf.digest())
        return root.hexdigest()

    def _deal(self, leaves: list[_Node], data: memoryview) -> None:
        stride = self._block * len(leaves)
        for position, leaf in enumerate(leaves):
            starts = range(position * self._block, len(data), stride)
            leaf.update(b"".join([data[start : start + self._block] for start in starts]))


class Blake2bp(_TreeHash):
    """BLAKE2bp with a digest of 512 bits: four leaves of BLAKE2b."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(hashlib.blake2b, leaves=4, block=128, size=64)


class Blake2sp(_TreeHash):
    """BLAKE2sp with a digest of 256 bits: eight leaves of BLAKE2s."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(hashlib.blake2s, leaves=8, block=64, size=32)


_STANDARD: dict[bytes, Callable[[], Hash]] = {
    b"MD5": _plain(hashlib.md5),
    b"SHA1": _plain(hashlib.sha1),
    b"SHA224": hashlib.sha224,
    b"SHA256": hashlib.sha256,
    b"SHA384": hashlib.sha384,
    b"SHA512": hashlib.sha512,
    b"SHA3_224": hashlib.sha3_224,
    b"SHA3_256": hashlib.sha3_256,
    b"SHA3_384": hashlib.sha3_384,
    b"SHA3_512": hashlib.sha3_512,
    **{b"BLAKE2B%d" % bits: _blake2(hashlib.blake2b, bits) for bits in (160, 224, 256, 384, 512)},
    **{b"BLAKE2S%d" % bits: _blake2(hashlib.blake2s, bits) for bits in (160, 224, 256)},
    b"BLAKE2BP512": Blake2bp,
    b"BLAKE2SP256": Blake2sp,
}
_OPTIONAL = {
    b"BLAKE3_256": ("blake3", "blake3", 0),
    b"XXH3": ("xxhash", "xxh3_64", 0),
    b"SKEIN256": ("skein", "skein256", 256),
    b"SKEIN512": ("skein", "skein512", 512),
}


Checksum = Callable[[_Data, int], int]


def _fastest() -> Checksum:
    try:
        found: Checksum = importlib.import_module("isal.isal_zlib").crc32
    except ImportError:
        return zlib.crc32
    return found


crc32 = _fastest()
"""CRC32 as in zip, gzip and 7z archives: ``crc32(bytes, checksum of the bytes before them, 0 at the front)``.

By ISA-L where its package is installed, ten times as fast as zlib.
"""
