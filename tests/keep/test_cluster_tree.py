"""A cluster as a tree: by uuid and by content, projects, what is shared, tags; what changes, and what that costs."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from riafs.errors import NoSuchName, RiafsError, SourceNotFound, StoreDenied
from riafs.tree.protocol import Directory
from tests.behaviour.drivers import ObjectDriver
from tests.collections import as_bytes, vectors
from tests.keep.making import manifest_of
from tests.keep.shown import shown_cluster
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.records import CLUSTER, USER, Record, now, set_manifest
from tests.keep.standin.serving import Fault

Announce = Callable[..., None]


def made(cluster: Cluster, name: str | None, content: bytes = b"content", **attributes: object) -> Record:
    """A collection with one file, and one in a folder."""
    text = manifest_of({b"file": content, b"below/other": b"other"}, cluster.put)
    return cluster.collection(name, text, **attributes)


def uuid_of(record: Record) -> bytes:
    return str(record["uuid"]).encode()


def hash_of(record: Record) -> bytes:
    return str(record["portable_data_hash"]).encode()


def requests(cluster: Cluster) -> dict[str, int]:
    """Requests to the API server since this was asked last."""
    found = dict(cluster.api.shape.requests)
    cluster.api.shape.reset()
    return found


# -- looking up -------------------------------------------------------------------------------------------------------


async def test_collections_by_uuid_and_by_hash(cluster: Cluster) -> None:
    record = made(cluster, "one")
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"") == [b"by_id", b"by_tag", b"home", b"shared"]
        for identifier in (uuid_of(record), hash_of(record)):
            assert await driver.ls(b"by_id/" + identifier) == [b"below", b"file"]
            assert await driver.read(b"by_id/" + identifier + b"/file") == b"content"
        assert await driver.ls(b"by_id") == [uuid_of(record), hash_of(record)]
        assert await driver.getxattr(b"by_id/" + uuid_of(record), "user.riafs.collection") == hash_of(record)
        assert await driver.getxattr(b"by_id/" + uuid_of(record) + b"/file", "user.riafs.uuid") == uuid_of(record)
    assert requests(cluster) == {"GET collections/UUID": 1, "GET collections/HASH": 1}
    assert cluster.block_requests() == 1


async def test_names_that_cannot_be_identifiers_are_not_asked_for(cluster: Cluster) -> None:
    async with shown_cluster(cluster) as driver:
        parent = await driver.inode(b"by_id")
        for name in (b"x", b"d41d8cd98f00b204e9800998ecf8427e", b"zzzzz-4zz18-short", b"zzzzz-o0j2j-000000000000000"):
            with pytest.raises(NoSuchName):
                await driver.filesystem.lookup(parent, name)
        assert not requests(cluster)
        with pytest.raises(NoSuchName):
            await driver.filesystem.lookup(parent, b"zzzzz-4zz18-000000000000000")
        assert requests(cluster) == {"GET collections/UUID": 1}


async def test_source_may_name_a_collection_or_project(cluster: Cluster) -> None:
    project = cluster.records.add("groups", name="p")
    record = made(cluster, "one", owner_uuid=project["uuid"])
    for identifier, names in (
        (record["uuid"], [b"below", b"file"]),
        (record["portable_data_hash"], [b"below", b"file"]),
        (project["uuid"], [b"one"]),
    ):
        async with shown_cluster(cluster, f"#{identifier}") as driver:
            assert await driver.ls(b"") == names
    with pytest.raises(SourceNotFound, match="status 404"):
        async with shown_cluster(cluster, "#zzzzz-4zz18-000000000000000"):
            pass


async def test_records_are_hidden_files(cluster: Cluster) -> None:
    project = cluster.records.add("groups", name="p")
    record = made(cluster, "one", owner_uuid=project["uuid"])
    async with shown_cluster(cluster) as driver:
        told = json.loads(await driver.read(b"home/p/one/.arvados#collection"))
        assert (told["uuid"], told["name"]) == (record["uuid"], "one")
        assert "manifest_text" not in told
        assert json.loads(await driver.read(b"home/p/.arvados#project"))["uuid"] == project["uuid"]
        assert json.loads(await driver.read(b"home/.arvados#project"))["uuid"] == USER
        assert await driver.ls(b"home/p") == [b"one"]
        assert b".arvados#collection" not in await driver.ls(b"home/p/one")


# -- projects, what is shared, tags -----------------------------------------------------------------------------------


async def test_home_has_projects_and_collections(cluster: Cluster) -> None:
    project = cluster.records.add("groups", name="project")
    inner = cluster.records.add("groups", name="inner/most", owner_uuid=project["uuid"])
    made(cluster, "deep", owner_uuid=inner["uuid"])
    made(cluster, "top")
    made(cluster, None)
    made(cluster, "trashed", is_trashed=True)
    made(cluster, "elsewhere", owner_uuid=f"{CLUSTER}-j7d0g-000000000000000")
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"home") == [b"project", b"top"]
        assert await driver.read(b"home/project/inner_most/deep/file") == b"content"


async def test_names_that_clash_have_uuids(cluster: Cluster) -> None:
    cluster.records.add("groups", name="same")
    records = sorted((made(cluster, name) for name in ("same", "..", "__")), key=uuid_of)
    async with shown_cluster(cluster) as driver:
        names = await driver.ls(b"home")
        clashing = [each for each in records if each["name"] != "same"]
        same = next(each for each in records if each["name"] == "same")
        assert set(names) == {b"same", b"same (" + uuid_of(same) + b")", b"__", b"__ (" + uuid_of(clashing[1]) + b")"}
        assert await driver.read(b"home/same (" + uuid_of(same) + b")/file") == b"content"


async def test_all_members_of_tags_are_listed(cluster: Cluster) -> None:
    records = [made(cluster, f"c{number}") for number in range(130)]
    for record in records:
        cluster.records.add("links", link_class="tag", name="good", head_uuid=record["uuid"])
    cluster.records.add("links", link_class="tag", name="a/b", head_uuid=records[0]["portable_data_hash"])
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"by_tag") == [b"a_b", b"good"]
        assert await driver.ls(b"by_tag/good") == sorted(map(uuid_of, records))
        assert await driver.read(b"by_tag/a_b/" + hash_of(records[0]) + b"/file") == b"content"
        requests(cluster)
        await driver.refresh()
        assert requests(cluster) == {"GET links": 1}
        cluster.records.add("links", link_class="tag", name="late", head_uuid=records[1]["uuid"])
        await driver.refresh()
        assert await driver.ls(b"by_tag") == [b"a_b", b"good", b"late"]
        assert await driver.read(b"by_tag/late/" + uuid_of(records[1]) + b"/file") == b"content"


async def test_what_is_shared_stands_below_its_owner(cluster: Cluster) -> None:
    other = f"{CLUSTER}-tpzed-otheruser000000"
    cluster.records.tables["users"][other] = {"uuid": other, "full_name": "Other One", "modified_at": now()}
    project = cluster.records.add("groups", name="theirs", owner_uuid=other)
    made(cluster, "gift", owner_uuid=project["uuid"])
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"shared") == [b"Other One"]
        assert await driver.read(b"shared/Other One/theirs/gift/file") == b"content"


async def test_filters_hold_what_they_choose(cluster: Cluster) -> None:
    chosen = cluster.records.add("groups", name="recent", group_class="filter")
    made(cluster, "one", owner_uuid=chosen["uuid"])  # the stand-in's filters choose what they own
    async with shown_cluster(cluster) as driver:
        for path in (b"home/recent", b"by_id/" + uuid_of(chosen)):
            assert await driver.ls(path) == [b"one"]
            assert await driver.read(path + b"/one/file") == b"content"
        made(cluster, "two", owner_uuid=chosen["uuid"])
        await driver.refresh()
        assert sorted(await driver.ls(b"home/recent")) == [b"one", b"two"]


# -- what changes, and what looking for it costs ----------------------------------------------------------------------


async def test_opening_directories_costs_no_requests(cluster: Cluster) -> None:
    record = made(cluster, "one")
    path = b"by_id/" + uuid_of(record)
    async with shown_cluster(cluster) as driver:
        for _ in range(200):
            assert await driver.ls(path + b"/below") == [b"other"]
            await driver.ls(path)
        assert requests(cluster) == {"GET collections/UUID": 1}


async def test_all_collections_are_looked_at_with_one_request(cluster: Cluster) -> None:
    records = [made(cluster, f"c{number}") for number in range(50)]
    async with shown_cluster(cluster) as driver:
        for record in records:
            await driver.ls(b"by_id/" + uuid_of(record))
        requests(cluster)
        for _ in range(3):
            await driver.refresh()
            assert list(requests(cluster).values()) == [1]
        set_manifest(records[7], manifest_of({b"new": b"n"}, cluster.put))
        await driver.refresh()
        assert await driver.ls(b"by_id/" + uuid_of(records[7])) == [b"new"]
        assert sorted(requests(cluster)) == ["GET collections/UUID", "POST collections"]


async def test_hashes_are_never_asked_for_again(cluster: Cluster) -> None:
    record = made(cluster, "one")
    async with shown_cluster(cluster) as driver:
        await driver.ls(b"by_id/" + hash_of(record))
        requests(cluster)
        await driver.refresh()
        assert not requests(cluster)
        assert not (await directory_at(driver, b"by_id/" + hash_of(record))).renewable


async def directory_at(driver: ObjectDriver, path: bytes) -> Directory:
    return (await driver.filesystem.node(await driver.inode(path))).directory


async def test_manifests_of_a_project_come_together(cluster: Cluster) -> None:
    for number in range(200):
        made(cluster, f"c{number:03}")
    async with shown_cluster(cluster) as driver:
        for name in await driver.ls(b"home"):
            assert await driver.ls(b"home/" + name) == [b"below", b"file"]
        assert sum(requests(cluster).values()) <= 10
        await driver.refresh()
        assert sum(requests(cluster).values()) <= 3


async def test_change_is_seen_and_open_files_keep_their_content(cluster: Cluster) -> None:
    record = made(cluster, "one")
    async with shown_cluster(cluster) as driver:
        paths = (b"home/one", b"by_id/" + uuid_of(record))
        opened = [await driver.filesystem.open(await driver.inode(path + b"/file")) for path in paths]
        below = (await driver.stat(b"home/one/below")).inode
        set_manifest(record, manifest_of({b"file": b"new content", b"below/other": b"other"}, cluster.put))
        assert await driver.read(b"home/one/file") == b"content"
        await driver.refresh()
        for path in paths:
            assert await driver.read(path + b"/file") == b"new content"
        assert (await driver.stat(b"home/one/below")).inode == below
        for each in opened:
            assert await driver.read_handle(each.handle) == b"content"
            driver.filesystem.release(each.handle)
        assert driver.counters.manifests_parsed == 2


async def test_changed_record_costs_no_manifest(cluster: Cluster) -> None:
    record = made(cluster, "one")
    path = b"by_id/" + uuid_of(record)
    async with shown_cluster(cluster) as driver:
        await driver.ls(path)
        before = (await driver.stat(path)).mtime_ns
        record |= {"name": "renamed", "modified_at": now()}
        await driver.refresh()
        assert json.loads(await driver.read(path + b"/.arvados#collection"))["name"] == "renamed"
        assert (await driver.stat(path)).mtime_ns > before
        assert driver.counters.manifests_parsed == 1


async def test_projects_are_renewed(cluster: Cluster) -> None:
    project = cluster.records.add("groups", name="p")
    first = made(cluster, "first")
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"home") == [b"p", b"first"]
        assert await driver.ls(b"home/p") == []
        requests(cluster)
        await driver.refresh()
        assert sum(requests(cluster).values()) == 2
        made(cluster, "second", owner_uuid=project["uuid"])
        await driver.refresh()
        assert await driver.ls(b"home/p") == [b"second"]
        first |= {"name": "moved", "owner_uuid": project["uuid"], "modified_at": now()}
        await driver.refresh()
        assert (await driver.ls(b"home"), sorted(await driver.ls(b"home/p"))) == ([b"p"], [b"moved", b"second"])
        del cluster.records.tables["groups"][project["uuid"]]
        await driver.refresh()
        assert await driver.ls(b"home") == []


async def test_collection_that_goes_is_an_error_and_may_come_back(
    cluster: Cluster, expected_warnings: Announce
) -> None:
    expected_warnings("not there any more")
    record = made(cluster, "one")
    path = b"by_id/" + uuid_of(record)
    async with shown_cluster(cluster) as driver:
        await driver.ls(path)
        record["is_trashed"] = True
        await driver.refresh()
        with pytest.raises(RiafsError):
            await driver.ls(path)
        record["is_trashed"] = False
        await driver.refresh()
        assert await driver.read(path + b"/file") == b"content"


async def test_cluster_that_does_not_answer_is_asked_again(cluster: Cluster) -> None:
    record = made(cluster, "one")
    async with shown_cluster(cluster, deadline=0.4) as driver:
        await driver.ls(b"by_id/" + uuid_of(record))
        cluster.api.shape.faults.append(Fault(status=503, count=1000))
        await driver.refresh()
        assert await driver.ls(b"by_id/" + uuid_of(record)) == [b"below", b"file"]
        cluster.api.shape.faults.clear()
        set_manifest(record, "")
        await driver.refresh()
        assert await driver.ls(b"by_id/" + uuid_of(record)) == []


# -- permissions ------------------------------------------------------------------------------------------------------


async def test_mount_outlives_permissions(cluster: Cluster) -> None:
    cluster.signer.ttl = 3
    contents = {b"%d" % number: os.urandom(2000) for number in range(10)}
    record = cluster.collection("one", manifest_of(contents, cluster.put))
    names = list(contents)
    async with shown_cluster(cluster) as driver:
        for half in range(5):
            for identifier, name in zip((uuid_of(record), hash_of(record)), names[2 * half :], strict=False):
                assert await driver.read(b"by_id/" + identifier + b"/" + name) == contents[name]
            await trio.sleep(1.8)
        assert 2 <= driver.counters.signatures_renewed <= 6


async def test_expired_permissions_are_renewed_once_however_many_read(cluster: Cluster) -> None:
    cluster.signer.ttl = 2
    contents = {b"%02d" % number: os.urandom(2000) for number in range(20)}
    record = cluster.collection("one", manifest_of(contents, cluster.put))
    async with shown_cluster(cluster) as driver:
        path = b"by_id/" + hash_of(record) + b"/"
        await driver.ls(path[:-1])
        await trio.sleep(3.1)
        requests(cluster)
        found: dict[bytes, bytes] = {}

        async def read(name: bytes) -> None:
            found[name] = await driver.read(path + name)

        async with trio.open_nursery() as nursery:
            for name in contents:
                nursery.start_soon(read, name)
        assert found == contents
        assert requests(cluster) == {"GET collections/HASH": 1}
        assert driver.counters.signatures_renewed == 1


async def test_token_that_is_refused_later_is_a_denial(cluster: Cluster, expected_warnings: Announce) -> None:
    expected_warnings("block .*", "cannot be shown")
    record = made(cluster, "one", b"never read")
    async with shown_cluster(cluster) as driver:
        path = b"by_id/" + uuid_of(record) + b"/file"
        await driver.stat(path)
        cluster.signer.ttl = 5  # the servers now refuse what was signed before
        cluster.api.tokens.clear()
        with pytest.raises(RiafsError) as caught:
            await driver.read(path)
        assert caught.value.errno == errno.EACCES


async def test_wrong_token_fails_the_mount(cluster: Cluster) -> None:
    cluster.api.tokens = {"another"}
    with pytest.raises(StoreDenied, match="is the token right"):
        async with shown_cluster(cluster):
            pass


# -- manifests that are refused ---------------------------------------------------------------------------------------


async def test_refused_manifests_harm_nobody_else(cluster: Cluster, expected_warnings: Announce) -> None:
    expected_warnings("cannot be shown: line")
    refused = [as_bytes(case["manifest"]) for case in vectors()["manifests"] if not case["accept"]]
    broken = {}
    for text in refused:
        try:
            broken[uuid_of(cluster.collection(f"bad{len(broken)}", text.decode()))] = text
        except UnicodeDecodeError:
            continue
    good = made(cluster, "good")
    assert len(broken) > 20
    async with shown_cluster(cluster) as driver:
        for uuid in broken:
            with pytest.raises(RiafsError) as caught:
                await driver.ls(b"by_id/" + uuid)
            assert caught.value.errno == errno.EIO
            assert b"line" in await driver.getxattr(b"by_id/" + uuid, "user.riafs.error")
        names = await driver.ls(b"home")
        assert len(names) == len(broken) + 1
        assert await driver.read(b"home/good/file") == b"content"
        set_manifest(cluster.records.tables["collections"][next(iter(broken)).decode()], good["manifest_text"])
        await driver.refresh()
        assert await driver.read(b"by_id/" + next(iter(broken)) + b"/file") == b"content"


async def test_composed_tree_over_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    one, two = made(cluster, "one", b"1"), made(cluster, "two", b"2")
    tree = tmp_path / "tree"
    tree.write_text(f"a {one['uuid']}/file\nb/c {two['portable_data_hash']}\n")
    async with shown_cluster(cluster, f"?tree={tree}") as driver:
        assert (await driver.read(b"a"), await driver.read(b"b/c/file")) == (b"1", b"2")
        set_manifest(one, manifest_of({b"file": b"later"}, cluster.put))
        await driver.refresh()
        assert await driver.read(b"a") == b"later"


async def test_the_cluster_says_what_stands_for_a_slash_in_names(cluster: Cluster) -> None:
    cluster.api.slash = "%2F"
    made(cluster, "one/two")
    async with shown_cluster(cluster) as driver:
        assert await driver.ls(b"home") == [b"one%2Ftwo"]


async def test_what_is_in_the_trash_is_not_there(cluster: Cluster, expected_warnings: Announce) -> None:
    expected_warnings("not there any more")
    record, other = made(cluster, "one"), made(cluster, "other", is_trashed=True)
    async with shown_cluster(cluster) as driver:
        await driver.ls(b"by_id/" + uuid_of(record))
        record["is_trashed"] = True
        await driver.refresh()
        for trashed in (record, other):
            with pytest.raises(RiafsError) as caught:
                await driver.ls(b"by_id/" + uuid_of(trashed))
            assert caught.value.errno == errno.ENOENT
