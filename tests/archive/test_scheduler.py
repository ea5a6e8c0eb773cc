"""Decoders that stall, fail or have no end, disks that do not answer, readers that leave: each costs what it must."""

import lzma
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from riafs.archive import index, scheduler
from riafs.archive import members as archive_members
from riafs.archive.archive import Archive, ArchiveTools
from riafs.archive.decoders import ThreadDecoder
from riafs.archive.extractor import Engine, Extractor
from riafs.archive.index import IndexDirectory
from riafs.archive.members import PartialMember
from riafs.counters import Counters
from riafs.errors import StoreError, StoreTimeout
from riafs.formats.sevenzip.cursor import Cursor
from riafs.formats.sevenzip.folder import Folder, parse_shape
from riafs.formats.sevenzip.fullheader import FullHeader, NewMember, shape_of_lzma2
from riafs.formats.sevenzip.header import Listing, Member
from riafs.formats.sevenzip.writing import write_header
from riafs.storage.bytesource import MemoryBytes
from riafs.storage.deadline import Deadline
from riafs.storage.local_file import FileBytes
from tests.archive.conftest import Pack, content_of, file_bytes, open_archive, tools_with
from tests.archive.headers import archive as archive_of
from tests.archive.test_members import DIVIDED, LONG, found, keys_of, small_steps, text
from tests.waiting import eventually_true

CONTENTS = keys_of([text(seed, 300_000) for seed in range(5)])


def solid(contents: list[bytes]) -> bytes:
    """An archive whose members ``0``, ``1``, … are one folder."""
    columns, data = FullHeader(), b"".join(contents)
    packed = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    members = [
        NewMember(b"%d" % number, len(content), zlib.crc32(content), 0o444, 0)
        for number, content in enumerate(contents)
    ]
    columns.add_folder(shape_of_lzma2(10), len(packed), members)
    return archive_of(packed, write_header(columns))


async def in_order(archive: Archive) -> list[bytes]:
    return sorted((each.name for each in archive.listing if each.size), key=lambda name: found(archive, name).offset)


# -- many members -----------------------------------------------------------------------------------------------------


async def test_ten_thousand_tiny_members_of_a_block_take_time_that_grows_with_their_number(tools: ArchiveTools) -> None:
    contents = [b"%09d\n" % number for number in range(10_000)]
    archive = await Archive.open(MemoryBytes(solid(contents)), tools, None)
    began = time.process_time()
    assert await content_of(archive, b"9999") == contents[9999]
    assert await content_of(archive, b"0") == contents[0]
    assert time.process_time() - began < 20


