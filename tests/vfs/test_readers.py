"""What is only opened is not verified, what is read is: whatever was found by an `open`, no byte comes before that."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from riafs.content.verifying import Verify
from riafs.errors import CorruptContent, MissingContent
from riafs.storage.bytesource import DeferredBytes, MemoryBytes
from riafs.vfs.kernel_cache import PROBE, RAREST_PROBE, Readers
from riafs.vfs.nodes import Node
from tests.behaviour.drivers import ObjectDriver, opened
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

Announce = Callable[..., None]

SIZES = (40, 200_000)
"""Content that would be put into the kernel's cache when it is opened, and content that is read in place."""


def contents(size: int, count: int = 2 * PROBE) -> list[bytes]:
    return [noise(size, str(number)) for number in range(count)]


def made(tmp_path: Path, parts: Sequence[bytes]) -> SmallDataset:
    nodes = {b"%02d" % number: Locked(key_of(content)) for number, content in enumerate(parts)}
    dataset = SmallStore.make(tmp_path / "store").dataset("one", {**nodes, b"git": b"in git"})
    for content in parts:
        dataset.put(key_of(content), content)
    return dataset


async def only_open(shown: ObjectDriver, parts: Sequence[bytes]) -> None:
    for number in range(len(parts)):
        handle = (await shown.filesystem.open(await shown.inode(b"one/%02d" % number))).handle
        shown.filesystem.release(handle)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verify", [Verify.AUTO, Verify.ALWAYS])
async def test_files_that_are_opened_and_not_read_are_not_verified(tmp_path: Path, size: int, verify: Verify) -> None:
    parts = contents(size)
    made(tmp_path, parts)
    async with opened(tmp_path / "store", verify=verify) as shown:
        await only_open(shown, parts)
        assert shown.counters.keys_verified < PROBE
        before = shown.counters.keys_verified
        await only_open(shown, parts)
        assert shown.counters.keys_verified == before
        opens = shown.counters.opens
        for number, content in enumerate(parts):
            assert await shown.read(b"one/%02d" % number) == content
        assert shown.counters.opens == opens + len(parts)
        assert shown.counters.keys_verified >= before + PROBE


@pytest.mark.parametrize("size", SIZES)
async def test_those_who_read_again_get_small_files_with_the_answer(tmp_path: Path, size: int) -> None:
    parts = contents(size)
    made(tmp_path, parts)
    async with opened(tmp_path / "store") as shown:
        await only_open(shown, parts)
        whole = []
        for number in range(len(parts)):
            found = await shown.filesystem.open(await shown.inode(b"one/%02d" % number))
            await shown.read_handle(found.handle)
            whole.append(found.whole)
            shown.filesystem.release(found.handle)
    expected = len(parts) - 1 - len(parts) // PROBE if size == SIZES[0] else 0
    assert whole[0] is None
    assert sum(each is not None for each in whole) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("size", SIZES)
async def test_damage_that_an_open_did_not_look_for_is_found_before_the_first_byte(
    tmp_path: Path, size: int, expected_warnings: Announce
) -> None:
    expected_warnings("damaged", "cannot be read")
    parts = contents(size)
    dataset = made(tmp_path, parts)
    dataset.put(key_of(parts[3]), b"\0" * size)
    async with opened(tmp_path / "store") as shown:
        handle = (await shown.filesystem.open(await shown.inode(b"one/03"), to_be_read=False)).handle
        for _ in range(2):
            with pytest.raises(CorruptContent):
                await shown.filesystem.read(handle, 0, 10)
        shown.filesystem.release(handle)
        with pytest.raises(CorruptContent):  # known by now
            await shown.filesystem.open(await shown.inode(b"one/03"), to_be_read=False)
        dataset.put(key_of(parts[3]), parts[3])
        assert await shown.read(b"one/03") == parts[3]


