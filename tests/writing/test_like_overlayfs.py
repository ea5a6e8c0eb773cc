"""The same calls on a mount and on the kernel's overlayfs over the same files: the same errno, the same tree."""

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuse.mounting import mounted
from tests.small import Executable, Link, Locked, SmallStore, key_of, noise

CALLS = int(os.environ.get("RIAFS_CALLS", "400"))
NAMES = ("a", "b", "c", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a", "f/b", "g", "l")
CONTENT = noise(20_000)
FILES = {
    b"a": b"in git", b"b": Locked(key_of(CONTENT)), b"c": Executable(b"#!/bin/sh\n"), b"l": Link(b"a"),
    b"d/a": b"in a directory", b"d/b": Locked(key_of(CONTENT)), b"d/e/a": b"deep", b"f/a": b"f", b"f/b": b"",
}  # fmt: skip


@pytest.fixture
def pair(fuse: None, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A mount of a dataset, and an overlayfs over a copy of its files."""
    if os.getuid():
        pytest.skip("only root mounts the kernel's overlayfs")
    store = SmallStore.make(tmp_path / "store")
    store.dataset("one", FILES).put(key_of(CONTENT), CONTENT)
    with mounted(f"{store.path}#~one", tmp_path / "riafs", "--overlay", str(tmp_path / "overlay")) as mount:
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
        try:
            shutil.copytree(mount.path, disk / "lower", symlinks=True)
            for name in ("upper", "work", "merged"):
                (disk / name).mkdir()
            options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work,redirect_dir=on"
            subprocess.run(["mount", "-t", "overlay", "-o", options, "none", disk / "merged"], check=True)
            try:
                yield mount.path, disk / "merged"
            finally:
                subprocess.run(["umount", disk / "merged"], check=True)
        finally:
            subprocess.run(["umount", disk], check=True)


def write(path: Path, flags: int, data: bytes, offset: int) -> None:
    file = os.open(path, flags | os.O_RDWR, 0o640)
    try:
        os.pwrite(file, data, offset)
    finally:
        os.close(file)


def call(chance: random.Random) -> Callable[[Path], object]:
    """One call, to be made in a directory."""
    one, other = chance.choice(NAMES), chance.choice(NAMES)
    data, offset = chance.randbytes(chance.choice((0, 1, 5000))), chance.choice((0, 3, 30_000))
    flags = chance.choice((0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_CREAT | os.O_TRUNC))
    mode = chance.choice((0o600, 0o644, 0o755))
    ways: dict[str, Callable[[Path], object]] = {
        "write": lambda at: write(at / one, flags, data, offset),
        "write again": lambda at: write(at / one, 0, data, offset),
        "truncate": lambda at: os.truncate(at / one, offset),
        "unlink": lambda at: os.unlink(at / one),
        "mkdir": lambda at: os.mkdir(at / one, mode),
        "rmdir": lambda at: os.rmdir(at / one),
        "rename": lambda at: os.rename(at / one, at / other),
        "rename again": lambda at: os.rename(at / other, at / one),
        "symlink": lambda at: os.symlink(other, at / one),
        "chmod": lambda at: os.chmod(at / one, mode),
        "utime": lambda at: os.utime(at / one, ns=(10**9, 2 * 10**9)),
        "list": lambda at: sorted(os.listdir(at / one)),
        "read": lambda at: (at / one).read_bytes(),
        "readlink": lambda at: os.readlink(at / one),
        "rmtree": lambda at: shutil.rmtree(at / one) if chance.random() < 0.1 else None,
    }
    name = chance.choice(sorted(ways))
    made = ways[name]
    made.__doc__ = f"{name} {one} {other} {flags:o} {len(data)} {offset}"
    return made


def outcome(made: Callable[[Path], object], at: Path) -> object:
    try:
        return made(at)
    except OSError as error:
        return error.errno


def tree(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = Path(directory) / name
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
                assert len(path.read_bytes()) == status.st_size
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            found[str(path.relative_to(root))] = status.st_mode, status.st_uid, content
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_mount_does_what_overlayfs_does(pair: tuple[Path, Path], seed: int) -> None:
    ours, theirs = pair
    assert tree(ours) == tree(theirs)
    chance = random.Random(seed)
    done = []
    for number in range(CALLS):
        state = chance.getstate()
        made = call(chance)
        done.append(made.__doc__)
        expected = outcome(made, theirs)
        chance.setstate(state)
        made = call(chance)
        assert outcome(made, ours) == expected, (number, done[-5:])
        if number % 50 == 0:
            assert tree(ours) == tree(theirs), (number, done[-50:])
    assert tree(ours) == tree(theirs)
