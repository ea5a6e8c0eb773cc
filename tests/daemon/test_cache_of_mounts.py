"""``riafs prefetch`` and ``riafs cache`` with paths of a real mount."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riafs.cache.block_files import BlockName, annex_content, content_digest
from riafs.cache.disk import DiskBlocks
from riafs.cache.eviction import DiskLimits
from riafs.daemon.mounts import mount_at
from tests.cache.blocks import small_file_system
from tests.daemon.conftest import Run
from tests.small import Locked, SmallStore, key_of, noise
from tests.waiting import eventually, random_moment

pytestmark = pytest.mark.usefixtures("fuse")

CONTENTS = {b"sub/one": noise(3000, "one"), b"sub/deep/two": noise(3 << 20, "two"), b"three": noise(10, "three")}


@pytest.fixture
def shown(riafs: Run, tmp_path: Path, mountpoint: Path) -> Path:
    """A mounted dataset with three annexed files, one in git, and one that is missing in the store."""
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("x")
    keys = {path: key_of(content) for path, content in CONTENTS.items()}
    for path, content in CONTENTS.items():
        dataset.put(keys[path], content)
    missing = {b"sub/gone": Locked(key_of(b"gone"))}
    dataset.commit({**{path: Locked(key) for path, key in keys.items()}, b"sub/plain": b"in git\n", **missing})
    assert riafs("mount", f"{store.path}#~x", mountpoint).returncode == 0
    return mountpoint


def answer(riafs: Run, *words: object, status: int = 0) -> Any:
    done = riafs(*words, "--json")
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_prefetch_reads_trees_and_files_and_tells_what_fails(riafs: Run, shown: Path) -> None:
    outcome = answer(riafs, "prefetch", shown / "three", shown / "sub" / "deep", "--jobs", "2")
    assert (outcome["files"], outcome["bytes"], outcome["failed"]) == (2, (3 << 20) + 10, 0)
    done = riafs("prefetch", shown)
    assert done.returncode == 2
    assert done.stdout.startswith("4 files, 3.0 MiB")
    assert "1 failed" in done.stdout
    assert "sub/gone" in done.stderr
    assert done.stderr.count("\n") == 1
    assert riafs("umount", shown).returncode == 0


def test_files_and_trees_are_pinned_evicted_and_unpinned_by_their_keys(riafs: Run, shown: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for content in CONTENTS.values():
        DiskBlocks(cache, DiskLimits()).write(BlockName(content_digest(annex_content(key_of(content))), 0, 3), b"abc")
    assert answer(riafs, "cache", "pin", shown / "sub") == {"pinned": 3}
    assert answer(riafs, "cache", "pin", shown / "sub" / "one") == {"pinned": 0}
    assert answer(riafs, "cache", "evict", shown) == {"removed_blocks": 1, "removed_size": 4096}
    assert answer(riafs, "cache")["pinned_blocks"] == 2
    assert answer(riafs, "cache", "unpin", shown / "sub" / "deep") == {"unpinned": 1}
    assert answer(riafs, "cache", "evict", shown / "sub" / "deep" / "two")["removed_blocks"] == 1
    assert riafs("cache", "pin", shown / "sub" / "plain").returncode == 1
    assert riafs("umount", shown).returncode == 0


# -- content that has to be decoded -----------------------------------------------------------------------------------

ARCHIVED = {b"%02d" % number: b"%d line of text\n" % number * 9000 + noise(2000, str(number)) for number in range(24)}


@pytest.fixture(scope="session")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose dataset ``x`` has its keys in one solid block of an archive."""
    store = SmallStore.make(tmp_path_factory.mktemp("compressed") / "store")
    dataset = store.dataset("x", {path: Locked(key_of(content)) for path, content in ARCHIVED.items()})
    dataset.archive({key_of(content): content for content in ARCHIVED.values()}, "-mx1", "-ms=on")
    return store.path


