"""Collections of an Arvados cluster: each fetched and taken apart once, whatever paths lead to it.

Invariants: a portable data hash is fetched once and never asked for again, but for new permissions. All uuids that were
entered are looked at with one list request a round, however many there are; a manifest is fetched only
where the portable data hash has changed.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from riafs.arvados.api import ApiServer
from riafs.arvados.collections import (
    CollectionRecord,
    CollectionState,
    fetch_collection,
    fetch_several,
    fetch_shown,
    fetch_states,
    nanoseconds,
)
from riafs.errors import NotInStore, StoreDenied
from riafs.storage.deadline import DeadlineLock
from riafs.tree.collection_opening import (
    CollectionInfo,
    CollectionTools,
    ManifestText,
    broken_directory,
    collection_directory,
    same_content,
)
from riafs.tree.directories import LiveDirectory
from riafs.tree.protocol import Directory

log = logging.getLogger(__name__)

RECORD = b".arvados#collection"
_GONE = CollectionState(b"", "")


class ClusterCollections:
    """The collections of the cluster behind `api`. `slash`: replaces a ``/`` in names."""

    def __init__(self, api: ApiServer, tools: CollectionTools, slash: str = "") -> None:
        self.api = api
        self.slash = slash
        self.tools = tools
        self._by_hash: dict[bytes, Directory] = {}
        self._by_uuid: dict[bytes, LiveClusterCollection] = {}
        self._turn = 0
        self._states: Mapping[bytes, CollectionState] | None = None
        self._locks: dict[bytes, DeadlineLock] = {}

    # -- entering -----------------------------------------------------------------------------------------------------

    async def by_hash(self, data_hash: bytes) -> Directory:
        """The collection with that content. Raises NotInStore, StoreDenied, StoreError, StoreTimeout."""
        async with self._lock(data_hash).held():
            known = self._by_hash.get(data_hash)
            if known is None:
                record = await fetch_collection(self.api, data_hash, self.tools.spill)
                known = self._by_hash[data_hash] = await self.directory(record)
            return known

    async def by_uuid(self, uuid: bytes) -> Directory:
        """The collection with that uuid as it is now, renewable. Raises as `by_hash`."""
        async with self._lock(uuid).held():
            if uuid not in self._by_uuid:
                await self._enter(await fetch_collection(self.api, uuid, self.tools.spill))
            return LiveDirectory(self._by_uuid[uuid])

    async def by_uuid_or_broken(self, uuid: bytes, name: str) -> Directory:
        """The same where the collection is listed: one that may not be read, or is gone, is shown as broken."""
        try:
            return await self.by_uuid(uuid)
        except (NotInStore, StoreDenied) as error:
            return broken_directory(CollectionInfo(name, 0), error)

    def entered(self, uuid: bytes) -> Directory | None:
        """The collection with that uuid, if it was entered."""
        return self._by_uuid[uuid].current if uuid in self._by_uuid else None

    async def fetch_together(self, uuids: Sequence[bytes]) -> None:
        """Enter those of the collections that were not entered yet, with one request, if the first is one of them.

        Raises as `by_hash`.
        """
        missing = [uuid for uuid in uuids if uuid not in self._by_uuid]
        if len(missing) > 1 and missing[0] == uuids[0]:
            for record in await fetch_several(self.api, missing):
                if record.identifier not in self._by_uuid:
                    await self._enter(record)

    def _lock(self, name: bytes) -> DeadlineLock:
        return self._locks.setdefault(name, DeadlineLock())

    async def _enter(self, record: CollectionRecord) -> None:
        place = LiveClusterCollection(self, record.identifier, record.state, await self.directory(record))
        self._by_uuid.setdefault(record.identifier, place)

    async def directory(self, record: CollectionRecord) -> Directory:
        """The top directory of a collection that has been fetched."""
        data_hash = record.state.hash

        async def fetch() -> ManifestText:
            return (await fetch_collection(self.api, data_hash, self.tools.spill)).manifest

        return await collection_directory(self.tools, record.manifest, info_of_record(record), fetch)

    # -- changes ------------------------------------------------------------------------------------------------------

    async def state(self, uuid: bytes, turn: int) -> CollectionState | None:
        """The state of an entered collection as of round `turn`: `_GONE` for one that is not there any more, None where
        the server did not answer in this round. The first caller of the round gets the failure itself: StoreDenied, …
        """
        async with self._lock(b"").held():
            if turn != self._turn:
                self._turn, self._states = turn, None
                self._states = await fetch_states(self.api, self._by_uuid)
        if self._states is None:
            return None
        return self._states.get(uuid, _GONE)


class LiveClusterCollection:
    """The collection with a uuid, which may get another content."""

    def __init__(self, cluster: ClusterCollections, uuid: bytes, state: CollectionState, directory: Directory) -> None:
        self.current = directory
        self._cluster = cluster
        self._uuid = uuid
        self._state = state
        self._turn = 0

    async def now(self, turn: int) -> Directory:
        state = await self._cluster.state(self._uuid, turn)
        if state is not None and state != self._state and self._turn != turn:
            self._turn = turn
            await self._move(state)
        return self.current

    async def _move(self, state: CollectionState) -> None:
        if state is _GONE:
            reason = NotInStore("it is not there any more, or may not be read any more")
            self.current = broken_directory(CollectionInfo(self._uuid.decode(), self.current.mtime_ns), reason)
        else:
            self.current = await self._newer(state)
        self._state = state

    async def _newer(self, state: CollectionState) -> Directory:
        if state.hash == self._state.hash:
            shown = await fetch_shown(self._cluster.api, self._uuid)
            kept = same_content(self.current, info_of_state(self._uuid, state, shown))
            if kept is not None:
                return kept
        cluster = self._cluster
        return await cluster.directory(await fetch_collection(cluster.api, self._uuid, cluster.tools.spill))


def info_of_record(record: CollectionRecord) -> CollectionInfo:
    """What a record tells of a collection besides its manifest."""
    return replace(info_of_state(record.identifier, record.state, record.shown), replication=record.replication)


def info_of_state(identifier: bytes, state: CollectionState, shown: bytes) -> CollectionInfo:
    """The same, from its parts."""
    attributes = {} if identifier == state.hash else {"uuid": identifier}
    return CollectionInfo(identifier.decode(), nanoseconds(state.modified_at), attributes, {RECORD: shown})
