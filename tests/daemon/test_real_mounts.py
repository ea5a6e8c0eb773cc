"""riafs as a program, with the kernel: mounting in all forms, ending, healing, failing."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from riafs.daemon.mounts import mount_at
from tests.daemon.conftest import Run
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("fuse")


def wait_until_unmounted(mountpoint: Path) -> None:
    eventually(lambda: mount_at(str(mountpoint)) is None)


def kill(pid: int) -> None:
    """Kill a daemon, and wait until it is gone."""
    daemon = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([daemon], [], [], 5)[0]
    os.close(daemon)


def pid_of(riafs: Run, mountpoint: Path) -> int:
    [report] = json.loads(riafs("status", mountpoint, "--json").stdout)
    assert report["state"] == "running"
    return int(report["pid"])


def test_a_store_is_mounted_when_the_command_returns_and_gone_after_umount(
    riafs: Run, small_store: Path, mountpoint: Path
) -> None:
    done = riafs("mount", small_store, mountpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (mountpoint / "demo" / "a.txt").read_text() == "hello\n"
    again = riafs("mount", small_store, mountpoint)
    assert again.returncode == 32
    assert "already mounted" in again.stderr
    assert riafs("umount", mountpoint).returncode == 0
    assert os.listdir(mountpoint) == []
    assert riafs("umount", mountpoint).returncode == 1


def test_umount_returns_when_the_daemon_has_ended(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    for _ in range(3):
        assert riafs("mount", small_store, mountpoint).returncode == 0
        pid = pid_of(riafs, mountpoint)
        assert riafs("umount", mountpoint).returncode == 0
        assert not os.path.exists(f"/proc/{pid}") or "zombie" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("url", [False, True], ids=["path", "url"])
def test_mount_a_may_come_twice_and_after_the_daemon_was_killed(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path, *, url: bool
) -> None:
    """mount(8) takes a file system as mounted where the table has the source as it is in /etc/fstab."""
    source = f"ria+file://{small_store}" if url else str(small_store)

    def mount() -> int:
        options = f"rw,cache_dir={tmp_path}/c,log={tmp_path}/l"
        done = riafs(source, mountpoint, "-o", options, name="mount.riafs", bare=True)
        assert done.stderr == ""
        found = mount_at(str(mountpoint))
        assert found is not None
        assert (mountpoint / "demo" / "a.txt").read_text() == "hello\n"
        table = Path("/proc/self/mounts").read_text().splitlines()
        assert not [line for line in table if line.split()[:2] == [source, str(mountpoint)]]
        return done.returncode

    assert [mount(), mount()] == [0, 0]
    pid = pid_of(riafs, mountpoint)
    os.kill(pid, signal.SIGKILL)
    assert [mount(), mount()] == [0, 0]
    assert pid_of(riafs, mountpoint) != pid
    other = riafs(f"{small_store}#~demo", mountpoint, "-o", "rw", name="mount.riafs", bare=True)
    assert other.returncode == 32
    assert "already mounted" in other.stderr
    assert riafs("umount", mountpoint).returncode == 0


def test_a_store_with_a_number_sign_in_its_path_is_told_how_to_be_named(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_store, tmp_path / "st#ore", symlinks=True)
    done = riafs("mount", tmp_path / "st#ore", mountpoint)
    url = f"ria+file://{tmp_path}/st%23ore"
    assert done.returncode == 1
    assert f"write {url} for the store" in done.stderr
    assert riafs("mount", url, mountpoint).returncode == 0
    assert os.listdir(mountpoint / "demo")
    assert riafs("umount", mountpoint).returncode == 0


def test_a_relative_source_and_directory_are_taken_from_here(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    source = f"{os.path.relpath(small_store)}#~demo@v1"
    assert riafs("mount", source, os.path.relpath(mountpoint)).returncode == 0
    assert sorted(os.listdir(mountpoint)) == ["a.txt", "run"]
    assert riafs("umount", os.path.relpath(mountpoint)).returncode == 0


def test_the_helper_mounts_with_an_empty_environment(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    options = f"rw,dev,suid,noexec,nofail,cache_dir={tmp_path}/c,log={tmp_path}/l"
    done = riafs(small_store, mountpoint, "-n", "-o", options, name="mount.riafs", bare=True)
    assert (done.returncode, done.stderr) == (0, "")
    line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(mountpoint) in line)
    assert {"ro", "nosuid", "nodev"} <= set(line.split()[3].split(","))
    assert not os.access(mountpoint / "demo" / "run", os.X_OK)
    assert riafs(small_store, mountpoint, "-o", "remount,ro", name="mount.riafs").returncode == 0
    refused = riafs(small_store, mountpoint, "-o", "rw,remount", name="mount.riafs")
    assert refused.returncode == 1
    assert "read-only" in refused.stderr
    assert riafs("umount", mountpoint).returncode == 0


def test_a_fake_mount_mounts_nothing(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    assert riafs(small_store, mountpoint, "-f", "-o", "rw", name="mount.riafs").returncode == 0
    assert mount_at(str(mountpoint)) is None


@pytest.mark.parametrize(
    ("source", "status", "word"),
    [
        ("/nonexistent/store", 32, "/nonexistent/store"),
        ("{store}#~nobody", 32, "nobody"),
        ("{store}#abcxyz", 32, "abcxyz"),
        ("{store}#~demo@v9", 32, "v9"),
        ("{store}/ria-layout-version", 32, "ria-layout-version"),
        ("ria+ftp://host/store", 1, "ria+ftp"),
        ("ria+http://host/store", 1, "ria+http"),
        ("ria+ssh://127.0.0.1:1/store", 32, "cannot be reached"),
        ("ria+file:relative", 32, "relative"),
    ],
)
def test_a_bad_source_is_one_line_that_names_it_within_ten_seconds(
    riafs: Run, small_store: Path, mountpoint: Path, source: str, status: int, word: str
) -> None:
    began = time.monotonic()
    done = riafs("mount", source.format(store=small_store), mountpoint)
    assert time.monotonic() - began < 10
    assert done.returncode == status
    assert done.stderr.startswith("riafs: ")
    assert done.stderr.count("\n") == 1
    assert word in done.stderr
    assert mount_at(str(mountpoint)) is None


def test_busy_says_which_process_and_which_mount_is_inside(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    assert riafs("mount", small_store, mountpoint).returncode == 0
    program = "import os, sys; os.chdir(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(mountpoint / "demo")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as working:
        assert working.stdout is not None
        working.stdout.readline()
        busy = riafs("umount", mountpoint)
        working.communicate()
    assert busy.returncode == 32
    assert f"(process {working.pid}) works in {mountpoint}/demo" in busy.stderr
    with open(mountpoint / "demo" / "a.txt", "rb"):
        busy = riafs("umount", mountpoint)
    assert f"(process {os.getpid()}) has {mountpoint}/demo/a.txt open" in busy.stderr
    assert riafs("mount", small_store, mountpoint / "by-id").returncode == 0
    busy = riafs("umount", mountpoint)
    assert f"another mount is inside, ria+file://{small_store} at {mountpoint}/by-id" in busy.stderr
    assert riafs("umount", mountpoint / "by-id", mountpoint).returncode == 0


def test_status_has_settings_with_their_types(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    assert riafs("mount", small_store, mountpoint, "-r", "--refresh", "7").returncode == 0
    [report] = json.loads(riafs("status", mountpoint, "--json").stdout)
    settings = report["settings"]
    assert (settings["refresh"], settings["allow-other"], settings["cache-size"]) == (7.0, False, 10 << 30)
    assert (settings["verify"], settings["file-mode"]) == ("auto", "644")
    assert "settings.allow-other no" in " ".join(riafs("status", mountpoint).stdout.split())
    assert riafs("umount", mountpoint).returncode == 0


def test_a_mount_whose_daemon_was_killed_is_healed_by_mount_and_umount(
    riafs: Run, small_store: Path, mountpoint: Path
) -> None:
    for heal in (("mount", small_store, mountpoint), ("umount", mountpoint)):
        if mount_at(str(mountpoint)) is None:
            assert riafs("mount", small_store, mountpoint).returncode == 0
        kill(pid_of(riafs, mountpoint))
        [report] = json.loads(riafs("status", mountpoint, "--json").stdout)
        assert report["state"] == "dead"
        assert riafs(*heal).returncode == 0
    assert mount_at(str(mountpoint)) is None


def test_what_keeps_a_daemon_after_the_unmount_is_told(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path
) -> None:
    assert riafs("mount", small_store, mountpoint).returncode == 0
    daemon = os.pidfd_open(pid_of(riafs, mountpoint))
    command = ["unshare", *(["-r"] if os.getuid() else []), "-m", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        if not other.stdout.readline():
            pytest.skip("this user may not make mount namespaces")
        done = riafs("umount", mountpoint)
        assert done.returncode == 0
        told = f"cat (process {other.pid}) has a copy of the mount at {mountpoint} in a mount namespace of its own"
        assert f"{mountpoint} is unmounted here, but its process keeps running: {told}" in done.stderr
        assert f"nsenter -m -t {other.pid} umount {mountpoint}" in done.stderr
        eventually(lambda: told in (tmp_path / "log").read_text())
        assert not select.select([daemon], [], [], 0)[0]
        other.communicate()
    assert select.select([daemon], [], [], 5)[0]
    os.close(daemon)


@pytest.mark.parametrize("words", [(), ("--times", "changed"), ("--verify", "always"), ("--overlay", "{overlay}")])
def test_a_daemon_leaves_soon_after_the_unmount(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    given = [word.format(overlay=tmp_path / "overlay") for word in words]
    assert riafs("mount", small_store, mountpoint, *given).returncode == 0
    daemon = os.pidfd_open(pid_of(riafs, mountpoint))
    assert (mountpoint / "demo" / "a.txt").read_text() == "hello\n"
    os.lstat(mountpoint / "demo" / "run")
    if given[:1] == ["--overlay"]:
        (mountpoint / "demo" / "new").write_text("new")
    subprocess.run(["umount" if os.getuid() == 0 else "fusermount3", *([] if os.getuid() == 0 else ["-u"]), mountpoint])
    assert select.select([daemon], [], [], 1)[0]
    os.close(daemon)


def test_a_stuck_daemon_is_reported_and_force_takes_it_away(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    assert riafs("mount", small_store, mountpoint).returncode == 0
    daemon = pid_of(riafs, mountpoint)
    os.kill(daemon, signal.SIGSTOP)
    try:
        [report] = json.loads(riafs("status", mountpoint, "--json").stdout)
        assert report["state"] == "silent"
        assert riafs("umount", "--force", mountpoint).returncode == 0
        assert mount_at(str(mountpoint)) is None
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_busy_mount_is_not_taken_away_but_lazily(riafs: Run, small_store: Path, mountpoint: Path) -> None:
    assert riafs("mount", small_store, mountpoint).returncode == 0
    with (mountpoint / "demo" / "a.txt").open() as file:
        refused = riafs("umount", mountpoint)
        assert refused.returncode == 32
        assert "busy" in refused.stderr
        assert riafs("umount", "--lazy", mountpoint).returncode == 0
        assert file.read() == "hello\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGABRT])
def test_a_signal_ends_a_mount_and_leaves_nothing(
    riafs: Run, small_store: Path, mountpoint: Path, tmp_path: Path, number: int
) -> None:
    assert riafs("mount", small_store, mountpoint).returncode == 0
    os.kill(pid_of(riafs, mountpoint), signal.SIGALRM)
    os.kill(pid_of(riafs, mountpoint), number)
    wait_until_unmounted(mountpoint)
    eventually(lambda: not [name for name in os.listdir(tmp_path / "cache") if name.startswith("riafs-")])


def test_doctor_says_what_a_source_holds(riafs: Run, small_store: Path) -> None:
    good = riafs("doctor", small_store, "--json")
    assert good.returncode == 0, good.stdout
    assert json.loads(good.stdout)[-1] == {
        "state": "ok",
        "what": "1 dataset, 1 with an alias; 1 can be shown",
        "advice": "",
    }
    bad = riafs("doctor", "/nonexistent")
    assert bad.returncode == 1
    assert "fail  store /nonexistent: No such file or directory" in bad.stdout
