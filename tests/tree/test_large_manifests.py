"""Manifests that are too large for memory: kept in pages on disk, and shown as those in memory are."""

import errno
import os
import random
from functools import partial
from pathlib import Path

import pytest

from riafs import memory
from riafs.counters import Counters
from riafs.errors import OutOfMemory
from riafs.formats import columns
from riafs.formats.columns import PAGE, GrowingColumn, GrowingNames
from riafs.formats.manifests import largefolder
from riafs.formats.manifests import manifest as manifests
from riafs.formats.manifests import reader as manifests_reading
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.manifests.reader import ManifestReader, parse_manifest
from riafs.memory import Group
from riafs.storage import temporary
from riafs.storage.temporary import SpillFile
from riafs.tree.collection import FolderCache
from tests.collections import MTIME_NS, directory, tree_of
from tests.plugins.log_hygiene import Announce

FOO = b"acbd18db4cc2f85cedef654fccc4a4d8+3"


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large is so already when it fills a page."""
    monkeypatch.setattr(columns, "_AT_FIRST", PAGE)
    monkeypatch.setattr(columns, "_GROUP", PAGE)
    monkeypatch.setattr(manifests, "LARGE", 1000)
    monkeypatch.setattr(largefolder, "_AT_ONCE", 700)
    monkeypatch.setattr(largefolder, "_ROWS", 64)
    monkeypatch.setattr(manifests_reading, "_MAX_ROUTED", 10_000)


def read(text: bytes, place: Path) -> Manifest:
    reader = ManifestReader(pages=partial(SpillFile, os.fsencode(place), "a manifest"))
    for start in range(0, len(text), 10_007):
        reader.feed(text[start : start + 10_007])
    return reader.finish()


def numbered(order: list[int]) -> bytes:
    return b". " + FOO + b"".join(b" %d:1:file%06d" % (number % 3, number) for number in order) + b"\n"


def shuffled(count: int) -> list[int]:
    return random.Random(count).sample(range(count), count)


TEXTS = {
    "sorted": numbered(list(range(9000))),
    "shuffled": numbered(shuffled(9000)),
    "files of several parts": numbered([number % 2500 for number in shuffled(9000)]),
    "one file": b". " + FOO + b" 0:1:a 1:1:b" * 9000 + b"\n",
    "many streams": b"".join(b"./d%d %b 0:1:f%04d\n" % (number % 3, FOO, number * 7 % 5000) for number in range(9000)),
    "paths": b". " + FOO + b"".join(b" 0:1:d%d/f%05d 1:1:g%05d" % (n % 40, n, n % 77) for n in range(5000)) + b"\n",
    "folders among files": numbered(list(range(5000)))
    + b"".join(b"./file%06dx %b 0:1:a\n" % (number, FOO) for number in range(0, 6000, 50)),
    "blocks": b"." + b" acbd18db4cc2f85cedef654fccc4a4d8+3+A%040d@7fffffff" % 7 * 5000 + b" 0:3:a 4:10000:b\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
@pytest.mark.usefixtures("small_bounds")
def test_what_is_on_disk_is_what_would_be_in_memory(text: bytes, tmp_path: Path) -> None:
    kept, plain = read(text, tmp_path), parse_manifest(text)
    assert kept.portable_data_hash == plain.portable_data_hash
    assert tree_of(kept) == tree_of(plain)
    assert [kept.locator(block) for block in range(kept.block_count)] == [
        plain.locator(block) for block in range(plain.block_count)
    ]
    folder, same = kept.folder(b""), plain.folder(b"")
    assert folder is not None
    assert same is not None
    assert list(folder.names) == list(same.names)
    glances = [same.glance(index) for index in range(len(same))]
    assert [folder.glance(index) for index in range(len(folder))] == glances
    assert [found for _, found in folder.glances(0, len(folder))] == glances
    for index in range(0, len(folder), 97):
        assert folder.find(folder.names[index]) == index
        assert list(folder.parts(index)) == list(same.parts(index))
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("small_bounds")
async def test_a_large_collection_is_listed_and_read_from_disk(tmp_path: Path) -> None:
    text = numbered(shuffled(5000))
    shown = directory(text, b"foo", folders=FolderCache(Counters()))
    manifest = read(text, tmp_path)
    object.__setattr__(shown.collection, "manifest", manifest)
    names: list[bytes] = []
    while entries := await shown.entries(len(names)):
        names += [entry.name for entry in entries]
        assert {entry.mtime_ns for entry in entries} == {MTIME_NS}
    assert names == [b"file%06d" % number for number in range(5000)]
    found = (await shown.find(b"file004711")).entry
    assert (found.size, (await shown.versions()).of[found.name]) == (1, found.version)


@pytest.mark.parametrize("code", ["B", "I", "Q", "q"])
@pytest.mark.usefixtures("small_bounds")
def test_a_column_in_pages_is_an_array(code: str, tmp_path: Path) -> None:
    values = [number * 37 % 251 - (3 if code == "q" else 0) for number in range(50_000)]
    growing = GrowingColumn(code, SpillFile(os.fsencode(tmp_path), "x"))
    growing.extend(values[:20_000])
    for value in values[20_000:21_000]:
        growing.append(value)
    growing.extend(values[21_000:])
    column = growing.finished()
    assert (len(growing), len(column), list(column)) == (50_000, 50_000, values)
    for start, stop in ((0, 0), (0, 5), (2047, 4100), (16383, 16385), (49_990, 50_000), (7, 60_000), (9, 3)):
        assert list(column[start:stop]) == values[start:stop]
    assert [column[at] for at in (0, 16_384, 49_999, -1, -50_000)] == [values[at] for at in (0, 16_384, 49_999, -1, 0)]
    with pytest.raises(IndexError):
        column[50_000]


@pytest.mark.usefixtures("small_bounds")
def test_names_in_pages_are_a_sequence(tmp_path: Path) -> None:
    names = [b"n" * (number % 40) + b"%d" % number for number in range(3000)]
    growing = GrowingNames(SpillFile(os.fsencode(tmp_path), "x"))
    for start in range(0, 3000, 700):
        growing.extend(names[start : start + 700])
    kept = growing.finished()
    assert (list(kept), kept[0], kept[-1], list(kept[1000:1003]), list(kept[5:5])) == (
        names,
        names[0],
        names[-1],
        names[1000:1003],
        [],
    )


@pytest.mark.usefixtures("small_bounds")
def test_a_full_disk_makes_it_take_memory(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("a manifest takes memory, as it cannot be written to disk: No such file or directory")
    text = numbered(shuffled(9000))
    assert tree_of(read(text, tmp_path / "missing")) == tree_of(parse_manifest(text))


@pytest.mark.usefixtures("small_bounds")
def test_what_the_control_group_does_not_allow_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(str(tmp_path), 100 << 20)
    (tmp_path / "memory.stat").write_text(f"anon {50 << 20}\nfile {40 << 20}\nshmem 0\n")
    monkeypatch.setattr(memory, "own_group", lambda: group)
    memory.ensure(30 << 20, "a thing")
    assert (memory.share(400 << 20, 4), memory.share(1 << 20, 4)) == (25 << 20, 1 << 20)
    with pytest.raises(OutOfMemory, match="out of memory for a thing: 50 of the 100 MiB that the control group allows"):
        memory.ensure(40 << 20, "a thing")
    (tmp_path / "memory.stat").write_text(f"anon {99 << 20}\n")
    with pytest.raises(OutOfMemory) as caught:
        read(numbered(list(range(9000))), tmp_path)
    assert caught.value.errno == errno.ENOMEM


def test_pages_that_were_cut_short_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SpillFile(os.fsencode(tmp_path), "a manifest")
    assert [file.write(bytes([number]) * 2 * PAGE) for number in (1, 2)] == [0, 2]
    assert (file.page(3), file.page(0)) == (bytes([2]) * PAGE, bytes([1]) * PAGE)
    os.ftruncate(file._descriptor, PAGE)
    monkeypatch.setattr(temporary, "_IN_MEMORY", 1)
    assert file.page(0) == bytes([1]) * PAGE
    with pytest.raises(temporary.StoreError, match="a manifest cannot be read from its temporary file, which was cut"):
        file.page(2)
