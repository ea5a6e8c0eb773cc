"""One dataset of a store: its repository, its contents, its refs, and directories at its versions."""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.content.annex import AnnexContents
from riafs.content.copies import KeyPart
from riafs.content.parts import Part
from riafs.counters import Counters
from riafs.errors import NoSuchVersion, NotThereYet
from riafs.formats.gitrepository import looks_like_commit
from riafs.git.kept_objects import KeptObjects
from riafs.git.references import Resolved
from riafs.git.repository import Repository
from riafs.storage.protocol import FileStatus, Storage
from riafs.tree.checkout import Checkouts
from riafs.tree.commit_directory import Snapshot, VersionedEntry
from riafs.tree.directories import DelegatingDirectory
from riafs.tree.listing import ListingCache
from riafs.tree.protocol import DatasetPosition, Directory, Found, Kind
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
        """The signature as of round `turn`: see Directory.renewed."""
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

    async def at(self, version: bytes | None) -> "VersionedDirectory":
        """The top directory at a branch, tag or commit, None for HEAD. Raises NoSuchVersion, GitError, …"""
        first = await self.repository.find(version)
        # Taken before the ref is read for good, so that no move in between can be missed later.
        signature = await self.watch.look(self.path, first.refs)
        resolved = await self.repository.find(version)
        pinned = version is not None and resolved.ref is None and looks_like_commit(version)
        snapshot = await self.snapshot(await self.repository.peeled(resolved.oid), own_times=not pinned)
        return VersionedDirectory(self, version, snapshot, None if pinned else signature, resolved)

    async def versioned_entry(self, name: bytes, ref: bytes) -> Found:
        """The entry for ``NAME@REF``, in which a ``/`` of the ref is written ``%2F``. Raises NotThereYet."""
        version = ref.replace(b"%2F", b"/").replace(b"%2f", b"/").replace(b"%25", b"%")
        try:
            directory = await self.at(version)
        except NoSuchVersion as error:
            raise NotThereYet(str(error)) from error
        entry = VersionedEntry(
            name, Kind.DIRECTORY, 0, executable=True, mtime_ns=directory.mtime_ns, version=version, directory=directory
        )
        return Found(None, entry)


class VersionedDirectory(DelegatingDirectory):
    """The top of a dataset at the commit that `version` named when this was made: see the Directory protocol.

    Renewable unless `signature` is None, which stands for a pinned commit.
    """

    def __init__(
        self,
        dataset: Dataset,
        version: bytes | None,
        snapshot: Snapshot,
        signature: Signature | None,
        resolved: Resolved,
    ) -> None:
        self._top = snapshot.root()
        super().__init__(self._top)
        self.dataset = dataset
        self._version = version
        self._snapshot = snapshot
        self._signature = signature
        self._resolved = resolved

    @property
    def renewable(self) -> bool:
        """See Directory."""
        return self._signature is not None or self._top.renewable

    @property
    def standing(self) -> DatasetPosition:
        """See OfCommit."""
        return self._top.standing

    async def branch(self) -> bytes | None:
        """See OfCommit."""
        return self._resolved.ref

    def forget(self) -> None:
        """See OfCommit."""
        self._top.forget()

    async def at_commit(self, commit: bytes) -> Directory:
        """See OfCommit."""
        snapshot = await self.dataset.snapshot(commit)
        signature: Signature | None = None if self._signature is None else ()  # as no refs have it
        return VersionedDirectory(self.dataset, self._version, snapshot, signature, self._resolved)

    async def keep_in(self, kept: KeptObjects, name: bytes) -> None:
        """See OfCommit."""
        await self._top.keep_in(kept, name)

    @property
    def holding(self) -> bool:
        """See Holding."""
        return self._version is None  # else one version was asked for

    async def held(self) -> AsyncGenerator[Part, None]:
        """See Holding: every stored key."""
        async for key in self.dataset.contents.stored_keys():
            yield KeyPart(self.dataset.contents, self.dataset.path, key)

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {**await super().own_attributes(), **({"ref": self._resolved.ref} if self._resolved.ref else {})}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory: compares a few stat results first, so that asking every few seconds is cheap."""
        if self._top.renewable and await self._top.renewed(turn) is not None:
            snapshot = self._snapshot.dated_anew()
            return VersionedDirectory(self.dataset, self._version, snapshot, self._signature, self._resolved)
        if self._signature is None:
            return None
        if await self.dataset.watch.seen(self.dataset.path, self._resolved.refs, turn) == self._signature:
            return None
        newer = await self.dataset.at(self._version)
        if newer._snapshot.commit == self._snapshot.commit:
            self._signature, self._resolved = newer._signature, newer._resolved
            return None
        self.dataset.counters.refs_moved += 1
        return newer
