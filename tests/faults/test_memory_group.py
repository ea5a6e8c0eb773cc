"""A mount in a real control group of 150 MB shows what is huge, and refuses what does not fit for one request."""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.memory import Group
from tests.archive.headers import File, stored_archive
from tests.fuse.mounting import PROJECT, mounted, run_riafs
from tests.keep.standin.cluster import Cluster
from tests.plugins import mounts
from tests.small import SmallStore, mixed_path
from tests.waiting import eventually

LIMIT = 150 << 20
FOO = b"acbd18db4cc2f85cedef654fccc4a4d8+3"
ENTERING = """
import sys
with open(sys.argv.pop(1), "w") as group:
    group.write("0")
from riafs.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A new group for memory, of version 2 or 1; skips where none can be made."""
    own = dict(reversed(line.strip().split(":", 2)[1:]) for line in Path("/proc/self/cgroup").read_text().splitlines())
    paths = {name: path for path, name in own.items()}
    tops = [
        (Path("/sys/fs/cgroup") / paths.get("", "/").lstrip("/"), "memory.max"),
        (Path("/sys/fs/cgroup/memory") / paths.get("memory", "/").lstrip("/"), "memory.limit_in_bytes"),
    ]
    for top, limit in tops:
        made = top / f"riafs-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            made.mkdir()
            try:
                if not (made / limit).exists():
                    continue
                (made / limit).write_text(str(LIMIT))
                yield made
                return
            finally:
                eventually(lambda made=made: not (made / "cgroup.procs").read_text())
                made.rmdir()
    pytest.skip("no control group with a limit of memory can be made here")


def set_limit(group: Path, size: int) -> None:
    """Let the processes of `group` use `size` bytes from now on."""
    (limit,) = [each for name in ("memory.max", "memory.limit_in_bytes") if (each := group / name).exists()]
    limit.write_text(str(size))


def large_manifest(files_count: int = 3_000_000) -> str:
    """Of 21 bytes a file."""
    files = " ".join(f"0:3:file{number:012}" for number in range(files_count))
    return f". {FOO.decode()} {files}\n"


def test_a_large_manifest_of_an_api_server(
    fuse: None, group: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    cluster = Cluster(tmp_path / "cluster", signing=False)
    cluster.start()
    try:
        text = large_manifest(3_000_000 if long else 1_300_000)
        assert len(text) > (60 if long else 24) << 20
        made = cluster.collection("large", text)
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        command = ("-c", ENTERING, str(group / "cgroup.procs"))
        cache = ("--cache-dir", str(tmp_path / "cache"))
        with mounted(f"arvados://{cluster.host}", tmp_path / "m", *cache, command=command, timeout=120) as mount:
            top = mount.path / "by_id" / made["uuid"]
            assert (top / "file000001234567").stat().st_size == 3
            assert mount.status()["pid"] == mount.pid
    finally:
        cluster.stop()


def test_what_does_not_fit_is_refused_for_one_request(fuse: None, group: Path, tmp_path: Path) -> None:
    for name in ("volume", "manifests"):
        (tmp_path / name).mkdir()
    files = " ".join(f"0:3:file{number:012}" for number in range(200_000))
    (tmp_path / "manifests/large").write_text(f". {FOO.decode()} {files}\n")
    source = f"keep+file://{tmp_path}/volume?manifests={tmp_path}/manifests"
    command = ("-c", ENTERING, str(group / "cgroup.procs"))
    with mounted(source, tmp_path / "m", command=command) as mount:
        set_limit(group, Group(str(group), LIMIT).used() + (12 << 20))  # less than is left for answering
        with pytest.raises(OSError, match=r".") as caught:
            os.listdir(mount.path / "large")
        assert caught.value.errno == errno.ENOMEM
        set_limit(group, LIMIT)
        assert (mount.path / "large/file000000012345").stat().st_size == 3
        assert mount.status()["pid"] == mount.pid


def test_more_keys_are_listed_than_memory_has_room_for(fuse: None, group: Path, tmp_path: Path) -> None:
    count = 60_000
    store = SmallStore.make(tmp_path / "store")
    archive = store.dataset("keys").path / "archives/archive.7z"
    archive.parent.mkdir()
    names = (mixed_path(b"MD5E-s1--%032x" % number) for number in range(count))
    archive.write_bytes(stored_archive([File(name, b"x") for name in names]))
    command = ("-c", ENTERING, str(group / "cgroup.procs"))
    with mounted(store.path, tmp_path / "m", command=command) as mount:
        keys = mount.path / "keys/.keys"
        assert (keys / f"MD5E-s1--{count // 2:032x}").stat().st_size == 1  # the archive has been opened
        set_limit(group, Group(str(group), LIMIT).used() + (24 << 20))
        with os.scandir(keys) as items:
            assert len({item.name for item in items}) == count
        assert (keys / f"MD5E-s1--{count - 1:032x}").stat().st_size == 1


def test_a_large_manifest_on_standard_input_stays_on_disk(fuse: None, group: Path, tmp_path: Path) -> None:
    for name in ("volume", "mnt"):
        (tmp_path / name).mkdir()
    (tmp_path / "manifest").write_text(large_manifest())
    enter = ["-c", ENTERING, str(group / "cgroup.procs")]
    source, words = f"keep+file://{tmp_path}/volume?manifests=-", ["--log", str(tmp_path / "log")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with (tmp_path / "manifest").open("rb") as text:
        command = [sys.executable, *enter, "mount", source, str(tmp_path / "mnt"), *words]
        done = subprocess.run(command, stdin=text, capture_output=True, text=True, env=environment, timeout=120)
    try:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "mnt/stdin/file000001234567").stat().st_size == 3
    finally:
        run_riafs("umount", tmp_path / "mnt")
        mounts.sweep(mounts.below(tmp_path))
