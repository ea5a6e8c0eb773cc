"""An overlay's changes, pushed into a store, are the tree that the overlay showed."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import RiafsError
from riafs.formats.sources import parse_ria_source
from riafs.overlay.changes import Base
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.lower import LowerEntry
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from riafs.push.pushing import Push
from riafs.tree.listing import GitEntry, git_version
from riafs.tree.protocol import Kind
from riafs.watching import NoWatcher
from tests.overlay.disk import DiskLower
from tests.overlay.walking import Walker
from tests.push.conftest import means, request, tree
from tests.push.destinations import open_for_pushing
from tests.small import Executable, Link, SmallDataset, SmallStore

FILES = {
    b"a/b/f": b"1" * 30,
    b"a/c/g": b"2" * 30,
    b"a/f": b"3" * 30,
    b"b/a/f": b"4" * 30,
    b"b/f": Executable(b"5" * 30),
    b"b/g": Link(b"../f"),
    b"c/g": b"6" * 30,
    b"f": b"7" * 30,
}
COMPONENTS = (b"a", b"b", b"c", b"f", b"g", b"n")
STEPS = 14


class GitLower(DiskLower):
    """A checkout, with the names that git has for what is in it."""

    def __init__(self, root: Path, dataset: SmallDataset) -> None:
        root.mkdir()
        archive = subprocess.run(
            ["git", "--git-dir", dataset.path, "archive", "main"], stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", root], input=archive.stdout, check=True)
        commit = dataset.git("rev-parse", "main").encode()
        self.base = Base(dataset.id.encode(), str(dataset.path.parent.parent), b"refs/heads/main", commit)
        super().__init__(os.fsencode(root), self.base)
        self._versions = {}
        for line in dataset.git("ls-tree", "-r", "-t", "main").splitlines():
            words, _, path = line.partition("\t")
            mode, _, oid = words.split()
            self._versions[os.fsencode(path)] = git_version(int(mode, 8), bytes.fromhex(oid))

    def _entry(self, path: bytes) -> LowerEntry | None:
        found = super()._entry(path)
        if found is None or not path:
            return found
        entry = found.entry
        version = self._versions[path]
        return LowerEntry(
            found.inode,
            GitEntry(
                entry.name, entry.kind, entry.size, entry.executable, entry.mtime_ns, version,
                key=None, registered=False,
            ),
        )  # fmt: skip


class Worker:
    """Does something somewhere."""

    def __init__(self, walker: Walker, seed: int) -> None:
        self._walker = walker
        self._random = random.Random(seed)

    async def _place(self) -> bytes:
        path = self._random.choice(sorted(await self._walker.tree()) or [b"a"])
        if self._random.random() < 0.5:
            return path
        inside = (await self._walker.stat(path)).kind is Kind.DIRECTORY
        return os.path.join(path if inside else os.path.dirname(path), self._random.choice(COMPONENTS))

    async def step(self) -> None:
        """One change, or none."""
        walker, path = self._walker, await self._place()
        match self._random.randrange(12):
            case 0 | 1 | 2:
                await walker.rename(path, await self._place())
            case 3:
                await walker.write(path, b"new%d" % self._random.randrange(99), self._random.randrange(40))
            case 4:
                await walker.unlink(path)
            case 5:
                await walker.mkdir(path)
            case 6:
                await self._remove(path)
            case 7 | 8 | 9:
                await walker.link(path, await self._place())
            case 10:
                await walker.mknod(path, Kind.FIFO)
            case _:
                await walker.engine.setattr((await walker.stat(path)).inode, mode=0o755)

    async def _remove(self, path: bytes) -> None:
        for below, (kind, _, _) in reversed((await self._walker.tree(path)).items()):
            await (self._walker.rmdir(below) if kind == "directory" else self._walker.unlink(below))
        await self._walker.rmdir(path)


async def in_git(walker: Walker) -> dict[bytes, tuple[str, bytes]]:
    """What git should have of the tree."""
    modes = {("file", False): "100644", ("file", True): "100755", ("link", True): "120000"}
    tree = await walker.tree()
    return {
        path: (modes[kind, bool(mode & 0o100)], content)
        for path, (kind, mode, content) in tree.items()
        if kind not in ("directory", "fifo")
    }


@pytest.mark.parametrize("seed", range(16))
async def test_what_is_pushed_is_what_was_shown(tmp_path: Path, seed: int) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", FILES)
    lower = GitLower(tmp_path / "lower", dataset)
    overlay = Overlay(str(tmp_path / "overlay"), Counters())
    engine = OverlayFileSystem(overlay, lower, Ownership(0, 0))
    await engine.attach()
    walker = Walker(engine)
    worker = Worker(walker, seed)
    for _ in range(STEPS):
        try:
            await worker.step()
        except RiafsError:
            continue  # cannot be done there
    changes = list(overlay.changes(lower.base.dataset))
    source = parse_ria_source(f"{tmp_path}/store#{dataset.id}")
    async with open_for_pushing(source, means()) as destination:
        await Push(destination, lower.base, changes, request(), NoWatcher()).run()
    assert tree(dataset) == await in_git(walker)
    engine.close()
    overlay.close()
