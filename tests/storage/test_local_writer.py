"""Writing to a local store: new files, directories with their modes, renames, and nothing through links."""

import fcntl
import os
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pytest_trio import trio_fixture

from riafs.counters import Counters
from riafs.errors import NotOurs, OutsideStore, ReadOnly, StoreDenied, StoreError
from riafs.storage.deadline import Deadline
from riafs.storage.local_writer import LocalWriter
from riafs.storage.permissions import UNSHARED, Sharing
from riafs.storage.protocol import NewFile


@trio_fixture
async def writing(tmp_path: Path) -> AsyncIterator[LocalWriter]:
    (tmp_path / "store").mkdir()
    root = os.fsencode(tmp_path / "store")
    opened = await LocalWriter.open_root(root, Deadline("the store", 10, Counters()))
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_directories_get_their_mode_and_old_ones_keep_theirs(writing: LocalWriter, root: Path) -> None:
    (root / "old").mkdir(mode=0o700)
    await writing.make_directories([b"old/a/b", b"old/a/c", b"old/a"], Sharing(0o660, exact=True))
    assert [mode(root / name) for name in ("old", "old/a", "old/a/b", "old/a/c")] == [0o700, 0o2770, 0o2770, 0o2770]


async def test_a_directory_that_nobody_may_write_to_is_made_writable(writing: LocalWriter, root: Path) -> None:
    (root / "key").mkdir(mode=0o555)
    await writing.make_directories([b"key"], UNSHARED)
    assert mode(root / "key") == 0o755


async def test_files_are_new_and_have_their_modes(writing: LocalWriter, root: Path) -> None:
    await writing.write_files([NewFile(b"a", b"1", 0o444), NewFile(b"b", bytearray(b"2"), 0o555)], UNSHARED)
    upload = await writing.create(b"c", 0o440, UNSHARED)
    for piece in (b"three", b"", memoryview(b"four")):
        await upload.write(piece)
    upload.close()
    upload.close()
    assert [(root / name).read_bytes() for name in "abc"] == [b"1", b"2", b"threefour"]
    assert [mode(root / name) for name in "abc"] == [0o444, 0o555, 0o440]
    with pytest.raises(StoreError):
        await writing.write_files([NewFile(b"a", b"other", 0o444)], UNSHARED)


async def test_renames_replace(writing: LocalWriter, root: Path) -> None:
    await writing.make_directories([b"d"], UNSHARED)
    await writing.write_files([NewFile(b"a", b"new", 0o644), NewFile(b"d/b", b"old", 0o644)], UNSHARED)
    await writing.rename_each([(b"a", b"d/b")])
    assert (root / "d" / "b").read_bytes() == b"new"
    await writing.remove_each([b"d/b"])
    assert list(root.iterdir()) == [root / "d"]


@pytest.mark.parametrize("count", [1, 200])
async def test_anything_can_be_made_durable(writing: LocalWriter, count: int) -> None:
    names = [b"%d" % number for number in range(count)]
    await writing.write_files([NewFile(name, b"x", 0o444) for name in names], UNSHARED)
    await writing.sync([*names, b""])


async def test_executable_bits_can_be_set_and_nothing_else_changes(writing: LocalWriter, root: Path) -> None:
    (root / "f").touch()
    (root / "f").chmod(0o640)
    assert await writing.set_executable(b"f", executable=True)
    assert mode(root / "f") == 0o750


async def test_links_lead_nowhere(writing: LocalWriter, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "file")
    (root / "mine").touch()
    for attempt in (
        lambda: writing.write_files([NewFile(b"link/x", b"x", 0o644)], UNSHARED),
        lambda: writing.write_files([NewFile(b"../x", b"x", 0o644)], UNSHARED),
        lambda: writing.make_directories([b"link/x"], UNSHARED),
        lambda: writing.rename_each([(b"mine", b"link/x")]),
        lambda: writing.remove_each([b"link/file"]),
        lambda: writing.set_executable(b"file", executable=True),
        lambda: writing.check_writable([b"link"]),
    ):
        with pytest.raises(OutsideStore):
            await attempt()
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert not mode(outside / "file") & 0o111


