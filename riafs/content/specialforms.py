"""Content that lies in the store in another form than whole and plain: in chunks, encrypted, or both.

Which forms a dataset uses stands on its git-annex branch: ``remote.log`` tells of encryption and chunk size, the chunk
log of a key how it was cut. Plain chunks are read where they lie. Encrypted content has no random access: it is
decrypted whole into an unlinked temporary file. ``shared`` encryption needs nothing but the repository; other kinds
need a secret key, which a mount does not ask for.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from riafs.content.chunks import Chunks
from riafs.content.openpgp import Decryptor
from riafs.content.verifying import Opened
from riafs.errors import EncryptedContent, NotInStore
from riafs.formats.keys import Key
from riafs.formats.specialremotes import SharedCipher, SpecialRemote, encrypted_key, shared_cipher
from riafs.storage.bytesource import Concatenated, RangedBytes

MAX_CHUNKS = 1_000_000

OpenStored = Callable[[Key], Awaitable[RangedBytes]]
"""Opens what is stored under a key, loose or in an archive. Raises NotInStore."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way a key may be stored: by which remote, and in chunks of how many bytes (None: whole)."""

    remote: SpecialRemote
    chunk_size: int | None
    count: int | None
    """How many chunks the log knows of; None where only the remote's configuration speaks of chunks."""

    @property
    def encrypted(self) -> bool:
        """Whether a cipher is in play."""
        return self.remote.encryption not in (b"none", b"")


@dataclass(frozen=True, slots=True)
class SpecialPlace:
    """A key in one special form: see content/places for the protocol."""

    key: Key
    form: Form
    open_stored: OpenStored
    decryptor: Decryptor

    @property
    def name(self) -> str:
        """See Place."""
        chunks = "" if self.form.chunk_size is None else f" in chunks of {self.form.chunk_size} bytes"
        cipher = f", encryption {os.fsdecode(self.form.remote.encryption)}" if self.form.encrypted else ""
        return f"storage {os.fsdecode(self.form.remote.name)}{chunks}{cipher}"

    async def open(self) -> Opened:
        """See Place."""
        keys = self._parts()
        if self.form.encrypted:
            return Opened(await self._decrypted(keys, self._cipher()), self.name, None)
        if len(keys) == 1:
            return Opened(await self.open_stored(keys[0]), self.name, None)
        chunks = await Chunks.open(lambda number: self.open_stored(keys[number]), len(keys))
        return Opened(chunks, self.name, None)

    async def peek(self) -> RangedBytes:
        """What lies in the store of the first part, as it is there. Raises as `open`."""
        first = self._parts()[0]
        return await self.open_stored(self._encrypted(first, self._cipher()) if self.form.encrypted else first)

    async def _decrypted(self, keys: Sequence[Key], cipher: SharedCipher) -> RangedBytes:
        """All parts, each in a temporary file: none has to be decrypted twice."""
        parts: list[RangedBytes] = []
        try:
            for key in keys:
                parts.append(await self._decrypted_part(key, cipher))  # noqa: PERF401 - what is there is closed below
        except BaseException:
            for part in parts:
                part.close()
            raise
        return parts[0] if len(parts) == 1 else Concatenated(parts)

    def _parts(self) -> Sequence[Key]:
        chunk_size = self.form.chunk_size
        if chunk_size is None:
            return [self.key]
        count = self.form.count
        if count is None:
            if self.key.size is None:
                raise NotInStore(f"how many chunks {os.fsdecode(self.key.serialised)} has is not on record")
            count = max(1, -(-self.key.size // chunk_size))
        if not 0 < count <= MAX_CHUNKS:
            raise NotInStore(f"{count} chunks are claimed for {os.fsdecode(self.key.serialised)}")
        return [self.key.chunk(chunk_size, number) for number in range(1, count + 1)]

    async def _decrypted_part(self, part: Key, cipher: SharedCipher) -> RangedBytes:
        stored = await self.open_stored(self._encrypted(part, cipher))
        try:
            return await self.decryptor.decrypt(stored, cipher.passphrase)
        finally:
            stored.close()

    def _encrypted(self, part: Key, cipher: SharedCipher) -> Key:
        return encrypted_key(cipher.mac_key, self.form.remote.mac, part)

    def _cipher(self) -> SharedCipher:
        remote = self.form.remote
        if remote.encryption != b"shared" or remote.cipher is None:
            kind = os.fsdecode(remote.encryption)
            raise EncryptedContent(
                f"storage {os.fsdecode(remote.name)} has encryption={kind}, which needs a secret key; "
                "only encryption=shared can be read by a mount, get such files with git-annex"
            )
        return shared_cipher(remote.cipher)