async def test_other_tasks_have_their_turn_between_tiny_members(
    tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    real = Listing.member_of_stream

    def counted(self: Listing, stream: int) -> object:
        looked_at[-1] += 1
        return real(self, stream)

    async def tick() -> None:
        while True:
            looked_at.append(0)
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Listing, "member_of_stream", counted)
    contents = [*[b"x"] * 3000, *[b""] * 50_000, b"end", *[b""] * 3000]
    archive = await Archive.open(MemoryBytes(solid(contents)), tools, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await trio.lowlevel.checkpoint()
        assert await content_of(archive, b"53000") == b"end"
        nursery.cancel_scope.cancel()
    assert max(looked_at) <= 2 * archive_members._MOST_PARTS


async def test_many_members_that_are_read_at_once_take_bounded_memory(
    pack: Pack, tools: ArchiveTools, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_members, "_MOST_MEMORY", 500_000)
    in_memory: list[int] = []
    real = archive_members.MemberAssembler._add

    def added(self: archive_members.MemberAssembler, member: Member) -> PartialMember:
        partial = real(self, member)
        in_memory.append(self._sizes[True])
        return partial

    monkeypatch.setattr(archive_members.MemberAssembler, "_add", added)
    archive = await open_archive(pack(CONTENTS, "-ms=on"), tools)

    async def read(name: bytes) -> None:
        assert await content_of(archive, name) == CONTENTS[name]

    async with trio.open_nursery() as nursery:
        for name in CONTENTS:
            nursery.start_soon(read, name)
    assert 0 < max(in_memory) <= 500_000
    assert os.listdir(spool) == []


# -- readers that leave -----------------------------------------------------------------------------------------------


Held = tuple[threading.Event, threading.Event]


@pytest.fixture
def held_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The first thread that stores bytes sets the one event, and waits for the other."""
    began, go_on = threading.Event(), threading.Event()
    real = PartialMember.store

    def store(self: PartialMember, offset: int, data: memoryview) -> None:
        began.set()
        assert go_on.wait(20)
        real(self, offset, data)

    monkeypatch.setattr(PartialMember, "store", store)
    yield began, go_on
    go_on.set()


async def test_nothing_is_closed_under_a_thread_that_stores_it(
    held_store: Held,
    pack: Pack,
    tools: ArchiveTools,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, go_on = held_store
    small_steps(monkeypatch)
    archive = await open_archive(pack(CONTENTS, "-ms=on"), tools)
    first, last = (await in_order(archive))[0], (await in_order(archive))[-1]
    closed: list[bool] = []
    real = PartialMember.close
    monkeypatch.setattr(PartialMember, "close", lambda self: (closed.append(go_on.is_set()), real(self)))
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(content_of, archive, last)
            async with trio.open_nursery() as leaving:
                leaving.start_soon(content_of, archive, first)
                await eventually_true(began.is_set)
                scope.cancel()
        assert scope.cancelled_caught
        go_on.set()
    assert all(closed)
    assert await content_of(archive, first) == CONTENTS[first]
    assert await content_of(archive, last) == CONTENTS[last]


async def test_what_claims_to_have_no_end_is_not_decoded_for_ever(
    pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(scheduler, "_STEP", 10_000)
    monkeypatch.setattr(scheduler, "_LEAST_STEP", 1)
    path = pack({b"zeros": bytes(7 << 20), b"zz": b"last"}, "-ms=on", "-m0=LZMA")
    archive = await open_archive(path, tools)
    real = ThreadDecoder.decode

    async def slow(self: ThreadDecoder, most: int) -> bytes:
        mock_clock.jump(0.02)
        await trio.lowlevel.checkpoint()
        return await real(self, most)

    monkeypatch.setattr(ThreadDecoder, "decode", slow)
    tools.resources.extractor.deadline = 0.2
    with pytest.raises(StoreTimeout):
        await content_of(archive, b"zz")
    (decoder,) = tools.resources.decoders._running
    await eventually_true(lambda: not decoder.running)
    assert decoder.position < 4 << 20
    assert decoder.users == 0
    monkeypatch.setattr(ThreadDecoder, "decode", real)
    monkeypatch.setattr(scheduler, "_STEP", 2 << 20)
    tools.resources.extractor.deadline = 60
    assert await content_of(archive, b"zz") == b"last"


# -- decoders that stall or fail --------------------------------------------------------------------------------------


def program(directory: Path, script: str) -> tuple[bytes, ...]:
    """A search path whose 7z is this shell script."""
    directory.mkdir()
    (directory / "7z").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "7z").chmod(0o755)
    return (os.fsencode(directory),)


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


async def test_a_decoder_that_makes_nothing_is_ended(pack: Pack, spool: Path, tmp_path: Path) -> None:
    tools = tools_with(spool, search_path=program(tmp_path / "bin", "exec /bin/sleep 60"))
    tools.resources.extractor.deadline = 0.3
    archive = await open_archive(pack(CONTENTS, "-m0=LZMA:lc=8:lp=4"), tools)
    for _ in range(2):
        with pytest.raises(StoreTimeout):
            await content_of(archive, max(CONTENTS))
    await eventually_true(lambda: len(tools.resources.decoders) == 0)
    assert children() == []


async def test_tools_are_closed_while_a_decoder_ends(pack: Pack, spool: Path, tmp_path: Path) -> None:
    script = "/usr/bin/head -c 5000 /dev/zero; exec /bin/sleep 60"
    tools = tools_with(spool, search_path=program(tmp_path / "bin", script))
    archive = await open_archive(pack({b"a": bytes(5000)}, "-m0=LZMA:lc=8:lp=4"), tools)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(StoreError, match="the mount ends"):
                await content_of(archive, b"a")

        nursery.start_soon(read)
        await eventually_true(lambda: any(each.decoder._left == 0 for each in tools.resources.decoders._running))  # type: ignore[attr-defined]
        await trio.testing.wait_all_tasks_blocked()
        tools.close()
    assert children() == []


async def test_no_memory_for_a_decoder_is_a_failure_for_now(
    pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = await open_archive(pack(CONTENTS), tools)
    name = max(CONTENTS)

    async def without_memory(self: ThreadDecoder, most: int) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(ThreadDecoder, "decode", without_memory)
        with pytest.raises(StoreError, match="memory"):
            await content_of(archive, name)
    with monkeypatch.context() as patched:

        def store(self: PartialMember, offset: int, data: memoryview) -> None:
            raise MemoryError

        patched.setattr(PartialMember, "store", store)
        with pytest.raises(StoreError, match="memory"):
            await content_of(archive, name)
    assert await content_of(archive, name) == CONTENTS[name]


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_child_does_not_outlive_a_lack_of_descriptors(
    failing: int, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = b"\x01\x01\x00"
    folder = Folder(parse_shape(Cursor(copy)), 32, (5,), (5,), None)
    extractor = Extractor(program(tmp_path / "bin", "exec /bin/sleep 60"), os.fsencode(spool), 20)
    before, calls, real = len(os.listdir("/proc/self/fd")), [0], os.dup

    def dup(descriptor: int) -> int:
        calls.append(descriptor)
        if len(calls) - 2 == failing:
            raise OSError(24, "Too many open files")
        return real(descriptor)

    monkeypatch.setattr("riafs.archive.extractor.os.dup", dup)
    with pytest.raises(StoreError, match="Too many open files"):
        await extractor.start(Engine.SEVENZIP, folder, MemoryBytes(b"12345"), "folder")
    assert children() == []
    assert len(os.listdir("/proc/self/fd")) <= before


# -- disks that do not answer -----------------------------------------------------------------------------------------


def impatient(path: Path) -> FileBytes:
    """An archive in a store that has to answer within a fifth of a second."""
    opened = file_bytes(path)
    opened._deadline = Deadline("the store", 0.2, Counters())
    return opened


async def test_a_dead_disk_under_a_walk_is_a_timeout_and_then_forgotten(
    pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = threading.Event()
    real = FileBytes.read_into

    def read_into(self: FileBytes, offset: int, buffer: memoryview) -> None:
        assert alive.wait(20)
        real(self, offset, buffer)

    monkeypatch.setattr(FileBytes, "read_into", read_into)
    archive = await Archive.open(impatient(pack(LONG, *DIVIDED)), tools, None)
    name = max(LONG)
    for _ in range(3):
        with trio.fail_after(10), pytest.raises(StoreTimeout, match="the store did not answer"):
            await content_of(archive, name)
    # Threads that hang are the store's own; what everybody uses is free.
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    alive.set()
    assert await content_of(archive, name) == LONG[name]


async def test_a_dead_disk_under_a_decoder_is_a_timeout_and_then_forgotten(
    pack: Pack, tools: ArchiveTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = threading.Event()
    archive = await Archive.open(impatient(pack(CONTENTS, "-m0=LZMA", "-ms=on")), tools, None)
    real = FileBytes.read_blocking

    def read_blocking(self: FileBytes, offset: int, length: int) -> object:
        assert alive.wait(20)
        return real(self, offset, length)

    monkeypatch.setattr(FileBytes, "_read_cached", lambda *_: None)
    monkeypatch.setattr(FileBytes, "read_blocking", read_blocking)
    name = max(CONTENTS)
    for _ in range(2):
        with trio.fail_after(10), pytest.raises(StoreTimeout):
            await content_of(archive, name)
    alive.set()
    assert await content_of(archive, name) == CONTENTS[name]


async def test_a_dead_cache_directory_holds_no_index(
    pack: Pack, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = threading.Event()
    for name in ("read_columns", "write_columns"):
        monkeypatch.setattr(index, name, lambda *_: alive.wait(20) and pytest.fail("nobody waits any more"))
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(index, "_SAVE_SECONDS", 0)
    tools = tools_with(spool, indexes=IndexDirectory(os.fsencode(tmp_path / "index"), seconds=0.1))
    with trio.fail_after(10):
        archive = await open_archive(pack(CONTENTS), tools)
        assert await content_of(archive, max(CONTENTS)) == CONTENTS[max(CONTENTS)]
    monkeypatch.undo()
    alive.set()
