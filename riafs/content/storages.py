"""The storages of a dataset that lie in its store: which special remotes they are, and how each may hold a key.

``remote.log`` says what clones know. The dataset's own directory is meant by ORA remotes with its id as ``archive-id``,
by the one that the directory's configuration names (``datalad.ora-remote.uuid``), and where there is neither, by any
that means no other directory of the store. Other directories of the same store that ORA remotes mean are read as well.
A ``type=mask`` remote keeps nothing by itself but hands what it encrypts to another remote, named by its UUID (seen
with git-annex 10). All of it is hints: content counts if it is the key's.
"""

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from riafs.content.branch import AnnexBranch
from riafs.content.openpgp import Decryptor
from riafs.content.places import Place
from riafs.content.specialforms import Form, SpecialPlace
from riafs.content.verifying import Opened
from riafs.errors import NotInStore
from riafs.formats.keys import Key
from riafs.formats.names import valid_name
from riafs.formats.specialremotes import SpecialRemote, is_ora, storage_remotes
from riafs.storage.bytesource import RangedBytes

StoredPlaces = Callable[[Key], Iterator[Place]]
"""Where the bytes stored under a key may lie in one directory of the store, loose or in an archive."""

StoredElsewhere = Callable[[bytes], Awaitable[StoredPlaces | None]]
"""The same for the directory with that id, None where the store has none."""

_MOST_MASKS = 3
"""Remotes behind one another that are gone through."""


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """A place in the directory called `identifier`, as seen from another dataset."""

    place: Place
    identifier: bytes

    @property
    def name(self) -> str:
        """See Place."""
        return f"{self.place.name} of dataset {os.fsdecode(self.identifier)}"

    async def open(self) -> Opened:
        """See Place."""
        opened = await self.place.open()
        return Opened(opened.source, self.name, opened.evidence, opened.checked_as)


class Storages:
    """The storages of the dataset `identifier`; `own`: its own directory, `elsewhere`: others of the store, `uuid`: of
    the remote that the directory's configuration names.
    """

    def __init__(
        self,
        branch: AnnexBranch,
        identifier: bytes,
        own: StoredPlaces,
        elsewhere: StoredElsewhere,
        uuid: Callable[[], Awaitable[bytes | None]],
        decryptor: Decryptor,
    ) -> None:
        self._branch = branch
        self._identifier = identifier
        self._own = own
        self._elsewhere = elsewhere
        self._uuid = uuid
        self._decryptor = decryptor

    async def places(self, key: Key) -> list[Place]:
        """Where `key` may be beside the dataset's own directory in plain form, likeliest first."""
        remotes = await self._branch.special_remotes()
        directories = await self._directories(remotes)
        elsewhere: dict[str, Place] = {}
        found: list[Place] = []
        for remote in remotes:
            plain, forms = await self._of_remote(key, remote, directories, _MOST_MASKS)
            elsewhere |= {place.name: place for place in plain if isinstance(place, _Elsewhere)}
            found += forms
        return [*elsewhere.values(), *found]

    async def forms(self, key: Key, remote: SpecialRemote) -> list[Place]:
        """In which forms but the plain one the storage `remote`, the dataset's own directory, may hold `key`."""
        return (await self._of_remote(key, remote, {remote: self._own}, 0))[1]

    async def _directories(self, remotes: Sequence[SpecialRemote]) -> Mapping[SpecialRemote, StoredPlaces | None]:
        """Each remote with the directory of the store that it means, None where it means none."""
        own = storage_remotes(remotes, self._identifier, await self._uuid() if remotes else None)
        directories: dict[SpecialRemote, StoredPlaces | None] = {}
        for remote in remotes:
            directories[remote] = self._own if remote in own else await self._other_directory(remote)
        if not own:
            directories |= {remote: self._own for remote in remotes if is_ora(remote) and not directories[remote]}
        return directories

    async def _other_directory(self, remote: SpecialRemote) -> StoredPlaces | None:
        name = remote.archive_id
        if not is_ora(remote) or name is None or not valid_name(name):
            return None
        stored = await self._elsewhere(name)
        return None if stored is None else lambda key: (_Elsewhere(place, name) for place in stored(key))

    async def _of_remote(
        self, key: Key, remote: SpecialRemote, directories: Mapping[SpecialRemote, StoredPlaces | None], masks: int
    ) -> tuple[list[Place], list[Place]]:
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
    ) -> list[Place]:
        """In chunks as the log of the key has it or else as the remote is configured, encrypted, or both."""
        copies = [copy for copy in await self._branch.chunked_copies(key) if copy.uuid == remote.log_uuid]
        forms = [Form(remote, copy.chunk_size, copy.count) for copy in copies]
        if not forms and remote.chunk_size:
            forms.append(Form(remote, remote.chunk_size, None))
        if Form(remote, None, None).encrypted:
            forms.append(Form(remote, None, None))
        return [SpecialPlace(key, form, open_part, self._decryptor) for form in forms]


def _masked_by(mask: SpecialRemote, remotes: Iterable[SpecialRemote]) -> SpecialRemote | None:
    """The remote behind `mask`: git-annex writes its UUID as ``remoteuuid``."""
    uuid = dict(mask.fields).get(b"remoteuuid")
    return next((remote for remote in remotes if uuid is not None and uuid in (remote.log_uuid, remote.uuid)), None)


async def _opened_at_any(key: Key, places: Iterable[Place]) -> RangedBytes:
    """What lies under the name of `key` (a chunk's, or an encrypted one), unverified. Raises NotInStore."""
    for place in places:
        try:
            return (await place.open()).source
        except NotInStore:
            continue
    raise NotInStore(f"{key.serialised.decode(errors='replace')} is not in the store")
