"""Damage inside a solid block: what decodes before it is served, and the outcome is the same every time."""

import contextlib
import random
import signal
import zlib
from pathlib import Path

import pytest
import trio

from riafs.archive import scheduler
from riafs.archive.archive import Archive
from riafs.archive.extractor import ChildDecoder
from riafs.children import ATTEMPTS
from riafs.errors import CorruptContent, DecoderDied, ProgramKilled, RiafsError
from riafs.formats.sevenzip.header import parse_signature
from riafs.formats.sevenzip.writing import write_signature
from tests.archive.conftest import SEARCH_PATH, Announce, Pack, content_of, open_archive, tools_with
from tests.small import key_of

CONTENTS: dict[bytes, bytes | None] = {
    b"%03d" % number: b"".join(b"%d %d\n" % (number, line * line) for line in range(2 * number % 180)) + b"."
    for number in range(400)
}
METHODS = {
    "LZMA2": ("-m0=LZMA2",),
    "LZMA": ("-m0=LZMA",),
    "Delta, LZMA2": ("-m0=Delta", "-m1=LZMA2"),
    "BCJ, LZMA": ("-m0=BCJ", "-m1=LZMA"),
    "BZip2": ("-m0=BZip2:d=100k",),
    "Deflate": ("-m0=Deflate",),
    "Deflate64": ("-m0=Deflate64",),
    "PPMd": ("-m0=PPMd:mem=1m",),
}


def damaged(path: Path, position: float) -> Path:
    """A copy of an archive of one folder with 40 other bytes in it."""
    data = bytearray(path.read_bytes())
    end = 32 + int.from_bytes(data[12:20], "little")
    at = 32 + int((end - 32) * position)
    data[at : at + 40] = bytes(byte ^ 0x5A for byte in data[at : at + 40])
    path.with_name("damaged.7z").write_bytes(data)
    return path.with_name("damaged.7z")


async def right_members(archive: Archive, names: list[bytes], readers: int) -> set[bytes]:
    """The members that are served, and are right, to so many readers at once."""
    right, waiting = set(), list(reversed(names))

    async def read() -> None:
        while waiting:
            name = waiting.pop()
            with contextlib.suppress(RiafsError):
                assert await content_of(archive, name) == CONTENTS[name]
                right.add(name)

    async with trio.open_nursery() as nursery:
        for _ in range(readers):
            nursery.start_soon(read)
    return right


@pytest.mark.parametrize("method", METHODS)
async def test_all_members_before_the_damage_are_served_in_any_order_by_any_number_of_readers(
    method: str, pack: Pack, spool: Path, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used", "it is tried again")
    path = damaged(pack(CONTENTS, "-ms=on", "-mx=1", *METHODS[method]), 0.6)
    names, outcomes = sorted(CONTENTS), []
    for seed, readers, search_path in ((0, 1, ()), (1, 1, ()), (2, 5, ()), (0, 1, SEARCH_PATH)):
        with contextlib.closing(tools_with(spool, search_path=search_path)) as tools:
            order = random.Random(seed).sample(names, len(names)) if seed else names
            outcomes.append(await right_members(await open_archive(path, tools), order, readers))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(CONTENTS) / 3 < len(outcomes[0]) < len(CONTENTS)
    assert outcomes[3] >= outcomes[0]  # 7-Zip may come further as the last resort
    assert max(outcomes[0]) >= max(outcomes[3] - outcomes[0], default=b"")


async def test_the_content_of_a_key_is_right_whatever_crc_its_archive_has(
    pack: Pack, spool: Path, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    content, other = b"content of a key" * 99, b"no key" * 99
    name = key_of(content)
    path = pack({name: content, b"other": other}, "-m0=LZMA2", "-mhc=off")
    data = path.read_bytes()
    place = parse_signature(data[:32])
    header = data[place.offset :]
    for each in (content, other):
        crc = zlib.crc32(each).to_bytes(4, "little")
        assert header.count(crc) == 1
        header = header.replace(crc, bytes(4))
    path.write_bytes(write_signature(place.offset, header) + data[32 : place.offset] + header)
    with contextlib.closing(tools_with(spool)) as tools:
        archive = await open_archive(path, tools)
        assert await content_of(archive, name) == content
        with pytest.raises(CorruptContent, match="CRC32"):
            await content_of(archive, b"other")


async def test_a_decoder_that_was_killed_is_started_again(
    pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("it is tried again")
    with contextlib.closing(tools_with(spool, search_path=())) as tools:
        archive = await open_archive(pack(CONTENTS, "-m0=PPMd"), tools)
        kill(monkeypatch, times=1)
        assert await content_of(archive, b"399") == CONTENTS[b"399"]


async def test_a_decoder_that_is_killed_again_is_a_failure_that_says_so(
    pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("it is tried again", "SIGKILL")
    with contextlib.closing(tools_with(spool, search_path=())) as tools:
        archive = await open_archive(pack(CONTENTS, "-m0=PPMd"), tools)
        started = kill(monkeypatch, times=100)
        for _ in range(3):
            with pytest.raises(ProgramKilled, match="SIGKILL"):
                await content_of(archive, b"399")
        assert len(started) == ATTEMPTS


async def test_what_was_killed_too_often_is_tried_again_after_a_while(
    pack: Pack,
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_warnings: Announce,
    mock_clock: trio.testing.MockClock,
) -> None:
    expected_warnings("it is tried again", "SIGKILL")
    with contextlib.closing(tools_with(spool, search_path=())) as tools:
        archive = await open_archive(pack(CONTENTS, "-m0=PPMd"), tools)
        kill(monkeypatch, times=ATTEMPTS)
        with pytest.raises(ProgramKilled):
            await content_of(archive, b"399")
        mock_clock.jump(scheduler._KILLED_SECONDS + 1)
        assert await content_of(archive, b"399") == CONTENTS[b"399"]


async def test_a_decoder_that_crashes_is_started_again_once(
    pack: Pack, spool: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("it is tried again", "SIGSEGV")
    with contextlib.closing(tools_with(spool, search_path=())) as tools:
        archive = await open_archive(pack(CONTENTS, "-m0=PPMd"), tools)
        started = kill(monkeypatch, times=100, by=signal.SIGSEGV)
        for _ in range(3):
            with pytest.raises(DecoderDied, match="SIGSEGV"):
                await content_of(archive, b"399")
        assert len(started) == 2


def kill(monkeypatch: pytest.MonkeyPatch, times: int, by: signal.Signals = signal.SIGKILL) -> list[ChildDecoder]:
    """Let the first children be killed before they write anything."""
    real, started = ChildDecoder.decode, list[ChildDecoder]()

    async def killed(self: ChildDecoder, most: int) -> bytes:
        if self not in started:
            started.append(self)
            if len(started) <= times:
                self._child.send_signal(by)
                await trio.to_thread.run_sync(self._child.wait)
        return await real(self, most)

    monkeypatch.setattr(ChildDecoder, "decode", killed)
    return started
