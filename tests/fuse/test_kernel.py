"""What programs ask of a file system beyond reading: maps, splices, starting programs, other file systems on it."""

import errno
import hashlib
import mmap
import os
import stat
import subprocess
import tempfile
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.behaviour import shown_store as made
from tests.behaviour.drivers import read_file
from tests.failing import errno_of
from tests.fuse.mounting import Mounted


@pytest.fixture
def main(shown_mount: Mounted) -> Path:
    """The dataset with everything in it."""
    return shown_mount.path / "main"


def test_map_of_a_file(main: Path) -> None:
    with (main / "medium").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == made.MEDIUM


def test_sendfile_from_the_mount(main: Path, tmp_path: Path) -> None:
    with (main / "archived").open("rb") as source, (tmp_path / "copy").open("wb") as target:
        while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
            pass
    assert (tmp_path / "copy").read_bytes() == made.ARCHIVED


def test_cp_from_the_mount(main: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "--preserve=all", main / "medium", tmp_path / "copy"], check=True)
    assert (tmp_path / "copy").read_bytes() == made.MEDIUM
    assert os.stat(tmp_path / "copy").st_mtime_ns == os.stat(main / "medium").st_mtime_ns


def test_program_is_started_from_the_mount(main: Path) -> None:
    done = subprocess.run([main / "script"], capture_output=True, check=True)
    assert done.stdout == b"from the mount\n"


def test_file_without_the_bit_is_not_started(main: Path) -> None:
    with pytest.raises(PermissionError):
        subprocess.run([main / "version"], check=True)


def test_reads_at_any_offset(main: Path) -> None:
    with (main / "medium").open("rb", buffering=0) as file:
        for offset in (0, 1, 4095, 4096, 131071, 131072, 400_000, len(made.MEDIUM) - 1, len(made.MEDIUM), 1 << 40):
            assert os.pread(file.fileno(), 5000, offset) == made.MEDIUM[offset : offset + 5000]


def test_hundred_readers_of_one_cold_file(main: Path) -> None:
    found = []
    readers = [threading.Thread(target=lambda: found.append(read_file(main / "archived"))) for _ in range(100)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert {hashlib.md5(each).digest() for each in found} == {hashlib.md5(made.ARCHIVED).digest()}
    assert len(found) == 100


def test_statfs_answers(shown_mount: Mounted) -> None:
    status = os.statvfs(shown_mount.path)
    assert status.f_namemax == 255
    assert status.f_bsize > 0


def test_copy_of_a_read_only_mount_can_be_changed_and_removed_by_its_owner(main: Path) -> None:
    owner = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are closed to other users
        os.chmod(directory, 0o777)
        subprocess.run(["cp", "-a", main / "deep", f"{directory}/copy"], check=True)
        if owner:
            subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
        script = "echo changed >> copy/locked && mkdir copy/new && rm -r copy"
        subprocess.run([*owner, "sh", "-ec", script], cwd=directory, check=True)
        assert os.listdir(directory) == []


def test_modes_owner_and_links(main: Path) -> None:
    modes = {"version": 0o100644, "script": 0o100755, "deep": 0o040755, "link": 0o120777, "locked": 0o100644}
    for name, mode in modes.items():
        status = os.lstat(main / name)
        assert status.st_mode == mode
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert status.st_nlink >= 1


def test_blocks_are_those_of_the_content(main: Path) -> None:
    assert os.stat(main / "medium").st_blocks == -(-len(made.MEDIUM) // 512)


def test_types_come_with_the_listing(main: Path) -> None:
    with os.scandir(main) as entries:
        kinds = {entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries}
    assert kinds["deep"] == (True, False)
    assert kinds["link"] == (False, True)
    assert kinds["locked"] == (False, False)


def test_listing_and_status_agree_about_inodes(main: Path) -> None:
    with os.scandir(main) as entries:
        assert all(entry.inode() == os.lstat(entry.path).st_ino for entry in entries)


def test_dot_dot_leads_back(main: Path) -> None:
    assert os.path.samefile(main / "deep" / "er" / ".." / "..", main)
    assert os.path.samefile(main / "..", main.parent)


def test_attributes_are_not_listed(main: Path) -> None:
    assert os.listxattr(main / "locked") == []
    assert os.getxattr(main / "locked", "user.riafs.kind") == b"annex"


def test_other_namespaces_of_attributes_are_not_supported(main: Path) -> None:
    for name in ("system.posix_acl_access", "security.capability", "trusted.x"):
        assert errno_of(partial(os.getxattr, main / "version", name)) == errno.ENOTSUP


def test_size_of_a_virtual_file_is_told_by_reading_only(shown_mount: Mounted) -> None:
    stats = shown_mount.path / ".riafs" / "stats"
    assert stat.S_ISREG(os.stat(stats).st_mode)
    assert read_file(stats) != b""


def test_virtual_file_is_made_anew_at_each_open(shown_mount: Mounted, main: Path) -> None:
    def opens() -> int:
        text = read_file(shown_mount.path / ".riafs" / "stats").decode()
        return int(dict(line.split() for line in text.splitlines())["opens"])

    before = opens()
    read_file(main / "version")
    assert opens() > before


_OVERLAY = """
set -e
mount -t tmpfs none "$2"
mkdir "$2/upper" "$2/work" "$2/merged"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" none "$2/merged"
cd "$2/merged"
cmp locked "$1/locked"
echo changed > version
rm unlocked
mv script renamed
./renamed
chmod 600 medium
cmp medium "$1/medium"
test "$(cat version)" = changed
test ! -e unlocked
ls -l many | wc -l
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount an overlay")
def test_kernel_overlay_on_top(main: Path, tmp_path: Path) -> None:
    command = ["unshare", "--mount", "sh", "-c", _OVERLAY, "sh", main, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "from the mount\n1501\n")
    assert read_file(main / "version") == b"second\n"


def test_tar_reads_everything_that_can_be_read(main: Path) -> None:
    with tempfile.TemporaryFile() as archive:
        command = ["tar", "-c", "-C", main, "--exclude=missing", "--exclude=damaged", "."]
        assert subprocess.run(command, stdout=archive).returncode == 0
        archive.seek(0)
        listed = subprocess.run(["tar", "-t"], stdin=archive, capture_output=True, check=True).stdout
    assert len(listed.splitlines()) > 1500
