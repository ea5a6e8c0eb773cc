"""The ``git cat-file`` children of a mount: one per object directory in use, the least recently used ended first."""

from collections import OrderedDict
from collections.abc import Mapping

from riafs.counters import Counters
from riafs.git.catfile import CatFile
from riafs.git.environment import PrivateGitDirs
from riafs.git.writers import Writers

MAX_CHILDREN = 12


class GitPool:
    """Hands out children by object directory. Owns the private GIT_DIRs. One per mount."""

    def __init__(self, gits: PrivateGitDirs, seconds: float, counters: Counters, limit: int = MAX_CHILDREN) -> None:
        self.gits = gits
        self.writers = Writers()
        self._seconds = seconds
        self._counters = counters
        self._limit = limit
        self._children: OrderedDict[bytes, CatFile] = OrderedDict()

    def environment(self, objects: bytes, object_format: bytes) -> Mapping[str, str]:
        """See PrivateGitDirs.environment."""
        return self.gits.environment(objects, object_format)

    def child(self, objects: bytes, object_format: bytes, name: str) -> CatFile:
        """The child of an object directory; `name` is the dataset's for messages."""
        child = self._children.get(objects)
        if child is None:
            environment = self.environment(objects, object_format)
            child = CatFile(self.gits.program, environment, name, self._seconds, self._counters)
            self._children[objects] = child
            self._end_idle()
        self._children.move_to_end(objects)
        return child

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
