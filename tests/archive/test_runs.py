"""Runs: readers that want much of a folder with resets get it from children of 7-Zip, others do not."""

import random
from dataclasses import dataclass, field

import pytest
import trio

from riafs.archive import folder as archive_folder
from riafs.archive import prefetch, runs
from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.decoders import ThreadDecoder
from riafs.archive.extractor import ChildDecoder, Engine, Extractor
from riafs.errors import DecodeFailed
from riafs.formats.sevenzip.folder import Folder
from riafs.storage.bytesource import RangedBytes
from tests.archive.conftest import Pack, content_of, open_archive
from tests.archive.test_members import DIVIDED, count_as_large, found, keys_of
from tests.archive.test_prefetch import CONTENTS, SIZE, STRETCH, in_order, text
from tests.waiting import eventually_true


@dataclass(slots=True)
class Work:
    """What decoded how many bytes, and what the children were given."""

    children: list[tuple[int, int, int]] = field(default_factory=list)
    """(decoded bytes, packed bytes, threads) that a child was started for."""
    decoders: list[ChildDecoder] = field(default_factory=list)
    by_child: int = 0
    by_liblzma: int = 0
    at_work: set[ChildDecoder] = field(default_factory=set)
    at_once: int = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Makes 2 MiB enough for a run, and 4 MiB the shortest one."""
    work = Work()
    start, child, liblzma = Extractor.start, ChildDecoder.decode, ThreadDecoder.decode

    async def started(
        self: Extractor, engine: Engine, folder: Folder, packed: RangedBytes, shown: str, threads: int = 1
    ) -> ChildDecoder:
        work.children.append((folder.size, packed.size, threads))
        work.decoders.append(await start(self, engine, folder, packed, shown, threads))
        return work.decoders[-1]

    async def by_child(self: ChildDecoder, most: int) -> bytes:
        work.at_work.add(self)
        work.at_once = max(work.at_once, len(work.at_work))
        try:
            data = await child(self, most)
        finally:
            work.at_work.remove(self)
        work.by_child += len(data)
        return data

    async def by_liblzma(self: ThreadDecoder, most: int) -> bytes:
        data = await liblzma(self, most)
        work.by_liblzma += len(data)
        return data

    monkeypatch.setattr(Extractor, "start", started)
    monkeypatch.setattr(ChildDecoder, "decode", by_child)
    monkeypatch.setattr(ThreadDecoder, "decode", by_liblzma)
    for module in (archive_folder, runs):
        monkeypatch.setattr(module, "LONG", 2 << 20)
    monkeypatch.setattr(runs, "_SHORTEST", 4 << 20)
    return work


async def read(archive: Archive, name: bytes) -> bytes:
    """A member, by a reader that is not faster than a child starts."""
    content = await content_of(archive, name)
    await eventually_true(lambda: not archive._decoding.prefetch._is_beginning_run)
    return content


async def test_a_reader_in_order_gets_all_but_the_first_members_from_runs_that_grow(
    pack: Pack, tools: ArchiveTools, work: Work
) -> None:
    path = pack(CONTENTS, *DIVIDED)
    archive = await open_archive(path, tools)
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    assert work.by_child + work.by_liblzma <= SIZE + 2 * STRETCH
    assert work.by_liblzma <= 5 * STRETCH
    sizes = [size for size, _, _ in work.children]
    assert sizes[0] < sizes[1]
    assert len(sizes) <= 4
    assert all(threads >= 2 for _, _, threads in work.children)
    assert work.children[0][1] < path.stat().st_size / 2


async def test_a_single_member_starts_no_child(pack: Pack, tools: ArchiveTools, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    name = in_order(archive)[7].name
    assert await read(archive, name) == CONTENTS[name]
    assert work.children == []


async def test_a_reader_here_and_there_gets_a_window_when_it_has_asked_for_enough(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_LIKELY_ALL", 5)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    names = [member.name for member in in_order(archive)]
    for number in (8, 2, 5):
        assert await read(archive, names[number]) == CONTENTS[names[number]]
    assert work.children == []
    for name in random.Random(1).sample(names, len(names)):
        assert await read(archive, name) == CONTENTS[name]
    assert len(work.children) == 1
    assert work.by_child + work.by_liblzma <= SIZE + 7 * STRETCH


async def test_windows_of_a_folder_are_decoded_one_after_the_other(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_LIKELY_ALL", 1000)
    monkeypatch.setattr(runs, "_WINDOW", 4 << 20)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)

    async def read_one(name: bytes) -> None:
        assert await content_of(archive, name) == CONTENTS[name]

    async with trio.open_nursery() as nursery:
        for name in random.Random(1).sample(sorted(CONTENTS), len(CONTENTS)):
            nursery.start_soon(read_one, name)
    assert len(work.children) >= 2
    assert work.at_once == 1


async def test_large_members_are_decoded_by_runs_as_they_are_read(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_large(monkeypatch)
    contents = keys_of([text(1, 9_000_000)])
    archive = await open_archive(pack(contents, *DIVIDED), tools)
    (name,) = contents
    content, opened = contents[name] or b"", await archive.open_member(found(archive, name))
    for offset in range(0, len(content), 128 << 10):
        assert await opened.read(offset, 128 << 10) == content[offset : offset + (128 << 10)]
    opened.close()
    assert work.by_child > work.by_liblzma


async def test_where_children_fail_stretches_are_decoded(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: ChildDecoder, most: int) -> bytes:
        raise DecodeFailed("the child has died")

    monkeypatch.setattr(ChildDecoder, "decode", fails)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    assert len(work.children) == 1


async def test_a_child_that_dies_half_way_is_made_up_for(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChildDecoder.decode

    async def dies(self: ChildDecoder, most: int) -> bytes:
        if work.by_child > 2_500_000:
            self._child.kill()
        return await real(self, most)

    monkeypatch.setattr(ChildDecoder, "decode", dies)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    assert 1 <= len(work.children) <= 2  # no reader may have been waiting when it died


async def test_closing_ends_the_children_of_runs(pack: Pack, tools: ArchiveTools, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive)[:3]:
        await read(archive, member.name)
    assert work.children
    tools.close()
    assert all(each._child.poll() is not None for each in work.decoders)
