"""Bit rot in large objects, seen through the kernel and its page cache."""

import errno
import os

from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.faults.conftest import MountWith
from tests.small import Locked, SmallStore, key_of, noise

LARGE = noise(20 << 20)
KEY = key_of(LARGE)


def rotten() -> bytes:
    damaged = bytearray(LARGE)
    damaged[5 << 20] ^= 1
    return bytes(damaged)


def failing_read(path: os.PathLike[str]) -> int:
    """How many bytes a reader in order gets before the error."""
    served = []
    with open(path, "rb", buffering=0) as file:

        def read_all() -> None:
            while data := file.read(1 << 17):
                served.append(len(data))

        assert errno_of(read_all) == errno.EIO
    return sum(served)


def test_last_read_of_a_damaged_large_object_fails_and_the_archive_stands_in(
    store: SmallStore, mount_with: MountWith
) -> None:
    dataset = store.dataset("one", {b"large": Locked(KEY)})
    dataset.put(KEY, rotten())
    dataset.archive({KEY: LARGE})
    with mount_with() as mount:
        large = mount.path / "one" / "large"
        assert 0 < failing_read(large) < len(LARGE)
        assert read_file(large) == LARGE  # not what the page cache had of the damaged copy
        assert read_file(large) == LARGE
        assert mount.counter("keys_corrupt") == 1
        assert mount.counter("keys_healed") >= 1
        assert mount.logged().count("is damaged: its digest does not match") == 1
        assert os.getxattr(large, "user.riafs.where") == b"archives/archive.7z"


def test_damaged_large_object_without_another_copy_stays_an_error(store: SmallStore, mount_with: MountWith) -> None:
    store.dataset("one", {b"large": Locked(KEY), b"good": b"good"}).put(KEY, rotten())
    with mount_with() as mount:
        large = mount.path / "one" / "large"
        failing_read(large)
        for _ in range(2):
            assert errno_of(lambda: read_file(large)) == errno.EIO
        assert b"damaged" in os.getxattr(large, "user.riafs.error")
        assert read_file(mount.path / "one" / "good") == b"good"
        recent = read_file(mount.path / ".riafs" / "errors").decode()
        assert KEY.decode() in recent


def test_verified_large_object_is_not_hashed_again_by_the_next_mount(
    store: SmallStore, mount_with: MountWith, tmp_path: os.PathLike[str]
) -> None:
    cache = os.path.join(tmp_path, "cache")
    store.dataset("one", {b"large": Locked(KEY)}).put(KEY, LARGE)
    hashed = []
    for _ in range(2):
        with mount_with(None, "--cache-dir", cache) as mount:
            assert read_file(mount.path / "one" / "large") == LARGE
            hashed.append(mount.counter("bytes_verified"))
        mount.path.rmdir()
    assert hashed == [len(LARGE), 0]


def read_up_to(path: os.PathLike[str], count: int) -> None:
    """Read from the front and leave. An error may come before: the kernel reads ahead, even up to the end."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.tell() < count:
                assert file.read(1 << 20)
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017 - or there is none


def test_pages_of_an_unfinished_reader_are_not_taken_for_verified(store: SmallStore, mount_with: MountWith) -> None:
    store.dataset("one", {b"large": Locked(KEY)}).put(KEY, rotten())
    with mount_with() as mount:
        large = mount.path / "one" / "large"
        for count in (9 << 20, 12 << 20, 19 << 20):
            read_up_to(large, count)
            assert mount.counter("keys_verified") == 0
        for _ in range(2):
            assert errno_of(lambda: read_file(large)) == errno.EIO
        assert mount.counter("keys_verified") == 0
