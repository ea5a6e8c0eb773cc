"""Decoding happens once, no further than needed, whoever reads in whatever order; what is kept was checked."""

import hashlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest
import trio

from riafs.archive import decoders, member, members, scheduler
from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.blocks import Digests
from riafs.archive.decoders import ThreadDecoder
from riafs.archive.member import DecodedMember
from riafs.cache.blocks import BlockLimits
from riafs.errors import CorruptContent, DecodeFailed, DecoderDied, RiafsError, StoreError, StoreTimeout, TooLarge
from riafs.formats.sevenzip.header import Member, parse_signature
from tests.archive.conftest import SEARCH_PATH, Announce, Pack, content_of, no_room_elsewhere, open_archive, tools_with
from tests.archive.headers import archive as archive_of
from tests.conformance.ranged import CHECKS, CONTENT, Check

BLOCK = 64 << 10


def text(seed: int, size: int) -> bytes:
    chosen = random.Random(seed).choices([b"alpha", b"beta", b"gamma %d" % seed, b"delta", b"\n"], k=size // 5 + 1)
    return b" ".join(chosen)[:size]


def key_name(content: bytes) -> bytes:
    return b"MD5E-s%d--%s.txt" % (len(content), hashlib.md5(content).hexdigest().encode())


def keys_of(contents: Sequence[bytes]) -> dict[bytes, bytes | None]:
    return {b"%02d/%s" % (number, key_name(content)): content for number, content in enumerate(contents)}


SOLID = keys_of([text(seed, size) for seed, size in enumerate((300_000, 5, 700_000, 200_001, 1_000_000, 40_000))])
SIZE = sum(len(content or b"") for content in SOLID.values())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes liblzma made, piece by piece."""
    pieces: list[int] = []
    real = ThreadDecoder.decode

    async def counted(self: ThreadDecoder, most: int) -> bytes:
        data = await real(self, most)
        pieces.append(len(data))
        return data

    monkeypatch.setattr(ThreadDecoder, "decode", counted)
    return pieces


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_STEP", 50_000)
    monkeypatch.setattr(scheduler, "_LEAST_STEP", 1000)


def count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members over 128 KiB are treated as others are over 16 MiB."""
    monkeypatch.setattr(members, "IN_MEMORY", 128 << 10)
    monkeypatch.setattr(member, "IN_MEMORY", 128 << 10)


def found(archive: Archive, name: bytes) -> Member:
    wanted = archive.find(name)
    assert wanted is not None
    return wanted


SWITCHES = [("-m0=LZMA2", "-ms=on"), ("-m0=LZMA", "-ms=on"), ("-m0=Delta:4", "-m1=LZMA2", "-ms=on")]


@pytest.mark.parametrize("switches", SWITCHES, ids=["LZMA2", "LZMA", "Delta"])
@pytest.mark.parametrize("order", ["forward", "backward", "mixed"])
async def test_a_solid_block_is_decoded_once(
    switches: tuple[str, ...], order: str, pack: Pack, tools: ArchiveTools, decoded: list[int]
) -> None:
    archive = await open_archive(pack(SOLID, *switches), tools)
    names = sorted(SOLID)
    if order == "backward":
        names.reverse()
    elif order == "mixed":
        random.Random(1).shuffle(names)
    for _ in range(2):
        for name in names:
            assert await content_of(archive, name) == SOLID[name]
    assert sum(decoded) == SIZE


async def test_many_readers_at_once_decode_once(pack: Pack, tools: ArchiveTools, decoded: list[int]) -> None:
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)

    async def read(name: bytes) -> None:
        assert await content_of(archive, name) == SOLID[name]

    async with trio.open_nursery() as nursery:
        for name in [*SOLID, *SOLID, *SOLID]:
            nursery.start_soon(read, name)
    assert sum(decoded) == SIZE