async def test_what_is_missing_is_judged_by_what_is_above(writing: LocalWriter, root: Path) -> None:
    await writing.check_writable([b"not/there/yet", b""])


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_what_may_not_be_written_is_told_before(writing: LocalWriter, root: Path) -> None:
    (root / "d").mkdir(mode=0o555)
    with pytest.raises((StoreDenied, ReadOnly)):
        await writing.check_writable([b"d"])


# -- workspaces -------------------------------------------------------------------------------------------------------


async def test_a_workspace_is_gone_afterwards(writing: LocalWriter, root: Path) -> None:
    async with writing.workspace(b"") as one, writing.workspace(b"") as two:
        assert one != two
        await writing.write_files([NewFile(one + b"/x", b"x", 0o444)], UNSHARED)
    assert list(root.iterdir()) == []


async def test_what_a_dead_process_left_is_removed_and_nothing_else(writing: LocalWriter, root: Path) -> None:
    place = root / ".riafs-push"
    for name in ("dead", "alive", "strange"):
        (place / name).mkdir(parents=True)
        (place / name / "file").touch()
    (place / "dead.lock").touch()
    lock = os.open(place / "alive.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with writing.workspace(b""):
        pass
    os.close(lock)
    assert {path.name for path in place.iterdir()} == {"alive", "alive.lock", "strange"}


async def test_a_link_in_a_workspaces_place_is_not_followed(writing: LocalWriter, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / ".riafs-push").symlink_to(tmp_path / "outside")
    with pytest.raises(NotOurs, match=re.escape(f"{root}/.riafs-push is a link")):
        async with writing.workspace(b""):
            pass
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "directory"])
async def test_what_looks_like_a_lock_and_is_none_stays(
    writing: LocalWriter, root: Path, tmp_path: Path, kind: str
) -> None:
    (outside := tmp_path / "outside").touch()
    (root / ".riafs-push" / "name").mkdir(parents=True)
    (root / ".riafs-push" / "name" / "file").touch()
    lock = root / ".riafs-push" / "name.lock"
    match kind:
        case "link":
            lock.symlink_to(outside)
        case "hard link":
            os.link(outside, lock)
        case "fifo":
            os.mkfifo(lock)
        case "directory":
            lock.mkdir()
    async with writing.workspace(b""):
        pass
    assert {path.name for path in (root / ".riafs-push").iterdir()} == {"name", "name.lock"}
    assert (root / ".riafs-push" / "name" / "file").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
async def test_what_others_left_stays(writing: LocalWriter, root: Path) -> None:
    (root / ".riafs-push" / "theirs").mkdir(parents=True)
    (root / ".riafs-push" / "theirs" / "file").touch()
    (root / ".riafs-push" / "theirs.lock").touch()
    os.chown(root / ".riafs-push" / "theirs", 1234, 1234)
    async with writing.workspace(b""):
        pass
    assert (root / ".riafs-push" / "theirs" / "file").exists()


async def test_work_goes_on_in_the_same_directory_whatever_is_put_in_its_place(
    writing: LocalWriter, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (root / "inside").mkdir()
    async with writing.workspace(b"") as workspace:
        place = root / os.fsdecode(workspace)
        place.rename(place.with_name("moved"))
        place.symlink_to(root / "inside")
        await writing.write_files([NewFile(workspace + b"/1", b"1", 0o444)], UNSHARED)
        await writing.sync([workspace + b"/1"])
        await writing.rename_each([(workspace + b"/1", b"named")])
        await writing.write_files([NewFile(workspace + b"/2", b"2", 0o444)], UNSHARED)
    assert (root / "named").read_bytes() == b"1"
    assert list((root / "inside").iterdir()) == []


async def test_where_a_workspace_cannot_be_made_nothing_stays_open(
    writing: LocalWriter, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def failing(path: bytes, mode: int = 0o777, **directory: int) -> None:
        if path != b".riafs-push":
            raise OSError(28, "No space left on device")
        make(path, mode, **directory)

    async with writing.workspace(b""):  # threads are there from here on
        pass
    monkeypatch.setattr(os, "mkdir", failing)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StoreError, match="no room"):
        async with writing.workspace(b""):
            pass
    assert os.listdir("/proc/self/fd") == before
    assert list((root / ".riafs-push").iterdir()) == []
