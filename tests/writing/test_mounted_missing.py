"""What pyfuse3 cannot hand on is refused in the way after which programs and the C library go on by other means."""

import errno
import os
import tempfile
from pathlib import Path

import pytest

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
