"""Manifests in a directory, one file, standard input, or Keep itself."""

import errno
import os
import time
from pathlib import Path

import pytest

from riafs.errors import NoSuchName, RiafsError, SourceNotFound, StoreError
from riafs.storage.manifests import collection_names
from riafs.storage.temporary import SpilledText
from tests.collections import as_bytes, vectors
from tests.keep.making import KeptStore, manifest_of, settle
from tests.keep.shown import shown
from tests.keep.standin.api import TOKEN
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.manifests import with_locators
from tests.plugins.log_hygiene import Announce

ONE = {b"file": b"first content", b"below/other": b"content below"}


@pytest.fixture
def kept(tmp_path: Path) -> KeptStore:
    return KeptStore(tmp_path)


async def test_names_come_from_files(kept: KeptStore) -> None:
    for name in ("a.manifest", "b.txt", "c", "d.other", ".hidden", "e.manifest", "e.txt", "e"):
        kept.write(name, ONE)
    (kept.manifests / "folder").mkdir()
    os.mkfifo(kept.manifests / "fifo")
    (kept.manifests / "inside").symlink_to("c")
    (kept.manifests / "outside").symlink_to("/etc/hostname")
    (kept.manifests / "dangling").symlink_to("nothing")
    async with shown(kept.source) as driver:
        names = [b"by_id", b"a", b"b", b"c", b"d.other", b"e", b"e.manifest", b"e.txt", b"inside"]
        assert await driver.ls(b"") == names
        for name in names[1:]:
            assert await driver.read(name + b"/below/other") == b"content below"


def test_suffixes_are_kept_where_names_clash() -> None:
    assert collection_names([b".manifest", b".txt", b"x.txt"]) == {
        b".manifest": b".manifest",
        b".txt": b".txt",
        b"x": b"x.txt",
    }


async def test_manifests_are_read_when_entered(kept: KeptStore) -> None:
    for number in range(300):
        kept.write(f"{number:03}.manifest", ONE)
    async with shown(kept.source) as driver:
        assert len(await driver.ls(b"")) == 301
        await driver.stat(b"017")
        await driver.refresh()
        assert driver.counters.manifests_parsed == 0
        await driver.ls(b"017")
        await driver.read(b"017/below/other")
        assert driver.counters.manifests_parsed == 1


async def test_new_and_removed_manifests_are_seen(kept: KeptStore) -> None:
    kept.write("old", ONE)
    async with shown(kept.source) as driver:
        assert await driver.ls(b"") == [b"by_id", b"old"]
        kept.write("new", ONE)
        (kept.manifests / "old").unlink()
        await driver.refresh()
        assert await driver.ls(b"") == [b"by_id", b"new"]
        assert await driver.read(b"new/file") == ONE[b"file"]


async def test_replaced_manifest_is_a_new_version(kept: KeptStore) -> None:
    kept.write("one", ONE)
    async with shown(kept.source) as driver:
        before = await driver.stat(b"one/below")
        opened = await driver.filesystem.open(await driver.inode(b"one/file"))
        kept.write("one", {**ONE, b"file": b"second", b"new": b"n"})
        await driver.refresh()
        assert await driver.read(b"one/file") == b"second"
        assert await driver.ls(b"one") == [b"below", b"file", b"new"]
        assert (await driver.stat(b"one/below")).inode == before.inode
        assert await driver.read_handle(opened.handle) == b"first content"
        driver.filesystem.release(opened.handle)
        assert {change.names for change in driver.changes if change.names} == {frozenset([b"file", b"new"])}


async def test_manifest_is_the_root_where_it_is_named(kept: KeptStore) -> None:
    text = kept.write("one", ONE)
    async with shown(f"{kept.source}#one") as driver:
        assert await driver.ls(b"") == [b"below", b"file"]
        kept.write_text("one", text.replace("file", "renamed"))
        await driver.refresh()
        assert await driver.ls(b"") == [b"below", b"renamed"]
        data_hash = (await driver.getxattr(b"", "user.riafs.collection")).decode()
    async with shown(f"{kept.source}#{data_hash}") as driver:
        assert await driver.read(b"renamed") == ONE[b"file"]
    with pytest.raises(SourceNotFound, match="nobody"):
        async with shown(f"{kept.source}#nobody"):
            pass


