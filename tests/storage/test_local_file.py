"""Files as ranged bytes: what happens when they are not what they were."""

import errno
import os
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import ShortRead, StoreError
from riafs.storage.bytesource import Extent, MemoryBytes
from riafs.storage.deadline import Deadline
from riafs.storage.local_file import FileBytes, LocalVersion


def opened(path: Path, size: int, deadline: Deadline | None = None) -> FileBytes:
    return FileBytes(os.open(path, os.O_RDONLY), size, "the file", deadline)


@pytest.mark.parametrize("deadline", [None, Deadline("a store", 5, Counters())], ids=["own", "store's"])
async def test_file_that_was_cut_off_says_so(tmp_path: Path, deadline: Deadline | None) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    source = opened(tmp_path / "file", 10, deadline)
    assert await source.read(0, 5) == b"12345"
    with pytest.raises(ShortRead, match="the file ends at byte 5, but should have 10"):
        await source.read(3, 7)
    source.close()


async def test_file_that_grew_gives_what_it_was_opened_with(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    source = opened(tmp_path / "file", 5)
    with (tmp_path / "file").open("ab") as file:
        file.write(b"67890")
    assert await source.read(0, 100) == b"12345"
    source.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
async def test_read_that_fails_is_a_failure_of_the_store(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    (tmp_path / "file").write_bytes(b"12345")
    source = opened(tmp_path / "file", 5, Deadline("a store", 5, Counters()))
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StoreError, match="the file cannot be read"):
        await source.read(0, 5)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StoreError, match="the file cannot be read"):
        source.read_blocking(0, 5)
    source.close()


async def test_file_that_cannot_be_read_without_waiting_is_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_now(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not now")

    (tmp_path / "file").write_bytes(b"12345")
    source = opened(tmp_path / "file", 5, Deadline("a store", 5, Counters()))
    monkeypatch.setattr(os, "preadv", not_now)
    assert await source.read(1, 3) == b"234"
    source.close()


def test_forgotten_file_gives_its_descriptor_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))
    source = opened(tmp_path / "file", 5)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_identity_changes_with_whatever_changes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    first = LocalVersion.of(path.stat())
    assert LocalVersion.of(path.stat()) == first
    os.utime(path, ns=(1, 1))
    assert LocalVersion.of(path.stat()) != first


async def test_extent_beyond_the_end_of_its_source_says_so() -> None:
    source = Extent(MemoryBytes(b"0123456789"), 5, 10)
    assert await source.read(0, 5) == b"56789"
    with pytest.raises(ShortRead):
        await source.read(3, 5)


async def test_extent_closes_only_a_source_it_owns(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    source = opened(tmp_path / "file", 5)
    Extent(source, 0, 5).close()
    assert await source.read(0, 5) == b"12345"
    Extent(source, 0, 5, owns_source=True).close()
    with pytest.raises(StoreError):
        await source.read(0, 5)
