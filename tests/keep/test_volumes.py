"""Volumes on this machine: blocks are hashed once and read where they are."""

import hashlib
import os
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.cache.verified import VerifiedMemory
from riafs.errors import CorruptContent, MissingContent, SourceNotFound
from riafs.formats.locators import Locator
from tests.keep.blocks import Setting, keep_blocks, locator_of, no_renewal, put
from tests.keep.blockserver import BlockServer
from tests.keep.shown import shown
from tests.plugins.log_hygiene import Announce

BLOCK = random.Random(1).randbytes(5_000_000)
LOCATOR = locator_of(BLOCK)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


async def test_a_block_is_hashed_once_and_remembered_across_mounts(volume: Path, tmp_path: Path) -> None:
    put(volume, BLOCK)
    hashed = []
    verified = VerifiedMemory(os.fsencode(tmp_path / "verified"))
    for _ in range(2):
        async with keep_blocks(Setting(volumes=[volume], verified=verified)) as blocks:
            for offset in range(0, len(BLOCK), 1_000_000):
                data = await blocks.read(LOCATOR, offset, 1000, no_renewal)
                assert data == BLOCK[offset : offset + 1000]
            hashed.append(blocks.counters.blocks_hashed)
    assert hashed == [1, 0]


async def test_readers_at_once_hash_it_once(volume: Path) -> None:
    put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        async with trio.open_nursery() as nursery:
            for offset in range(20):
                nursery.start_soon(blocks.read, LOCATOR, offset, 1000, no_renewal)
        assert blocks.counters.blocks_hashed == 1


async def test_nothing_is_copied_to_memory_or_cache(volume: Path, tmp_path: Path) -> None:
    put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume], cache=tmp_path / "cache")) as blocks:
        await blocks.read(LOCATOR, 0, 1000, no_renewal)
        assert blocks.read_now(LOCATOR, 0, 10) is None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


async def test_a_damaged_file_is_never_served_and_hashed_only_once(volume: Path, expected_warnings: Announce) -> None:
    expected_warnings(f"is damaged in {volume}; this copy is not used", "cannot be read")
    path = put(volume, BLOCK)
    path.write_bytes(BLOCK[:-1] + b"x")
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        for _ in range(2):
            with pytest.raises(CorruptContent, match=str(volume)):
                await blocks.read(LOCATOR, 0, 10, no_renewal)
        assert blocks.counters.blocks_hashed == 1


@pytest.mark.parametrize("content", [b"", BLOCK[:-1], BLOCK + b"x"], ids=["empty", "shorter", "longer"])
async def test_a_file_of_another_size_is_never_served(
    volume: Path, content: bytes, expected_warnings: Announce
) -> None:
    expected_warnings(f"bytes in volume {volume}", "cannot be read")
    put(volume, BLOCK).write_bytes(content)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        with pytest.raises(CorruptContent):
            await blocks.read(LOCATOR, 0, 10, no_renewal)
        assert blocks.counters.blocks_hashed == 0


async def test_a_damaged_copy_is_healed_by_another_volume_or_a_server(
    volume: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged in .*volume; this copy is not used")
    put(volume, BLOCK).write_bytes(bytes(len(BLOCK)))
    put(tmp_path / "other", BLOCK)
    async with keep_blocks(Setting(volumes=[volume, tmp_path / "other"])) as blocks:
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]
        assert blocks.counters.blocks_healed == 1
    with BlockServer([BLOCK]) as server:
        async with keep_blocks(Setting([server], [volume])) as blocks:
            assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]


async def test_a_file_that_changed_is_hashed_again(
    volume: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged")
    monkeypatch.setattr("riafs.content.keep_blocks._TRUST_SECONDS", 0.0)
    path = put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        await blocks.read(LOCATOR, 0, 10, no_renewal)
        os.utime(path)
        await blocks.read(LOCATOR, 0, 10, no_renewal)
        assert blocks.counters.blocks_hashed == 2
        path.write_bytes(bytes(len(BLOCK)))
        with pytest.raises(CorruptContent):
            await blocks.read(LOCATOR, 0, 10, no_renewal)
        put(volume, BLOCK)
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]


async def test_a_block_that_is_deleted_and_replaced_is_noticed_soon(volume: Path, expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    path = put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        await blocks.read(LOCATOR, 0, 10, no_renewal)
        path.unlink()
        await trio.sleep(1.1)
        with pytest.raises(MissingContent, match=f"looked at {volume}"):
            await blocks.read(LOCATOR, 0, 10, no_renewal)
        put(volume, BLOCK)
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]


