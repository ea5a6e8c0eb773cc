"""The ``git cat-file`` children of a mount: one per object directory in use, the least recently used ended first."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from riafs.counters import Counters
from riafs.git.catfile import CatFile
from riafs.git.environment import PrivateGitDirs
from riafs.git.writers import Writers

if TYPE_CHECKING:
    from riafs.git.kept import KeptObjects

MAX_CHILDREN = 12


class GitPool:
    """Hands out children by object directory. Owns the private GIT_DIRs. One per mount."""

    def __init__(self, gits: PrivateGitDirs, seconds: float, counters: Counters, limit: int = MAX_CHILDREN) -> None:
        self.gits = gits
        self.kept: KeptObjects | None = None
        """Objects of this machine that children read as well: see `read_also`."""
        self.writers = Writers()
        self._seconds = seconds
        self._counters = counters
        self._limit = limit
        self._children: OrderedDict[tuple[bytes, bool], CatFile] = OrderedDict()

    def environment(self, objects: bytes, object_format: bytes, *, alone: bool = False) -> Mapping[str, str]:
        """See PrivateGitDirs.environment. `alone`: without what is kept on this machine."""
        environment = self.gits.environment(objects, object_format)
        if self.kept is None or alone:
            return environment
        return {**environment, "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self.kept.directory(object_format))}

    def child(self, objects: bytes, object_format: bytes, name: str, *, alone: bool = False) -> CatFile:
        """The child of an object directory; `name` is the dataset's for messages. `alone`: see `environment`."""
        asked = objects, alone and self.kept is not None
        child = self._children.get(asked)
        if child is None:
            environment = self.environment(objects, object_format, alone=alone)
            child = CatFile(self.gits.program, environment, name, self._seconds, self._counters)
            self._children[asked] = child
            self._end_idle()
        self._children.move_to_end(asked)
        return child

    def has_child(self, objects: bytes) -> bool:
        """Whether there is a child of that object directory."""
        return (objects, False) in self._children

    def count_read(self, objects: int) -> None:
        """So many objects were read without a child."""
        self._counters.git_objects_read += objects

    def read_also(self, kept: "KeptObjects") -> None:
        """From now on objects that a store does not have are read from `kept`."""
        self.kept = kept
        for child in self._children.values():
            child.retire()
        self._children.clear()

    def _end_idle(self) -> None:
        idle = [path for path, child in self._children.items() if not child.busy]
        for path in idle[: max(0, len(self._children) - self._limit)]:
            self._children.pop(path).retire()

    def close(self) -> None:
        """End all children and remove the private directories."""
        for child in self._children.values():
            child.retire()
        self._children.clear()
        self.gits.close()


def _quoted(path: bytes) -> str:
    """A directory for GIT_ALTERNATE_OBJECT_DIRECTORIES: colons separate them, quotes are C's (git(1))."""
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return os.fsdecode(b'"' + escaped + b'"')
