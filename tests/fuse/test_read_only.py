"""No call changes anything: not while the mount is read-only, nor after root has remounted it for writing."""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.failing import errno_of
from tests.fuse.mounting import Mounted, mounted
from tests.small import Link, Locked, SmallStore, key_of

_MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 2, 4, 32
CONTENT = b"content"

Call = Callable[[Path], object]
"""Tries to change something in a directory that has ``file``, ``link`` and ``directory``."""


def open_with(flags: int, name: str = "file") -> Call:
    def call(directory: Path) -> None:
        os.close(os.open(directory / name, flags, 0o644))

    return call


CALLS: dict[str, Call] = {
    "create": open_with(os.O_CREAT | os.O_WRONLY, "new"),
    "create-exclusively": open_with(os.O_CREAT | os.O_EXCL | os.O_RDWR, "new"),
    "open-for-writing": open_with(os.O_WRONLY),
    "open-for-reading-and-writing": open_with(os.O_RDWR),
    "open-and-truncate": open_with(os.O_WRONLY | os.O_TRUNC),
    "open-for-appending": open_with(os.O_WRONLY | os.O_APPEND),
    "unlink": lambda directory: os.unlink(directory / "file"),
    "mkdir": lambda directory: os.mkdir(directory / "new"),
    "rmdir": lambda directory: os.rmdir(directory / "directory"),
    "rename": lambda directory: os.rename(directory / "file", directory / "new"),
    "rename-over": lambda directory: os.rename(directory / "file", directory / "annexed"),
    "link": lambda directory: os.link(directory / "file", directory / "new"),
    "symlink": lambda directory: os.symlink("target", directory / "new"),
    "mkfifo": lambda directory: os.mkfifo(directory / "new"),
    "mknod": lambda directory: os.mknod(directory / "new", stat.S_IFREG | 0o644),
    "chmod": lambda directory: os.chmod(directory / "file", 0o777),
    "chown": lambda directory: os.chown(directory / "file", 1, 1),
    "lchown": lambda directory: os.lchown(directory / "link", 1, 1),
    "utime": lambda directory: os.utime(directory / "file", (1, 1)),
    "truncate": lambda directory: os.truncate(directory / "file", 1),
    "setxattr": lambda directory: os.setxattr(directory / "file", "user.x", b"x"),
    "setxattr-of-ours": lambda directory: os.setxattr(directory / "file", "user.riafs.key", b"x"),
    "removexattr": lambda directory: os.removexattr(directory / "file", "user.riafs.key"),
}

PLACES = ("one", "one@main", ".riafs", "by-id", "")


@pytest.fixture(scope="module")
def mount(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount of its own, since it is remounted."""
    directory = tmp_path_factory.mktemp("read-only")
    store = SmallStore.make(directory / "store")
    files = {b"file": b"file", b"annexed": Locked(key_of(CONTENT)), b"directory/below": b"", b"link": Link(b"file")}
    store.dataset("one", files).put(key_of(CONTENT), CONTENT)
    with mounted(store.path, directory) as made:
        yield made


@pytest.fixture(scope="module", params=["read-only", "remounted"])
def writable(request: pytest.FixtureRequest, mount: Mounted) -> bool:
    """Whether root has remounted it for writing; the order is that of the parameters."""
    if request.param == "remounted":
        if os.getuid():
            pytest.skip("only root can remount")
        remount_for_writing(mount.path)
    return request.param == "remounted"


def remount_for_writing(path: Path) -> None:
    """What ``mount -o remount,rw`` asks of the kernel."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _MS_REMOUNT | _MS_NOSUID | _MS_NODEV
    if libc.mount(b"none", os.fsencode(path), None, flags, None):
        raise OSError(ctypes.get_errno(), "remount")


def test_kernel_knows_whether_it_is_read_only(mount: Mounted, writable: bool) -> None:
    flags = os.statvfs(mount.path).f_flag
    assert bool(flags & os.ST_RDONLY) is not writable
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_change_is_refused(mount: Mounted, writable: bool, call: Call) -> None:
    assert errno_of(lambda: call(mount.path / "one")) == errno.EROFS


@pytest.mark.parametrize("place", PLACES)
def test_change_is_refused_everywhere(mount: Mounted, writable: bool, place: str) -> None:
    refused = [errno_of(partial(CALLS[name], mount.path / place)) for name in ("create", "mkdir", "symlink")]
    assert refused == [errno.EROFS] * 3


def test_everything_is_as_it_was(mount: Mounted, writable: bool) -> None:
    assert sorted(os.listdir(mount.path / "one")) == ["annexed", "directory", "file", "link"]
    assert (mount.path / "one" / "file").read_bytes() == b"file"
    assert (mount.path / "one" / "annexed").read_bytes() == CONTENT
    assert mount.counter("handler_errors") == 0
