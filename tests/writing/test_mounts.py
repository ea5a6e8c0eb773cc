"""A mount that can be written, with the kernel: its cache, mappings, permissions, locks, ending and coming back."""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.overlay.data_files import failure
from tests.behaviour import shown_store
from tests.failing import errno_of
from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.small import SmallStore
from tests.writing.fsx import Exerciser

OPERATIONS = int(os.environ.get("RIAFS_FSX", "1000"))


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return tmp_path / "overlay"


@pytest.fixture
def mount(fuse: None, store: shown_store.ShownStore, overlay: Path, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(store.path, tmp_path / "first", "--overlay", str(overlay)) as made:
        yield made


@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "mapped"])
@pytest.mark.parametrize("name", ["medium", "version"])
def test_random_changes_of_a_file_read_back(mount: Mounted, name: str, mapped: bool) -> None:
    Exerciser(str(mount.path / "main" / name), 1, mapped=mapped).run(OPERATIONS)


def test_a_shared_mapping_and_readers_agree(mount: Mounted) -> None:
    path = mount.path / "main" / "medium"
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5:10] = b"12345"
        assert path.read_bytes()[5:10] == b"12345"
        file.seek(6)
        file.write(b"XY")
        file.flush()
        assert mapping[5:10] == b"1XY45"
    assert path.read_bytes()[5:10] == b"1XY45"


def test_a_reader_sees_what_is_written_meanwhile(mount: Mounted) -> None:
    path = mount.path / "main" / "version"
    with open(path, "rb", buffering=0) as reader:
        assert reader.read() == b"second\n"
        with open(path, "ab") as writer:
            writer.write(b"third\n")
        assert reader.read() == b"third\n"


def test_appending_processes_lose_nothing(mount: Mounted) -> None:
    path = mount.path / "main" / "log"
    path.touch()
    script = f'for i in $(seq 200); do echo "$0 $i" >> {path}; done'
    running = [subprocess.Popen(["sh", "-c", script, str(number)]) for number in range(3)]
    assert [each.wait(timeout=60) for each in running] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{number} {i + 1}" for number in range(3) for i in range(200))


def test_a_removed_file_lives_on_while_it_is_open(mount: Mounted) -> None:
    path = mount.path / "main" / "locked"
    with open(path, "r+b", buffering=0) as file:
        path.unlink()
        assert not path.exists()
        file.write(b"SMALL")
        file.seek(0)
        assert file.read() == b"SMALL" + shown_store.SMALL[5:]
        assert os.fstat(file.fileno()).st_nlink == 0
    assert errno_of(lambda: os.stat(path)) == errno.ENOENT


def test_changes_are_there_again_after_another_mount(
    fuse: None, store: shown_store.ShownStore, overlay: Path, tmp_path: Path
) -> None:
    with mounted(store.path, tmp_path / "first", "--overlay", str(overlay)) as mount:
        main = mount.path / "main"
        (main / "results").mkdir()
        (main / "results" / "one").write_bytes(b"1" * 100_000)
        (main / "many").rename(main / "moved")
        (main / "version").unlink()
        with open(main / "medium", "r+b") as file:
            file.write(b"changed")
    with mounted(store.path, tmp_path / "second", "--overlay", str(overlay)) as mount:
        main = mount.path / "main"
        assert (main / "results" / "one").read_bytes() == b"1" * 100_000
        assert len(os.listdir(main / "moved")) == 1500
        assert not (main / "version").exists()
        assert (main / "medium").read_bytes() == b"changed" + shown_store.MEDIUM[7:]
        (main / "moved" / "0000").write_bytes(b"again")
        assert (main / "moved" / "0000").read_bytes() == b"again"
    with mounted(store.path, tmp_path / "third") as mount:
        assert (mount.path / "main" / "version").read_bytes() == b"second\n"