@pytest.mark.parametrize("size", SIZES)
async def test_another_copy_is_read_where_the_one_that_was_found_is_damaged(
    tmp_path: Path, size: int, expected_warnings: Announce
) -> None:
    expected_warnings("is damaged")
    parts = contents(size, 1)
    dataset = made(tmp_path, parts)
    dataset.archive({key_of(parts[0]): parts[0]})
    dataset.put(key_of(parts[0]), b"\0" * size)
    async with opened(tmp_path / "store") as shown:
        handle = (await shown.filesystem.open(await shown.inode(b"one/00"), to_be_read=False)).handle
        assert await shown.read_handle(handle) == parts[0]
        assert shown.counters.keys_healed == 1
        shown.filesystem.release(handle)


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_opened_is_read_though_the_object_is_gone(
    tmp_path: Path, size: int, expected_warnings: Announce
) -> None:
    expected_warnings("is not in the store")
    parts = contents(size, 1)
    dataset = made(tmp_path, parts)
    async with opened(tmp_path / "store") as shown:
        inode = await shown.inode(b"one/00")
        handle = (await shown.filesystem.open(inode, to_be_read=False)).handle
        dataset.object_path(key_of(parts[0])).unlink()
        assert await shown.read_handle(handle) == parts[0]
        shown.filesystem.release(handle)
        with pytest.raises(MissingContent):
            await shown.filesystem.open(inode, to_be_read=False)


async def test_content_that_changes_between_open_and_read_is_not_served(
    tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("damaged", "cannot be read")
    for size in SIZES:
        parts = contents(size, 1)
        dataset = made(tmp_path / str(size), parts)
        async with opened(tmp_path / str(size) / "store") as shown:
            assert await shown.read(b"one/00") == parts[0]  # remembered as verified
            handle = (await shown.filesystem.open(await shown.inode(b"one/00"), to_be_read=False)).handle
            path = dataset.object_path(key_of(parts[0]))
            path.chmod(0o644)
            path.write_bytes(b"\0" * size)
            with pytest.raises(CorruptContent):
                await shown.filesystem.read(handle, 0, 10)
            shown.filesystem.release(handle)


async def test_a_blob_that_is_only_opened_is_not_read(tmp_path: Path) -> None:
    made(tmp_path, [])
    async with opened(tmp_path / "store") as shown:
        inode = await shown.inode(b"one/git")
        read = shown.counters.git_objects_read
        handles = [(await shown.filesystem.open(inode, to_be_read=False)).handle for _ in range(2)]
        assert shown.counters.git_objects_read == read
        assert [await shown.read_handle(handle) for handle in handles] == [b"in git"] * 2
        for handle in handles:
            shown.filesystem.release(handle)


async def test_probes_get_rare_where_files_are_read_and_frequent_where_they_are_not() -> None:
    async def source() -> MemoryBytes:
        return MemoryBytes(b"content")

    async def probes(count: int, *, read: bool) -> int:
        found = 0
        for _ in range(count):
            content = DeferredBytes(7, source)
            await readers.prepare(content)
            found += content.opened is None
            if read:
                await content.read(0, 7)
            content.close()
        return found

    readers = Readers()
    assert await probes(1000, read=True) == 18  # at 8, 16, 32, 64, and each 64 from there on
    assert await probes(RAREST_PROBE + 100, read=False) >= 100
    assert await probes(1000, read=True) in (18, 19)


async def test_content_that_nobody_wanted_is_given_back() -> None:
    left: list[bool] = []
    heard: list[bool] = []

    async def begin() -> MemoryBytes:
        return MemoryBytes(b"content")

    unread = DeferredBytes(7, begin, lambda: left.append(True))
    unread.on_first_use = heard.append
    unread.close()
    assert (left, heard) == ([True], [False])
    unread = DeferredBytes(7, begin, lambda: left.append(True))
    unread.on_first_use = heard.append
    assert await unread.read(1, 3) == b"ont"
    unread.close()
    assert (left, heard) == ([True], [False, True])


async def test_a_file_that_is_open_is_opened_again_without_being_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, contents(4000, 1))
    async with opened(tmp_path / "store") as shown:
        inode = await shown.inode(b"one/00")
        first = await shown.filesystem.open(inode, to_be_read=False)
        with monkeypatch.context() as without:
            without.delattr(Node, "entry")
            second = await shown.filesystem.open(inode, to_be_read=False)
        for handle in (first.handle, second.handle):
            assert await shown.read_handle(handle) == contents(4000, 1)[0]
            shown.filesystem.release(handle)
