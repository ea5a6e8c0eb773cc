"""One dataset of a store: its repository, its contents, its refs, and directories at its versions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from riafs.content.annex import AnnexContents
from riafs.counters import Counters
from riafs.git.repository import Repository
from riafs.storage.protocol import FileStatus, Storage
from riafs.tree.checkout import Checkouts
from riafs.tree.listing import ListingCache
from riafs.tree.protocol import Directory
from riafs.tree.times import CommitTimes, LastChanges, Times

log = logging.getLogger(__name__)


Signature = Sequence[FileStatus | None]
"""Status of ``HEAD``, ``packed-refs``, ``refs/heads`` and the watched refs."""

_Watched = tuple[bytes, tuple[bytes, ...]]


class RefWatch:
    """The watched refs of one store: (dataset's path, refs beside HEAD)."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._turn = 0
        self._seen: dict[_Watched, Signature] = {}
        """What was looked at in this round."""
        self._asked: set[_Watched] = set()
        """Whose signatures were asked for in this round,"""
        self._asked_before: set[_Watched] = set()
        """and in the one before."""

    async def look(self, path: bytes, refs: tuple[bytes, ...]) -> Signature:
        """The signature now; it will be asked for in the next rounds."""
        self._asked.add((path, refs))
        self._asked_before.add((path, refs))
        return await self._look(path, refs)

    async def _look(self, path: bytes, refs: tuple[bytes, ...]) -> Signature:
        return await self._storage.stat_objects(b"", _paths(path, refs))

    async def seen(self, path: bytes, refs: tuple[bytes, ...], turn: int) -> Signature:
        """The signature as of round `turn` (as in Directory.renewed)."""
        if turn < 0:
            return await self._look(path, refs)
        if turn != self._turn:
            self._turn = turn
            await self._look_at_regular()
        self._asked.add((path, refs))
        known = self._seen.get((path, refs))
        return await self._look(path, refs) if known is None else known

    async def _look_at_regular(self) -> None:
        """Look at once at what was asked for in both of the last rounds, and will probably be in this one."""
        watched = list(self._asked & self._asked_before)
        self._asked, self._asked_before = set(), self._asked
        self._seen.clear()
        paths = [_paths(path, refs) for path, refs in watched]
        found = await self._storage.stat_objects(b"", [path for group in paths for path in group])
        start = 0
        for name, group in zip(watched, paths, strict=True):
            self._seen[name] = found[start : start + len(group)]
            start += len(group)


def _paths(path: bytes, refs: tuple[bytes, ...]) -> list[bytes]:
    # refs/heads changes when branches come and go: HEAD may name one that does not exist yet
    names = [b"HEAD", b"packed-refs", b"refs/heads", *refs]
    return [path + b"/" + name for name in names]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of a dataset. `time_ns`: when it was committed; `own_times`: whether what was pushed from this mount
    keeps its times; `changed`: when its files were changed last, where that is shown."""

    dataset: "Dataset"
    commit: bytes
    tree: bytes
    time_ns: int
    own_times: bool = True
    changed: CommitTimes | None = None

    def dated_anew(self) -> "Snapshot":
        """The same once more, with times that may be known by now."""
        return replace(self, changed=self.dataset.changed_at(self.commit))


class Subdatasets(Protocol):
    """How the datasets registered in a commit are found; implemented by tree/subdatasets."""

    async def dataset(self, snapshot: Snapshot, path: bytes) -> "Dataset":
        """The dataset registered at `path`. Raises NotThereYet."""

    async def directory(self, snapshot: Snapshot, path: bytes, commit: bytes) -> Directory:
        """The directory shown at `path`: the dataset at `commit`, or an empty one with the reason."""

    async def attributes(self, snapshot: Snapshot, path: bytes, commit: bytes) -> Mapping[str, bytes]:
        """Of its ``user.riafs.`` attributes the dataset's id, or the reason why it is empty."""


@dataclass(slots=True, eq=False)
class Dataset:
    """A dataset in use. One object per dataset and mount."""

    path: bytes
    """The store's path of its directory."""
    identifier: bytes
    name: str
    """For messages."""
    storage: Storage
    repository: Repository
    contents: AnnexContents
    subdatasets: Subdatasets
    watch: RefWatch
    listings: ListingCache
    times: Times
    checkouts: Checkouts | None
    """Makes of files what a checkout has, where that is wanted."""
    changes: LastChanges | None
    """Finds out when files were changed last, where that is what is shown."""
    counters: Counters

    async def snapshot(self, commit: bytes, *, own_times: bool = True) -> Snapshot:
        """The dataset at `commit` (hex). `own_times`: with those of what was pushed from this mount.

        Raises MissingObject, MalformedObject, GitError.
        """
        found = await self.repository.commit(commit)
        return Snapshot(self, commit, found.tree, found.time * 1_000_000_000, own_times, self.changed_at(commit))

    def changed_at(self, commit: bytes) -> CommitTimes | None:
        """When the files of `commit` were changed last, where that is what is shown."""
        return None if self.changes is None else self.changes.of(self.identifier, self.repository, commit)
