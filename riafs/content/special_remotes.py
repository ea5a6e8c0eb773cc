"""The special remotes of a dataset that lie in its store, and content that they keep in chunks, encrypted, or both.

``remote.log`` on the git-annex branch names the special remotes that clones know, with their encryption and chunk size;
the chunk log of a key says how it was cut. The dataset's own directory is meant by ORA remotes with its id as
``archive-id``, by the one that the directory's configuration names (``datalad.ora-remote.uuid``), and where there is
neither, by any that means no other directory of the store. Other directories of the same store that ORA remotes mean
are read as well. A ``type=mask`` remote keeps nothing by itself but hands what it encrypts to another remote, named by
its UUID (seen with git-annex 10). All of it is hints: content counts if it is the key's.

Plain chunks are read where they lie. Encrypted content has no random access: it is decrypted whole into an unlinked
temporary file. ``shared`` encryption needs nothing but the repository; other kinds need a secret key, which a mount
does not ask for.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from riafs.content.branch import AnnexBranch
from riafs.content.chunks import Chunks
from riafs.content.locations import Location
from riafs.content.openpgp import Decryptor
from riafs.content.verifying import UnverifiedContent
from riafs.errors import EncryptedContent, NotInStore
from riafs.formats.keys import Key
from riafs.formats.names import valid_name
from riafs.formats.specialremotes import (
    SharedCipher,
    SpecialRemote,
    encrypted_key,
    is_ora,
    shared_cipher,
    storage_remotes,
)
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
    """How many chunks the log of the key has; None if only the configuration of the remote says that there are some."""

    @property
    def encrypted(self) -> bool:
        """Whether the remote encrypts."""
        return self.remote.encryption not in (b"none", b"")


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """A Location: the content of a key as a special remote stores it in chunks, encrypted, or both."""

    key: Key
    form: Form
    open_stored: OpenStored
    decryptor: Decryptor

    @property
    def name(self) -> str:
        chunks = "" if self.form.chunk_size is None else f" in chunks of {self.form.chunk_size} bytes"
        cipher = f", encryption {os.fsdecode(self.form.remote.encryption)}" if self.form.encrypted else ""
        return f"storage {os.fsdecode(self.form.remote.name)}{chunks}{cipher}"

    async def open(self) -> UnverifiedContent:
        keys = self._parts()
        if self.form.encrypted:
            return UnverifiedContent(await self._decrypted(keys, self._cipher()), self.name, None)
        if len(keys) == 1:
            return UnverifiedContent(await self.open_stored(keys[0]), self.name, None)
        chunks = await Chunks.open(lambda number: self.open_stored(keys[number]), len(keys))
        return UnverifiedContent(chunks, self.name, None)

    async def peek(self) -> RangedBytes:
        """The first chunk as it is stored. Raises as `open`."""
        first = self._parts()[0]
        return await self.open_stored(self._encrypted(first, self._cipher()) if self.form.encrypted else first)

    async def _decrypted(self, keys: Sequence[Key], cipher: SharedCipher) -> RangedBytes:
        """All chunks, each decrypted once into a temporary file."""
        parts: list[RangedBytes] = []
        try:
            for key in keys:
                parts.append(await self._decrypted_part(key, cipher))  # noqa: PERF401 - closed below on failure
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


KeyLocations = Callable[[Key], Iterator[Location]]
"""The locations of a key in one directory of the store, as a loose object or in an archive."""

FindDataset = Callable[[bytes], Awaitable[KeyLocations | None]]
"""Finds the locations in the dataset with that id; None if the store does not have it."""

_MOST_MASKS = 3
"""How many masks may lie over one another."""


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A location in another dataset of the store, whose id is `identifier`."""

    location: Location
    identifier: bytes

    @property
    def name(self) -> str:
        return f"{self.location.name} of dataset {os.fsdecode(self.identifier)}"

    async def open(self) -> UnverifiedContent:
        opened = await self.location.open()
        return UnverifiedContent(opened.source, self.name, opened.evidence, opened.checked_as)


