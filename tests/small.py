"""Small RIA stores, made in milliseconds: bare repositories by ``git fast-import``, objects written as files.

For tests that need one peculiarity and nothing else; stores as the real tools make them are in ``tests/stores``.
"""

import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from riafs.formats.annex import hash_mixed
from riafs.formats.keys import escape

EPOCH = 1_700_000_000
"""Time of every commit unless a test says otherwise, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Executable:
    """A file in git with the executable bit."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Locked:
    """The link of a locked annexed file."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Pointer:
    """The pointer file of an unlocked annexed file."""

    key: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """A subdataset at a commit (hex)."""

    commit: str


Node = bytes | Executable | Link | Locked | Pointer | Registered
"""What is at a path; plain bytes: a file in git."""

Files = Mapping[bytes, Node]


def key_of(content: bytes, extension: bytes = b".dat") -> bytes:
    """The MD5E key of `content`."""
    return b"MD5E-s%d--%b%b" % (len(content), hashlib.md5(content).hexdigest().encode(), extension)


def sha256_key_of(content: bytes) -> bytes:
    """The SHA256E key of `content`."""
    return b"SHA256E-s%d--%b.dat" % (len(content), hashlib.sha256(content).hexdigest().encode())


def noise(size: int, seed: str = "") -> bytes:
    """Bytes that look random, always the same ones."""
    return hashlib.shake_128(f"{size} {seed}".encode()).digest(size)


def mixed_path(key: bytes) -> bytes:
    """Where ORA keeps the object of `key` in layout 2, below ``annex/objects``."""
    name = escape(key)
    return b"%b/%b/%b" % (hash_mixed(name), name, name)


def put(path: bytes | Path, content: bytes) -> None:
    """Write a file and the directories above it."""
    os.makedirs(os.path.dirname(os.fsencode(path)), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


@dataclass(frozen=True, slots=True)
class SmallDataset:
    """A dataset of a small store."""

    path: Path
    id: str
    alias: str

    def git(self, *arguments: str | bytes, stdin: bytes = b"") -> str:
        """What git says about the repository."""
        command = ["git", "--git-dir", self.path, *arguments]
        return os.fsdecode(subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout).strip()

    def commit(
        self,
        files: Files,
        ref: str = "refs/heads/main",
        time: int = EPOCH,
        *,
        message: str = "x",
        author: str = "riafs tests <tests@riafs.invalid>",
    ) -> str:
        """Make a commit of exactly `files` on `ref`, on top of what is there; returns its name in hex."""
        exists = (self.path / ref).exists()
        head = [f"commit {ref}", "mark :1", f"committer {author} {time} +0000", f"data {len(message)}", message]
        if exists:
            head.append(f"from {ref}^0")
        lines = "\n".join([*head, "deleteall", ""]).encode()
        stream = lines + b"".join(_modify(path, node) for path, node in files.items()) + b"\nget-mark :1\n"
        return self.git("fast-import", "--quiet", "--force", stdin=stream)

    def object_path(self, key: bytes, directories: bytes | None = None) -> Path:
        """Where the loose object of `key` is, in the directories of layout 2 unless others are given."""
        name = escape(key)
        below = mixed_path(key) if directories is None else b"%b/%b/%b" % (directories, name, name)
        return self.path / "annex" / "objects" / os.fsdecode(below)

    def put(self, key: bytes, content: bytes, directories: bytes | None = None) -> Path:
        """Store `content` as the loose object of `key`, whether it is or not."""
        path = self.object_path(key, directories)
        put(path, content)
        return path

    def archive(
        self, members: Mapping[bytes, bytes], *switches: str, place: str = "archives/archive.7z", paths: bool = False
    ) -> Path:
        """Put contents by key (by member name if `paths`) into an archive, stored unless `switches` say otherwise."""
        tree = self.path / f"tree-{uuid.uuid4()}"
        for name, content in members.items():
            put(os.fsencode(tree) + b"/" + (name if paths else mixed_path(name)), content)
        archive = self.path / place
        archive.parent.mkdir(parents=True, exist_ok=True)
        command = ["7z", "u", "-bd", *(switches or ("-mx0",)), "--", str(archive), "."]
        subprocess.run(command, cwd=tree, check=True, stdin=subprocess.DEVNULL, capture_output=True)
        subprocess.run(["rm", "-r", tree], check=True)
        return archive

    def annex_branch(self, logs: Files, time: int = EPOCH) -> str:
        """Write the git-annex branch: path of a log → text."""
        return self.commit(logs, ref="refs/heads/git-annex", time=time)


@dataclass(frozen=True, slots=True)
class SmallStore:
    """A store in the directory `path`."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> "SmallStore":
        """An empty store."""
        (path / "alias").mkdir(parents=True)
        (path / "ria-layout-version").write_text("1\n")
        return cls(path)

    def dataset(
        self, alias: str, files: Files | None = None, *, layout: str = "2", object_format: str = "sha1"
    ) -> SmallDataset:
        """A new dataset with an alias, and a first commit on ``main`` if there are files."""
        identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, alias))
        path = self.path / identifier[:3] / identifier[3:]
        for part in ("objects/info", "refs/heads"):
            (path / part).mkdir(parents=True)
        (path / "HEAD").write_text("ref: refs/heads/main\n")
        (path / "config").write_text(_CONFIG[object_format])
        (path / "ria-layout-version").write_text(f"{layout}\n")
        (self.path / "alias" / alias).symlink_to(f"../{identifier[:3]}/{identifier[3:]}")
        dataset = SmallDataset(path, identifier, alias)
        if files is not None:
            dataset.commit(files)
        return dataset


_CONFIG = {
    "sha1": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    "sha256": "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n",
}


def _modify(path: bytes, node: Node) -> bytes:
    """One path for fast-import."""
    mode, content = _mode_and_content(path, node)
    if mode == b"160000":
        return b"M 160000 %b %b\n" % (content, _quoted(path))
    return b"M %b inline %b\ndata %d\n%b\n" % (mode, _quoted(path), len(content), content)


def _mode_and_content(path: bytes, node: Node) -> tuple[bytes, bytes]:
    match node:
        case Executable(content):
            return b"100755", content
        case Link(target):
            return b"120000", target
        case Locked(key):
            return b"120000", b"../" * path.count(b"/") + b".git/annex/objects/" + mixed_path(key)
        case Pointer(key, executable):
            return b"100755" if executable else b"100644", b"/annex/objects/" + escape(key) + b"\n"
        case Registered(commit):
            return b"160000", commit.encode()
    return b"100644", node


def _quoted(path: Iterable[int]) -> bytes:
    return b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'
