"""A directory as it was in an earlier commit, to tell what has stayed as it was: see times."""

from contextlib import suppress
from typing import TYPE_CHECKING

from riafs.errors import MalformedObject, MissingObject
from riafs.formats.gitobjects import DIRECTORY
from riafs.tree.listing import GitEntry, git_version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from riafs.tree.dataset import Dataset


class Since:
    """A directory of that commit. `tree`: its object (hex), None where there was none; `time_ns`: the commit's."""

    __slots__ = ("_versions", "time_ns", "tree")

    def __init__(self, tree: bytes | None, time_ns: int) -> None:
        self.tree = tree
        self.time_ns = time_ns
        self._versions: Mapping[bytes, bytes] | None = None

    async def read(self, dataset: "Dataset") -> None:
        """Read what was in it, for `has`. Where the store has lost it, nothing was."""
        if self._versions is None:
            tree = None
            with suppress(MissingObject, MalformedObject):
                tree = None if self.tree is None else await dataset.repository.tree(self.tree)
            lines = () if tree is None else zip(tree.names, tree.modes, tree.oids, strict=True)
            self._versions = {name: git_version(mode, oid) for name, mode, oid in lines}

    def has(self, entry: GitEntry) -> bool:
        """Whether the entry was there as it is now. After `read`."""
        return self._versions is not None and self._versions.get(entry.name) == entry.version

    def below(self, entry: GitEntry, *, same: bool) -> "Since":
        """A directory in it. `same`: this one is as it was. After `read`, unless it is the same."""
        if same:
            return Since(entry.oid, self.time_ns)
        version = b"" if self._versions is None else self._versions.get(entry.name, b"")
        is_directory = bool(version) and version == git_version(DIRECTORY, version[:-1])
        return Since(version[:-1].hex().encode() if is_directory else None, self.time_ns)


async def since_of(dataset: "Dataset") -> Since | None:
    """The top of a dataset in the commit that the first push was made over, None where there was none."""
    commit = dataset.times.since(dataset.identifier)
    if commit is None:
        return None
    try:
        known = await dataset.repository.commit(commit)
    except (MissingObject, MalformedObject):  # it was pruned: nothing has stayed as it was, as far as can be told
        return Since(None, 0)
    return Since(known.tree, known.time * 1_000_000_000)
