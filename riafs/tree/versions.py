"""``.riafs/versions``: which versions there are, as directories that a program can list and enter.

Of a dataset ``branches``, ``tags`` and ``commits``, the newest ones; of a store the same below each dataset's alias and
id. A name is the part behind the ``@`` of ``NAME@REF``, so a ``/`` in it is ``%2F``; its time is the commit's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from riafs.errors import NoSuchVersion, NotInStore
from riafs.formats.names import valid_name
from riafs.git.history import Version, VersionKind, abbreviated, named, newest
from riafs.storage.protocol import FileStatus
from riafs.tree.commit_directory import VersionedDirectory, open_version
from riafs.tree.dataset import Dataset
from riafs.tree.directories import FixedDirectory, directory_entry
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.store_root import StoreDirectory

NAME = b"versions"
COMMITS = 20
"""How many commits are listed."""
_KINDS = {b"branches": VersionKind.BRANCH, b"commits": VersionKind.COMMIT, b"tags": VersionKind.TAG}


def versions_of(root: Directory) -> Directory | None:
    """The directory of the versions of what a mount shows; None where that has none (collections of Keep)."""
    if isinstance(root, StoreDirectory):
        return StoreVersions(root)
    return DatasetVersions(root.dataset, root.mtime_ns) if isinstance(root, VersionedDirectory) else None


class StoreVersions(FixedDirectory):
    """The names of a directory of a store; behind each are the versions of a dataset, or again such a directory."""

    renewable = True

    def __init__(self, of: StoreDirectory) -> None:
        super().__init__(of._entries, of.mtime_ns, of._attributes)
        self._of = of

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        return await self._of.attributes(entry, name)

    async def directory(self, entry: Entry) -> Directory:
        dataset = await self._of.dataset(entry)
        if dataset is not None:
            return DatasetVersions(dataset, entry.mtime_ns)
        below = await self._of.directory(entry)
        assert isinstance(below, StoreDirectory)
        return StoreVersions(below)

    async def renewed(self, turn: int) -> Directory | None:
        newer = await self._of.renewed(turn)
        return StoreVersions(newer) if isinstance(newer, StoreDirectory) else None


class DatasetVersions(FixedDirectory):
    """``branches``, ``commits`` and ``tags`` of a dataset."""

    def __init__(self, dataset: Dataset, mtime_ns: int) -> None:
        entries = [directory_entry(name, mtime_ns, b"") for name in _KINDS]
        super().__init__(entries, mtime_ns, {"dataset": dataset.identifier})
        self._dataset = dataset

    async def directory(self, entry: Entry) -> Directory:
        return await ListedVersions.load(self._dataset, _KINDS[entry.name])


@dataclass(frozen=True, slots=True)
class _VersionEntry(Entry):
    """A version; `meaning` is what `open_version` takes."""

    meaning: bytes
    described: Version


class ListedVersions(FixedDirectory):
    """The branches, the tags, or the newest commits of a dataset. `signature` is what changes when one of them does."""

    renewable = True

    def __init__(
        self,
        dataset: Dataset,
        kind: VersionKind,
        entries: Sequence[_VersionEntry],
        signature: Sequence[FileStatus | None],
    ) -> None:
        newest_ns = max((entry.mtime_ns for entry in entries), default=0)
        super().__init__(entries, newest_ns, {"dataset": dataset.identifier})
        self._dataset = dataset
        self._kind = kind
        self._signature = signature

    @classmethod
    async def load(cls, dataset: Dataset, kind: VersionKind) -> "ListedVersions":
        """What there is now. Raises GitError, StoreError, StoreTimeout, …"""
        signature = await _signature(dataset, kind)
        return cls(dataset, kind, _entries(kind, await _versions(dataset, kind)), signature)

    async def directory(self, entry: Entry) -> Directory:
        assert isinstance(entry, _VersionEntry)
        return await open_version(self._dataset, entry.meaning)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        assert isinstance(entry, _VersionEntry)
        version = entry.described
        heading = {"author": version.heading.author.encode(), "subject": version.heading.subject.encode()}
        return {"dataset": self._dataset.identifier, "commit": version.commit, "ref": entry.meaning, **heading}

    async def renewed(self, turn: int) -> Directory | None:
        if await _signature(self._dataset, self._kind) == self._signature:
            return None
        return await ListedVersions.load(self._dataset, self._kind)


async def _signature(dataset: Dataset, kind: VersionKind) -> Sequence[FileStatus | None]:
    return await dataset.repository.references.signature(kind.value or VersionKind.BRANCH.value)


async def _versions(dataset: Dataset, kind: VersionKind) -> Sequence[Version]:
    if kind is not VersionKind.COMMIT:
        return await named(dataset.repository, kind)
    try:
        head = await dataset.repository.find(None)
        return await newest(dataset.repository, await dataset.repository.peeled(head.oid), COMMITS)
    except (NoSuchVersion, NotInStore):
        return ()


def _entries(kind: VersionKind, versions: Sequence[Version]) -> list[_VersionEntry]:
    short = abbreviated(version.commit for version in versions) if kind is VersionKind.COMMIT else {}
    found = []
    for version in versions:
        name = short.get(version.name) or version.name.replace(b"%", b"%25").replace(b"/", b"%2F")
        meaning = kind.value + version.name
        if valid_name(name):
            found.append(
                _VersionEntry(
                    name, Kind.DIRECTORY, 0, executable=True, mtime_ns=version.time * 1_000_000_000,
                    version=meaning + b" " + version.commit, meaning=meaning, described=version,
                )
            )  # fmt: skip
    return found