async def test_an_early_member_does_not_wait_for_the_rest(
    pack: Pack, tools: ArchiveTools, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)
    first = min((found(archive, name) for name in SOLID), key=lambda each: each.offset)
    opened = await archive.open_member(first)
    await opened.read(0, 10)
    assert sum(decoded) <= first.size + 1000


async def test_a_second_archive_object_finds_what_the_first_one_decoded(
    pack: Pack, tools: ArchiveTools, decoded: list[int]
) -> None:
    path = pack(SOLID, "-ms=on")
    for _ in range(2):
        archive = await open_archive(path, tools)
        for name, content in SOLID.items():
            assert await content_of(archive, name) == content
    assert sum(decoded) == SIZE


async def test_the_same_key_in_another_archive_is_not_decoded_again(
    pack: Pack, tools: ArchiveTools, decoded: list[int], tmp_path: Path
) -> None:
    path = pack(SOLID, "-ms=on")
    await content_of(await open_archive(path, tools), max(SOLID))
    for name in SOLID:
        await content_of(await open_archive(path, tools), name)
    other = pack({**SOLID, b"more": b"x"}, "-ms=on", "-m0=LZMA").rename(tmp_path / "other.7z")
    again = await open_archive(other, tools)
    for name, content in SOLID.items():
        assert await content_of(again, name) == content
    assert sum(decoded) == SIZE


async def test_without_a_cache_every_member_is_still_read(
    pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = await open_archive(pack(SOLID, "-ms=on"), tools_with(spool, BlockLimits(memory=0)))
    for name in [*sorted(SOLID), *sorted(SOLID, reverse=True)]:
        assert await content_of(archive, name) == SOLID[name]


async def test_a_spill_file_stands_in_for_the_disk(pack: Pack, spool: Path, decoded: list[int]) -> None:
    tools = tools_with(spool, BlockLimits(memory=0), spilled=64 << 20)
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)
    for name in sorted(SOLID, reverse=True):
        assert await content_of(archive, name) == SOLID[name]
    assert sum(decoded) == SIZE
    assert os.listdir(spool) == []


async def test_a_spill_file_that_is_too_small_is_used_in_turns(pack: Pack, spool: Path) -> None:
    tools = tools_with(spool, BlockLimits(block_size=BLOCK, memory=0), spilled=5 * BLOCK)
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)
    for name in [*sorted(SOLID, reverse=True), *sorted(SOLID)]:
        assert await content_of(archive, name) == SOLID[name]