def test_what_is_synced_survives_a_kill(
    fuse: None, store: shown_store.ShownStore, overlay: Path, tmp_path: Path
) -> None:
    with (
        contextlib.suppress(ProcessLookupError),  # there may be nothing to wait for
        mounted(store.path, tmp_path / "first", "--overlay", str(overlay)) as mount,
    ):
        with open(mount.path / "main" / "kept", "wb") as file:
            file.write(b"kept")
            file.flush()
            os.fsync(file.fileno())
        os.kill(mount.pid, signal.SIGKILL)
    with mounted(store.path, tmp_path / "second", "--overlay", str(overlay)) as again:
        assert (again.path / "main" / "kept").read_bytes() == b"kept"


def test_an_overlay_serves_one_mount(mount: Mounted, store: shown_store.ShownStore, overlay: Path) -> None:
    other = mount.path.parent / "other"
    other.mkdir()
    done = run_riafs("mount", store.path, other, "--overlay", overlay)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"is in use by another process \(process \d+\)", done.stderr)


def test_a_mount_stays_as_it_was_mounted(mount: Mounted, store: shown_store.ShownStore) -> None:
    assert run_riafs("mount", store.path, mount.path, "-o", "remount,rw").returncode == 0
    done = run_riafs("mount", store.path, mount.path, "-o", "remount,ro")
    assert done.returncode == 1
    assert "mount it with -o ro" in done.stderr


def test_an_overlay_belongs_to_its_source(
    fuse: None, store: shown_store.ShownStore, overlay: Path, tmp_path: Path
) -> None:
    with mounted(store.path, tmp_path / "first", "--overlay", str(overlay)) as mount:
        (mount.path / "main" / "new").touch()
    (tmp_path / "other").mkdir()
    done = run_riafs("mount", f"{store.path}#~sub", tmp_path / "other", "--overlay", overlay)
    assert done.returncode == 2
    assert f"has changes of dataset {store.main.id}" in done.stderr


def test_a_full_disk_is_no_space_left(fuse: None, store: shown_store.ShownStore, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root mounts a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", small], check=True)
    try:
        with mounted(store.path, tmp_path / "first", "--overlay", str(small / "overlay")) as mount:
            main = mount.path / "main"
            assert os.statvfs(main).f_blocks * os.statvfs(main).f_frsize == 16 << 20
            with open(main / "large", "wb", buffering=0) as file:
                assert errno_of(lambda: [file.write(bytes(1 << 20)) for _ in range(32)]) == errno.ENOSPC
            assert (main / "version").read_bytes() == b"second\n"
            (main / "large").unlink()
            (main / "fits").write_bytes(b"x" * 100_000)
            assert (main / "fits").read_bytes() == b"x" * 100_000
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_that_the_overlay_s_file_system_cannot_hold_is_too_large() -> None:
    assert failure(OSError(errno.EFBIG, "x"), "somewhere").errno == errno.EFBIG


def test_others_may_not_write(mount: Mounted) -> None:
    if os.getuid():
        pytest.skip("only root can become somebody else")
    script = "import os,sys; os.setuid(65534); open(sys.argv[1], 'w')"
    done = subprocess.run(["python3", "-c", script, mount.path / "main" / "new"], capture_output=True, text=True)
    assert "Permission denied" in done.stderr


def test_locks_work(mount: Mounted) -> None:
    with open(mount.path / "main" / "version", "r+b") as one, open(mount.path / "main" / "version", "r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        assert errno_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == errno.EWOULDBLOCK


@pytest.mark.parametrize("place", ["new", "of the commit", "renamed"])
def test_a_removed_working_directory_lists_nothing(place: str, fuse: None, tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    store.dataset("one", {b"old/file": b"content"})
    with mounted(store.path, tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as mount:
        directory = mount.path / "one" / ("new" if place == "new" else "old")
        if place == "new":
            directory.mkdir()
        elif place == "renamed":
            directory = directory.rename(directory.with_name("elsewhere"))
        script = f"rm -rf ../{directory.name}; ls -a | cat; ls; stat -c %h .; cd .. && ls -d {directory.name}"
        done = subprocess.run(["sh", "-c", script], cwd=directory, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("0\n", 2), done.stderr
        assert "Stale" not in done.stderr
        directory.mkdir()
        assert os.listdir(directory) == []