def read_all(riafs: Run, store: Path, mountpoint: Path, *words: object) -> dict[str, int]:
    """Mount, compare everything, unmount; returns the counters."""
    assert riafs("mount", f"{store}#~x", mountpoint, *words).returncode == 0
    for path, content in ARCHIVED.items():
        assert (mountpoint / os.fsdecode(path)).read_bytes() == content
    [status] = answer(riafs, "status", mountpoint)
    assert riafs("umount", mountpoint).returncode == 0
    wait_for_the_end(int(status["pid"]))
    return dict(status["counters"])


def wait_for_the_end(pid: int) -> None:
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_the_next_mount_decodes_nothing(riafs: Run, compressed: Path, mountpoint: Path) -> None:
    assert read_all(riafs, compressed, mountpoint)["members_decoded"] == len(ARCHIVED)
    again = read_all(riafs, compressed, mountpoint)
    assert (again["members_decoded"], again["blocks_from_disk"]) == (0, len(ARCHIVED))


def _flipped(data: bytearray, chance: random.Random) -> bytes:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


DAMAGES: dict[str, Callable[[bytearray, random.Random], bytes]] = {
    "flipped": _flipped,
    "truncated": lambda data, chance: bytes(data[: chance.randrange(len(data) + 1)]),
    "zeroed": lambda data, _: bytes(len(data)),
    "emptied": lambda *_: b"",
}


def _swapped(files: list[Path], _chance: random.Random) -> None:
    contents = [path.read_bytes() for path in files]
    for number, path in enumerate(files):
        path.write_bytes(contents[number - 1])


def _removed(files: list[Path], _chance: random.Random) -> None:
    for path in files:
        path.unlink()


def _each(damage: Callable[[bytearray, random.Random], bytes]) -> Callable[[list[Path], random.Random], None]:
    def damage_all(files: list[Path], chance: random.Random) -> None:
        for path in files:
            path.write_bytes(damage(bytearray(path.read_bytes()), chance))

    return damage_all


def test_whatever_happens_to_the_files_of_the_cache_the_bytes_are_right(
    riafs: Run, compressed: Path, mountpoint: Path, tmp_path: Path
) -> None:
    chance = random.Random(11)
    read_all(riafs, compressed, mountpoint)
    for damage in (*map(_each, DAMAGES.values()), _swapped, _removed):
        files = [path for path in sorted((tmp_path / "cache").rglob("*")) if path.is_file()]
        assert len(files) > len(ARCHIVED)
        damage(files, chance)
        assert read_all(riafs, compressed, mountpoint)["members_decoded"] > 0
    assert read_all(riafs, compressed, mountpoint)["members_decoded"] == 0


def test_a_mount_works_with_a_cache_of_64_kib(riafs: Run, compressed: Path, mountpoint: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "tiny", "64k") as tiny:
        read_all(riafs, compressed, mountpoint, "--cache-dir", tiny)
        assert answer(riafs, "cache", "--cache-dir", tiny, "verify")["damaged"] == 0
    warnings = [line for line in (tmp_path / "log").read_text().splitlines() if "not cached on the disk" in line]
    assert len([line for line in warnings if " WARNING " in line]) == 1


def test_a_mount_killed_at_any_moment_leaves_a_good_cache(riafs: Run, compressed: Path, mountpoint: Path) -> None:
    chance = random.Random(3)
    for _ in range(6):
        assert riafs("mount", f"{compressed}#~x", mountpoint).returncode == 0
        [status] = answer(riafs, "status", mountpoint)
        reader = subprocess.Popen(
            [sys.executable, "-c", "import pathlib, sys; [p.read_bytes() for p in pathlib.Path(sys.argv[1]).iterdir()]",
             mountpoint], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        random_moment(chance, 0.05, 0.4)
        os.kill(int(status["pid"]), signal.SIGKILL)
        reader.wait(20)
        riafs("umount", mountpoint)  # another test run may have cleaned up first
        assert mount_at(str(mountpoint)) is None
        assert answer(riafs, "cache", "verify")["damaged"] == 0
    read_all(riafs, compressed, mountpoint)
