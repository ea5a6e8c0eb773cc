"""The kernel's table of mounts, and what a mountpoint must be."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.daemon.fork_call import call_in_child
from riafs.daemon.mountpoint import find_mount, is_passed_device, prepare
from riafs.daemon.mounts import Mount, all_mounts, mount_at, parse_mountinfo, resolve
from riafs.errors import MountpointError, NotMounted, StoreTimeout
from tests.waiting import until_killed

LINE = (
    rb"42 27 0:39 / /mnt/a\040b\134c ro,nosuid,nodev,relatime shared:3 - fuse.riafs ria+file:///s\011t "
    rb"ro,user_id=1000,group_id=0"
)


def test_a_line_is_read_with_its_escapes() -> None:
    assert parse_mountinfo(LINE) == (Mount("/mnt/a b\\c", "0:39", "fuse.riafs", "ria+file:///s\tt", 1000),)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table(text: bytes) -> None:
    parse_mountinfo(text)


@given(st.binary(min_size=1).filter(lambda name: not {0, 10} & set(name)))
def test_every_mountpoint_comes_back_as_it_was(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in name)
    text = b"1 2 0:3 / /" + escaped + b" rw - fuse.riafs s rw\n"
    if len(text.splitlines()) == 1:
        assert os.fsencode(parse_mountinfo(text)[0].mountpoint) == b"/" + name


def test_this_machines_table_has_a_root() -> None:
    assert "/" in {mount.mountpoint for mount in all_mounts()}
    assert mount_at("/") is not None


def test_paths_are_resolved_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolve(str(tmp_path / "link")) == str(tmp_path / "real")
    assert resolve("/") == "/"


def test_a_mountpoint_is_an_existing_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert prepare(str(tmp_path)) == str(tmp_path)
    with pytest.raises(MountpointError, match="does not exist"):
        prepare(str(tmp_path / "missing"))
    with pytest.raises(MountpointError, match="is not a directory"):
        prepare(str(tmp_path / "file"))


def test_a_passed_device_is_taken_as_it_is() -> None:
    assert prepare("/dev/fd/7") == "/dev/fd/7"
    assert not is_passed_device("/dev/fd/x")
    assert not is_passed_device("/dev/fd/../mem")


def test_only_riafs_mounts_are_found(tmp_path: Path) -> None:
    with pytest.raises(NotMounted, match="nothing is mounted"):
        find_mount(str(tmp_path))
    with pytest.raises(NotMounted, match="not of riafs"):
        find_mount("/proc")


def test_a_call_in_a_child_returns_raises_and_gives_up() -> None:
    assert call_in_child(lambda: {"a": [1]}, 5, "x") == {"a": [1]}
    with pytest.raises(FileNotFoundError):
        call_in_child(lambda: os.stat("/nonexistent").st_mode, 5, "x")
    began = time.monotonic()
    with pytest.raises(StoreTimeout):
        call_in_child(until_killed, 0.2, "x")
    assert time.monotonic() - began < 5
