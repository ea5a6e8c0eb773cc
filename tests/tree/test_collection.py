import errno
import random
from typing import Any

import pytest

from riafs.counters import Counters
from riafs.errors import BrokenCollection, IsADirectoryHere, MissingContent, NoSuchName, NotInStore, StoreDenied
from riafs.formats.manifests.reader import parse_manifest
from riafs.tree.collection import MANY, CollectionDirectory, FolderCache
from riafs.tree.directories import BrokenDirectory
from riafs.tree.listing import PIECE
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.slots import own_slots
from riafs.vfs.filesystem import FileSystem
from tests.behaviour.drivers import ObjectDriver
from tests.collections import EMPTY, MTIME_NS, collection, directory, locator
from tests.conformance.directory import all_entries
from tests.plugins.log_hygiene import Announce

FOO, BAR = locator(b"foo"), locator(b"barbar")
SIGNED = f"{FOO}+A{'1f' * 20}@5835c8bc"
TEXT = f". {SIGNED} {BAR} 0:3:foo 3:6:bar 2:2:both 0:0:empty\n./sub/sub {FOO} 0:3:f\n./leaf {EMPTY} 0:0:.\n".encode()


async def content(shown: Directory, name: bytes) -> bytes:
    opened = await shown.open((await shown.find(name)).entry)
    return bytes(await opened.read(0, opened.size))


async def names(shown: Directory) -> list[bytes]:
    return [entry.name for entry in await all_entries(shown)]


def many(count: int) -> bytes:
    return f". {FOO}{''.join(f' 0:3:{number:06d}' for number in range(count))}\n".encode()


async def test_a_collection_shows_its_files_and_folders_with_its_time() -> None:
    shown = directory(TEXT, b"foo", b"barbar")
    entries = {entry.name: entry for entry in await all_entries(shown)}
    assert list(entries) == [b"bar", b"both", b"empty", b"foo", b"leaf", b"sub"]
    assert {name: (entry.kind, entry.size) for name, entry in entries.items()} == {
        b"bar": (Kind.FILE, 6),
        b"both": (Kind.FILE, 2),
        b"empty": (Kind.FILE, 0),
        b"foo": (Kind.FILE, 3),
        b"leaf": (Kind.DIRECTORY, 0),
        b"sub": (Kind.DIRECTORY, 0),
    }
    assert {entry.mtime_ns for entry in entries.values()} == {MTIME_NS} == {shown.mtime_ns}
    assert all(entry.executable for entry in entries.values())
    assert [await content(shown, name) for name in (b"bar", b"both", b"empty", b"foo")] == [
        b"barbar",
        b"ob",
        b"",
        b"foo",
    ]
    assert not shown.renewable


async def test_a_walk_reaches_the_deepest_folder() -> None:
    shown = ObjectDriver(FileSystem(directory(TEXT, b"foo"), Counters()))
    assert await shown.read(b"sub/sub/f") == b"foo"
    assert await shown.ls(b"leaf") == []


async def test_a_file_that_cannot_be_read_is_named() -> None:
    shown = directory(TEXT)
    opened = await shown.open((await shown.find(b"bar")).entry)
    with pytest.raises(MissingContent, match=r"'bar' in collection [0-9a-f]{32}\+\d+: block is on no server"):
        await opened.read(0, 1)


async def test_the_missing_tail_of_a_short_file_is_an_error() -> None:
    shown = directory(f". {FOO} 0:5:f\n".encode(), b"foo", lenient=True)
    entry = (await shown.find(b"f")).entry
    assert entry.size == 5
    with pytest.raises(MissingContent):
        await (await shown.open(entry)).read(0, 5)


