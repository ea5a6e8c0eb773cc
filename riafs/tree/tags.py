"""``by_tag/TAG/UUID``: the tags of a cluster's collections, and all collections that have them.

All tags are listed at once; after that one small request a round tells whether one was given or taken.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from riafs.arvados.names import file_names
from riafs.arvados.projects import fetch_tags, tags_signature
from riafs.formats.locators import is_identifier, is_portable_data_hash
from riafs.tree.cluster import ClusterCollections
from riafs.tree.fixed import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Kind

Tags = Mapping[str, Sequence[bytes]]
"""tag → uuids or portable data hashes of the collections that have it."""


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
        """See Directory."""
        assert isinstance(entry, TagEntry)
        return TagDirectory(self._tags, entry.tag, self._known.get(entry.tag, ()))

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        known = await self._tags.now(turn)
        return None if known is self._known else TagsDirectory(self._tags, known)


class TagDirectory(FixedDirectory):
    """The collections that have a tag, by uuid or portable data hash."""

    renewable = True

    def __init__(self, tags: ClusterTags, tag: str, members: Sequence[bytes]) -> None:
        super().__init__([_entry(member, member) for member in members], 0, {"tag": tag.encode("utf-8", "replace")})
        self._tags = tags
        self._tag = tag
        self._members = members

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        collections = self._tags.collections
        if is_portable_data_hash(entry.name):
            return await collections.by_hash(entry.name)
        return await collections.by_uuid_or_broken(entry.name, entry.name.decode())

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        members = (await self._tags.now(turn)).get(self._tag, ())
        return None if members == self._members else TagDirectory(self._tags, self._tag, members)


def _tag_entries(known: Tags, slash: str) -> Iterable[TagEntry]:
    names = file_names(((b"%d" % number, tag) for number, tag in enumerate(known)), slash)
    for name, (tag, members) in zip(names, known.items(), strict=True):
        version = b" ".join(members)
        yield TagEntry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=version, tag=tag)


def _entry(name: bytes, version: bytes) -> Entry:
    return Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=version)
