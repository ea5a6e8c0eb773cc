"""What the packing tests share: a small store with one dataset, and the two commands as functions."""

import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from riafs.formats.sources import parse_ria_source
from riafs.packing.archiving import ArchiveReport, ArchiveRequest, archive_objects
from riafs.packing.dataset import PackedDataset, open_dataset
from riafs.packing.selection import Selection
from riafs.packing.unarchiving import UnarchiveReport, UnarchiveRequest, unarchive_objects
from riafs.storage.posix import HeldDirectory
from riafs.tree.tools import CommandSettings
from riafs.watching import NoWatcher, Watcher
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

TEXT = [b"line %d of a text that compresses well\n" % number * 500 for number in range(6)]
NOISE = [noise(5000, str(number)) for number in range(4)]
CONTENTS = {key_of(content): content for content in [*TEXT, *NOISE, b"", b"x"]}
"""What the dataset holds as loose objects."""


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    """A dataset with loose objects for `CONTENTS`, used by files in the reverse order of their keys."""
    files = {b"dir%d/file%d" % (n % 3, n): Locked(key) for n, key in enumerate(sorted(CONTENTS, reverse=True))}
    made = SmallStore.make(tmp_path / "store").dataset("one", files)
    for key, content in CONTENTS.items():
        made.put(key, content).chmod(0o444)
    return made


def means(deadline: float = 30.0) -> CommandSettings:
    git = shutil.which("git")
    assert git is not None
    return CommandSettings(git, os.environ["PATH"], deadline, None)


def source(dataset: SmallDataset) -> str:
    return f"{dataset.path.parent.parent}#{dataset.id}"


def request(
    *,
    older: float | None = None,
    larger: int | None = None,
    smaller: int | None = None,
    solid_block: int = 1 << 20,
    prune: bool = False,
    dry_run: bool = False,
) -> ArchiveRequest:
    return ArchiveRequest(Selection(older, larger, smaller), solid_block, prune, dry_run)


async def archive(dataset: SmallDataset, wanted: ArchiveRequest, watcher: Watcher | None = None) -> ArchiveReport:
    """``riafs archive``."""
    async with open_dataset(parse_ria_source(source(dataset)), means(), dry_run=wanted.dry_run) as opened:
        return await archive_objects(opened, wanted, watcher or NoWatcher())


async def unarchive(
    dataset: SmallDataset, *, remove: bool = False, dry_run: bool = False, watcher: Watcher | None = None
) -> UnarchiveReport:
    """``riafs unarchive``."""
    async with open_dataset(parse_ria_source(source(dataset)), means(), dry_run=dry_run) as opened:
        return await unarchive_objects(opened, UnarchiveRequest(remove, dry_run), watcher or NoWatcher())


async def with_dataset(dataset: SmallDataset, job: Callable[[PackedDataset], Awaitable[None]]) -> None:
    async with open_dataset(parse_ria_source(source(dataset)), means(), dry_run=False) as opened:
        await job(opened)


@contextmanager
def held(path: Path) -> Iterator[HeldDirectory]:
    """A directory as packers have it."""
    opened = HeldDirectory(os.open(path, os.O_RDONLY | os.O_DIRECTORY), os.fsencode(path))
    yield opened
    opened.close()


def loose(dataset: SmallDataset) -> dict[bytes, bytes]:
    """Path below ``annex/objects`` → content, of every file."""
    root = dataset.path / "annex" / "objects"
    files = [path for path in root.rglob("*") if path.is_file()]
    return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in files}


def archive_path(dataset: SmallDataset) -> Path:
    return dataset.path / "archives" / "archive.7z"


def extract(dataset: SmallDataset, member: bytes) -> bytes:
    """What ORA does to read a key."""
    command = [b"7z", b"x", b"-so", os.fsencode(archive_path(dataset)), member]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout


def archived(dataset: SmallDataset) -> dict[bytes, bytes]:
    """Member → content, as 7-Zip sees them; it has tested them all."""
    path = os.fsencode(archive_path(dataset))
    subprocess.run([b"7z", b"t", path], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    target = dataset.path / "extracted-by-7z"
    command = [b"7z", b"x", b"-y", b"-o" + os.fsencode(target), path]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    found = {os.fsencode(each.relative_to(target)): each.read_bytes() for each in target.rglob("*") if each.is_file()}
    shutil.rmtree(target)
    return found


def nothing_unfinished(dataset: SmallDataset) -> bool:
    """Whether no working directory was left behind."""
    return [path.name for path in (dataset.path / "archives").iterdir() if path.name != "archive.7z"] == []
