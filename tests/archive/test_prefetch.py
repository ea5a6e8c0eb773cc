"""What is decoded before it is asked for: the members that follow, the rest of a folder, the front of the next one.

By this process; 7-Zip's part is in test_runs.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from riafs.archive import folder as archive_folder
from riafs.archive import prefetch
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
from tests.waiting import eventually_true

CONTENTS = keys_of([text(seed, 1_000_000 + seed) for seed in range(16)])
SIZE = sum(len(content or b"") for content in CONTENTS.values())
STRETCH = 1 << 20


@dataclass(slots=True)
class Work:
    """What decoded how many bytes, and what the children were given."""

    children: list[tuple[int, int]] = field(default_factory=list)
    """(decoded, packed) bytes that a child was started for."""
    by_child: int = 0
    by_liblzma: int = 0
    at_once: int = 0
    """How many threads of liblzma decoded at the same time at most."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work, working = Work(), [0]
    start, child, liblzma = Extractor.start, ChildDecoder.decode, ThreadDecoder.decode

    async def started(
        self: Extractor, engine: Engine, folder: Folder, packed: RangedBytes, shown: str, threads: int = 1
    ) -> ChildDecoder:
        work.children.append((folder.size, packed.size))
        return await start(self, engine, folder, packed, shown, threads)

    async def by_child(self: ChildDecoder, most: int) -> bytes:
        data = await child(self, most)
        work.by_child += len(data)
        return data

    async def by_liblzma(self: ThreadDecoder, most: int) -> bytes:
        working[0] += 1
        work.at_once = max(work.at_once, working[0])
        try:
            data = await liblzma(self, most)
        finally:
            working[0] -= 1
        work.by_liblzma += len(data)
        return data

    monkeypatch.setattr(Extractor, "start", started)
    monkeypatch.setattr(ChildDecoder, "decode", by_child)
    monkeypatch.setattr(ThreadDecoder, "decode", by_liblzma)
    return work


def in_order(archive: Archive) -> list[Member]:
    return sorted((found(archive, name) for name in CONTENTS), key=lambda each: each.offset)


async def prefetched(archive: Archive) -> None:
    """Wait until nothing more is decoded beforehand."""
    await eventually_true(lambda: not archive._decoding.prefetch._batches)


async def test_a_reader_in_order_keeps_several_decoders_at_work_and_has_nothing_decoded_twice(
    pack: Pack, spool: Path, work: Work
) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools_with(spool, search_path=[]))
    for member in in_order(archive):
        assert await content_of(archive, member.name) == CONTENTS[member.name]
    assert work.at_once >= 2
    assert work.by_liblzma <= 1.15 * SIZE
    assert work.children == []


async def test_a_single_member_is_decoded_alone(pack: Pack, tools: ArchiveTools, work: Work) -> None:
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    name = in_order(archive)[7].name
    assert await content_of(archive, name) == CONTENTS[name]
    await prefetched(archive)
    assert work.by_liblzma <= 3 * STRETCH


@pytest.mark.parametrize("seed", range(3))
async def test_a_reader_here_and_there_finds_the_rest_decoded_once_it_has_asked_for_enough(
    seed: int, pack: Pack, spool: Path, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_LIKELY_ALL", 5)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools_with(spool, search_path=[]))
    members = in_order(archive)
    names = [members[number].name for number in (8, 2, 5)]
    for name in names:
        assert await content_of(archive, name) == CONTENTS[name]
    await prefetched(archive)
    assert not archive._decoding.assembler.is_done(members[6].stream or 0)
    assert await content_of(archive, members[0].name) == CONTENTS[members[0].name]
    is_done = archive._decoding.assembler.is_done
    await eventually_true(lambda: all(is_done(each.stream or 0) for each in members))
    for name in random.Random(seed).sample(sorted(CONTENTS), len(CONTENTS)):
        assert await content_of(archive, name) == CONTENTS[name]
    assert work.by_liblzma <= 1.5 * SIZE


async def test_a_few_bytes_of_a_large_member_are_decoded_alone(
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
    assert work.by_liblzma <= 3 * STRETCH


# -- long stretches, which 7-Zip decodes sooner ------------------------------------------------------------------------


async def test_a_child_gets_no_more_than_its_stretch(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_folder, "LONG", STRETCH // 2)
    path = pack(CONTENTS, *DIVIDED)
    archive = await open_archive(path, tools)
    name = in_order(archive)[7].name
    assert await content_of(archive, name) == CONTENTS[name]
    assert 1 <= len(work.children) <= 3
    for decoded, packed in work.children:
        assert decoded <= STRETCH
        assert packed < path.stat().st_size / 8
    assert work.by_liblzma == 0


async def test_where_children_fail_this_process_decodes(
    pack: Pack, tools: ArchiveTools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: ChildDecoder, most: int) -> bytes:
        raise DecodeFailed("the child has died")

    monkeypatch.setattr(archive_folder, "LONG", STRETCH // 2)
    monkeypatch.setattr(ChildDecoder, "decode", fails)
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await content_of(archive, member.name) == CONTENTS[member.name]
    assert work.children


# -- damage -----------------------------------------------------------------------------------------------------------


async def test_damage_concerns_its_segment_only(
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
            assert await content_of(archive, member.name) == CONTENTS[member.name]
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
            assert await content_of(archive, member.name) == CONTENTS[member.name]
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
        await content_of(archive, member.name)
    assembler = archive._decoding.assembler
    await eventually_true(lambda: assembler.is_done(members[4].stream or 0))
    assert not assembler.is_done(members[8].stream or 0)
    for member in members[2:]:
        assert await content_of(archive, member.name) == CONTENTS[member.name]


async def test_without_a_cache_members_in_order_are_still_right(pack: Pack, spool: Path, work: Work) -> None:
    tools = tools_with(spool, BlockLimits(memory=0))
    archive = await open_archive(pack(CONTENTS, *DIVIDED), tools)
    for member in in_order(archive):
        assert await content_of(archive, member.name) == CONTENTS[member.name]
    tools.close()
