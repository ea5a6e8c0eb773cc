"""A bug in a handler: that call fails, its stack is in the log, the mount lives."""

import errno
import os

from tests.failing import errno_of
from tests.faults.conftest import MountWith
from tests.fuse.mounting import Mounted
from tests.small import SmallStore


def test_bug_costs_one_call_each(store: SmallStore, mount_with: MountWith) -> None:
    store.dataset("one", {b"file": b"content", b"bad": b"x"})
    with mount_with("bug_in_each_layer") as mount:
        one = mount.path / "one"
        calls = (
            lambda: os.stat(one / "bad"),
            lambda: os.listdir(one),
            (one / "file").read_bytes,
            lambda: os.getxattr(one / "file", "user.riafs.key"),
        )
        for call in calls:
            for _ in range(2):
                assert errno_of(call) == errno.EIO
        assert os.stat(one / "file").st_size == len(b"content")
        assert_reported(mount, 2 * len(calls))


def assert_reported(mount: Mounted, bugs: int) -> None:
    assert mount.counter("handler_errors") == bugs
    text = mount.logged()
    assert text.count("bug in ") == bugs
    assert "in broken" in text  # the stack
    assert 0 < text.count("Traceback") < bugs
