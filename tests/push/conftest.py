"""What the tests of pushing share: a small dataset with an annex, a push as a function, what a reader then finds."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from riafs.formats.gitobjects import Stamp
from riafs.formats.sources import parse_ria_source
from riafs.overlay.changes import Change
from riafs.push.destination import Destination
from riafs.push.protocol import Prefer, PushReport, PushRequest
from riafs.push.pushing import Push
from riafs.tree.tools import CommandSettings
from riafs.watching import NoWatcher, Watcher
from tests.push.changes import Below
from tests.push.destinations import open_for_pushing
from tests.small import Executable, Link, Locked, Pointer, SmallDataset, SmallStore, key_of, mixed_path

STORAGE = b"5d9c6f0e-1111-4222-8333-444455556666"
STAMP = Stamp(b"riafs tests <tests@riafs.invalid> 1700000000 +0000")
LOCKED, UNLOCKED = b"locked content\n", b"unlocked content\n"
FILES = {
    b".gitattributes": b"* annex.backend=MD5E\ncode/** annex.largefiles=nothing\n",
    b"code/run.sh": b"#!/bin/sh\n",
    b"data/locked.dat": Locked(key_of(LOCKED)),
    b"data/unlocked.dat": Pointer(key_of(UNLOCKED)),
    b"data/sub/deep.dat": Locked(key_of(LOCKED)),
    b"link": Link(b"code/run.sh"),
    b"tool": Executable(b"tool\n"),
}


def remote_log(dataset: SmallDataset, more: str = "encryption=none") -> bytes:
    """The line of the storage remote."""
    line = (
        f"{STORAGE.decode()} archive-id={dataset.id} {more} externaltype=ora name=storage type=external timestamp=1s\n"
    )
    return line.encode()


def with_annex(dataset: SmallDataset, more: str = "encryption=none", **logs: bytes) -> SmallDataset:
    """Give the dataset a git-annex branch; `logs`: name of a top-level log without ``.log`` → text."""
    files = {f"{name}.log".encode(): text for name, text in logs.items()}
    dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n", b"remote.log": remote_log(dataset, more), **files})
    return dataset


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    """A dataset with files in all forms."""
    made = with_annex(SmallStore.make(tmp_path / "store").dataset("one", FILES))
    for content in (LOCKED, UNLOCKED):
        made.put(key_of(content), content).chmod(0o444)
    return made


@pytest.fixture
def below(dataset: SmallDataset, tmp_path: Path) -> Below:
    """Makes changes over the dataset's first commit."""
    return changes_over(dataset, tmp_path / "overlay")


def changes_over(dataset: SmallDataset, area: Path, ref: str = "main") -> Below:
    """Makes changes over the commit that `ref` names now."""
    area.mkdir(exist_ok=True)
    return Below(dataset.path, area, dataset.git("rev-parse", ref))


def means() -> CommandSettings:
    git = shutil.which("git")
    assert git is not None
    return CommandSettings(git, os.environ["PATH"], 60.0, None)


def request(
    message: bytes = b"pushed",
    *,
    branch: bytes | None = None,
    as_branch: bytes | None = None,
    prefer: Prefer = Prefer.NEITHER,
    dry_run: bool = False,
    unfiltered: bool = False,
) -> PushRequest:
    return PushRequest(message, STAMP, STAMP, os.environ["PATH"], branch, as_branch, prefer, dry_run, unfiltered)


async def push(
    dataset: SmallDataset,
    below: Below,
    changes: Sequence[Change],
    wanted: PushRequest | None = None,
    watcher: Watcher | None = None,
    gitlinks: Mapping[bytes, bytes] | None = None,
    ref: bytes | None = b"refs/heads/main",
) -> PushReport:
    """``riafs push`` of one dataset."""
    ordered = sorted(changes, key=lambda change: change.path)
    source = parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}")
    async with open_for_pushing(source, means()) as destination:
        base = below.base(dataset.id, ref)
        return await Push(destination, base, ordered, wanted or request(), watcher or NoWatcher()).run(gitlinks)


async def opened(dataset: SmallDataset) -> Destination:
    """What opening for a push says."""
    async with open_for_pushing(parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}"), means()) as destination:
        return destination


def tree(dataset: SmallDataset, commit: str = "main") -> dict[bytes, tuple[str, bytes]]:
    """Path → (git's mode, content of the blob, or a submodule's commit)."""
    listed = subprocess.run(
        ["git", "--git-dir", dataset.path, "ls-tree", "-r", "-z", commit], stdout=subprocess.PIPE, check=True
    ).stdout
    found = {}
    for line in listed.split(b"\0")[:-1]:
        words, _, path = line.partition(b"\t")
        mode, kind, oid = words.decode().split()
        found[path] = (mode, oid.encode() if kind == "commit" else blob(dataset, oid))
    return found


def blob(dataset: SmallDataset, name: str) -> bytes:
    command = ["git", "--git-dir", dataset.path, "cat-file", "blob", name]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def run(cwd: Path, *command: str | Path) -> str:
    """What a command prints that has to work."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def content(dataset: SmallDataset, path: bytes, commit: str = "main") -> bytes:
    """What a clone that has got everything shows at a path."""
    _, data = tree(dataset, commit)[path]
    match = re.search(rb"(?:^|/)annex/objects/(?:.*/)?([^/\n]+)\n?\Z", data)
    if match is None:
        return data
    return (dataset.path / "annex" / "objects" / os.fsdecode(mixed_path(match[1]))).read_bytes()


def annex_log(dataset: SmallDataset, key: bytes, suffix: str = ".log") -> bytes:
    """The text of a key's log."""
    names = dataset.git("ls-tree", "-r", "--name-only", "git-annex").splitlines()
    [name] = [name for name in names if name.endswith("/" + os.fsdecode(key) + suffix)]
    return blob(dataset, f"git-annex:{name}")


def objects(dataset: SmallDataset) -> dict[str, bytes]:
    """Name → content of every loose object."""
    root = dataset.path / "annex" / "objects"
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def state(dataset: SmallDataset) -> tuple[str, dict[str, bytes]]:
    """All refs, and all objects."""
    return dataset.git("for-each-ref"), objects(dataset)


def sound(dataset: SmallDataset) -> None:
    """git finds nothing wrong, and no workspace is left."""
    dataset.git("fsck", "--full", "--strict")
    assert not (dataset.path / "annex" / ".riafs-push").exists()