async def test_file_that_is_being_written_is_seen_whole_or_as_it_was(kept: KeptStore) -> None:
    kept.write("one", ONE)
    new = manifest_of({b"file": b"second", b"other": b"third"}, kept.put).encode()
    path = kept.manifests / "one"
    async with shown(kept.source) as driver:
        assert await driver.read(b"one/file") == b"first content"
        for end in range(0, len(new), 20):
            path.write_bytes(new[:end])
            await driver.refresh()
            assert await driver.read(b"one/file") == b"first content"
        path.write_bytes(new)
        settle(path)
        await driver.refresh()
        assert await driver.read(b"one/file") == b"second"


async def test_fresh_file_is_waited_for(kept: KeptStore) -> None:
    kept.write("one", ONE)
    os.utime(kept.manifests / "one")
    began = time.monotonic()
    async with shown(kept.source) as driver:
        assert await driver.read(b"one/file") == b"first content"
    assert 0.5 < time.monotonic() - began < 4


async def test_by_id_finds_what_is_there_and_lists_what_was_found(kept: KeptStore) -> None:
    for number in range(5):
        kept.write(f"n{number}", {b"number": b"%d" % number})
    async with shown(kept.source) as driver:
        wanted = await driver.getxattr(b"n3", "user.riafs.collection")
        assert await driver.ls(b"by_id") == []
        assert await driver.read(b"by_id/" + wanted + b"/number") == b"3"
        assert await driver.ls(b"by_id") == [wanted]
        for other in (b"0" * 32 + b"+50", b"x", wanted + b"+Z", b"zzzzz-4zz18-000000000000000"):
            with pytest.raises(NoSuchName):
                await driver.filesystem.lookup(await driver.inode(b"by_id"), other)
        inode = await driver.inode(b"by_id/" + wanted)
        kept.write("n3", {b"number": b"later"})
        kept.write("late", {b"number": b"late"})
        await driver.refresh()
        assert await driver.read(b"by_id/" + wanted + b"/number") == b"3"
        late = await driver.getxattr(b"late", "user.riafs.collection")
        assert await driver.read(b"by_id/" + late + b"/number") == b"late"
        assert await driver.ls(b"by_id") == [wanted, late]
        assert await driver.inode(b"by_id/" + wanted) == inode


async def test_one_manifest_file(kept: KeptStore) -> None:
    kept.write("one.manifest", ONE)
    kept.write("two", ONE)
    async with shown(f"{kept.source}/one.manifest") as driver:
        assert await driver.ls(b"") == [b"by_id", b"one"]
        kept.write("one.manifest", {b"file": b"again"})
        await driver.refresh()
        assert await driver.read(b"one/file") == b"again"


async def test_manifest_from_standard_input(kept: KeptStore) -> None:
    text = manifest_of(ONE, kept.put).encode()
    source = kept.source.replace(str(kept.manifests), "-")
    kept_text = SpilledText(os.fsencode(kept.manifests), "a manifest")
    kept_text.append(text)
    async with shown(source, manifest=kept_text) as driver:
        assert await driver.ls(b"") == [b"by_id", b"stdin"]
        assert await driver.read(b"stdin/file") == b"first content"
        assert not driver.filesystem._root.directory.renewable


async def test_manifest_that_is_stored_in_keep(kept: KeptStore, expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("block 0{32}.5 is not there")
    locator = kept.put(manifest_of(ONE, kept.put).encode())
    async with shown(kept.source.replace(str(kept.manifests), locator)) as driver:
        assert await driver.read(locator.encode() + b"/file") == b"first content"
        assert await driver.read(b"by_id/" + locator.encode() + b"/file") == b"first content"
    with pytest.raises(RiafsError, match="block"):
        async with shown(kept.source.replace(str(kept.manifests), "0" * 32 + "+5")):
            pass


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("volume0", "nothing", "volume .*nothing does not exist"),
        ("manifests=", "manifests=/nothing/", "manifests .*does not exist"),
        ("?manifests", "?tree=/nothing/tree&manifests", "composed tree .*does not exist"),
    ],
)
async def test_what_is_missing_is_named(kept: KeptStore, old: str, new: str, reason: str) -> None:
    source = kept.source.replace(old, new, 1)
    with pytest.raises((SourceNotFound, StoreError), match=reason):
        async with shown(source):
            pass


