"""Subdatasets: which dataset a registered commit belongs to, and where it is.

A gitlink is looked up in the ``.gitmodules`` of the same commit, by path. Candidates in this order: the dataset with
the registered id in the same store, a RIA URL, a plain URL or path, the last two only as far as they lead into the same
store (what a store says does not make a mount read other places of this machine). The first one that has the registered
commit is shown; if none has, an empty directory with the reason, as a subdataset that is not installed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from cachetools import LRUCache

from riafs.errors import BadSource, NotThereYet, RiafsError, SourceNotFound
from riafs.formats.gitconfig import Submodule, submodules
from riafs.formats.riaurl import parse_ria_url, rewrite
from riafs.git.config import MAX_CONFIG, parse_config
from riafs.git.environment import PrivateGitDirs
from riafs.tree.fixed import FixedDirectory
from riafs.tree.protocol import Directory

if TYPE_CHECKING:
    from riafs.tree.dataset import Dataset
    from riafs.tree.snapshot import Snapshot
    from riafs.tree.store import Store

_MAX_REGISTRIES = 64
_PATIENT_TURNS = 6
"""How many rounds of refreshing pass between two looks for a subdataset that was not there."""


class RegisteredDatasets:
    """Finds the subdatasets of the datasets of `store`. Implements tree/dataset's Subdatasets."""

    def __init__(self, store: "Store", gits: PrivateGitDirs, rules: Sequence[tuple[str, str]]) -> None:
        self._store = store
        self._gits = gits
        self._rules = rules
        self._registries: LRUCache[tuple[bytes, bytes], Mapping[bytes, Submodule]] = LRUCache(_MAX_REGISTRIES)

    async def _registry(self, snapshot: "Snapshot") -> Mapping[bytes, Submodule]:
        name = (snapshot.dataset.path, snapshot.commit)
        known = self._registries.get(name)
        if known is None:
            text = await snapshot.dataset.repository.blob_at(snapshot.commit, b".gitmodules", MAX_CONFIG)
            known = {} if not text else submodules(await parse_config(self._gits, text))
            self._registries[name] = known
        return known

    async def dataset(self, snapshot: "Snapshot", path: bytes) -> "Dataset":
        """See Subdatasets: the first candidate that exists, whatever commits it has."""
        for candidate in await self._candidates(snapshot, path):
            return await self._store.dataset(candidate)
        raise NotThereYet(f"the subdataset {os.fsdecode(path)} of {snapshot.dataset.name} is not in the store")

    async def directory(self, snapshot: "Snapshot", path: bytes, commit: bytes) -> Directory:
        """See Subdatasets."""
        found, reason = await self._resolve(snapshot, path, commit)
        if found is not None:
            return (await found.snapshot(commit)).root()
        return AbsentSubdataset(self, snapshot, path, commit, reason)

    async def attributes(self, snapshot: "Snapshot", path: bytes, commit: bytes) -> Mapping[str, bytes]:
        """See Subdatasets."""
        found, reason = await self._resolve(snapshot, path, commit)
        if found is None:
            return {"kind": b"subdataset", "commit": commit, "error": os.fsencode(reason)}
        return {"kind": b"subdataset", "dataset": found.identifier, "commit": commit}

    async def _resolve(self, snapshot: "Snapshot", path: bytes, commit: bytes) -> tuple["Dataset | None", str]:
        """The dataset that has the registered commit, or why there is none."""
        shown = f"subdataset {os.fsdecode(path)} of {snapshot.dataset.name}"
        try:
            candidates = await self._candidates(snapshot, path)
        except RiafsError as error:
            return None, f"{shown} cannot be looked up: {error}"
        problems: list[str] = []
        for candidate in candidates:
            try:
                dataset = await self._store.dataset(candidate)
                [known] = await dataset.repository.objects([b"info " + commit])
            except RiafsError as error:
                problems.append(str(error))
                continue
            if known is not None and known.kind == b"commit":
                return dataset, ""
        if not candidates:
            return None, f"{shown} is not in the store, or its .gitmodules entry does not say which dataset it is"
        if problems:
            return None, f"{shown} cannot be read: {'; '.join(problems)}"
        return None, f"{shown} is registered at commit {commit.decode()}, which the store does not have"

    async def _candidates(self, snapshot: "Snapshot", path: bytes) -> list[bytes]:
        registered = (await self._registry(snapshot)).get(path)
        if registered is None:
            return []
        found = []
        if registered.datalad_id:
            found.append(await self._by_id(registered.datalad_id))
        urls = [url for url in (registered.datalad_url, registered.url) if url]
        found += [await self._by_url(snapshot, url) for url in urls]
        return list(dict.fromkeys(candidate for candidate in found if candidate is not None))

    async def _by_id(self, identifier: bytes) -> bytes | None:
        try:
            return await self._store.path_of_id(identifier)
        except SourceNotFound:
            return None

    async def _by_url(self, snapshot: "Snapshot", url: bytes) -> bytes | None:
        """The store's path that `url` leads to, None where it leads out of this store."""
        root = await self._store.storage.local_path(b".")
        if rewrite(os.fsdecode(url), self._rules).url.startswith("ria+"):
            return await self._by_ria_url(root, url)
        if url.startswith(b"file://"):
            url = unquote_to_bytes(url[len(b"file://") :])
        elif _has_scheme(url):
            return None
        # git takes a relative URL relative to where the superdataset was cloned from
        absolute = os.path.normpath(os.path.join(root, snapshot.dataset.path, url))
        match = re.fullmatch(re.escape(root) + rb"/([^/]{3}/[^/]+)(?:/\.git)?", absolute)
        return await self._by_id(match[1].replace(b"/", b"", 1)) if match else None

    async def _by_ria_url(self, root: bytes, url: bytes) -> bytes | None:
        try:
            source = parse_ria_url(rewrite(os.fsdecode(url), self._rules).url)
        except BadSource:
            return None
        here = (root, os.path.normpath(os.fsencode(self._store.storage.name)))
        if source.scheme != "file" or os.path.normpath(source.path) not in here:
            return None
        if source.dataset is not None:
            return await self._by_id(source.dataset)
        try:
            return None if source.alias is None else await self._store.path_of_alias(source.alias)
        except RiafsError:
            return None


def _has_scheme(url: bytes) -> bool:
    """Whether git would take `url` for a URL or an scp-like address rather than a path."""
    return re.match(rb"[A-Za-z][A-Za-z0-9+.-]*://|[^/]*:", url) is not None


class AbsentSubdataset(FixedDirectory):
    """A subdataset that the store does not have, or not at the registered commit: empty until it arrives."""

    renewable = True

    def __init__(
        self, registered: RegisteredDatasets, snapshot: "Snapshot", path: bytes, commit: bytes, reason: str
    ) -> None:
        super().__init__((), snapshot.time_ns, {"commit": commit, "error": os.fsencode(reason)})
        self._registered = registered
        self._snapshot = snapshot
        self._path = path
        self._commit = commit

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory. Looks now and then only: git goes through its packs anew for a commit that is missing."""
        if turn % _PATIENT_TURNS:
            return None
        newer = await self._registered.directory(self._snapshot, self._path, self._commit)
        return None if isinstance(newer, AbsentSubdataset) else newer
