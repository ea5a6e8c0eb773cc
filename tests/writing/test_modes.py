"""Modes of what a push makes, as git and git-annex give them, and whether another user can read it; modes of the files
of a mount itself.
"""

import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from riafs.daemon.ask import socket_path
from riafs.daemon.mounts import mount_at
from riafs.settings import runtime_directory
from tests.fuse.mounting import mounted, run_riafs
from tests.push.conftest import FILES, LOCKED, UNLOCKED, changes_over, push, request, run, with_annex
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

NEW = b"new content"
EVERYBODY = 0xFFFFFFFF
ENTRIES = [(0x01, 7, EVERYBODY), (0x02, 5, 65534), (0x04, 5, EVERYBODY), (0x10, 7, EVERYBODY), (0x20, 0, EVERYBODY)]
DEFAULT_LIST = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in ENTRIES)
"""The user 65534 may read and enter, as the kernel keeps it (linux/posix_acl_xattr.h)."""


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def made(top: Path, sharing: str) -> SmallDataset:
    dataset = with_annex(SmallStore.make(top / "store").dataset("one", FILES))
    for content in (LOCKED, UNLOCKED):
        dataset.put(key_of(content), content).chmod(0o444)
    if sharing != "unset":
        dataset.git("config", "core.sharedRepository", sharing)
    return dataset


def present(top: Path) -> set[int]:
    """Inodes of all files and directories."""
    return {path.lstat().st_ino for path in top.rglob("*")}


def modes(repository: Path, before: set[int]) -> dict[str, set[str]]:
    """Kind of file → its modes, of what a push made in a repository that had the inodes `before`."""
    kinds = {
        "branch": "refs/heads/main",
        "directory of branches": "refs/heads/new/deep",
        "new branch": "refs/heads/new/deep/one",
        "loose object": "objects/??/*",
        "directory of loose objects": "objects/??",
        "pack": "objects/pack/*.pack",
        "index of a pack": "objects/pack/*.idx",
        "annexed object": "annex/objects/*/*/*/*",
        "directory of annexed objects": "annex/objects/*/*",
    }
    found: dict[str, set[str]] = {kind: set() for kind in kinds}
    for kind, pattern in kinds.items():
        for status in (path.lstat() for path in repository.glob(pattern)):
            if status.st_ino not in before:
                found[kind].add(oct(stat.S_IMODE(status.st_mode)))
    return found