async def test_refused_manifests_harm_nobody_else(kept: KeptStore, expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("cannot be shown: line")
    refused = [case["manifest"] for case in vectors()["manifests"] if not case["accept"]]
    assert len(refused) > 20
    for number, text in enumerate(refused):
        (kept.manifests / f"bad{number}").write_bytes(as_bytes(text))
        settle(kept.manifests / f"bad{number}")
    kept.write("good", ONE)
    async with shown(kept.source) as driver:
        for number in range(len(refused)):
            with pytest.raises(RiafsError) as caught:
                await driver.ls(b"bad%d" % number)
            assert caught.value.errno == errno.EIO
            assert b"line" in await driver.getxattr(b"bad%d" % number, "user.riafs.error")
        assert await driver.read(b"good/file") == b"first content"
        kept.write("bad0", ONE)
        await driver.refresh()
        assert await driver.read(b"bad0/file") == b"first content"


async def test_unreadable_manifest_is_broken_alone(kept: KeptStore, expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("cannot be shown")
    kept.write("one", ONE)
    kept.write("other", ONE)
    async with shown(kept.source) as driver:
        assert await driver.ls(b"") == [b"by_id", b"one", b"other"]
        (kept.manifests / "one").unlink()
        (kept.manifests / "one").symlink_to("/etc/hostname")
        with pytest.raises(RiafsError, match="one"):
            await driver.ls(b"one")
        assert await driver.read(b"other/file") == b"first content"


async def test_several_views_share_one_cache_of_blocks(kept: KeptStore) -> None:
    content = os.urandom(3 << 20)
    for name in ("one", "two"):
        kept.write(name, {b"same": content, b"own": name.encode()})
    async with shown(kept.source) as driver:
        for name in (b"one", b"two", b"one"):
            assert await driver.read(name + b"/same") == content
        assert driver.counters.blocks_hashed == 1


async def test_composed_tree(kept: KeptStore, tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("has no manifest of none")
    kept.write("one", ONE)
    kept.write("two", {b"x/y": b"z"})
    tree = tmp_path / "tree"
    async with shown(kept.source) as driver:
        data_hash = (await driver.getxattr(b"two", "user.riafs.collection")).decode()
    tree.write_text(f"# a tree\nfirst one\ndata/renamed one/below/other\nby\\040hash {data_hash}/x\nnot none/x\n")
    async with shown(f"{kept.source}&tree={tree}") as driver:
        assert await driver.ls(b"") == [b"by hash", b"data", b"first", b"not"]
        assert b"has no manifest of none" in await driver.getxattr(b"not", "user.riafs.error")
        assert driver.counters.blocks_hashed == 0
        assert await driver.read(b"data/renamed") == b"content below"
        assert await driver.read(b"by hash/y") == b"z"
        kept.write("one", {b"below/other": b"changed"})
        await driver.refresh()
        assert await driver.read(b"data/renamed") == b"changed"
        assert await driver.ls(b"first") == [b"below"]


async def test_lenient_manifests_are_shown_and_what_is_missing_cannot_be_read(
    kept: KeptStore, expected_warnings: object
) -> None:
    assert callable(expected_warnings)
    expected_warnings("cannot be shown: line 1", "no block for")
    kept.write_text("short", f". {kept.put(b'foo')} 0:3:whole 1:9:short\n")
    async with shown(kept.source) as driver:
        with pytest.raises(RiafsError):
            await driver.ls(b"short")
    async with shown(kept.source, lenient=True) as driver:
        assert await driver.read(b"short/whole") == b"foo"
        assert (await driver.stat(b"short/short")).size == 9
        with pytest.raises(RiafsError) as caught:
            await driver.read(b"short/short")
        assert caught.value.errno == errno.EIO


async def test_signed_manifests_are_shown_by_servers_as_long_as_they_hold(cluster: Cluster, kept: KeptStore) -> None:
    text = with_locators(manifest_of(ONE, cluster.put), lambda locator: cluster.signer.sign(locator, TOKEN))
    kept.write_text("one", text)
    servers = ",".join(each.url.split("/")[2] for each in cluster.keepstores)
    async with shown(f"keep+http://{servers}?manifests={kept.manifests}", token=TOKEN) as driver:
        assert await driver.read(b"one/file") == b"first content"
        assert cluster.block_requests() == 1
    assert cluster.api_requests() == 0
