"""What a mount of a cluster shows: ``by_id``, ``by_tag``, ``home`` and ``shared``; or one collection or project.

Projects are directories of collections and projects by their names. All projects that were entered are refreshed
with two small requests a round; their items are listed again only where those say that something has changed.
``by_tag/TAG/UUID`` lists all tags once; after that one small request a round tells whether one was given or taken.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from riafs.arvados.projects import (
    Item,
    contents_signature,
    fetch_chosen,
    fetch_contents,
    fetch_home,
    fetch_project,
    fetch_shared,
    fetch_tags,
    file_names,
    signature_of,
    tags_signature,
)
from riafs.errors import NotInStore
from riafs.formats.locators import is_collection_uuid, is_identifier, is_portable_data_hash, is_project_uuid
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.tree.cluster_collections import ClusterCollections
from riafs.tree.collection_opening import BY_ID, ByIdDirectory, open_named
from riafs.tree.directories import FixedDirectory, directory_entry
from riafs.tree.protocol import Directory, Entry, Found, Kind

HOME, SHARED, BY_TAG = b"home", b"shared", b"by_tag"
RECORD = b".arvados#project"
_AHEAD = 64
_AHEAD_BYTES = 4 << 20
Tags = Mapping[str, Sequence[bytes]]
"""tag → uuids or portable data hashes of the collections that have it."""


class ClusterRoot(FixedDirectory):
    """The top of a cluster. Nothing is asked before something in it is entered."""

    def __init__(self, collections: ClusterCollections) -> None:
        now = time.time_ns()
        names = (BY_ID, BY_TAG, HOME, SHARED)
        entries = [directory_entry(name, now, b"") for name in names]
        super().__init__(entries, now, {"cluster": collections.api.host.encode()})
        self._collections = collections
        self._projects = ClusterProjects(collections)
        self._tags = ClusterTags(collections)
        self._by_id = ByIdDirectory(self.resolve, now)

    async def directory(self, entry: Entry) -> Directory:
        match entry.name:
            case b"by_id":
                return self._by_id
            case b"home":
                return await self._projects.directory(await fetch_home(self._collections.api))
            case b"shared":
                return await SharedDirectory.load(self._projects)
            case b"by_tag":
                return TagsDirectory(self._tags, await self._tags.load())
        return await super().directory(entry)

    async def resolve(self, identifier: bytes) -> Directory:
        """The collection or project with a uuid or portable data hash. Raises NotInStore, StoreDenied, StoreError, …"""
        if is_portable_data_hash(identifier):
            return await self._collections.by_hash(identifier)
        if is_collection_uuid(identifier):
            return await self._collections.by_uuid(identifier)
        if is_project_uuid(identifier):
            return await self._projects.project(identifier)
        raise NotInStore(f"{os.fsdecode(identifier)} is no uuid of a collection or project, and no portable data hash")


async def open_cluster(root: ClusterRoot, identifier: bytes | None) -> Directory:
    """The cluster's top, or what `identifier` names in it. Raises SourceNotFound, StoreDenied, StoreError, …"""
    return root if identifier is None else await open_named(root.resolve, identifier)


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
        ItemEntry(
            name,
            Kind.DIRECTORY,
            0,
            executable=True,
            mtime_ns=item.mtime_ns,
            version=item.uuid + b" " + item.modified_at.encode(),
            item=item,
        )
        for name, (item, _) in zip(names, named, strict=True)
    ]


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
        return MemoryBytes(entry.text) if isinstance(entry, RecordEntry) else await super().open(entry)

    async def prepare(self, start: int) -> None:
        """The manifests of the next collections come with one request, as far as they are small."""
        uuids, size = [], 0
        for entry in self._entries[start + 1 : start + 1 + _AHEAD]:
            if isinstance(entry, ItemEntry) and entry.item.hash is not None:
                uuids.append(entry.item.uuid)
                size += int(entry.item.hash.partition(b"+")[2] or 0)
                if size > _AHEAD_BYTES:
                    break
        await self._projects.collections.fetch_together(uuids)

    async def directory(self, entry: Entry) -> Directory:
        assert isinstance(entry, ItemEntry)
        if entry.item.chosen:
            return await FilterDirectory.load(self._projects, entry.item.uuid)
        if entry.item.hash is None:
            return await self._projects.directory(entry.item.uuid)
        return await self._projects.collections.by_uuid_or_broken(entry.item.uuid, entry.item.uuid.decode())

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        if not isinstance(entry, ItemEntry):
            return {}
        known = self._projects.collections.entered(entry.item.uuid)
        if known is not None:
            return await known.own_attributes()
        found = {"uuid": entry.item.uuid}
        return found if entry.item.hash is None else {**found, "collection": entry.item.hash}

    async def renewed(self, turn: int) -> Directory | None:
        items = await self._projects.now(self._uuid, turn)
        return None if items is self._items else ProjectDirectory(self._projects, self._uuid, items)


