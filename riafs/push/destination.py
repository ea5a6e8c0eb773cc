"""The dataset that is pushed to: opening it, and checking whether it can be written to.

Refused before anything is written: unknown layouts and tunings, storages that git-annex would write differently, and
stores that this user may not write to.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from riafs.errors import NotInStore, OutsideStore, PushRefused, UnsupportedRepository
from riafs.formats.annex import Layout, parse_dataset_version, parse_store_version
from riafs.formats.annexlogs import DIFFERENCE_LOG, Tuning, dead_repositories, parse_config_log, parse_difference_log
from riafs.formats.specialremotes import SpecialRemote, parse_remote_log, storage_remotes
from riafs.git.environment import PrivateGitDirs
from riafs.git.object_source import object_directory
from riafs.git.writing import GitWriter, RefWriter
from riafs.storage.permissions import Sharing, parse_sharing
from riafs.storage.protocol import WritableStorage, local_store
from riafs.tree.dataset import Dataset
from riafs.tree.dataset_files import read_layout_version, read_settings

ANNEX_BRANCH = b"refs/heads/git-annex"
_MAX_LOG = 4 << 20
_NEEDED = (b"objects", b"refs")


@dataclass(frozen=True, slots=True)
class Annex:
    """The settings of the git-annex branch that a writer needs."""

    tip: bytes
    """Commit, in hex."""
    storage: SpecialRemote | None
    """The special remote of this dataset's directory; None if none is recorded."""
    configured: Mapping[bytes, bytes]
    tuning: Tuning


@dataclass(frozen=True, slots=True)
class Destination:
    """A dataset that can be pushed to. Opened with `open_destination`."""

    dataset: Dataset
    layout: Layout
    sharing: Sharing
    writing: WritableStorage
    git: GitWriter
    refs: RefWriter
    gits: PrivateGitDirs
    annex: Annex | None
    """None for a dataset without a git-annex branch, whose files are all in git."""

    @property
    def obstacle(self) -> str:
        """The reason why annexed files, as most new ones are, cannot be pushed; "" if there is none."""
        if self.annex is None or self.annex.storage is not None:
            return ""
        return f"{self.dataset.name} has no storage on record that could take annexed files"

    async def tip(self, ref: bytes) -> bytes | None:
        """The current commit of a ref, None if there is no such ref."""
        found = await self.dataset.repository.references.resolve(ref)
        return None if found is None else found.oid

    async def root(self, commit: bytes) -> bytes:
        """The tree (hex) of a commit."""
        return (await self.dataset.repository.commit(commit)).tree


async def open_destination(
    dataset: Dataset, writing: WritableStorage, gits: PrivateGitDirs, seconds: float
) -> Destination:
    """The dataset as a destination. Raises PushRefused, ReadOnly, StoreDenied, StoreTimeout, StoreError, …"""
    layout = await _known_layout(dataset)
    settings = await read_settings(dataset.storage, dataset.path, gits)
    sharing = parse_sharing(settings.items())
    git = await _git_writer(dataset, writing, gits, sharing)
    await writing.check_writable([dataset.path, *(dataset.path + b"/" + part for part in _NEEDED)])
    annex = await _annex(dataset, settings)
    if annex is not None:
        await _check_storage(dataset, annex)
    refs = RefWriter(local_store(dataset.storage), writing, dataset.repository, dataset.path, sharing, seconds)
    return Destination(dataset, layout, sharing, writing, git, refs, gits, annex)


async def _known_layout(dataset: Dataset) -> Layout:
    store = parse_store_version(await read_layout_version(dataset.storage))
    version = parse_dataset_version(await read_layout_version(dataset.storage, dataset.path))
    for known, reason in ((store.known, store.reason), (version.known, version.reason)):
        if not known:
            raise PushRefused(f"{dataset.name} is not pushed to, since its layout is unknown: {reason}")
    return version.layout


async def _git_writer(dataset: Dataset, writing: WritableStorage, gits: PrivateGitDirs, sharing: Sharing) -> GitWriter:
    objects = dataset.path + b"/objects"
    try:
        object_format = await dataset.repository.references.check_format()
        path = await local_store(dataset.storage).local_path(objects)
    except NotInStore as error:
        raise PushRefused(f"{dataset.name} has no git repository in the store to push to") from error
    except UnsupportedRepository as error:
        raise PushRefused(f"{dataset.name} is not pushed to: {error}") from error
    if await object_directory(local_store(dataset.storage), objects, gits) != path:
        raise OutsideStore(
            f"the git objects of {dataset.name} are not all in the store as files: the log names the "
            "links that lead out, and what is no file; it is not pushed to"
        )
    return GitWriter(writing, objects, object_format, sharing)


# -- the annex --------------------------------------------------------------------------------------------------------


async def _annex(dataset: Dataset, settings: Mapping[bytes, bytes | None]) -> Annex | None:
    resolved = await dataset.repository.references.resolve(ANNEX_BRANCH)
    if resolved is None:
        return None
    if resolved.ref != ANNEX_BRANCH:
        raise PushRefused(
            f"the git-annex branch of {dataset.name} is a symbolic ref to another branch; it is not pushed to"
        )
    tip = resolved.oid
    tuning = parse_difference_log(await _log(dataset, tip, DIFFERENCE_LOG))
    if tuning.of_objects:
        names = ", ".join(sorted(name.decode(errors="replace") for name in tuning.of_objects))
        raise PushRefused(
            f"{dataset.name} is tuned in a way that changes its links ({names} in difference.log on its git-annex "
            "branch); push to it with git-annex and DataLad"
        )
    remotes = parse_remote_log(await _log(dataset, tip, b"remote.log"))
    named = storage_remotes(remotes, dataset.identifier, settings.get(b"datalad.ora-remote.uuid"))
    configured = parse_config_log(await _log(dataset, tip, b"config.log"))
    return Annex(tip, named[0] if named else None, configured, tuning)


async def _log(dataset: Dataset, tip: bytes, path: bytes) -> bytes:
    return await dataset.repository.blob_at(tip, path, _MAX_LOG) or b""


async def _check_storage(dataset: Dataset, annex: Annex) -> None:
    """Raises PushRefused where git-annex would not write plain objects to the storage, or none at all."""
    remote = annex.storage
    if remote is None:
        return
    fields = dict(remote.fields)
    name = f"storage {os.fsdecode(remote.name)} of {dataset.name}"
    if remote.log_uuid in dead_repositories(await _log(dataset, annex.tip, b"trust.log")):
        raise PushRefused(f"{name} is marked as dead; git annex semitrust brings it back")
    for field in (b"exporttree", b"importtree"):
        if fields.get(field) == b"yes":
            raise PushRefused(f"{name} has {field.decode()}=yes: it holds files by name, not objects")
    if b"chunksize" in fields:
        raise PushRefused(f"{name} has chunks of the retired kind (chunksize); push to it with git-annex")
    if remote.encryption != b"none":
        kind = remote.encryption.decode(errors="replace")
        raise PushRefused(f"{name} has encryption={kind}, which riafs does not write; push to it with git-annex")
