"""Projects of a cluster as directories: collections and projects by their names, and what is shared.

All projects that were entered are looked at together, with two small requests a round; what they hold is listed again
only where those say that something has changed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from riafs.arvados.names import file_names
from riafs.arvados.projects import (
    Item,
    contents_signature,
    fetch_chosen,
    fetch_contents,
    fetch_project,
    fetch_shared,
    signature_of,
)
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.cluster import ClusterCollections
from riafs.tree.fixed import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Found, Kind

RECORD = b".arvados#project"
_AHEAD = 64
_AHEAD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class ItemEntry(Entry):
    """A collection or project in a listing."""

    item: Item


@dataclass(frozen=True, slots=True)
class RecordEntry(Entry):
    """The hidden file with a project's record."""

    text: bytes


def item_entries(items: Sequence[Item], slash: str) -> list[ItemEntry]:
    """The entries that show `items`, in their order; those without a name are left out."""
    named = [(item, item.name) for item in items if item.name is not None]
    names = file_names(((item.uuid, name) for item, name in named), slash)
    return [
        ItemEntry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=item.mtime_ns, version=_version(item), item=item)
        for name, (item, _) in zip(names, named, strict=True)
    ]


def _is_collection(entry: Entry) -> TypeGuard[ItemEntry]:
    return isinstance(entry, ItemEntry) and entry.item.hash is not None


def _version(item: Item) -> bytes:
    return item.uuid + b" " + item.modified_at.encode()


class ClusterProjects:
    """The projects that a mount has entered, and what they hold."""

    def __init__(self, collections: ClusterCollections) -> None:
        self.collections = collections
        self.api = collections.api
        self._contents: dict[bytes, Sequence[Item]] = {}
        self._turn = 0

    async def directory(self, uuid: bytes) -> "ProjectDirectory":
        """The project with that uuid. Raises StoreDenied, StoreError, StoreTimeout."""
        if uuid not in self._contents:
            self._contents.setdefault(uuid, await fetch_contents(self.api, {uuid}))
        return ProjectDirectory(self, uuid, self._contents[uuid])

    async def project(self, uuid: bytes) -> "ProjectDirectory":
        """The same for a uuid that a user gave, which may be a filter's. Raises NotInStore as well."""
        if uuid not in self._contents and b"-tpzed-" not in uuid:
            record = await fetch_project(self.api, uuid)
            if record.get("group_class") == "filter":
                return await FilterDirectory.load(self, uuid)
        return await self.directory(uuid)

    async def now(self, uuid: bytes, turn: int) -> Sequence[Item]:
        """What an entered project holds as of round `turn`. Raises StoreDenied, StoreError, StoreTimeout."""
        if turn != self._turn:
            self._turn = turn
            await self._look()
        return self._contents[uuid]

    async def _look(self) -> None:
        owners = self._contents.keys()
        known = [item for items in self._contents.values() for item in items]
        if await contents_signature(self.api, owners) == signature_of(known):
            return
        found: dict[bytes, list[Item]] = {owner: [] for owner in owners}
        for item in await fetch_contents(self.api, frozenset(found)):
            found.setdefault(item.owner, []).append(item)
        for owner, items in found.items():
            if items != self._contents.get(owner):
                self._contents[owner] = items


class ProjectDirectory(FixedDirectory):
    """A project with what it held when this was made. `find` also has the project's record, which is not listed."""

    renewable = True

    def __init__(self, projects: ClusterProjects, uuid: bytes, items: Sequence[Item]) -> None:
        newest = max((item.mtime_ns for item in items), default=0)
        super().__init__(item_entries(items, projects.collections.slash), newest, {"uuid": uuid})
        self._projects = projects
        self._uuid = uuid
        self._items = items

    async def find(self, name: bytes) -> Found:
        """See Directory."""
        if name != RECORD or name in self._positions:
            return await super().find(name)
        text = await self._record()
        entry = RecordEntry(
            RECORD, Kind.FILE, len(text), executable=False, mtime_ns=self.mtime_ns, version=text, text=text
        )
        return Found(None, entry)

    async def _record(self) -> bytes:
        kind = "users" if b"-tpzed-" in self._uuid else "groups"
        record = await self._projects.api.get(f"{kind}/{self._uuid.decode()}")
        return json.dumps(record, indent=2, sort_keys=True).encode() + b"\n"

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        return MemoryBytes(entry.text) if isinstance(entry, RecordEntry) else await super().open(entry)

    async def prepare(self, start: int) -> None:
        """See Directory: the manifests of the next collections come with one request, as far as they are small."""
        following = [entry.item for entry in self._entries[start + 1 : start + 1 + _AHEAD] if _is_collection(entry)]
        uuids, size = [], 0
        for item in following:
            uuids.append(item.uuid)
            size += int((item.hash or b"").partition(b"+")[2] or 0)
            if size > _AHEAD_BYTES:
                break
        await self._projects.collections.fetch_together(uuids)

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        assert isinstance(entry, ItemEntry)
        if entry.item.chosen:
            return await FilterDirectory.load(self._projects, entry.item.uuid)
        if entry.item.hash is None:
            return await self._projects.directory(entry.item.uuid)
        return await self._projects.collections.by_uuid_or_broken(entry.item.uuid, entry.item.uuid.decode())

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        if not isinstance(entry, ItemEntry):
            return {}
        known = self._projects.collections.entered(entry.item.uuid)
        if known is not None:
            return await known.own_attributes()
        found = {"uuid": entry.item.uuid}
        return found if entry.item.hash is None else {**found, "collection": entry.item.hash}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        items = await self._projects.now(self._uuid, turn)
        return None if items is self._items else ProjectDirectory(self._projects, self._uuid, items)


class FilterDirectory(ProjectDirectory):
    """What a filter chooses. Whether that has changed only listing it again tells."""

    @classmethod
    async def load(cls, projects: ClusterProjects, uuid: bytes) -> "FilterDirectory":
        """What it chooses now. Raises StoreDenied, StoreError, StoreTimeout."""
        return cls(projects, uuid, await fetch_chosen(projects.api, uuid))

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        newer = await FilterDirectory.load(self._projects, self._uuid)
        return None if newer._items == self._items else newer


class SharedDirectory(FixedDirectory):
    """``shared``: a directory for each owner of what is shared with this user."""

    renewable = True

    def __init__(self, projects: ClusterProjects, items: Sequence[Item]) -> None:
        super().__init__(
            item_entries(items, projects.collections.slash), max((item.mtime_ns for item in items), default=0), {}
        )
        self._projects = projects
        self._items = items

    @classmethod
    async def load(cls, projects: ClusterProjects) -> "SharedDirectory":
        """What is shared now. Raises StoreDenied, StoreError, StoreTimeout."""
        return cls(projects, await fetch_shared(projects.api))

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        assert isinstance(entry, ItemEntry)
        return await self._projects.directory(entry.item.uuid)

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        newer = await SharedDirectory.load(self._projects)
        return None if newer._items == self._items else newer
