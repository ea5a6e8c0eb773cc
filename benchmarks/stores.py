"""Stores to measure with, made without DataLad: git's fast-import for the commits, plain files for the objects.

They have what DataLad's create-sibling-ria and push leave: layout versions, bare repositories, loose objects in mixed
hash directories, an alias, and a git-annex branch that names the ORA special remote, so that ``datalad clone`` and
``get`` work on them. A store is built beside its place and renamed, so an interrupted build is not taken for a store.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from riafs.formats.annex import hash_lower, hash_mixed

_TIME = 1_700_000_000
_REMOTE = "1f1f1f1f-0000-4000-8000-00000000000a"


def build_once(place: Path, build: Callable[[Path], None]) -> Path:
    """`place`, filled by `build` if an earlier run has not done so. `build` gets another directory to work in."""
    if not place.exists():
        unfinished = place.with_name(place.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        print(f"making {place}", flush=True)
        build(unfinished)
        unfinished.rename(place)
    return place


def identifier(number: int) -> str:
    """The dataset id number `number` of a store."""
    return f"{number:08x}-0000-4000-8000-{number:012x}"


def dataset_path(number: int) -> str:
    """Where below a store that dataset lies."""
    name = identifier(number)
    return f"{name[:3]}/{name[3:]}"


def make_store(root: Path) -> None:
    """An empty store."""
    (root / "alias").mkdir()
    (root / "ria-layout-version").write_text("1\n")


def add_alias(root: Path, alias: str, number: int) -> None:
    """Let `alias` name the dataset `number`."""
    (root / "alias" / alias).symlink_to(f"../{dataset_path(number)}")


@dataclass(frozen=True, slots=True)
class Annexed:
    """A file of a dataset: its path there, its content, its key."""

    path: str
    data: bytes

    @property
    def key(self) -> bytes:
        """The MD5E key of the content."""
        return b"MD5E-s%d--%s.dat" % (len(self.data), hashlib.md5(self.data).hexdigest().encode())

    def target(self, directory: str = "") -> bytes:
        """That of the locked link, where `path` is one in `directory`."""
        key, up = self.key, "../" * (self.path.count("/") + bool(directory))
        return os.fsencode(f"{up}.git/annex/objects/") + hash_mixed(key) + b"/" + key + b"/" + key


def files(directories: int, each: int, size: int, name: str = "d{:05d}/file{:06d}.dat") -> Iterator[Annexed]:
    """`each` files of `size` bytes in each of so many directories, all different, sizes from 12 bytes."""
    for number in range(directories * each):
        yield Annexed(name.format(number // each, number), (b"%012d" % number * (size // 12 + 1))[:size])


class Dataset:
    """A dataset that is being written into the store that is being made at `root` and will lie at `store`."""

    def __init__(self, root: Path, store: Path, importer: IO[bytes], number: int) -> None:
        self._root = root
        self._objects = root / dataset_path(number) / "annex/objects"
        self._store = store
        self._number = number
        self._write = importer.write

    def commit(self, branch: str, content: Iterable[Annexed]) -> None:
        """A commit of locked links to `content`."""
        self._begin(branch)
        for file in content:
            target = file.target()
            self._write(b"M 120000 inline %s\ndata %d\n%s\n" % (file.path.encode(), len(target), target))

    def commit_flat(self, branch: str, directory: str, content: Iterable[Annexed]) -> None:
        """The same for names without a slash in one directory, in order. fast-import itself would take time in
        proportion to the square of their number.
        """
        lines = []
        for file in content:
            target = file.target(directory)
            self._write(b"blob\ndata %d\n%s\n" % (len(target), target))
            name = hashlib.sha1(b"blob %d\0%s" % (len(target), target)).hexdigest()
            lines.append(f"120000 blob {name}\t{file.path}\n")
        command = ["git", "--git-dir", self._root / dataset_path(self._number), "mktree", "--missing"]
        made = subprocess.run(command, input="".join(lines), stdout=subprocess.PIPE, text=True, check=True)
        self._begin(branch)
        self._write(f"M 040000 {made.stdout.strip()} {directory}\n".encode())

    def keep(self, content: Iterable[Annexed]) -> None:
        """Put the objects of `content` into the store."""
        for file in content:
            key = os.fsdecode(file.key)
            folder = self._objects / os.fsdecode(hash_mixed(file.key)) / key
            folder.mkdir(parents=True)
            place = folder / key
            place.write_bytes(file.data)
            place.chmod(0o444)

    def log_locations(self, content: Iterable[Annexed]) -> None:
        """A git-annex branch that says the store has all of `content`."""
        self._begin("git-annex")
        self._log("uuid.log", f"{_REMOTE} storage timestamp={_TIME}s\n")
        settings = {
            "archive-id": identifier(self._number),
            "autoenable": "true",
            "encryption": "none",
            "externaltype": "ora",
            "name": "store-storage",
            "type": "external",
            "url": f"ria+file://{self._store}",
            "timestamp": f"{_TIME}s",
        }
        self._log("remote.log", f"{_REMOTE} {' '.join(f'{name}={value}' for name, value in settings.items())}\n")
        for file in content:
            key = file.key
            self._log(os.fsdecode(hash_lower(key) + b"/" + key + b".log"), f"{_TIME}s 1 {_REMOTE}\n")

    def _begin(self, branch: str) -> None:
        self._write(b"commit refs/heads/%s\ncommitter b <b@b> %d +0000\ndata 1\nx\n" % (branch.encode(), _TIME))

    def _log(self, path: str, text: str) -> None:
        self._write(f"M 100644 inline {path}\ndata {len(text)}\n{text}\n".encode())


@contextmanager
def new_dataset(root: Path, store: Path, number: int, alias: str) -> Iterator[Dataset]:
    """Add a dataset to the store that is being made at `root` and will lie at `store`."""
    place = root / dataset_path(number)
    (place / "annex/objects").mkdir(parents=True)
    (place / "ria-layout-version").write_text("2\n")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", place], check=True)
    with subprocess.Popen(["git", "--git-dir", place, "fast-import", "--quiet"], stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        yield Dataset(root, store, importer.stdin, number)
    if importer.returncode:
        raise subprocess.CalledProcessError(importer.returncode, "git fast-import")
    add_alias(root, alias, number)


def write_plain(root: Path, content: Iterable[Annexed]) -> None:
    """`content` as ordinary files: a checkout without git."""
    for file in content:
        place = root / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.data)
