"""Subdatasets: which dataset a registered commit belongs to, and where it is.

A gitlink is looked up in the ``.gitmodules`` of the same commit, by path. Candidates in this order: the dataset with
the registered id in the same store, the one with the id in a RIA URL, and what URLs and paths lead to, as far as that
is in the same store (what a store says does not make a mount read other places of this machine). A relative one is
taken relative to the superdataset's directory and to aliases, as git takes it relative to where that was cloned from.
The first candidate that has the registered commit is shown; if none has, an empty directory with the reason, as a
subdataset that is not installed.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from cachetools import LRUCache

from riafs.errors import BadSource, NotThereYet, RiafsError, SourceNotFound
from riafs.formats.gitrepository import Submodule, submodules
from riafs.formats.sources import RiaUrl, parse_ria_url, redact, rewrite
from riafs.git.config import MAX_CONFIG, parse_config
from riafs.git.environment import PrivateGitDirs
from riafs.storage.protocol import Storage
from riafs.tree.commit_directory import top_of
from riafs.tree.dataset import Dataset, Snapshot
from riafs.tree.directories import FixedDirectory
from riafs.tree.protocol import Directory

_MAX_REGISTRIES = 64
_PATIENT_TURNS = 6
"""How many rounds of refreshing pass between two looks for a subdataset that was not there."""


class Datasets(Protocol):
    """The look-ups of a Store that are needed here."""

    storage: Storage

    async def dataset(self, path: bytes) -> Dataset: ...

    async def dataset_at(self, path: bytes) -> bytes | None: ...

    async def path_of_id(self, identifier: bytes) -> bytes: ...

    async def path_of_alias(self, alias: bytes) -> bytes: ...

    async def alias_directories(self) -> list[bytes]: ...


class RegisteredDatasets:
    """Finds the subdatasets of the datasets of `store`. Implements tree/dataset's Subdatasets."""

    def __init__(self, store: Datasets, gits: PrivateGitDirs, rules: Sequence[tuple[str, str]]) -> None:
        self._store = store
        self._gits = gits
        self._rules = rules
        self._registries: LRUCache[tuple[bytes, bytes], Mapping[bytes, Submodule]] = LRUCache(_MAX_REGISTRIES)

    async def _registry(self, snapshot: Snapshot) -> Mapping[bytes, Submodule]:
        name = (snapshot.dataset.path, snapshot.commit)
        known = self._registries.get(name)
        if known is None:
            text = await snapshot.dataset.repository.blob_at(snapshot.commit, b".gitmodules", MAX_CONFIG)
            known = {} if not text else submodules(await parse_config(self._gits, text))
            self._registries[name] = known
        return known

    async def dataset(self, snapshot: Snapshot, path: bytes) -> Dataset:
        """The first candidate that exists, whatever commits it has."""
        registered = (await self._registry(snapshot)).get(path)
        if registered is not None:
            for find in (self._by_ids, self._by_urls):
                for candidate in await find(snapshot, registered):
                    return await self._store.dataset(candidate)
        raise NotThereYet(f"the subdataset {os.fsdecode(path)} of {snapshot.dataset.name} is not in the store")

    async def directory(self, snapshot: Snapshot, path: bytes, commit: bytes) -> Directory:
        found, reason = await self._resolve(snapshot, path, commit)
        if found is not None:
            return top_of(await found.snapshot(commit))
        return AbsentSubdataset(self, snapshot, path, commit, reason)

    async def attributes(self, snapshot: Snapshot, path: bytes, commit: bytes) -> Mapping[str, bytes]:
        found, reason = await self._resolve(snapshot, path, commit)
        if found is None:
            return {"error": os.fsencode(reason)}
        return {"dataset": found.identifier}

    async def _resolve(self, snapshot: Snapshot, path: bytes, commit: bytes) -> tuple[Dataset | None, str]:
        """The dataset that has the registered commit, or why there is none."""
        shown = f"subdataset {os.fsdecode(path)} of {snapshot.dataset.name}"
        try:
            registered = (await self._registry(snapshot)).get(path)
            if registered is None:
                return None, f"{shown} is not in the store; it has no entry in .gitmodules"
            problems: dict[str, None] = {}
            for find in (self._by_ids, self._by_urls):
                for candidate in await find(snapshot, registered):
                    dataset, problem = await self._with_commit(candidate, commit)
                    if dataset is not None:
                        return dataset, ""
                    problems[problem] = None
        except RiafsError as error:
            return None, f"{shown} cannot be looked up: {error}"
        if not problems:
            return None, f"{shown} is not in the store; its .gitmodules entry says {_said(registered)}"
        unreadable = [problem for problem in problems if problem]
        if unreadable:
            return None, f"{shown} cannot be read: {'; '.join(unreadable)}"
        return None, f"{shown} is registered at commit {commit.decode()}, which the store does not have"

    async def _with_commit(self, candidate: bytes, commit: bytes) -> tuple[Dataset | None, str]:
        """The dataset at the store's path `candidate` if it has `commit`, else why it could not be read, if so."""
        try:
            dataset = await self._store.dataset(candidate)
            [known] = await dataset.repository.objects([b"info " + commit])
        except RiafsError as error:
            return None, str(error)
        return (dataset if known is not None and known.kind == b"commit" else None), ""

    # -- candidates ---------------------------------------------------------------------------------------------------

    async def _by_ids(self, snapshot: Snapshot, registered: Submodule) -> list[bytes]:
        """The store's paths of the datasets with an id that `registered` names."""
        sources = [source for url in _urls(registered) if (source := self._ria_url(url)) is not None]
        ids = [registered.datalad_id, *(source.dataset for source in sources)]
        return _unique([await self._by_id(each) for each in ids if each])

    async def _by_id(self, identifier: bytes) -> bytes | None:
        try:
            return await self._store.path_of_id(identifier)
        except SourceNotFound:
            return None

    async def _by_urls(self, snapshot: Snapshot, registered: Submodule) -> list[bytes]:
        """The store's paths that the URLs of `registered` lead to."""
        found = []
        for url in _urls(registered):
            source = self._ria_url(url)
            if source is not None:
                found.append(await self._by_alias(source))
            else:
                found += await self._by_path(snapshot, _local_path(self._rewritten(url)))
        return _unique(found)

    def _ria_url(self, url: bytes) -> RiaUrl | None:
        try:
            return parse_ria_url(os.fsdecode(self._rewritten(url)))
        except BadSource:
            return None

    def _rewritten(self, url: bytes) -> bytes:
        return os.fsencode(rewrite(os.fsdecode(url), self._rules).url)

    async def _by_alias(self, source: RiaUrl) -> bytes | None:
        """The dataset of this store that `source` names by an alias, None where it means another store."""
        storage = self._store.storage.local
        is_here = source.local and storage is not None and storage.path_of(os.path.normpath(source.path)) == b""
        if source.alias is None or not is_here:
            return None
        try:
            return await self._store.path_of_alias(source.alias)
        except RiafsError:
            return None

    async def _by_path(self, snapshot: Snapshot, path: bytes | None) -> list[bytes | None]:
        """What a path leads to, which may be relative to where the superdataset was cloned from."""
        storage = self._store.storage.local
        if path is None or storage is None:
            return []
        bases = [b""] if path.startswith(b"/") else [snapshot.dataset.path]
        if path.startswith(b".."):  # from an alias, by whatever name
            bases += [above + b"/_" for above in await self._store.alias_directories()]
        root = await storage.local_path(b".")
        absolute = [os.path.normpath(b"/".join((root, base, path)) if base else path) for base in bases]
        places = [storage.path_of(each.removesuffix(b"/.git")) for each in absolute]
        return [await self._store.dataset_at(place) for place in places if place]


