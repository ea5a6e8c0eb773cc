"""A whole store as directories: ``/<alias>/…`` and ``/by-id/<id>/…``.

An alias directory shows the directory ``alias/`` of the store (and directories below it, for aliases with a ``/``):
every link that leads to a dataset of the store. Everything else in it is left out, with a warning in the log. Any
dataset can be looked up as ``NAME@REF`` too; such names are not listed.

A dataset without a commit to show is a `PendingDirectory`. It has ``.keys``: the stored keys, as files with the keys'
file names, since a storage without git (``create-sibling-ria --storage-sibling only``) holds content whose names are
elsewhere.
"""

import logging
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from riafs.content.copies import KeyPart, Part
from riafs.errors import (
    GitError,
    NoSuchName,
    NoSuchVersion,
    NotInStore,
    NotThereYet,
    RiafsError,
    SourceNotFound,
)
from riafs.formats.names import valid_name
from riafs.git.references import Resolved
from riafs.storage.protocol import FileStatus, ItemKind
from riafs.tree.commit_directory import VersionedDirectory, VersionedEntry, find_version, open_version
from riafs.tree.dataset import Dataset, Signature
from riafs.tree.directories import FixedDirectory, directory_entry
from riafs.tree.keys_directory import KEYS, KeysDirectory
from riafs.tree.protocol import Directory, Entry, Found, Kind
from riafs.tree.slots import Slots
from riafs.tree.store import ALIASES, Store, is_dataset_path

log = logging.getLogger(__name__)

BY_ID = b"by-id"
_VERSIONED = re.compile(rb"([^@]+)@(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoreEntry(Entry):
    """A dataset, a directory of aliases, or ``by-id``; `path` is the store's path of the first two."""

    path: bytes | None


def _entry(name: bytes, path: bytes | None, status: FileStatus | None) -> StoreEntry:
    mtime_ns = 0 if status is None else status.mtime_ns
    return StoreEntry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=mtime_ns, version=path or b"", path=path)


class StoreDirectory(FixedDirectory):
    """A directory whose entries are datasets of `store` or again such directories.

    Subclasses say how they are found (`load`); `signature` is what must change for the directory to be another one.
    """

    renewable = True

    def __init__(
        self, store: Store, path: bytes, entries: Sequence[StoreEntry], signature: object, mtime_ns: int
    ) -> None:
        super().__init__(entries, mtime_ns, {"store": os.fsencode(store.storage.name)})
        self._store = store
        self._path = path
        self._signature = signature

    async def find(self, name: bytes) -> Found:
        """``NAME@REF`` finds a dataset at another version, and is NotThereYet if it does not."""
        try:
            return await super().find(name)
        except NoSuchName:
            if await self._looked_up(name):
                return await super().find(name)
            match = _VERSIONED.fullmatch(name)
            if match is None:
                raise
        await self._looked_up(match[1])
        path = self._dataset_path(match[1])
        if path is None:
            raise NotThereYet(f"{os.fsdecode(match[1])} is no dataset")
        return await find_version(await self._store.dataset(path), name, match[2])

    async def _looked_up(self, name: bytes) -> bool:
        """Whether the store has `name` here, though it cannot list its names. It is listed from now on, at the end, so
        that no position ever comes to stand for something else.
        """
        if self._store.storage.listing is not None or name in self._positions or not valid_name(name):
            return False
        path = await self._path_of(name)
        if path is None:
            return False
        [status] = await self._store.storage.stat_objects(b"", [path])
        if name not in self._positions:  # another task may have been as quick
            self._positions[name] = len(self._entries)
            self._entries = (*self._entries, _entry(name, path, status))
        return True

    async def _path_of(self, name: bytes) -> bytes | None:
        """The store's path of what is called `name` here, None where there is nothing."""
        [path] = await self._store.resolve_aliases([self._path + b"/" + name])
        return path if isinstance(path, bytes) else None

    async def slots(self) -> Slots | None:
        return None if self._store.storage.listing is None else await super().slots()

    def _dataset_path(self, name: bytes) -> bytes | None:
        """The store's path of the dataset called `name` here, None where there is none."""
        position = self._positions.get(name)
        entry = None if position is None else self._entries[position]
        assert entry is None or isinstance(entry, StoreEntry)
        path = None if entry is None else entry.path
        return path if path is not None and self._store.is_dataset(path) else None

    async def dataset(self, entry: Entry) -> Dataset | None:
        """The dataset that a listed entry is, None for a directory of more of them. Raises what opening it raises."""
        assert isinstance(entry, StoreEntry)
        if entry.path is None or not self._store.is_dataset(entry.path):
            return None
        return await self._store.dataset(entry.path)

    async def directory(self, entry: Entry) -> Directory:
        if isinstance(entry, VersionedEntry):
            return entry.directory
        assert isinstance(entry, StoreEntry)
        if entry.path is None:
            return await IdDirectory.load(self._store)
        if not self._store.is_dataset(entry.path):
            return await AliasDirectory.load(self._store, entry.path)
        return await dataset_directory(self._store, entry.path, entry.mtime_ns)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        if isinstance(entry, VersionedEntry):
            return await entry.directory.own_attributes()
        assert isinstance(entry, StoreEntry)
        if entry.path is None or not self._store.is_dataset(entry.path):
            return await self.own_attributes()
        return await (await dataset_directory(self._store, entry.path, 0)).own_attributes()