async def test_a_cold_open_passes_few_modules_and_functions(pack: Pack, tools: ArchiveTools) -> None:
    """So that a reader of the code can follow it."""
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)
    passed: set[tuple[str, str]] = set()

    def look(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and "/riafs/archive/" in code.co_filename and "<" not in code.co_name:
            passed.add((code.co_filename, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        await content_of(archive, max(SOLID))
    finally:
        sys.setprofile(before)
    assert 5 <= len({module for module, _ in passed}) <= 15
    assert len(passed) <= 130


# -- resets -----------------------------------------------------------------------------------------------------------

DIVIDED = ("-mx1", "-m0=LZMA2:d=256k", "-ms=on")  # 7-Zip resets the dictionary every MiB then
LONG = keys_of([text(seed, 1_500_000 + seed) for seed in range(8)])


async def test_decoding_begins_at_the_nearest_reset(
    pack: Pack, tools: ArchiveTools, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_LEAST_STEP", 1)
    archive = await open_archive(pack(LONG, *DIVIDED), tools)
    last = max((found(archive, name) for name in LONG), key=lambda each: each.offset)
    assert last.offset > 8 << 20
    assert await content_of(archive, last.name) == LONG[last.name]
    assert sum(decoded) <= last.size + (1 << 20)


@pytest.mark.parametrize("order", ["forward", "mixed"])
async def test_divided_folders_are_read_in_any_order(
    order: str, pack: Pack, tools: ArchiveTools, decoded: list[int]
) -> None:
    archive = await open_archive(pack(LONG, *DIVIDED), tools)
    names = sorted(LONG, key=lambda name: found(archive, name).offset)
    if order == "mixed":
        random.Random(2).shuffle(names)
    for name in names:
        assert await content_of(archive, name) == LONG[name]
    if order == "forward":
        assert sum(decoded) <= 1.15 * sum(len(content or b"") for content in LONG.values())


async def test_several_segments_are_decoded_at_once(
    pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, most = 0, 0
    real = ThreadDecoder.decode

    async def watched(self: ThreadDecoder, limit: int) -> bytes:
        nonlocal working, most
        working += 1
        most = max(most, working)
        try:
            return await real(self, limit)
        finally:
            working -= 1

    monkeypatch.setattr(ThreadDecoder, "decode", watched)
    contents = keys_of([text(1, 6_000_000)])
    archive = await open_archive(pack(contents, *DIVIDED), tools)
    for name in contents:
        assert await content_of(archive, name) == contents[name]
    assert most >= 2


async def test_resets_are_found_once(pack: Pack, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from riafs.archive import folder
    from riafs.archive.index import IndexDirectory

    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setattr(folder, "_WORTH_REMEMBERING", 0)
    path = pack(LONG, *DIVIDED)
    name = max(LONG)
    tools = tools_with(spool, indexes=IndexDirectory(os.fsencode(index)))
    assert await content_of(await open_archive(path, tools), name) == LONG[name]
    walked: list[object] = []
    monkeypatch.setattr(folder.Resets, "walk", lambda *arguments: walked.append(arguments))
    again = tools_with(spool, indexes=IndexDirectory(os.fsencode(index)))
    assert await content_of(await open_archive(path, again), name) == LONG[name]
    assert walked == []


# -- large members ----------------------------------------------------------------------------------------------------

BIG = keys_of([text(7, 2_000_000), text(8, 900_000)])
BIG_NAME = min(BIG)
BIG_CONTENT = BIG[BIG_NAME] or b""


@pytest.mark.parametrize("switches", [DIVIDED, ("-ms=on",), ("-m0=PPMd", "-ms=on")], ids=["resets", "solid", "PPMd"])
async def test_large_members_are_read_here_and_there(
    switches: tuple[str, ...], pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch, spool: Path
) -> None:
    count_as_large(monkeypatch)
    archive = await open_archive(pack(BIG, *switches), tools)
    for name in BIG:
        content = BIG[name] or b""
        opened = await archive.open_member(found(archive, name))
        for offset in [len(content) - 10, 500_000, 0, 123_456, *random.Random(3).choices(range(len(content)), k=20)]:
            assert await opened.read(offset, 70_000) == content[offset : offset + 70_000]
        opened.close()
    assert os.listdir(spool) == []


async def test_the_first_bytes_of_a_large_member_come_before_the_last(
    pack: Pack, tools: ArchiveTools, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_large(monkeypatch)
    small_steps(monkeypatch)
    archive = await open_archive(pack(BIG, "-ms=on"), tools)
    opened = await archive.open_member(found(archive, BIG_NAME))
    assert decoded == []
    assert await opened.read(0, 100) == BIG_CONTENT[:100]
    assert sum(decoded) <= found(archive, BIG_NAME).offset + 50_000
    opened.close()


async def test_what_was_read_of_a_large_member_is_kept_once_it_is_complete(
    pack: Pack, tools: ArchiveTools, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_large(monkeypatch)
    archive = await open_archive(pack(BIG, "-ms=on"), tools)
    for _ in range(2):
        opened = await archive.open_member(found(archive, BIG_NAME))
        for offset in range(0, len(BIG_CONTENT), 99_999):
            assert await opened.read(offset, 99_999) == BIG_CONTENT[offset : offset + 99_999]
        opened.close()
        assert tools.resources.counters.keys_verified
    assert sum(decoded) <= sum(len(content or b"") for content in BIG.values())


async def lying(pack: Pack, tools: ArchiveTools, *switches: str) -> Archive:
    """An archive whose first member, with the right CRC32, is named after the key of other content."""
    wrong = key_name(b"other content").replace(b"-s13-", b"-s%d-" % len(BIG_CONTENT))
    return await open_archive(pack({b"00/" + wrong: BIG_CONTENT, b"01/good": b"x" * 999}, *switches), tools)


@pytest.mark.parametrize("digests", [Digests.BESIDE, Digests.BEFORE])
async def test_a_large_member_of_another_key_is_held_back_at_its_end(
    digests: Digests,
    pack: Pack,
    spool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_warnings: Announce,
) -> None:
    expected_warnings("not the content of its key")
    count_as_large(monkeypatch)
    monkeypatch.setattr(member, "_AHEAD", 0)
    small_steps(monkeypatch)
    tools = tools_with(spool, digests=digests)
    archive = await lying(pack, tools, "-ms=on")
    wrong = next(each for each in archive.listing if each.size == len(BIG_CONTENT))
    if digests is Digests.BEFORE:
        with pytest.raises(CorruptContent):
            await archive.open_member(wrong)
    else:
        opened = await archive.open_member(wrong)
        assert await opened.read(0, 1000) == BIG_CONTENT[:1000]
        for offset in range(1000, len(BIG_CONTENT) - 150_000, 50_000):
            assert await opened.read(offset, 50_000) == BIG_CONTENT[offset : offset + 50_000]
        with pytest.raises(CorruptContent, match="not the content of its key"):
            await opened.read(len(BIG_CONTENT) - 150_000, 150_000)
        with pytest.raises(CorruptContent):
            await opened.read(0, 10)
        opened.close()
    with pytest.raises(CorruptContent):
        await archive.open_member(wrong)
    assert await content_of(archive, b"01/good") == b"x" * 999


async def test_a_small_member_of_another_key_is_never_served_nor_kept(
    pack: Pack, tools: ArchiveTools, expected_warnings: Announce
) -> None:
    expected_warnings("not the content of its key")
    archive = await lying(pack, tools)
    wrong = next(each for each in archive.listing if each.size == len(BIG_CONTENT))
    with pytest.raises(CorruptContent):
        await archive.open_member(wrong)
    key = wrong.name.rpartition(b"/")[2]
    assert await tools.resources.blocks.read(b"annex:" + key, wrong.size, 0, 10) is None


async def test_without_digests_content_is_not_kept_under_the_name_of_a_key(pack: Pack, spool: Path) -> None:
    tools = tools_with(spool, digests=Digests.NONE)
    archive = await lying(pack, tools)
    wrong = next(each for each in archive.listing if each.size == len(BIG_CONTENT))
    opened = await archive.open_member(wrong)
    assert isinstance(opened, DecodedMember)
    assert opened.key is None
    assert await opened.read(0, wrong.size) == BIG_CONTENT
    assert await tools.resources.blocks.read(b"annex:" + wrong.name.rpartition(b"/")[2], wrong.size, 0, 10) is None
    assert await tools.resources.blocks.read(b"annex:" + key_name(BIG_CONTENT), wrong.size, 0, 10) is None


async def test_keys_without_digest_are_kept_for_their_archive_only(pack: Pack, tools: ArchiveTools) -> None:
    name = b"a/WORM-s5000-m1--x"
    first = await open_archive(pack({name: b"1" * 5000}, "-mx5"), tools)
    assert await content_of(first, name) == b"1" * 5000
    second_path = pack({name: b"2" * 5000}, "-mx5")
    assert await content_of(await open_archive(second_path, tools), name) == b"2" * 5000


# -- bounds and failures ----------------------------------------------------------------------------------------------


async def test_a_member_larger_than_the_disk_it_may_take_is_refused(pack: Pack, spool: Path) -> None:
    archive = await open_archive(pack(BIG, "-ms=on"), tools_with(spool, spill=1_000_000))
    with pytest.raises(TooLarge):
        await archive.open_member(found(archive, BIG_NAME))
    assert await content_of(archive, max(BIG)) == BIG[max(BIG)]


async def test_no_room_for_a_large_member_is_an_error_of_this_machine(
    pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_as_large(monkeypatch)
    no_room_elsewhere(monkeypatch)
    tools = tools_with(None)
    archive = await open_archive(pack({**BIG, b"zz": b"small" * 99}, "-ms=on"), tools)
    opened = await archive.open_member(found(archive, BIG_NAME))
    with pytest.raises(StoreError, match="no room"):
        await opened.read(0, 10)
    assert await content_of(archive, b"zz") == b"small" * 99


async def test_damage_inside_a_solid_block_leaves_earlier_members_readable(
    pack: Pack, tools: ArchiveTools, tmp_path: Path, expected_warnings: Announce, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One of py7zr's decoders (PPMd) may die of damaged data, as it is C without checks; it is tried once more then.
    expected_warnings("this copy is not used", "was ended by SIG(SEGV|ABRT|BUS); it is tried again")
    small_steps(monkeypatch)
    for switches in (("-m0=LZMA2", "-ms=on"), ("-m0=LZMA", "-ms=on"), ("-m0=PPMd", "-ms=on"), DIVIDED):
        whole = bytearray(pack(SOLID, *switches).read_bytes())
        end = parse_signature(bytes(whole[:32])).offset
        for position in range(32 + (end - 32) * 2 // 3, 32 + (end - 32) * 2 // 3 + 64):
            whole[position] ^= 0xFF
        path = tmp_path / "damaged.7z"
        path.write_bytes(bytes(whole))
        archive = await open_archive(path, tools_with(tmp_path))
        outcomes: list[bool] = []
        for each in sorted((each for each in archive.listing if each.size), key=lambda each: each.offset):
            try:
                assert await content_of(archive, each.name) == SOLID[each.name]
                outcomes.append(True)
            except (CorruptContent, DecodeFailed, DecoderDied):
                outcomes.append(False)
        assert outcomes[0]
        assert False in outcomes


async def test_a_failure_is_remembered_and_not_decoded_again(
    pack: Pack, tools: ArchiveTools, tmp_path: Path, expected_warnings: Announce, decoded: list[int]
) -> None:
    expected_warnings("this copy is not used")
    whole = bytearray(pack(SOLID, "-m0=LZMA", "-ms=on").read_bytes())
    end = parse_signature(bytes(whole[:32])).offset
    whole[end // 2 : end // 2 + 50] = bytes(50)
    (tmp_path / "damaged.7z").write_bytes(bytes(whole))
    archive = await open_archive(tmp_path / "damaged.7z", tools)
    last = max((each for each in archive.listing), key=lambda each: each.offset)
    attempts = []
    for _ in range(3):
        with pytest.raises((CorruptContent, DecodeFailed)):
            await content_of(archive, last.name)
        attempts.append(sum(decoded))
    assert attempts[0] == attempts[2]


async def test_a_slow_decoder_is_a_timeout(pack: Pack, spool: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "7z").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "bin" / "7z").chmod(0o755)
    path = pack(SOLID, "-m0=LZMA:lc=8:lp=4")  # which only 7-Zip decodes
    tools = tools_with(spool, search_path=(os.fsencode(tmp_path / "bin"),))
    tools.resources.extractor.deadline = 0.3
    archive = await open_archive(path, tools)
    with pytest.raises(StoreTimeout):
        await content_of(archive, max(SOLID))
    tools.close()
    assert os.listdir(spool) == []


async def test_a_cancelled_reader_costs_the_others_nothing(
    pack: Pack, tools: ArchiveTools, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_steps(monkeypatch)
    archive = await open_archive(pack(SOLID, "-ms=on"), tools)

    async def give_up(name: bytes, after: int) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(content_of, archive, name)
                for _ in range(after):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

    async def read(name: bytes) -> None:
        assert await content_of(archive, name) == SOLID[name]

    async with trio.open_nursery() as nursery:
        for number, name in enumerate(SOLID):
            nursery.start_soon(give_up, name, 3 * number)
            nursery.start_soon(give_up, name, 20 * number)
            nursery.start_soon(read, name)
    assert sum(decoded) == SIZE


async def test_only_so_many_decoders_are_open(pack: Pack, tools: ArchiveTools) -> None:
    contents = keys_of([text(seed, 150_000) for seed in range(20)])
    archive = await open_archive(pack(contents, "-ms=2f"), tools)

    async def read(name: bytes) -> None:
        assert await content_of(archive, name) == contents[name]
        assert len(tools.resources.decoders) <= decoders._MOST

    async with trio.open_nursery() as nursery:
        for name in contents:
            nursery.start_soon(read, name)
    archive.close()
    assert len(tools.resources.decoders) == 0


async def test_decoders_wait_for_memory(pack: Pack, spool: Path) -> None:
    contents = keys_of([text(seed, 150_000) for seed in range(6)])
    tools = tools_with(spool)
    tools.resources.decoders._bound = 1
    archive = await open_archive(pack(contents, "-ms=off"), tools)
    async with trio.open_nursery() as nursery:
        for name in contents:
            nursery.start_soon(content_of, archive, name)
    assert len(tools.resources.decoders) <= 1


async def test_closing_tools_ends_children(pack: Pack, tools: ArchiveTools) -> None:
    archive = await open_archive(pack(SOLID, "-m0=PPMd", "-ms=on"), tools)
    first = min((found(archive, name) for name in SOLID), key=lambda each: each.offset)
    opened = await archive.open_member(first)
    opened.close()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    tools.close()
    for child in children:
        assert not os.path.exists(f"/proc/{child}")


async def test_a_member_that_lies_about_its_size_inside_a_solid_block(
    pack: Pack, tools: ArchiveTools, expected_warnings: Announce, tmp_path: Path
) -> None:
    expected_warnings("this copy is not used")
    contents: dict[bytes, bytes | None] = {b"a": text(1, 5000), b"b": text(2, 5000), b"c": text(3, 5000)}
    whole = pack(contents, "-mhc=off", "-ms=on").read_bytes()
    place = parse_signature(whole[:32])
    header = whole[place.offset :]
    sizes = b"\x09\x93\x88\x93\x88"  # 5000, 5000
    assert sizes in header
    changed = header.replace(sizes, b"\x09\x93\x88\x90\x00")  # 5000, 4096
    (tmp_path / "lying.7z").write_bytes(archive_of(whole[32 : place.offset], changed))
    archive = await open_archive(tmp_path / "lying.7z", tools)
    outcomes: list[bytes | RiafsError] = []
    for name in (b"a", b"b", b"c"):
        try:
            outcomes.append(await content_of(archive, name))
        except RiafsError as problem:
            outcomes.append(problem)
    assert outcomes[0] == contents[b"a"]
    assert [isinstance(each, CorruptContent) for each in outcomes] == [False, True, True]


# -- the protocol of ranged bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("switches", [("-mx5", "-ms=on"), ("-m0=PPMd", "-ms=on"), ("-psecret", "-mx0")])
@pytest.mark.parametrize("large", [False, True])
async def test_members_follow_the_protocol(
    check: Check, switches: tuple[str, ...], large: bool, pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(members, "IN_MEMORY", 0)
        monkeypatch.setattr(member, "IN_MEMORY", 0)
        monkeypatch.setattr(member, "_TINY", 0)
    tools = tools_with(spool, BlockLimits(block_size=100), password="secret", search_path=SEARCH_PATH)
    archive = await open_archive(pack({b"before": b"x" * 500, b"name": CONTENT, b"z": b"y" * 9}, *switches), tools)
    for _ in range(2):
        source = await archive.open_member(found(archive, b"name"))
        await check(source)
        source.close()
    tools.close()