def _urls(registered: Submodule) -> list[bytes]:
    return [url for url in (registered.datalad_url, registered.url) if url]


def _unique(paths: Iterable[bytes | None]) -> list[bytes]:
    return list(dict.fromkeys(path for path in paths if path is not None))


def _said(registered: Submodule) -> str:
    """What an entry says of where the subdataset is, without passwords."""
    words = {"datalad-id": registered.datalad_id, "datalad-url": registered.datalad_url, "url": registered.url}
    said = [f"{name} = {redact(os.fsdecode(value))}" for name, value in words.items() if value]
    return ", ".join(said) or "nothing of where it is"


def _local_path(url: bytes) -> bytes | None:
    """The path on this machine that git would take `url` for; None for other machines, and for what git has no name."""
    match = re.fullmatch(rb"file://(?:localhost)?(/.*)", url, re.DOTALL | re.IGNORECASE)
    path = unquote_to_bytes(match[1]) if match else None if _has_scheme(url) else url
    return None if path is None or b"\0" in path else path


def _has_scheme(url: bytes) -> bool:
    """Whether git would take `url` for a URL or an scp-like address rather than a path."""
    return re.match(rb"[A-Za-z][A-Za-z0-9+.-]*://|[^/]*:", url) is not None


class AbsentSubdataset(FixedDirectory):
    """A subdataset that the store does not have, or not at the registered commit: empty until it arrives."""

    renewable = True

    def __init__(
        self, registered: RegisteredDatasets, snapshot: Snapshot, path: bytes, commit: bytes, reason: str
    ) -> None:
        super().__init__((), snapshot.time_ns, {"commit": commit, "error": os.fsencode(reason)})
        self._registered = registered
        self._snapshot = snapshot
        self._path = path
        self._commit = commit
        self._looked = 0

    async def renewed(self, turn: int) -> Directory | None:
        """Looks now and then only: git goes through its packs anew for a commit that is missing."""
        if 0 <= turn < self._looked + _PATIENT_TURNS:
            return None
        self._looked = max(turn, self._looked)
        newer = await self._registered.directory(self._snapshot, self._path, self._commit)
        return None if isinstance(newer, AbsentSubdataset) else newer