async def dataset_directory(store: Store, path: bytes, mtime_ns: int) -> Directory:
    """The dataset at `path` at its HEAD; if it has no commit to show, an empty directory that says why."""
    dataset = await store.dataset(path)
    signature: Signature | None = None
    while True:
        try:
            return await open_version(dataset, None)
        except (NoSuchVersion, NotInStore) as error:
            if signature is not None:
                has_keys = await dataset.contents.has_any()
                return PendingDirectory(dataset, store, str(error), mtime_ns, signature, has_keys=has_keys)
        except GitError as error:
            log.warning("dataset %s cannot be shown: %s", dataset.name, error)
            raise
        signature = await dataset.watch.look(path, ())  # before HEAD is read once more, so that no move is missed


class PendingDirectory(FixedDirectory):
    """A dataset without a commit yet (or without a git repository): empty until there is one, but for ``.keys`` where
    anything is stored.

    `signature`: of its refs, as RefWatch has it.
    """

    renewable = True

    def __init__(
        self, dataset: Dataset, store: Store, reason: str, mtime_ns: int, signature: Signature, *, has_keys: bool
    ) -> None:
        keys = directory_entry(KEYS, mtime_ns, KEYS)
        reason += f"; what is stored is in {os.fsdecode(KEYS)}" if has_keys else ""
        attributes = {"dataset": dataset.identifier, "error": os.fsencode(reason)}
        super().__init__((keys,) if has_keys else (), mtime_ns, attributes)
        self.dataset = dataset
        self._store = store
        self._signature = signature
        self._has_keys = has_keys
        self._keys = KeysDirectory(dataset.contents, dataset.identifier, mtime_ns)

    async def directory(self, entry: Entry) -> Directory:
        return self._keys

    @property
    def dataset_id(self) -> bytes:
        return self.dataset.identifier

    async def shown_at(self, commit: bytes) -> Directory:
        return VersionedDirectory(await self.dataset.snapshot(commit), None, (), Resolved(commit, None))

    @property
    def holds_parts(self) -> bool:
        return True

    async def stored_parts(self) -> AsyncGenerator[Part, None]:
        """Every stored key."""
        contents = self.dataset.contents
        async for key in contents.stored_keys():
            yield KeyPart(contents, self.dataset.path, key)

    async def renewed(self, turn: int) -> Directory | None:
        dataset = self.dataset
        stays = await dataset.watch.seen(dataset.path, (), turn) == self._signature
        if stays and self._has_keys == await dataset.contents.has_any():
            return None
        newer = await dataset_directory(self._store, dataset.path, self.mtime_ns)
        if not isinstance(newer, PendingDirectory) or newer._has_keys != self._has_keys:
            return newer
        self._signature = newer._signature
        return None


