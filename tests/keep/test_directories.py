"""Everything that a mount of Keep shows follows the protocol of directories."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from riafs.tree.cluster_root import ClusterRoot, ProjectDirectory, SharedDirectory, TagDirectory, TagsDirectory
from riafs.tree.collection import CollectionDirectory
from riafs.tree.collection_opening import ByIdDirectory
from riafs.tree.composed import ComposedDirectory
from riafs.tree.directories import LiveDirectory
from riafs.tree.protocol import Directory
from tests.conformance.directory import CHECKS, Check
from tests.keep.making import KeptStore, manifest_of
from tests.keep.shown import shown, shown_cluster
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.records import CLUSTER, now

FILES = {b"file": b"content", b"empty": b"", b"below/other": b"x", b"odd \n\xff": b"y"}
OTHER = f"{CLUSTER}-tpzed-otheruser000000"
COLLECTION = f"{CLUSTER}-4zz18-000000000000001"

Open = Callable[[Cluster], AbstractAsyncContextManager[Directory]]


def fill(cluster: Cluster) -> None:
    """One of everything."""
    text = manifest_of(FILES, cluster.put)
    one = cluster.collection("one", text, uuid=COLLECTION)
    cluster.collection("two/..", text)
    project = cluster.records.add("groups", name="project")
    cluster.collection("inside", text, owner_uuid=project["uuid"])
    cluster.records.tables["users"][OTHER] = {"uuid": OTHER, "full_name": "Other One", "modified_at": now()}
    cluster.records.add("groups", name="theirs", owner_uuid=OTHER)
    for identifier in (one["uuid"], one["portable_data_hash"]):
        cluster.records.add("links", link_class="tag", name="tag/ged", head_uuid=identifier)


def in_cluster(kind: type, path: bytes, rest: str = "") -> Open:
    """The directory at a path of the mounted cluster, or of what `rest` of the source names in it."""

    @asynccontextmanager
    async def open_it(cluster: Cluster) -> AsyncIterator[Directory]:
        fill(cluster)
        async with shown_cluster(cluster, rest) as driver:
            if not rest:
                await driver.stat(b"by_id/" + COLLECTION.encode())
            directory = (await driver.filesystem.node(await driver.inode(path))).directory
            assert type(directory) is kind
            yield directory

    return open_it


@asynccontextmanager
async def kept_root(cluster: Cluster) -> AsyncIterator[Directory]:
    store = KeptStore(cluster.certificate.parent)
    for name in ("one", "two.txt"):
        store.write(name, FILES)
    async with shown(store.source) as driver:
        yield driver.filesystem._root.directory


@asynccontextmanager
async def composed(cluster: Cluster) -> AsyncIterator[Directory]:
    tree = cluster.certificate.with_name("tree")
    tree.write_text(f"a {COLLECTION}/file\nb/c {COLLECTION}\n")
    async with in_cluster(ComposedDirectory, b"", f"?tree={tree}")(cluster) as directory:
        yield directory


OPENERS: dict[str, Open] = {
    "cluster": in_cluster(ClusterRoot, b""),
    "by-id": in_cluster(ByIdDirectory, b"by_id"),
    "home": in_cluster(ProjectDirectory, b"home"),
    "project": in_cluster(ProjectDirectory, b"home/project"),
    "shared": in_cluster(SharedDirectory, b"shared"),
    "tags": in_cluster(TagsDirectory, b"by_tag"),
    "tag": in_cluster(TagDirectory, b"by_tag/tag_ged"),
    "collection": in_cluster(LiveDirectory, b"home/one"),
    "folder": in_cluster(CollectionDirectory, b"home/one/below"),
    "collection-as-source": in_cluster(LiveDirectory, b"", f"#{COLLECTION}"),
    "kept": kept_root,
    "composed": composed,
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("open_it", OPENERS.values(), ids=OPENERS)
async def test_directory(open_it: Open, check: Check, cluster: Cluster) -> None:
    async with open_it(cluster) as directory:
        await check(directory)
