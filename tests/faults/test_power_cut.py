"""What was reported as done outlives a power cut: the store lies on a file system of its own, and a copy of its block
device that is taken right at the end of a command is all that there is afterwards.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.push.conftest import FILES, LOCKED, UNLOCKED, with_annex
from tests.small import SmallDataset, SmallStore, key_of, mixed_path, noise

NEW = noise(300_000, "new")
MANY = 120
CONTENTS = [LOCKED, UNLOCKED, b"a text that compresses " * 1000, noise(5000)]


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The file system in a file. Nothing of it is written to the device for an hour unless somebody asks for it."""
    place.mkdir(exist_ok=True)
    options = ["-o", "loop,commit=3600,noatime"]
    if subprocess.run(["mount", *options, image, place], check=False, capture_output=True).returncode:
        pytest.skip("file systems of files cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own."""
    if os.getuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    with mounted(image, tmp_path / "disk") as place:
        yield place


@contextmanager
def after_power_cut(disk: Path) -> Iterator[Path]:
    """What is found on the disk if the power fails now."""
    (disk / "never synced").write_bytes(b"x")
    copy = disk.parent / "copy"
    shutil.copyfile(disk.parent / "image", copy)
    with mounted(copy, disk.parent / "found") as found:
        assert not (found / "never synced").exists(), "the file system wrote out what nobody asked for"
        yield found
    copy.unlink()
    (disk / "never synced").unlink()


def store_on(disk: Path) -> list[SmallDataset]:
    """One dataset with everything, and one that has no annex yet."""
    store = SmallStore.make(disk / "store")
    full = with_annex(store.dataset("full", FILES))
    for content in CONTENTS:
        full.put(key_of(content), content).chmod(0o444)
    for name in ("HEAD", "refs/heads/main"):
        log = full.path / "logs" / name
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    full.git("update-server-info")
    bare = with_annex(store.dataset("bare", {b"file": b"in git\n", b".gitattributes": b"* annex.backend=MD5E\n"}))
    bare.git("pack-refs", "--all", "--prune")
    subprocess.run(["sync", "-f", disk], check=True)
    return [full, bare]


def riafs(*arguments: str | Path, under: Sequence[str | Path] = ()) -> str:
    command = [*under, sys.executable, "-m", "riafs.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    stamp = {f"GIT_{role}_{part}": "x" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    return os.environ | stamp


def changed(datasets: Sequence[SmallDataset], directory: Path, many: int) -> Path:
    """An overlay with changes in all datasets."""
    overlay, mountpoint = directory / "overlay", directory / "mount"
    mountpoint.mkdir(exist_ok=True)
    riafs("mount", datasets[0].path.parents[1], mountpoint, "--overlay", overlay)
    try:
        for dataset in datasets:
            top = mountpoint / dataset.alias
            (top / "new").mkdir()
            (top / "new" / "large.dat").write_bytes(NEW)
            for number in range(many):
                (top / "new" / f"{number}.dat").write_text(f"{number}")
        tool = mountpoint / "full" / "tool"
        tool.chmod(0o644)
        (mountpoint / "full" / "data" / "locked.dat").chmod(0o755)
    finally:
        riafs("umount", mountpoint)
    return overlay


def pushed_is_there(found: Path, datasets: Sequence[SmallDataset], disk: Path) -> None:
    """Whether what is found is a store with all that was pushed."""
    for dataset in datasets:
        copy = SmallDataset(found / dataset.path.relative_to(disk), dataset.id, dataset.alias)
        copy.git("fsck", "--full", "--strict")
        assert copy.git("for-each-ref") == dataset.git("for-each-ref")
        assert len(copy.git("rev-list", "main").split()) == 2
        assert copy.object_path(key_of(NEW)).read_bytes() == NEW
        for path in (dataset.path / "annex").rglob("*"):
            there = copy.path / path.relative_to(dataset.path)
            assert there.exists(), path
            assert there.stat().st_mode == path.stat().st_mode
    full = found / datasets[0].path.relative_to(disk)
    for name in ("logs/HEAD", "logs/refs/heads/main", "info/refs"):
        assert (full / name).read_bytes() == (datasets[0].path / name).read_bytes() != b""
    assert (full / "annex/objects" / os.fsdecode(mixed_path(key_of(LOCKED)))).stat().st_mode & 0o111


@pytest.mark.timeout(300)
@pytest.mark.parametrize("many", [2, MANY])
def test_a_push_outlives_a_power_cut(disk: Path, tmp_path: Path, many: int) -> None:
    datasets = store_on(disk)
    overlay = changed(datasets, tmp_path, many)
    riafs("push", "--overlay", overlay, "-m", "pushed")
    with after_power_cut(disk) as found:
        pushed_is_there(found, datasets, disk)


@pytest.mark.timeout(300)
def test_packing_outlives_a_power_cut(disk: Path) -> None:
    [full, _] = store_on(disk)
    source = f"{full.path.parents[1]}#{full.id}"
    place = full.path.relative_to(disk)
    names = {os.fsdecode(mixed_path(key_of(content))): content for content in CONTENTS}

    riafs("archive", source, "--prune")
    with after_power_cut(disk) as found:
        archive = (found / place / "archives" / "archive.7z").read_bytes()
        assert archive == (full.path / "archives" / "archive.7z").read_bytes()
        assert subprocess.run(["7z", "t", found / place / "archives/archive.7z"], capture_output=True).returncode == 0
        assert not [path for path in (found / place / "annex/objects").rglob("*") if path.is_file()]

    riafs("unarchive", source)
    with after_power_cut(disk) as found:
        assert {name: (found / place / "annex/objects" / name).read_bytes() for name in names} == names

    riafs("unarchive", source, "--remove-archive")
    with after_power_cut(disk) as found:
        assert not (found / place / "archives" / "archive.7z").exists()
        assert {name: (found / place / "annex/objects" / name).read_bytes() for name in names} == names


# -- the order --------------------------------------------------------------------------------------------------------

_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_PLACE = re.compile(r'<([^>]*)>, "([^"]*)"')


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.timeout(300)
def test_everything_is_synced_before_the_overlay_forgets(tmp_path: Path) -> None:
    datasets = store_on(tmp_path)
    overlay = changed(datasets, tmp_path, 2)
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,syncfs,renameat,renameat2,mkdirat,linkat,pwrite64"
    riafs("push", "--overlay", overlay, "-m", "pushed", under=["strace", "-f", "-y", "-qq", "-o", trace, "-e", calls])
    store = str(tmp_path / "store")
    waiting: set[str] = set()
    synced = forgotten = moved = 0
    for number, line in enumerate(trace.read_text().splitlines(), 1):
        call = _CALL.match(line)
        if call is None or call[3].startswith("-"):
            continue
        name, arguments = call[1], call[2]
        if name in ("renameat", "renameat2", "mkdirat", "linkat"):
            directory, new = _PLACE.findall(arguments)[-1]
            if directory.startswith(store) and ".riafs-push" not in f"{directory}/{new}" and not new.endswith(".lock"):
                waiting.add(directory)
                moved = number if "/refs/heads" in directory else moved
        elif name in ("fsync", "syncfs"):
            place = arguments.partition("<")[2].rpartition(">")[0]
            waiting = set() if name == "syncfs" else waiting - {place}
            synced = number if place.startswith(store) else synced
        elif name == "pwrite64" and "overlay.sqlite-wal" in arguments and moved and not forgotten:
            forgotten = number
    assert waiting == set()
    assert 0 < moved < synced < forgotten
