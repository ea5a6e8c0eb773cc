"""Runs: who wants much of a folder with resets gets it from children of 7-Zip, who wants little does not."""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from riafs.archive import folder as folders
from riafs.archive import planning
from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.decoders import ThreadDecoder
from riafs.archive.extractor import ChildDecoder, Engine, Extractor
from riafs.cache.blocks import BlockLimits
from riafs.errors import CorruptContent, DecodeFailed, RiafsError
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.header import Member
from riafs.storage.bytesource import RangedBytes
from tests.archive.conftest import Announce, Pack, content_of, open_archive, tools_with
from tests.archive.test_members import DIVIDED, count_as_large, found, keys_of, text

CONTENTS = keys_of([text(seed, 1_000_000 + seed) for seed in range(16)])
SIZE = sum(len(content or b"") for content in CONTENTS.values())
SEGMENT = 1 << 20


@dataclass(slots=True)
class Work:
    """What decoded how many bytes, and what the children were given."""

    children: list[tuple[int, int]] = field(default_factory=list)
    """(decoded bytes, threads) that a child was started for."""
    decoders: list[ChildDecoder] = field(default_factory=list)
    by_child: int = 0
    by_liblzma: int = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Also makes 2 MiB enough for a run, and runs of 4 MiB enough for anybody."""
    work = Work()
    start, child, liblzma = Extractor.start, ChildDecoder.decode, ThreadDecoder.decode

    async def started(
        self: Extractor, engine: Engine, folder: Folder, packed: RangedBytes, shown: str, threads: int = 1
    ) -> ChildDecoder:
        work.children.append((folder.size, threads))
        work.decoders.append(await start(self, engine, folder, packed, shown, threads))
        return work.decoders[-1]

    async def by_child(self: ChildDecoder, most: int) -> bytes:
        data = await child(self, most)
        work.by_child += len(data)
        return data

    async def by_liblzma(self: ThreadDecoder, most: int) -> bytes:
        data = await liblzma(self, most)
        work.by_liblzma += len(data)
        return data

    monkeypatch.setattr(Extractor, "start", started)
    monkeypatch.setattr(ChildDecoder, "decode", by_child)
    monkeypatch.setattr(ThreadDecoder, "decode", by_liblzma)
    for module in (folders, planning):
        monkeypatch.setattr(module, "LONG", 2 << 20)
    monkeypatch.setattr(planning, "_FIRST_RUN", 4 << 20)
    monkeypatch.setattr(planning, "_SCATTERED_RUN", 4 << 20)
    return work


def in_order(archive: Archive) -> list[Member]:
    return sorted((found(archive, name) for name in CONTENTS), key=lambda each: each.offset)


async def read(archive: Archive, name: bytes) -> bytes:
    """A member, by a reader who is not faster than a child starts."""
    content = await content_of(archive, name)
    with trio.fail_after(30):
        while archive._decoding._ahead._run_busy:  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.001)
    return content


async def test_a_reader_in_order_gets_all_but_the_first_members_from_runs_that_grow(
    pack: Pack, tools: ArchiveTools, work: Work
) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    assert work.by_child + work.by_liblzma <= SIZE + 2 * SEGMENT
    assert work.by_liblzma <= 9 * SEGMENT
    sizes = [size for size, _ in work.children]
    assert sizes[0] < sizes[1]
    assert len(sizes) <= 4
    assert all(threads >= 2 for _, threads in work.children)


async def test_a_single_member_starts_no_child(pack: Pack, tools: ArchiveTools, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    name = in_order(archive)[7].name
    assert await read(archive, name) == CONTENTS[name]
    assert work.children == []


async def test_a_child_gets_no_more_than_its_part(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = Extractor.start

    async def started(
        self: Extractor, engine: Engine, folder: Folder, packed: RangedBytes, *rest: object
    ) -> ChildDecoder:
        taken.append(packed.size)
        return await real(self, engine, folder, packed, *rest)  # type: ignore[arg-type]  # as they were given

    monkeypatch.setattr(Extractor, "start", started)
    path = pack(CONTENTS, *DIVIDED)
    archive = await open_archive(path, tools)
    for member in in_order(archive)[:4]:
        await read(archive, member.name)
    assert len(taken) == 1
    assert taken[0] < path.stat().st_size / 2


@pytest.mark.parametrize("seed", range(3))
async def test_readers_here_and_there_get_runs_when_they_have_asked_for_enough(
    seed: int, pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_LIKELY_ALL", 4)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    names = random.Random(seed).sample(sorted(CONTENTS), len(CONTENTS))
    for name in names[:3]:
        assert await read(archive, name) == CONTENTS[name]
    few = len(work.children)
    for name in names[3:]:
        assert await read(archive, name) == CONTENTS[name]
    assert few <= 1  # names may follow each other by chance
    assert len(work.children) > few
    assert work.by_child + work.by_liblzma <= 2 * SIZE


async def test_only_so_many_runs_are_decoded_at_once(
    pack: Pack, spool: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_LIKELY_ALL", 1000)
    tools = tools_with(spool, workers=1)
    running, real = [0, 0], ChildDecoder.decode

    async def watched(self: ChildDecoder, most: int) -> bytes:
        running[0] += 1
        running[1] = max(running)
        try:
            return await real(self, most)
        finally:
            running[0] -= 1

    monkeypatch.setattr(ChildDecoder, "decode", watched)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)

    async def read_one(name: bytes) -> None:
        assert await content_of(archive, name) == CONTENTS[name]

    async with trio.open_nursery() as nursery:
        for name in random.Random(1).sample(sorted(CONTENTS), len(CONTENTS)):
            nursery.start_soon(read_one, name)
    assert work.children
    assert running[1] == 1
    tools.close()


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


async def test_a_few_bytes_of_a_large_member_start_no_child(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_large(monkeypatch)
    contents = keys_of([text(1, 9_000_000)])
    archive = await open_archive(pack(contents, *DIVIDED), tools)
    (name,) = contents
    content, opened = contents[name] or b"", await archive.open_member(found(archive, name))
    for offset in (8_000_000, 4_000_000, 100_000):
        assert await opened.read(offset, 10_000) == content[offset : offset + 10_000]
    opened.close()
    assert work.children == []


# -- what goes wrong --------------------------------------------------------------------------------------------------


async def _fails(self: ChildDecoder, most: int) -> bytes:
    raise DecodeFailed("the child has died")


async def test_without_children_segments_are_decoded(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildDecoder, "decode", _fails)
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
    assert 1 <= len(work.children) <= 2  # nobody may have been waiting when it died


async def test_without_the_program_segments_are_decoded(pack: Pack, spool: Path, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools_with(spool, search_path=[]))
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    assert work.children == []
    assert work.by_liblzma <= 1.15 * SIZE


async def test_damage_inside_a_run_concerns_its_segment_only(
    pack: Pack, tools: ArchiveTools, work: Work, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    path = pack(CONTENTS, *DIVIDED)
    archive = await open_archive(path, tools)
    members = in_order(archive)
    folder = archive.listing.folder(0)
    data, middle = bytearray(path.read_bytes()), folder.pack_offset + folder.pack_size // 2
    data[middle : middle + 64] = os.urandom(64)
    path.write_bytes(data)
    outcomes: list[bool] = []
    for member in members:
        try:
            assert await read(archive, member.name) == CONTENTS[member.name]
        except (DecodeFailed, CorruptContent):
            outcomes.append(False)
        else:
            outcomes.append(True)
    assert 1 <= outcomes.count(False) <= 3
    assert outcomes[0]
    assert outcomes[-1]


async def test_an_archive_that_lies_about_its_resets_is_read_or_refused(
    pack: Pack, tools: ArchiveTools, work: Work, expected_warnings: Announce
) -> None:
    """Control bytes that claim a reset where the encoder made none: members are right or an error, none hangs."""
    expected_warnings("this copy is not used")
    path = pack(CONTENTS, "-mx1", "-m0=LZMA2:d=256k:c=64m", "-ms=on")
    archive = await open_archive(path, tools)
    folder = archive.listing.folder(0)
    data = bytearray(path.read_bytes())
    _claim_resets(data, folder)
    path.write_bytes(data)
    archive = await open_archive(path, tools)
    good = 0
    for member in in_order(archive):
        try:
            assert await read(archive, member.name) == CONTENTS[member.name]
            good += 1
        except RiafsError:
            continue
    assert good >= 1


def _claim_resets(data: bytearray, folder: Folder) -> None:
    """Every twentieth packed chunk with new properties says that it resets the dictionary."""
    from riafs.formats.sevenzip.lzma2 import parse_chunk

    at, number = folder.pack_offset, 0
    while (chunk := parse_chunk(bytes(data[at : at + 6]))) is not None:
        number += 1
        if number % 20 == 0 and data[at] >= 0xC0:
            data[at] |= 0xE0
        at += chunk.packed


# -- the next folder --------------------------------------------------------------------------------------------------


async def test_the_next_folder_is_decoded_beside_the_one_that_is_read(
    pack: Pack, tools: ArchiveTools, work: Work
) -> None:
    archive = await open_archive(pack(CONTENTS, "-mx1", "-ms=4f"), tools)
    members = sorted((found(archive, name) for name in CONTENTS), key=lambda each: each.stream or 0)
    assert members[4].folder != members[3].folder
    for member in members[:2]:
        await read(archive, member.name)
    assembler = archive._decoding.assembler
    with trio.fail_after(30):
        while not assembler.is_done(members[4].stream or 0):  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.01)
    assert not assembler.is_done(members[8].stream or 0)
    for member in members[2:]:
        assert await read(archive, member.name) == CONTENTS[member.name]


async def test_without_a_cache_members_in_order_are_still_right(pack: Pack, spool: Path, work: Work) -> None:
    tools = tools_with(spool, BlockLimits(memory=0))
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await read(archive, member.name) == CONTENTS[member.name]
    tools.close()


async def test_closing_ends_the_children_of_runs(pack: Pack, tools: ArchiveTools, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive)[:3]:
        await read(archive, member.name)
    assert work.children
    tools.close()
    assert all(each._child.poll() is not None for each in work.decoders)