async def test_trash_and_unfinished_files_are_no_blocks(volume: Path, expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    path = put(volume, BLOCK)
    path.rename(f"{path}.trash.1796436430")
    (path.parent / f"tmp{path.name}123").write_bytes(BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        with pytest.raises(MissingContent):
            await blocks.read(LOCATOR, 0, 10, no_renewal)


async def test_a_link_out_of_the_volume_is_not_followed(
    volume: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("leads out of the store")
    outside = put(tmp_path / "outside", BLOCK)
    inside = volume / outside.parent.name / outside.name
    inside.parent.mkdir()
    inside.symlink_to(outside)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        with pytest.raises(Exception, match="leads out"):
            await blocks.read(LOCATOR, 0, 10, no_renewal)


async def test_a_block_keeps_its_time_of_modification(volume: Path) -> None:
    path = put(volume, BLOCK)
    os.utime(path, ns=(1, 2))
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        await blocks.read(LOCATOR, 0, 10, no_renewal)
    assert path.stat().st_mtime_ns == 2


async def test_a_volume_that_allows_one_operation_at_a_time_works(volume: Path) -> None:
    others = [random.Random(number).randbytes(300_000) for number in range(5)]
    for block in others:
        put(volume, block)
    async with keep_blocks(Setting(volumes=[volume], per_volume=1)) as blocks, trio.open_nursery() as nursery:

        async def read(block: bytes) -> None:
            assert await blocks.read(locator_of(block), 0, len(block), no_renewal) == block

        for block in others:
            nursery.start_soon(read, block)


async def test_a_size_that_is_not_the_blocks_is_no_reason_to_forget_the_block(
    volume: Path, expected_warnings: Announce
) -> None:
    expected_warnings("bytes in volume", "cannot be read")
    put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        with pytest.raises(CorruptContent):
            await blocks.read(Locator(LOCATOR.digest, 10), 0, 10, no_renewal)
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]


@pytest.mark.parametrize("times_kept", [False, True])
async def test_a_file_that_is_changed_while_it_is_open_is_hashed_again(
    volume: Path, times_kept: bool, expected_warnings: Announce
) -> None:
    expected_warnings(f"is damaged in {volume}; this copy is not used", "cannot be read")
    path = put(volume, BLOCK)
    os.utime(path, (1e9, 1e9))
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]
        for content, good in ((bytes(len(BLOCK)), False), (BLOCK, True)):
            with path.open("r+b") as file:
                file.write(content)
            if times_kept:
                os.utime(path, (1e9, 1e9))
            if good:
                assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]
            else:
                with pytest.raises(CorruptContent, match=str(volume)):
                    await blocks.read(LOCATOR, 0, 10, no_renewal)
        assert blocks.counters.blocks_hashed == 3


async def test_a_file_that_is_only_touched_is_read_on(volume: Path) -> None:
    path = put(volume, BLOCK)
    async with keep_blocks(Setting(volumes=[volume])) as blocks:
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]
        path.chmod(0o600)
        path.unlink()
        path.write_bytes(BLOCK)
        assert await blocks.read(LOCATOR, 0, 10, no_renewal) == BLOCK[:10]


async def test_a_volume_that_is_missing_is_left_out_with_a_warning(
    tmp_path: Path, expected_warnings: Announce, caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("the mount does without it")
    block = b"content of a block"
    put(tmp_path / "there", block)
    (tmp_path / "manifests").mkdir()
    text = f". {hashlib.md5(block).hexdigest()}+{len(block)} 0:{len(block)}:file\n"
    (tmp_path / "manifests" / "one.manifest").write_text(text)
    volumes = f"{tmp_path}/gone,{tmp_path}/there"
    async with shown(f"keep+file://{volumes}?manifests={tmp_path}/manifests") as driver:
        assert await driver.read(b"one/file") == block
    assert str(tmp_path / "gone") in caplog.text
    with pytest.raises(SourceNotFound):
        async with shown(f"keep+file://{tmp_path}/gone,{tmp_path}/away?manifests={tmp_path}/manifests"):
            pass


async def test_a_mount_without_any_server_says_so(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("no block server can be reached, so no file can be read for now: 127.0.0.1:1, 127.0.0.1:2")
    async with shown(f"keep+http://127.0.0.1:1,127.0.0.1:2?manifests={tmp_path}"):
        await trio.testing.wait_all_tasks_blocked(0.2)
