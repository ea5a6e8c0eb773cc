"""7-Zip's encryption: AES-256-CBC with a key made of a password, undone in this process.

The password never leaves the process: 7-Zip itself takes one in its argument list only, where everybody reads it.
``cryptography`` or ``pycryptodomex`` decrypts. Layout of the properties and derivation of the key as in 7-Zip's
``7zAes.cpp``.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from riafs.errors import EncryptedArchive, MalformedArchive, MissingProgram
from riafs.formats.sevenzip.folder import Coder, Folder, without_encryption
from riafs.storage.bytesource import Buffer, Concatenated, Extent, RangedBytes

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK = 16
_KEY = 32
_NO_DERIVATION = 0x3F
_MOST_CYCLES = 24  # 7-Zip's own bound
_ROUNDS_AT_ONCE = 1 << 10
_MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class _Properties:
    cycles: int
    salt: bytes
    vector: bytes


def parse_properties(properties: bytes) -> _Properties:
    """What an AES coder's properties say. Raises MalformedArchive."""
    if not properties:
        raise MalformedArchive("7z coder AES without properties")
    first = properties[0]
    second = properties[1] if len(properties) > 1 else 0
    salt_size = (first >> 7) + (second >> 4)
    vector_size = (first >> 6 & 1) + (second & 0x0F)
    rest = properties[2:]
    cycles = first & 0x3F
    if len(rest) != salt_size + vector_size or _MOST_CYCLES < cycles != _NO_DERIVATION:
        raise MalformedArchive(f"7z coder AES has properties {properties.hex()}")
    return _Properties(cycles, rest[:salt_size], rest[salt_size:].ljust(_BLOCK, b"\0"))


def derive_key(password: bytes, salt: bytes, cycles: int) -> bytes:
    """The AES key of a password in UTF-16LE: a quarter of a second for the 2**19 cycles that 7-Zip writes."""
    if cycles == _NO_DERIVATION:
        return (salt + password)[:_KEY].ljust(_KEY, b"\0")
    digest, prefix = hashlib.sha256(), salt + password
    for start in range(0, 1 << cycles, _ROUNDS_AT_ONCE):
        end = min(start + _ROUNDS_AT_ONCE, 1 << cycles)
        digest.update(b"".join([prefix + number.to_bytes(8, "little") for number in range(start, end)]))
    return digest.digest()


class Unlocker:
    """Decrypts with one password, or says that one is needed. Derived keys are remembered."""

    def __init__(self, password: str | None) -> None:
        self._password = None if password is None else password.encode("utf-16-le", "surrogatepass")
        self._keys: dict[tuple[bytes, int], bytes] = {}

    async def open(self, folder: Folder, source: RangedBytes) -> tuple[Folder, RangedBytes]:
        """A folder that lies in `source`, and its packed bytes, both without encryption.

        Raises as `unlock`, and UnsupportedArchive for ways to encrypt that 7-Zip does not use.
        """
        packed: RangedBytes = Extent(source, folder.pack_offset, folder.pack_size)
        if not folder.is_encrypted:
            return folder, packed
        plain, coders = without_encryption(folder)
        streams: list[RangedBytes] = []
        start = 0
        for number, (size, plain_size) in enumerate(zip(folder.pack_sizes, plain.pack_sizes, strict=True)):
            stream: RangedBytes = Extent(packed, start, size)
            coder = coders.get(number)
            streams.append(stream if coder is None else await self.unlock(stream, coder, plain_size))
            start += size
        return plain, streams[0] if len(streams) == 1 else Concatenated(streams)

    async def unlock(self, packed: RangedBytes, coder: Coder, size: int) -> RangedBytes:
        """The `size` plain bytes of what `coder` encrypted.

        Raises EncryptedArchive without a password, MissingProgram without the package, MalformedArchive.
        """
        if self._password is None:
            raise EncryptedArchive("archive needs a password: set archive-password-file")
        properties = parse_properties(coder.properties)
        if size > packed.size or packed.size % _BLOCK:
            raise MalformedArchive(f"7z coder AES makes {size} bytes of {packed.size}")
        name = (properties.salt, properties.cycles)
        if name not in self._keys:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            self._keys[name] = await trio.to_thread.run_sync(derive_key, self._password, *name)
        return Extent(Decrypted(packed, self._keys[name], properties.vector), 0, size)


def _decryption(key: bytes) -> "Callable[[bytes, bytes], bytes]":
    """(vector, whole blocks) → plain bytes: by ``cryptography``, else by what py7zr brings. Raises MissingProgram."""
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError:
        pass
    else:
        return lambda vector, data: Cipher(algorithms.AES(key), modes.CBC(vector)).decryptor().update(data)
    try:
        from Cryptodome.Cipher import AES
    except ImportError as error:
        raise MissingProgram("encrypted archives need the Python package cryptography or pycryptodomex") from error
    return lambda vector, data: AES.new(key, AES.MODE_CBC, vector).decrypt(data)


class Decrypted:
    """RangedBytes over AES-CBC: any range costs its own bytes and one block before them. Does not own its source."""

    def __init__(self, source: RangedBytes, key: bytes, vector: bytes) -> None:
        self._source = source
        self._vector = vector
        self._decrypt = _decryption(key)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._source.size

    async def read(self, offset: int, length: int) -> Buffer:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        start = offset - offset % _BLOCK
        end = min(-(-(offset + length) // _BLOCK) * _BLOCK, self.size)
        before = min(start, _BLOCK)
        data = bytes(await self._source.read(start - before, end - start + before))
        vector = data[:_BLOCK] if before else self._vector
        plain = self._decrypt(vector, data[before:])
        return plain[offset - start : offset - start + length]

    def close(self) -> None:
        """Nothing to give back."""
