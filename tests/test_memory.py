"""What the control groups of a process allow, of both versions of their files."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from riafs import memory
from riafs.errors import OutOfMemory
from riafs.memory import Group, group_of, own_group

STATISTICS_1 = f"shmem {5 << 20}\nrss {30 << 20}\ntotal_cache {90 << 20}\ntotal_rss {40 << 20}\ntotal_shmem {5 << 20}\n"
STATISTICS_2 = (
    f"anon {40 << 20}\nfile {90 << 20}\nkernel_stack {1 << 20}\npagetables {1 << 20}\nshmem {5 << 20}\n"
    f"slab_reclaimable {9 << 20}\nslab_unreclaimable {3 << 20}\n"
)


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "memory/a/b").mkdir(parents=True)
    (tmp_path / "memory/a/b/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory/a/memory.limit_in_bytes").write_text("300\n")
    (tmp_path / "unified/u").mkdir(parents=True)
    (tmp_path / "unified/u/memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("900\n")
    root = str(tmp_path)
    assert group_of("4:memory:/a/b\n0::/u\n", root) == Group(f"{root}/memory/a", 300)
    assert group_of("0::/u/v\n", root) == Group(root, 900)
    assert group_of("4:memory:/\n1:cpu:/\n", root) is None


def made_tree(tmp_path: Path) -> tuple[str, str]:
    """A control group of version 2 as systemd makes them, and the file that names it."""
    service = tmp_path / "fs/user.slice/user-1000.slice/riafs.service"
    service.mkdir(parents=True)
    for directory, maximum, high in ((service, 150 << 20, "max"), (service.parent, "max", 140 << 20)):
        (directory / "memory.max").write_text(f"{maximum}\n")
        (directory / "memory.high").write_text(f"{high}\n")
        (directory / "memory.stat").write_text(STATISTICS_2)
    cgroups = tmp_path / "cgroup"
    cgroups.write_text("0::/user.slice/user-1000.slice/riafs.service\n")
    return str(cgroups), str(tmp_path / "fs")


def test_a_group_of_version_2_and_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroups, root = made_tree(tmp_path)
    group = own_group(cgroups, root)
    assert group == Group(f"{root}/user.slice/user-1000.slice", 140 << 20)
    assert group.used() == 50 << 20
    monkeypatch.setattr(memory, "own_group", partial(own_group, cgroups, root))
    assert memory.share(1 << 30, 4) == 35 << 20
    memory.ensure(60 << 20, "a thing")
    with pytest.raises(OutOfMemory, match="a thing: 50 of the 140 MiB that the control group allows"):
        memory.ensure(80 << 20, "a thing")


def test_memory_is_counted_once_in_a_group_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_text(STATISTICS_1)
    assert Group(str(tmp_path), 1).used() == 45 << 20


def test_without_files_nothing_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "own_group", lambda: None)
    memory.ensure(1 << 60, "a thing")
    assert memory.share(5, 2) == 5
    for text in ("", "0::/nothing\n", "not a line of it\n"):
        (tmp_path / "cgroup").write_text(text)
        assert own_group(str(tmp_path / "cgroup"), str(tmp_path)) is None
    assert own_group(str(tmp_path / "absent"), str(tmp_path)) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount the files of control groups")
def test_a_process_in_a_group_of_version_2(tmp_path: Path) -> None:
    """The files where the kernel has them. (That it enforces the limit is tested in tests/faults/test_memory_group.)"""
    cgroups, root = made_tree(tmp_path)
    program = "from riafs import memory; print(memory.own_group()); memory.ensure(100 << 20, 'a thing')"
    shell = 'mount --bind "$1" /proc/$$/cgroup && mount --bind "$2" /sys/fs/cgroup && exec "$3" -c "$4"'
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", cgroups, root, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if not done.stdout:
        pytest.skip(f"no private mount namespace can be made here: {done.stderr}")
    assert "user.slice/user-1000.slice', limit=146800640" in done.stdout
    assert "OutOfMemory: out of memory for a thing: 50 of the 140 MiB" in done.stderr
