"""Changes made by hand: what an overlay would tell of a work directory that lies over a commit."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from riafs.formats.annex import parse_pointer
from riafs.formats.gitobjects import DIRECTORY
from riafs.overlay.changes import Base, BaseEntry, Change, ChangeKind, LocalContent
from riafs.push.rules import annexed_key
from riafs.tree.protocol import Origin


@dataclass(slots=True)
class Below:
    """A commit of the bare repository `path`, and local files in `area`, out of which changes are made."""

    path: Path
    area: Path
    commit: str
    counter: int = 0

    def git(self, *arguments: str) -> bytes:
        """What git says about the repository."""
        command = ["git", "--git-dir", self.path, *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

    def base(self, dataset: str, ref: bytes | None = b"refs/heads/main") -> Base:
        """The base of all these changes."""
        return Base(dataset.encode(), str(self.path.parent.parent), ref, self.commit.encode())

    def entry(self, path: bytes) -> BaseEntry:
        """What the commit has at a path."""
        line = self.git("ls-tree", "-z", self.commit, "--", os.fsdecode(path)).rstrip(b"\0")
        mode, kind, oid = line.partition(b"\t")[0].split(b" ")
        key = parse_pointer(self.git("cat-file", "blob", oid.decode())) if kind == b"blob" else None
        return BaseEntry(path, Origin(int(mode, 8), oid, b"" if key is None else key.serialised))

    def known(self, path: bytes) -> BaseEntry | None:
        """The same, None where there is nothing."""
        return self.entry(path) if self.git("ls-tree", "-z", self.commit, "--", os.fsdecode(path)) else None

    def local(self, data: bytes, *, executable: bool = False) -> LocalContent:
        """A whole local file."""
        self.counter += 1
        path = self.area / str(self.counter)
        path.write_bytes(data)
        return LocalContent(os.fsencode(path), ((0, len(data)),) if data else (), len(data), None, executable)

    def patched(self, pieces: Mapping[int, bytes], size: int) -> LocalContent:
        """A local file that has only some ranges: offset → bytes."""
        self.counter += 1
        path = self.area / str(self.counter)
        with open(path, "wb") as file:
            for offset, data in pieces.items():
                file.seek(offset)
                file.write(data)
        extents = tuple((offset, offset + len(data)) for offset, data in sorted(pieces.items()))
        return LocalContent(os.fsencode(path), extents, size, None, executable=False)

    # -- changes ------------------------------------------------------------------------------------------------------

    def write(self, path: bytes, data: bytes, *, executable: bool = False) -> Change:
        """A file written whole, new or not."""
        return self.put(path, self.local(data, executable=executable))

    def put(self, path: bytes, content: LocalContent) -> Change:
        """A file or link with the given content, new or not."""
        base = self.known(path)
        kind = ChangeKind.ADDED if base is None else ChangeKind.CHANGED
        return Change(path, kind, base, content, None, 1)

    def link(self, path: bytes, target: bytes) -> Change:
        """A symbolic link."""
        return self.put(path, LocalContent(b"", (), len(target), target, executable=False))

    def remove(self, path: bytes) -> Change:
        """A file or directory that is gone."""
        return Change(path, ChangeKind.REMOVED, self.known(path), None, None, 1)

    def rename(self, source: bytes, path: bytes, content: LocalContent | None = None) -> Change:
        """A file or directory in another place."""
        return Change(path, ChangeKind.RENAMED, self.entry(source), content, source, 1)

    def mode(self, path: bytes, *, executable: bool) -> Change:
        """Another executable bit."""
        base = self.entry(path)
        key = annexed_key(base)
        size = key.size if key is not None and key.size is not None else 0
        content = LocalContent(b"", (), size, None, executable)
        return Change(path, ChangeKind.MODE, base, content, None, 1)

    def directory(self, path: bytes) -> Change:
        """A new empty directory."""
        return Change(path, ChangeKind.ADDED, None, None, None, 1)


def is_directory(entry: BaseEntry) -> bool:
    """Whether it is a tree."""
    return entry.origin.mode == DIRECTORY
