"""A full disk below the cache directory: what is read does not need it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import OverlayFull, StoreError
from riafs.git.environment import PrivateGitDirs
from riafs.overlay.overlay import Overlay
from riafs.storage import temporary
from riafs.storage.temporary import Scratch, remove_abandoned, temporary_directory, temporary_file
from tests.fuse.mounting import mounted
from tests.plugins.log_hygiene import Announce
from tests.push.test_refusals import small_disk as small_disk
from tests.small import SmallStore


@pytest.fixture
def scratch(small_disk: Path) -> Iterator[Scratch]:
    made = Scratch(str(small_disk / "cache"))
    fill(small_disk)
    yield made
    made.close()


def fill(disk: Path) -> None:
    with open(disk / "fill", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_private_git_directories_go_elsewhere_and_are_removed(
    scratch: Scratch, small_disk: Path, expected_warnings: Announce
) -> None:
    expected_warnings("no room for temporary files in .*/cache/riafs-")
    gits = PrivateGitDirs("git", os.environ["PATH"], os.fsencode(scratch.path))
    made = Path(gits.environment(b"/objects", b"sha1")["GIT_DIR"])
    assert sorted(os.listdir(made)) == ["HEAD", "config", "objects", "of", "refs"]
    assert (made / "HEAD").read_text() == "ref: refs/heads/none\n"
    linked = Path(os.fsdecode(gits.linked_objects(b"/objects", {}, [b"/more"])))
    assert (linked / "info/alternates").read_text() == "/more\n"
    (small_disk / "fill").unlink()
    assert gits.environment(b"/objects", b"sha1")["GIT_DIR"] == str(made)
    assert gits.environment(b"/objects", b"sha256")["GIT_DIR"].startswith(scratch.path)  # there is room again
    gits.close()
    assert not made.exists()
    assert not linked.exists()
    assert os.listdir(scratch.path) == []


def test_temporary_files_go_elsewhere_until_there_is_room_again(
    scratch: Scratch, small_disk: Path, caplog: pytest.LogCaptureFixture, expected_warnings: Announce
) -> None:
    expected_warnings("no room for temporary files")
    place = os.fsencode(scratch.path)
    for _ in range(3):
        with temporary_file(place, 10_000) as file:
            assert os.fstat(file.fileno()).st_dev != os.stat(place).st_dev
            file.write(bytes(10_000))
    assert sum("no room for temporary files" in said for said in caplog.messages) == 1
    (small_disk / "fill").unlink()
    with temporary_file(place, 10_000) as file:
        assert os.fstat(file.fileno()).st_dev == os.stat(place).st_dev


def test_where_all_disks_are_full_there_is_memory(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("they are kept in memory meanwhile")
    place = os.fsencode(scratch.path)
    monkeypatch.setattr(temporary, "places_elsewhere", lambda: iter(()))
    with temporary_file(place, 10_000) as file:
        assert file.write(bytes(10_000)) == 10_000
    with pytest.raises(OSError, match="No space left"):
        temporary_file(place, 10 << 30)
    with pytest.raises(StoreError, match=r"no room for temporary files in .*: No space left"):
        temporary_directory(place, b"git-", lambda path: Path(os.fsdecode(path), "HEAD").write_bytes(b"ref"))
    assert os.listdir(place) == []


def test_directories_elsewhere_are_removed_after_a_kill(scratch: Scratch, expected_warnings: Announce) -> None:
    expected_warnings("no room for temporary files")
    path, _ = temporary_directory(os.fsencode(scratch.path), b"git-", lambda path: os.mkdir(path + b"/objects"))
    remove_abandoned()
    assert os.path.isdir(path)
    shutil.rmtree(scratch.path)
    remove_abandoned()
    assert not os.path.exists(path)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_mount_reads_although_its_cache_directory_is_full(
    fuse: None, small_disk: Path, tmp_path: Path, when: str
) -> None:
    large = os.urandom(5 << 20)
    store = SmallStore.make(tmp_path / "store")
    store.dataset("one", {b"small": b"small", b"large": large})
    cache = small_disk / "cache"
    cache.mkdir(mode=0o700)
    if when == "before":
        fill(small_disk)
    with mounted(store.path, tmp_path / "mounted", "--cache-dir", str(cache)) as mount:
        if when == "after":
            fill(small_disk)
        for _ in range(2):
            assert (mount.path / "one/small").read_bytes() == b"small"
            assert (mount.path / "one/large").read_bytes() == large
        (small_disk / "fill").unlink()
        assert (mount.path / "one/small").read_bytes() == b"small"
        assert 0 < len(re.findall("no room|disk is full", mount.logged())) < 5


def test_an_overlay_on_a_full_disk_says_so_and_opens_when_there_is_room(small_disk: Path) -> None:
    place = small_disk / "overlay"
    place.mkdir(mode=0o700)
    fill(small_disk)
    with pytest.raises(OverlayFull, match=rf"no room left for {place}"):
        Overlay(str(place), Counters())
    (small_disk / "fill").unlink()
    Overlay(str(place), Counters()).close()