async def test_attributes_tell_where_content_is_without_secrets() -> None:
    shown = CollectionDirectory(collection(TEXT, attributes={"uuid": b"zzzzz"}), b"")
    found = await shown.attributes((await shown.find(b"both")).entry)
    assert found == {
        "collection": shown.collection.manifest.portable_data_hash,
        "uuid": b"zzzzz",
        "path": b"both",
        "blocks": b"2",
        "locators": f"{FOO} {BAR}".encode(),
    }
    below = await shown.directory((await shown.find(b"sub")).entry)
    assert (await below.attributes((await below.find(b"sub")).entry))["path"] == b"sub/sub"
    assert await shown.own_attributes() == {"collection": found["collection"], "uuid": b"zzzzz"}


async def test_records_are_found_at_the_top_only_and_not_listed() -> None:
    shown = CollectionDirectory(collection(TEXT, records={b".arvados#collection": b"{}", b"foo": b"no"}), b"")
    found = await shown.find(b".arvados#collection")
    assert (found.position, found.entry.size, found.entry.kind) == (None, 2, Kind.FILE)
    assert await content(shown, b".arvados#collection") == b"{}"
    assert b".arvados#collection" not in await names(shown)
    assert (await shown.find(b"foo")).entry.size == 3
    below = await shown.directory((await shown.find(b"sub")).entry)
    with pytest.raises(NoSuchName):
        await below.find(b".arvados#collection")


async def test_kinds_are_not_mistaken() -> None:
    shown = directory(TEXT)
    with pytest.raises(IsADirectoryHere):
        await shown.open((await shown.find(b"sub")).entry)
    with pytest.raises(Exception, match="is not a directory"):
        await shown.directory((await shown.find(b"foo")).entry)


# -- odd names -------------------------------------------------------------------------------------------------------