class AliasDirectory(StoreDirectory):
    """``alias/`` of the store or a directory below it; the topmost one also has ``by-id``."""

    @classmethod
    async def load(cls, store: Store, path: bytes = ALIASES) -> "AliasDirectory":
        """What the store has at `path` now. Raises StoreError, StoreTimeout, StoreDenied."""
        signature = await store.storage.stat_objects(b"", [path])
        try:
            items = () if store.storage.listing is None else await store.storage.listing.list(path)
        except NotInStore:
            items = ()
        names = sorted(item.name for item in items if item.kind is not ItemKind.FILE and _showable(path, item.name))
        paths = await store.resolve_aliases([path + b"/" + name for name in names])
        shown = {
            name: found
            for name, found in zip(names, paths, strict=True)
            if _leads_to_dataset(path, name, found) and isinstance(found, bytes)
        }
        statuses = await store.storage.stat_objects(b"", list(shown.values()))
        entries = [_entry(name, found, status) for (name, found), status in zip(shown.items(), statuses, strict=True)]
        if path == ALIASES:
            entries.append(_entry(BY_ID, None, signature[0]))
        return cls(store, path, entries, signature, 0 if signature[0] is None else signature[0].mtime_ns)

    def aliases(self) -> Mapping[str, str]:
        """Id → alias of the datasets that have one here."""
        found = [(entry.path, entry.name) for entry in self._entries if isinstance(entry, StoreEntry)]
        return {os.fsdecode(path.replace(b"/", b"")): os.fsdecode(name) for path, name in found if path is not None}

    async def by_id(self) -> "IdDirectory":
        """The store's datasets, each once. Raises as `IdDirectory.load`."""
        return await IdDirectory.load(self._store)

    async def renewed(self, turn: int) -> Directory | None:
        if self._store.storage.listing is None:
            return None
        if await self._store.storage.stat_objects(b"", [self._path]) == self._signature:
            return None
        return await AliasDirectory.load(self._store, self._path)


def _showable(path: bytes, name: bytes) -> bool:
    if path == ALIASES and name == BY_ID:
        log.warning("the alias %s is hidden by the directory of that name", os.fsdecode(name))
        return False
    return valid_name(name)


def _leads_to_dataset(directory: bytes, name: bytes, found: bytes | RiafsError) -> bool:
    """Whether an alias can be shown: a link to a dataset, or a directory of more aliases."""
    alias = os.fsdecode(directory + b"/" + name)
    if isinstance(found, RiafsError):
        log.warning("%s is left out: %s", alias, found)
        return False
    if is_dataset_path(found) and not found.startswith(ALIASES + b"/"):
        return True
    if found == directory + b"/" + name:
        return True
    log.warning("%s is left out: it does not lead to a dataset", alias)
    return False


class IdDirectory(StoreDirectory):
    """``by-id``: every dataset of the store by its id."""

    @classmethod
    async def load(cls, store: Store) -> "IdDirectory":
        """The datasets the store has now. Raises StoreError, StoreTimeout, StoreDenied."""
        signature = await _prefixes(store)
        paths = await store.dataset_paths()
        statuses = await store.storage.stat_objects(b"", paths)
        entries = [_entry(path.replace(b"/", b""), path, status) for path, status in zip(paths, statuses, strict=True)]
        newest = max((entry.mtime_ns for entry in entries), default=0)
        return cls(store, b"", entries, signature, newest)

    async def _path_of(self, name: bytes) -> bytes | None:
        try:
            return await self._store.path_of_id(name)
        except SourceNotFound:
            return None

    async def renewed(self, turn: int) -> Directory | None:
        if await _prefixes(self._store) == self._signature:
            return None
        return await IdDirectory.load(self._store)


async def _prefixes(store: Store) -> Sequence[tuple[bytes, int | None]]:
    """The directories that hold datasets, each with the time when one was added or removed last."""
    names = sorted(await store.prefixes())
    statuses = await store.storage.stat_objects(b"", [name + b"/." for name in names])
    return [(name, None if status is None else status.mtime_ns) for name, status in zip(names, statuses, strict=True)]
