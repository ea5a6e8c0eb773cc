"""What a mount of a cluster shows: ``by_id``, ``home``, ``shared`` and ``by_tag``; or one collection or project."""

import time

from riafs.arvados.projects import fetch_home
from riafs.errors import NotInStore
from riafs.formats.locators import is_collection_uuid, is_portable_data_hash, is_project_uuid
from riafs.tree.byid import BY_ID, ByIdDirectory, open_named
from riafs.tree.cluster import ClusterCollections
from riafs.tree.fixed import FixedDirectory
from riafs.tree.projects import ClusterProjects, SharedDirectory
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.tags import ClusterTags, TagsDirectory

HOME, SHARED, BY_TAG = b"home", b"shared", b"by_tag"


class ClusterRoot(FixedDirectory):
    """The top of a cluster. Nothing is asked before something in it is entered."""

    def __init__(self, collections: ClusterCollections) -> None:
        now = time.time_ns()
        names = (BY_ID, BY_TAG, HOME, SHARED)
        entries = [Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=now, version=b"") for name in names]
        super().__init__(entries, now, {"cluster": collections.api.host.encode()})
        self._collections = collections
        self._projects = ClusterProjects(collections)
        self._tags = ClusterTags(collections)
        self._by_id = ByIdDirectory(self.resolve, now)

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
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
        raise NotInStore(f"{identifier!r} is no uuid of a collection or project, and no portable data hash")


async def open_cluster(root: ClusterRoot, identifier: bytes | None) -> Directory:
    """The cluster's top, or what `identifier` names in it. Raises SourceNotFound, StoreDenied, StoreError, …"""
    return root if identifier is None else await open_named(root.resolve, identifier)