async def test_nul_is_shown_as_underscore_and_nothing_hides_a_real_name() -> None:
    shown = directory(rf". {FOO} {BAR} 0:3:a\000b 3:6:c\000d 0:1:c_d 0:2:\000/x".encode() + b"\n", b"foo", b"barbar")
    expected = [b"_", b"a_b", b"c_d"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("riafs.tree.collection.log.warning", lambda *told: None)
        assert await names(shown) == expected
    assert await content(shown, b"a_b") == b"foo"
    assert await content(shown, b"c_d") == b"f"
    below = await shown.directory((await shown.find(b"_")).entry)
    assert await content(below, b"x") == b"fo"
    with pytest.raises(NoSuchName):
        await shown.find(b"a\0b")


async def test_names_that_are_too_long_are_left_out_and_counted(expected_warnings: Announce) -> None:
    expected_warnings("2 impossible names left out in / of collection .*, among them 'xxx")
    counters = Counters()
    text = f". {FOO} 0:3:{'x' * 256} 0:3:{'y' * 255} 0:3:{'z' * 256}\n".encode()
    shown = directory(text, b"foo", folders=FolderCache(counters))
    assert await names(shown) == [b"y" * 255]
    assert counters.names_dropped == 2


async def test_git_repositories_can_be_in_collections() -> None:
    assert await names(directory(f"./.git {FOO} 0:3:HEAD\n".encode())) == [b".git"]


# -- versions --------------------------------------------------------------------------------------------------------


async def versions_of(text: str) -> dict[bytes, bytes]:
    return dict((await directory(text.encode()).versions()).of)


async def test_a_file_has_another_version_when_its_content_has_changed() -> None:
    before = await versions_of(f". {SIGNED} {BAR} 0:3:f 3:6:g 0:9:long 0:0:empty\n./d {FOO} 0:3:x\n")
    after = await versions_of(f". {BAR} {FOO} 6:3:f 3:3:g 6:3:long 0:6:long 0:0:empty 0:3:x\n./d {FOO} 0:3:y\n")
    assert {name for name in before if before[name] == after[name]} == {b"f", b"long", b"empty"}


async def test_all_versions_of_a_large_folder_are_those_of_its_entries() -> None:
    shown = directory(many(MANY + 1))
    versions = await shown.versions()
    assert list(versions.of.items()) == [(entry.name, entry.version) for entry in await all_entries(shown)]


# -- large folders ---------------------------------------------------------------------------------------------------


async def slots_of(text: bytes) -> dict[bytes, int]:
    shown = directory(text)
    slots = await own_slots(shown)
    assert slots is not None
    return dict(zip(await names(shown), await slots.reach(), strict=True))


async def test_an_unchanged_entry_keeps_its_slot_in_a_new_version() -> None:
    before = await slots_of(f". {FOO} {BAR} 0:3:b 0:3:same 3:6:changed\n./folder {FOO} 0:3:f\n".encode())
    after = await slots_of(f". {FOO} {BAR} 0:3:a 0:3:same 3:5:changed\n./folder {FOO} 0:2:other\n".encode())
    assert {name for name, slot in before.items() if after.get(name) == slot} == {b"same", b"folder"}
    assert len({*before.values(), *after.values()}) == 6


async def test_slots_of_a_large_folder_are_positions() -> None:
    assert await own_slots(directory(many(MANY))) is None
    assert len(await slots_of(many(MANY - 1))) == MANY - 1


async def test_listing_goes_on_anywhere_and_in_pieces() -> None:
    count = 3 * PIECE + 7
    shown = directory(many(count))
    expected = [b"%06d" % number for number in range(count)]
    assert len(await shown.entries(0)) == PIECE
    assert len(await shown.entries(PIECE)) == PIECE
    for start in random.Random(1).sample(range(count), 40):
        piece = await shown.entries(start)
        assert [entry.name for entry in piece] == expected[start : start + len(piece)]
        assert piece
    assert await names(shown) == expected


async def test_one_entry_of_a_large_folder_costs_few(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = directory(many(100_000))
    made = 0
    original = CollectionDirectory._entry

    def counting(self: CollectionDirectory, *given: Any) -> Entry:
        nonlocal made
        made += 1
        return original(self, *given)

    monkeypatch.setattr(CollectionDirectory, "_entry", counting)
    for number in range(99_999, 0, -1000):
        await shown.entries(number)
        await shown.find(b"%06d" % number)
    assert made < 100 * 20


async def test_folders_are_dropped_and_made_again() -> None:
    lines = [f"./{number:03d} {FOO} {' '.join(f'0:3:{name:02d}' for name in range(50))}\n" for number in range(100)]
    folders = FolderCache(limit=200)
    shown = directory("".join(lines).encode(), b"foo", folders=folders)
    for _ in range(2):
        for number in (*range(100), 7):
            below = await shown.directory((await shown.find(b"%03d" % number)).entry)
            assert len(await all_entries(below)) == 50
    assert len(folders._cache) <= 4


async def test_collections_of_one_content_share_their_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = FolderCache()
    first, second = (directory(many(10), b"foo", folders=folders) for _ in range(2))
    assert await names(first) == await names(second)
    assert len(folders._cache) == 1
    assert parse_manifest(many(10)).portable_data_hash == first.collection.manifest.portable_data_hash


# -- broken ones -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "kind", "number"),
    [
        ("line 1: bad", BrokenCollection, errno.EIO),
        (StoreDenied("not yours"), StoreDenied, errno.EACCES),
        (NotInStore("gone"), NotInStore, errno.ENOENT),
    ],
)
async def test_everything_in_a_broken_directory_fails_with_the_reason(
    reason: Any, kind: type[Exception], number: int
) -> None:
    broken = BrokenDirectory(reason, 5, uuid=b"zzzzz")
    entry = Entry(b"x", Kind.FILE, 0, executable=False, mtime_ns=0, version=b"")
    calls = [
        lambda: broken.entries(0),
        lambda: broken.find(b"x"),
        lambda: broken.directory(entry),
        lambda: broken.open(entry),
        lambda: broken.target(entry),
        lambda: broken.attributes(entry),
    ]
    for call in calls:
        with pytest.raises(kind, match=str(reason)) as failure:
            await call()
        assert failure.value.errno == number
    assert await broken.own_attributes() == {"uuid": b"zzzzz", "error": str(reason).encode()}
    assert (broken.mtime_ns, broken.renewable, await broken.renewed(1)) == (5, False, None)
    await broken.prepare(0)
    assert not (await broken.versions()).of