class StoreRemotes:
    """The special remotes of the dataset `identifier` that lie in its store. `own`: the locations in its own directory;
    `elsewhere` finds those in others; `uuid`: of the remote that the directory's configuration names.
    """

    def __init__(
        self,
        branch: AnnexBranch,
        identifier: bytes,
        own: KeyLocations,
        elsewhere: FindDataset,
        uuid: Callable[[], Awaitable[bytes | None]],
        decryptor: Decryptor,
    ) -> None:
        self._branch = branch
        self._identifier = identifier
        self._own = own
        self._elsewhere = elsewhere
        self._uuid = uuid
        self._decryptor = decryptor

    async def locations(self, key: Key) -> list[Location]:
        """The locations of `key` other than the plain ones in its own directory, the likeliest first."""
        remotes = await self._branch.special_remotes()
        directories = await self._directories(remotes)
        elsewhere: dict[str, Location] = {}
        found: list[Location] = []
        for remote in remotes:
            plain, forms = await self._of_remote(key, remote, directories, _MOST_MASKS)
            elsewhere |= {location.name: location for location in plain if isinstance(location, _Elsewhere)}
            found += forms
        return [*elsewhere.values(), *found]

    async def forms(self, key: Key, remote: SpecialRemote) -> list[Location]:
        """The locations of `key`, chunked or encrypted, where `remote` is the dataset's own directory."""
        return (await self._of_remote(key, remote, {remote: self._own}, 0))[1]

    async def _directories(self, remotes: Sequence[SpecialRemote]) -> Mapping[SpecialRemote, KeyLocations | None]:
        """The directory of the store for each remote, None if it is not in this store."""
        own = storage_remotes(remotes, self._identifier, await self._uuid() if remotes else None)
        directories: dict[SpecialRemote, KeyLocations | None] = {}
        for remote in remotes:
            directories[remote] = self._own if remote in own else await self._other_directory(remote)
        if not own:
            directories |= {remote: self._own for remote in remotes if is_ora(remote) and not directories[remote]}
        return directories

    async def _other_directory(self, remote: SpecialRemote) -> KeyLocations | None:
        name = remote.archive_id
        if not is_ora(remote) or name is None or not valid_name(name):
            return None
        stored = await self._elsewhere(name)
        return None if stored is None else lambda key: (_Elsewhere(location, name) for location in stored(key))

    async def _of_remote(
        self, key: Key, remote: SpecialRemote, directories: Mapping[SpecialRemote, KeyLocations | None], masks: int
    ) -> tuple[list[Location], list[Location]]:
        """The plain places and the other forms in which a remote may hold a key; none if it is not in this store."""
        if remote.type == b"mask":
            behind = _masked_by(remote, directories)
            if behind is None or not masks:
                return [], []

            async def open_behind(part: Key) -> RangedBytes:
                plain, forms = await self._of_remote(part, behind, directories, masks - 1)
                return await _opened_at_any(part, [*plain, *forms])

            return [], await self._forms(key, remote, open_behind)
        stored = directories[remote]
        if stored is None:
            return [], []

        async def open_stored(part: Key) -> RangedBytes:
            return await _opened_at_any(part, stored(part))

        return list(stored(key)), await self._forms(key, remote, open_stored)

    async def _forms(
        self, key: Key, remote: SpecialRemote, open_part: Callable[[Key], Awaitable[RangedBytes]]
    ) -> list[Location]:
        """Chunked as the log of the key says, or else as the remote is configured; encrypted; or both."""
        copies = [copy for copy in await self._branch.chunked_copies(key) if copy.uuid == remote.log_uuid]
        forms = [Form(remote, copy.chunk_size, copy.count) for copy in copies]
        if not forms and remote.chunk_size:
            forms.append(Form(remote, remote.chunk_size, None))
        if Form(remote, None, None).encrypted:
            forms.append(Form(remote, None, None))
        return [RemoteObject(key, form, open_part, self._decryptor) for form in forms]


def _masked_by(mask: SpecialRemote, remotes: Iterable[SpecialRemote]) -> SpecialRemote | None:
    """The remote behind `mask`: git-annex writes its UUID as ``remoteuuid``."""
    uuid = dict(mask.fields).get(b"remoteuuid")
    return next((remote for remote in remotes if uuid is not None and uuid in (remote.log_uuid, remote.uuid)), None)


async def _opened_at_any(key: Key, locations: Iterable[Location]) -> RangedBytes:
    """The first of `locations` that has `key` (a chunk, or an encrypted one), unverified. Raises NotInStore."""
    for location in locations:
        try:
            return (await location.open()).source
        except NotInStore:
            continue
    raise NotInStore(f"{key.serialised.decode(errors='replace')} is not in the store")