@pytest.fixture(scope="module", params=[0o022, 0o077], ids=oct)
def annex(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A work tree of git-annex that was made with some umask, and that: with as many files as make a pack, and one more
    that is annexed."""
    top = tmp_path_factory.mktemp("annexed")
    with umask(request.param):
        run(top, "git", "init", "-q", "-b", "main")
        run(top, "git", "annex", "init", "-q")
        for number in range(150):
            (top / str(number)).write_text(str(number))
        run(top, "git", "add", ".")
        run(top, "git", "commit", "-qm", "many")
        (top / "new").write_bytes(NEW)
        run(top, "git", "annex", "add", "-q", "new")
        run(top, "git", "commit", "-qm", "new")
    return top, request.param


def by_git_and_annex(annex: Path, target: Path, sharing: str) -> dict[str, set[str]]:
    """What both leave in a repository that they push to. Directories of keys are left out: git-annex lets nobody write
    to them, ORA does."""
    shared = [] if sharing == "unset" else [f"--shared={sharing}"]
    run(annex, "git", "init", "-q", "--bare", *shared, target)
    run(target, "git", "annex", "init", "-q")
    name = target.name
    run(annex, "git", "remote", "add", name, target)
    run(annex, "git", "push", "-q", name, "main~:refs/heads/main")
    run(annex, "git", "push", "-q", name, "main", "main:refs/heads/new/deep/one")
    run(annex, "git", "annex", "copy", "-q", "--to", name, "new")
    return modes(target, set())


@pytest.mark.parametrize("sharing", ["unset", "group", "all", "0640"])
async def test_modes_are_those_that_git_and_git_annex_leave(
    annex: tuple[Path, int], tmp_path: Path, sharing: str
) -> None:
    work, mask = annex
    dataset = made(tmp_path, sharing)
    before = present(dataset.path)
    with umask(mask):
        theirs = by_git_and_annex(work, tmp_path / sharing, sharing)
        below = changes_over(dataset, tmp_path / "overlay")
        await push(dataset, below, [below.write(b"code/%d" % number, b"%d" % number) for number in range(150)])
        below = changes_over(dataset, tmp_path / "overlay")
        await push(dataset, below, [below.write(b"n.new", NEW)], request(as_branch=b"refs/heads/new/deep/one"))
    assert modes(dataset.path, before) == theirs


async def test_a_default_access_control_list_counts_instead_of_the_umask(tmp_path: Path) -> None:
    dataset = made(tmp_path, "unset")
    for directory, _, _ in os.walk(dataset.path / "annex"):
        try:
            os.setxattr(directory, "system.posix_acl_default", DEFAULT_LIST)
        except OSError:
            pytest.skip("no access control lists here")
    before = present(dataset.path)
    with umask(0o077):
        below = changes_over(dataset, tmp_path / "overlay")
        await push(dataset, below, [below.write(b"n.new", NEW)])
    assert modes(dataset.path, before)["annexed object"] == {"0o440"}  # for others in the list, the group's bits say it


@pytest.mark.parametrize("had", [0o444, 0o440, 0o555, 0o644])
async def test_a_push_of_an_executable_bit_changes_no_other_bit(tmp_path: Path, had: int) -> None:
    dataset = made(tmp_path, "unset")
    path = dataset.object_path(key_of(LOCKED))
    path.chmod(had)
    with umask(0o077):
        below = changes_over(dataset, tmp_path / "overlay")
        await push(dataset, below, [below.mode(b"data/locked.dat", executable=not had & 0o100)])
    wanted = had & 0o444 if had & 0o100 else had | (had & 0o444) >> 2
    assert oct(stat.S_IMODE(path.stat().st_mode)) == oct(wanted | had & 0o222)


@pytest.mark.usefixtures("fuse")
def test_a_pushed_mode_is_shown(tmp_path: Path) -> None:
    dataset = made(tmp_path, "unset")
    with mounted(dataset.path.parents[1], tmp_path / "mounted", "--overlay", str(tmp_path / "overlay")) as mount:
        locked, deep = mount.path / "one" / "data" / "locked.dat", mount.path / "one" / "data" / "sub" / "deep.dat"
        assert [oct(stat.S_IMODE(path.stat().st_mode)) for path in (locked, deep)] == ["0o644", "0o644"]
        for mode in (0o755, 0o644):
            locked.chmod(mode)
            succeed("push", mount.path)
            assert oct(stat.S_IMODE(locked.stat().st_mode)) == oct(mode)
            assert os.listdir(mount.path / "one" / "data")
            assert oct(stat.S_IMODE(dataset.object_path(key_of(LOCKED)).stat().st_mode)) == oct(mode & 0o555)


# -- with mounts ------------------------------------------------------------------------------------------------------


def unreadable(top: Path) -> list[str]:
    """What another user cannot read below a directory; that it lies where he may not look is no matter."""
    words = ("find", ".", "!", "-readable", "-printf", "%m %p\n")
    return run(top, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words).splitlines()


@pytest.mark.usefixtures("fuse")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("how", ["mount", "overlay"])
def test_another_user_reads_what_was_pushed(tmp_path: Path, how: str) -> None:
    with umask(0o022):
        dataset = made(tmp_path, "unset")
        overlay = tmp_path / "overlay"
        with mounted(dataset.path.parents[1], tmp_path / "mounted", "--overlay", str(overlay)) as mount:
            top = mount.path / "one"
            (top / "new.dat").write_bytes(NEW)
            (top / "large.dat").write_bytes(noise(3 << 20))
            (top / "data" / "locked.dat").chmod(0o755)
            for number in range(120):
                (top / "code" / str(number)).write_text(str(number))
            if how == "mount":
                succeed("push", top)
        if how == "overlay":
            succeed("push", "--overlay", overlay)
        assert unreadable(dataset.path) == []
        assert oct(stat.S_IMODE(dataset.object_path(key_of(LOCKED)).stat().st_mode)) == "0o555"
        source = f"{dataset.path.parents[1]}#~one"
        succeed("archive", source, "--prune")
        assert unreadable(dataset.path) == []
        succeed("unarchive", source, "--remove-archive")
        assert unreadable(dataset.path) == []


def succeed(*words: str | Path) -> None:
    done = run_riafs(*words)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("fuse")
def test_the_files_of_a_mount_are_private_whatever_the_umask(tmp_path: Path) -> None:
    dataset = made(tmp_path, "unset")
    dataset.archive({key_of(NEW): NEW}, "-mx5")
    dataset.commit({**FILES, b"packed": Locked(key_of(NEW))})
    overlay, cache = tmp_path / "some" / "overlay", tmp_path / "other" / "cache"
    words = ("--overlay", str(overlay), "--cache-dir", str(cache))
    with umask(0), mounted(dataset.path.parents[1], tmp_path / "mounted", *words) as mount:
        top = mount.path / "one"
        (top / "new.dat").write_bytes(NEW)
        assert (top / "packed").read_bytes() == NEW
        succeed("push", top)
        (top / "new.dat").unlink()
        found = mount_at(str(mount.path))
        assert found is not None
        socket = Path(socket_path(runtime_directory(os.getuid(), os.environ), found.device))
        ours = [mount.log, socket, *overlay.parent.rglob("*"), *cache.parent.rglob("*"), overlay.parent, cache.parent]
        names = {re.sub(r"-.*", "", path.name) for path in ours}
        assert names >= {"log", "overlay.sqlite", "data", "cache", "riafs", "verified.sqlite"}
        assert [f"{path.lstat().st_mode:o} {path}" for path in ours if path.lstat().st_mode & 0o077] == []
    assert [str(path) for path in overlay.rglob("*") if path.lstat().st_mode & 0o077] == []
