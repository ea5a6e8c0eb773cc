"""What pyfuse3 cannot hand on, and git has not, is refused in the way after which programs go on by other means."""

import errno
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import pytest

from tests.failing import errno_of
from tests.fuse.mounting import mounted
from tests.small import SmallStore

pytestmark = pytest.mark.usefixtures("fuse")


def test_preallocation_and_files_without_names(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    store.dataset("one", {b"a": b"a"})
    with mounted(store.path, tmp_path / "m", "--overlay", str(tmp_path / "over")) as mount:
        top = mount.path / "one"
        with open(top / "new", "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 100_000)
            assert os.fstat(file.fileno()).st_size == 100_000
            assert file.read() == bytes(100_000)
        with pytest.raises(OSError, match="not supported") as refused:
            os.open(top, os.O_TMPFILE | os.O_RDWR)
        assert refused.value.errno == errno.EOPNOTSUPP
        with tempfile.TemporaryFile(dir=top) as temporary:
            temporary.write(b"x" * 10)
            temporary.seek(0)
            assert temporary.read() == b"x" * 10
        assert sorted(os.listdir(top)) == ["a", "new"]


def test_attributes_of_programs_are_not_supported_and_copies_go_on_without(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    store.dataset("one", {b"a": b"a"})
    with mounted(store.path, tmp_path / "m", "--overlay", str(tmp_path / "over")) as mount:
        top = mount.path / "one"
        (top / "new").touch()
        for name in ("a", "new", "new"):  # the kernel answers by itself after the first
            assert errno_of(partial(os.setxattr, top / name, "user.x", b"x")) == errno.ENOTSUP
            assert errno_of(partial(os.removexattr, top / name, "user.x")) == errno.ENOTSUP
            assert errno_of(partial(os.getxattr, top / name, "user.x")) == errno.ENODATA
            assert os.listxattr(top / name) == []
        with_attribute = tmp_path / "with-attribute"
        with_attribute.write_text("content")
        os.setxattr(with_attribute, "user.x", b"x")
        subprocess.run(["cp", "-a", with_attribute, top / "copy"], check=True)
        assert (top / "copy").read_text() == "content"
        assert os.getxattr(top / "a", "user.riafs.kind") == b"git"
