"""Blocks on the disk: whole or not there, within the limits, nobody else's."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from riafs.cache.block_files import HEADER_SIZE, open_blocks
from riafs.cache.disk import DiskBlocks
from riafs.cache.eviction import (
    ABANDONED_SECONDS,
    DiskLimits,
    check_all,
    evict_all,
    evict_content,
    make_room,
    pin,
    pinned_contents,
    pinned_digests,
    survey,
    unpin,
)
from riafs.errors import CorruptContent, StoreDenied
from tests.cache.blocks import SIZE, age, block_files, bytes_of, file_of, name_of

ON_DISK = 8192
"""A block of SIZE bytes and its header, in pages."""


def filled(cache: str, count: int, limits: DiskLimits | None = None) -> DiskBlocks:
    """The blocks 0 … count - 1, each used a second after the one before."""
    blocks = DiskBlocks(cache, limits or DiskLimits())
    for number in range(count):
        blocks.write(name_of(number), bytes_of(number))
        age(cache, number, 1000 + number)
    return blocks


def kept(cache: str, count: int) -> list[int]:
    return [number for number in range(count) if file_of(cache, number).exists()]


def test_a_block_is_read_as_it_was_written_by_anybody(cache: str) -> None:
    assert DiskBlocks(cache, DiskLimits()).write(name_of(1), bytes_of(1))
    other = DiskBlocks(cache, DiskLimits())
    assert other.read(name_of(1)) == bytes_of(1)
    assert not other.write(name_of(1), bytes_of(1))
    assert other.read(name_of(2)) is None
    assert other.read(name_of(1, SIZE + 1)) is None


def test_nothing_is_readable_for_others(cache: str) -> None:
    filled(cache, 3)
    for path in [Path(cache), *Path(cache).rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0


def test_reading_makes_no_directory(cache: str) -> None:
    assert DiskBlocks(cache, DiskLimits()).read(name_of(1)) is None
    assert not Path(cache).exists()


# -- damage -----------------------------------------------------------------------------------------------------------


def _flip_first(data: bytes, _other: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _flip_last(data: bytes, _other: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 128])


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "first bit flipped": _flip_first,
    "last bit flipped": _flip_last,
    "a bit of the checksum flipped": lambda data, _: data[:12] + bytes([data[12] ^ 4]) + data[13:],
    "empty": lambda data, _: b"",
    "only a header": lambda data, _: data[:HEADER_SIZE],
    "one byte short": lambda data, _: data[:-1],
    "one byte long": lambda data, _: data + b"\0",
    "zeroed": lambda data, _: bytes(len(data)),
    "payload zeroed": lambda data, _: data[:HEADER_SIZE] + bytes(len(data) - HEADER_SIZE),
    "last page zeroed": lambda data, _: data[:-2048] + bytes(2048),
    "another block": lambda data, other: other,
    "payload of another block": lambda data, other: data[:HEADER_SIZE] + other[HEADER_SIZE:],
    "text": lambda data, _: b"x" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damage_is_noticed_and_the_block_made_again(cache: str, damage: Callable[[bytes, bytes], bytes]) -> None:
    blocks = filled(cache, 4)
    whole = [file_of(cache, number).read_bytes() for number in range(4)]
    for number in range(4):
        file_of(cache, number).write_bytes(damage(whole[number], whole[number - 1]))
    for number in range(4):
        with pytest.raises(CorruptContent):
            blocks.read(name_of(number))
        assert blocks.read(name_of(number)) is None
        assert blocks.write(name_of(number), bytes_of(number))
        assert blocks.read(name_of(number)) == bytes_of(number)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_block_is_written_anew_also_by_who_has_not_read_it(
    cache: str, damage: Callable[[bytes, bytes], bytes]
) -> None:
    blocks = filled(cache, 2)
    file_of(cache, 1).write_bytes(damage(file_of(cache, 1).read_bytes(), file_of(cache, 0).read_bytes()))
    assert blocks.write(name_of(1), bytes_of(1))
    assert blocks.read(name_of(1)) == bytes_of(1)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_checking_all_removes_what_is_damaged_only(cache: str, damage: Callable[[bytes, bytes], bytes]) -> None:
    filled(cache, 4)
    good = file_of(cache, 1).read_bytes()
    file_of(cache, 2).write_bytes(damage(file_of(cache, 2).read_bytes(), good))
    with open_blocks(cache, make=False) as root:
        checked = check_all(root)
    assert (checked.blocks, checked.damaged) == (4, 1)
    assert kept(cache, 4) == [0, 1, 3]


def test_a_block_that_the_disk_cannot_read_is_removed_and_the_others_stay(
    cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, real = filled(cache, 3), os.pread
    bad = file_of(cache, 1).stat().st_ino

    def pread(file: int, length: int, offset: int) -> bytes:
        if os.fstat(file).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(CorruptContent, match="cannot be read"):
        blocks.read(name_of(1))
    assert blocks.read(name_of(1)) is None
    assert blocks.read(name_of(0)) == bytes_of(0)
    bad = file_of(cache, 2).stat().st_ino
    with open_blocks(cache, make=False) as root:
        assert check_all(root).damaged == 1
    assert kept(cache, 3) == [0]


def test_a_block_in_the_wrong_directory_is_removed_by_checking(cache: str) -> None:
    filled(cache, 1)
    wrong = Path(cache, "blocks-1", "00" if name_of(0).directory != "00" else "01")
    wrong.mkdir()
    file_of(cache, 0).rename(wrong / file_of(cache, 0).name)
    with open_blocks(cache, make=False) as root:
        assert check_all(root).damaged == 1


# -- whose directory it is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770])
def test_a_directory_that_others_can_enter_is_refused(cache: str, mode: int) -> None:
    blocks = filled(cache, 1)
    Path(cache, "blocks-1").chmod(mode)
    with pytest.raises(StoreDenied):
        blocks.read(name_of(0))
    with pytest.raises(StoreDenied):
        blocks.write(name_of(1), bytes_of(1))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to somebody else")
def test_somebody_elses_directory_is_refused(cache: str) -> None:
    blocks = filled(cache, 1)
    os.chown(f"{cache}/blocks-1", 12345, -1)
    with pytest.raises(StoreDenied):
        blocks.read(name_of(0))


def test_no_link_is_followed(cache: str, tmp_path: Path) -> None:
    blocks = filled(cache, 2)
    moved = tmp_path / "moved"
    file_of(cache, 0).rename(moved)
    file_of(cache, 0).symlink_to(moved)
    with pytest.raises(CorruptContent):
        blocks.read(name_of(0))
    assert moved.exists()
    Path(cache, "blocks-1").rename(tmp_path / "elsewhere")
    Path(cache, "blocks-1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotADirectoryError):
        blocks.read(name_of(1))


OBSTACLES: dict[str, Callable[[Path, Path], None]] = {
    "directory": lambda path, _: path.mkdir(),
    "directory with something in it": lambda path, _: (path / "a").mkdir(parents=True),
    "link to a file": lambda path, other: path.symlink_to(other),
    "link to a directory": lambda path, other: path.symlink_to(other.parent),
    "link to nothing": lambda path, _: path.symlink_to("nothing"),
    "link to itself": lambda path, _: path.symlink_to(path),
    "fifo": lambda path, _: os.mkfifo(path),
    "socket": lambda path, _: socket_at(path),
}


def socket_at(path: Path) -> None:
    """A socket that nobody listens to."""
    with socket.socket(socket.AF_UNIX) as made:
        directory = os.open(path.parent, os.O_RDONLY)  # the path is longer than one of a socket may be
        made.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES.keys())
@pytest.mark.parametrize("first", ["read", "write", "survey"])
@pytest.mark.parametrize("above", [False, True], ids=["block", "its directory"])
def test_what_is_in_the_place_of_a_block_is_removed_once_and_costs_nothing_else(
    cache: str, tmp_path: Path, obstacle: Callable[[Path, Path], None], first: str, above: bool
) -> None:
    blocks, other = filled(cache, 2), tmp_path / "theirs" / "file"
    other.parent.mkdir()
    other.write_bytes(b"theirs")
    path = file_of(cache, 0).parent if above else file_of(cache, 0)
    path.rename(tmp_path / "away")
    obstacle(path, other)
    if first == "survey":
        with open_blocks(cache, make=False) as root:
            survey(root)
    elif first == "read":
        with contextlib.suppress(CorruptContent):
            assert blocks.read(name_of(0)) is None
    assert blocks.write(name_of(0), bytes_of(0))
    assert blocks.read(name_of(0)) == bytes_of(0)
    assert blocks.read(name_of(1)) == bytes_of(1)
    assert [name.name for name in other.parent.iterdir()] == ["file"]
    assert other.read_bytes() == b"theirs"


# -- limits -----------------------------------------------------------------------------------------------------------


def test_the_size_is_never_exceeded_and_what_was_used_last_stays(cache: str) -> None:
    limits = DiskLimits(size=10 * ON_DISK, min_free=0)
    blocks = DiskBlocks(cache, limits)
    for number in range(40):
        blocks.write(name_of(number), bytes_of(number))
        age(cache, number, 1000 + number)
        with open_blocks(cache, make=False) as root:
            assert survey(root).size <= limits.size
    left = kept(cache, 40)
    assert len(left) >= 9
    assert left == list(range(40 - len(left), 40))


def test_reading_keeps_a_block_from_eviction(cache: str) -> None:
    blocks = filled(cache, 10, DiskLimits(size=10 * ON_DISK, min_free=0))
    assert blocks.read(name_of(0))
    blocks.write(name_of(10), bytes_of(10))
    assert 0 in kept(cache, 11)
    assert 1 not in kept(cache, 11)


def test_a_read_is_noted_once_a_minute_and_a_time_to_come_is_corrected(cache: str) -> None:
    blocks = filled(cache, 1)
    now = time.time()
    for before, expected in ((now - 30, now - 30), (now - 90, now), (now + 1000, now)):
        age(cache, 0, before)
        blocks.read(name_of(0))
        assert abs(file_of(cache, 0).stat().st_mtime - expected) < 5


def test_eviction_goes_on_where_more_has_to_go_than_one_round_sees(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riafs.cache.eviction._AT_ONCE", 3)
    filled(cache, 20)
    with open_blocks(cache, make=False) as root:
        usage = make_room(root, DiskLimits(size=6 * ON_DISK, min_free=0), 0)
    assert usage.blocks == len(kept(cache, 20))
    assert kept(cache, 20) == list(range(20 - usage.blocks, 20))
    assert 5 <= usage.blocks <= 6


def test_one_process_evicts_at_a_time(cache: str) -> None:
    filled(cache, 5)
    limits = DiskLimits(size=2 * ON_DISK, min_free=0)
    with open_blocks(cache, make=False) as one, open_blocks(cache, make=False) as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        evicting = threading.Thread(target=make_room, args=(other, limits, 0))
        evicting.start()
        evicting.join(0.2)
        assert evicting.is_alive()
        assert kept(cache, 5) == [0, 1, 2, 3, 4]
        fcntl.flock(one, fcntl.LOCK_UN)
        evicting.join()
    assert kept(cache, 5) == [4]


def test_a_part_of_the_file_system_stays_free(megabyte: str) -> None:
    limits = DiskLimits(min_free=50)
    blocks = DiskBlocks(megabyte, limits)
    for number in range(200):
        blocks.write(name_of(number), bytes_of(number))
        age(megabyte, number, 1000 + number)
        status = os.statvfs(megabyte)
        assert status.f_bavail * 2 >= status.f_blocks
    assert 199 in kept(megabyte, 200)
    assert 0 not in kept(megabyte, 200)


def test_blocks_give_way_to_what_others_write(megabyte: str) -> None:
    blocks = filled(megabyte, 50, DiskLimits(min_free=20))
    Path(megabyte, "others").write_bytes(bytes(560 << 10))
    blocks.write(name_of(50), bytes_of(50))
    status = os.statvfs(megabyte)
    assert status.f_bavail * 5 >= status.f_blocks
    assert kept(megabyte, 51)[-1] == 50


def test_a_block_for_which_there_can_be_no_room_evicts_nothing(tiny: str) -> None:
    blocks = filled(tiny, 3, DiskLimits(min_free=5))
    with pytest.raises(OSError, match="no room"):
        blocks.write(name_of(9, 1 << 20), bytes_of(9, 1 << 20))
    assert kept(tiny, 3) == [0, 1, 2]
    assert len(block_files(tiny)) == 3


def test_a_full_disk_beneath_leaves_no_torn_block(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskLimits, "missing", lambda *_: -(1 << 40))  # the file system says that there is room
    blocks = DiskBlocks(tiny, DiskLimits())
    written = []
    for number in range(30):
        try:
            blocks.write(name_of(number, 10_000), bytes_of(number, 10_000))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - only some fail
        else:
            written.append(number)
    assert len(written) > 10
    assert not list(Path(tiny).rglob("new-*"))
    for number in range(30):
        assert blocks.read(name_of(number, 10_000)) in (None, bytes_of(number, 10_000))


def test_what_a_killed_process_was_writing_is_removed(cache: str) -> None:
    filled(cache, 1)
    directory = file_of(cache, 0).parent
    old, new = directory / "new-0123456789abcdef", directory / "new-fedcba9876543210"
    for path in (old, new):
        path.write_bytes(b"part")
    past = time.time() - ABANDONED_SECONDS - 1
    os.utime(old, (past, past))
    DiskBlocks(cache, DiskLimits()).write(name_of(1), bytes_of(1))
    assert not old.exists()
    assert new.exists()


# -- pins and evicting by name ----------------------------------------------------------------------------------------


def test_a_pinned_content_stays(cache: str) -> None:
    blocks = filled(cache, 8, DiskLimits(size=8 * ON_DISK, min_free=0))
    with open_blocks(cache, make=False) as root:
        assert pin(root, b"content 0")
        assert not pin(root, b"content 0")
    for number in range(8, 40):
        blocks.write(name_of(number), bytes_of(number))
    assert 0 in kept(cache, 1)
    with open_blocks(cache, make=False) as root:
        assert survey(root).pinned_blocks == 1
        assert pinned_contents(root) == {name_of(0).digest: b"content 0"}
        evict_all(root)
        assert kept(cache, 40) == [0]
        assert unpin(root, name_of(0).digest)
        assert not unpin(root, name_of(0).digest)
        evict_all(root)
    assert kept(cache, 40) == []


def test_where_everything_is_pinned_nothing_more_is_written(cache: str) -> None:
    blocks = filled(cache, 4, DiskLimits(size=4 * ON_DISK, min_free=0))
    with open_blocks(cache, make=False) as root:
        for number in range(4):
            pin(root, b"content %d" % number)
    with pytest.raises(OSError, match="no room"):
        blocks.write(name_of(4), bytes_of(4))
    assert kept(cache, 5) == [0, 1, 2, 3]


def test_a_damaged_pin_still_pins(cache: str) -> None:
    filled(cache, 1)
    with open_blocks(cache, make=False) as root:
        pin(root, b"content 0")
        pins = Path(cache, "blocks-1", "pins")
        [kept] = pins.iterdir()
        kept.write_bytes(b"rubbish")
        (pins / "rubbish").touch()
        assert pinned_digests(root) == {name_of(0).digest}
        assert pinned_contents(root) == {name_of(0).digest: b""}
        kept.unlink()
        os.mkfifo(kept)
        assert pinned_contents(root) == {name_of(0).digest: b""}


def test_the_blocks_of_one_content_can_be_evicted(cache: str) -> None:
    filled(cache, 5)
    with open_blocks(cache, make=False) as root:
        removed = evict_content(root, name_of(3).digest)
        assert (removed.blocks, removed.size) == (1, ON_DISK)
        assert evict_content(root, name_of(3).digest).blocks == 0
    assert kept(cache, 5) == [0, 1, 2, 4]


def test_writers_of_a_full_disk_do_not_fail_for_one_another(tiny: str) -> None:
    blocks = DiskBlocks(tiny, DiskLimits(min_free=0))

    def write(first: int) -> None:
        for number in range(first, 200, 2):
            blocks.write(name_of(number), bytes_of(number))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, range(2))) == [None, None]
    assert 2 <= len(block_files(tiny)) <= 8


@pytest.mark.parametrize("obstacle", [False, True])
def test_the_first_blocks_of_one_directory_may_be_written_at_once(cache: str, obstacle: bool) -> None:
    """None of the writers removes the directory that another one has just made."""
    digest = name_of(0).digest
    names = [replace(name_of(0), offset=index * SIZE) for index in range(8)]
    root = Path(cache, "blocks-1")
    blocks = DiskBlocks(cache, DiskLimits(min_free=0))
    with ThreadPoolExecutor(len(names)) as pool:
        for _ in range(25):
            blocks.write(name_of(1), bytes_of(1))
            shutil.rmtree(root / digest.hex()[:2], ignore_errors=True)
            if obstacle:
                (root / digest.hex()[:2]).symlink_to("/")
            assert all(pool.map(blocks.write, names, [bytes_of(0)] * len(names)))
            assert all(blocks.read(each) == bytes_of(0) for each in names)