class FilterDirectory(ProjectDirectory):
    """What a filter chooses. Whether that has changed only listing it again tells."""

    @classmethod
    async def load(cls, projects: ClusterProjects, uuid: bytes) -> "FilterDirectory":
        """What it chooses now. Raises StoreDenied, StoreError, StoreTimeout."""
        return cls(projects, uuid, await fetch_chosen(projects.api, uuid))

    async def renewed(self, turn: int) -> Directory | None:
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
        assert isinstance(entry, ItemEntry)
        return await self._projects.directory(entry.item.uuid)

    async def renewed(self, turn: int) -> Directory | None:
        newer = await SharedDirectory.load(self._projects)
        return None if newer._items == self._items else newer


@dataclass(frozen=True, slots=True)
class TagEntry(Entry):
    """A tag in the listing of all tags."""

    tag: str


class ClusterTags:
    """The tags of a cluster's collections."""

    def __init__(self, collections: ClusterCollections) -> None:
        self.collections = collections
        self._tags: Tags = {}
        self._signature: object = None
        self._turn = 0

    async def load(self) -> Tags:
        """The tags now. Raises StoreDenied, StoreError, StoreTimeout."""
        self._signature = await tags_signature(self.collections.api)
        tags: dict[str, list[bytes]] = {}
        for name, identifier in await fetch_tags(self.collections.api):
            if is_identifier(identifier):
                tags.setdefault(name, []).append(identifier)
        if tags != self._tags:
            self._tags = tags
        return self._tags

    async def now(self, turn: int) -> Tags:
        """The tags as of round `turn`; the same object while nothing changes. Raises as `load`."""
        if turn != self._turn:
            self._turn = turn
            if await tags_signature(self.collections.api) != self._signature:
                await self.load()
        return self._tags


class TagsDirectory(FixedDirectory):
    """``by_tag``: a directory for each tag."""

    renewable = True

    def __init__(self, tags: ClusterTags, known: Tags) -> None:
        super().__init__(list(_tag_entries(known, tags.collections.slash)), 0, {})
        self._tags = tags
        self._known = known

    async def directory(self, entry: Entry) -> Directory:
        assert isinstance(entry, TagEntry)
        return TagDirectory(self._tags, entry.tag, self._known.get(entry.tag, ()))

    async def renewed(self, turn: int) -> Directory | None:
        known = await self._tags.now(turn)
        return None if known is self._known else TagsDirectory(self._tags, known)


class TagDirectory(FixedDirectory):
    """The collections that have a tag, by uuid or portable data hash."""

    renewable = True

    def __init__(self, tags: ClusterTags, tag: str, members: Sequence[bytes]) -> None:
        super().__init__(
            [directory_entry(member, 0, member) for member in members], 0, {"tag": tag.encode("utf-8", "replace")}
        )
        self._tags = tags
        self._tag = tag
        self._members = members

    async def directory(self, entry: Entry) -> Directory:
        collections = self._tags.collections
        if is_portable_data_hash(entry.name):
            return await collections.by_hash(entry.name)
        return await collections.by_uuid_or_broken(entry.name, entry.name.decode())

    async def renewed(self, turn: int) -> Directory | None:
        members = (await self._tags.now(turn)).get(self._tag, ())
        return None if members == self._members else TagDirectory(self._tags, self._tag, members)


def _tag_entries(known: Tags, slash: str) -> Iterable[TagEntry]:
    names = file_names(((b"%d" % number, tag) for number, tag in enumerate(known)), slash)
    for name, (tag, members) in zip(names, known.items(), strict=True):
        version = b" ".join(members)
        yield TagEntry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=version, tag=tag)
