"""The dataset that is packed or unpacked: found through its store, as directories on this machine.

Only datasets whose layout is known are touched, as in DataLad's ORA, which only reads from others.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from riafs.archive.archive import ArchiveTools
from riafs.errors import BadSource, NotInStore, ReadOnly
from riafs.formats.layout import Layout, parse_dataset_version
from riafs.formats.riaurl import RiaUrl
from riafs.git.config import MAX_CONFIG, parse_config
from riafs.git.environment import PrivateGitDirs
from riafs.git.repository import Repository
from riafs.storage.failures import writing
from riafs.storage.protocol import Storage
from riafs.storage.sharing import DIRECTORY_MODE, Sharing, parse_sharing
from riafs.tree.source import open_store, path_of_named
from riafs.tree.store import StoreTools
from riafs.tree.working import Means, working_tools

_MAX_VERSION_FILE = 4096
_DECODING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class PackedDataset:
    """A dataset of a store on this machine. Paths are absolute and free of links."""

    name: str
    objects: bytes
    archives: bytes
    layout: Layout
    sharing: Sharing
    repository: Repository
    tools: ArchiveTools


@asynccontextmanager
async def open_dataset(source: RiaUrl, means: Means, *, dry_run: bool) -> AsyncIterator[PackedDataset]:
    """The dataset that `source` names. Directories for objects and archives are made if missing, unless `dry_run`.

    Raises BadSource where it names none or a version, SourceNotFound, ReadOnly (unknown layout), OutsideStore,
    StoreDenied, StoreTimeout, StoreError.
    """
    if source.dataset is None and source.alias is None:
        raise BadSource(f"{source} names no dataset; one is named with #ID or #~ALIAS")
    if source.version is not None:
        raise BadSource(f"{source} names a version, but objects belong to all versions of a dataset")
    async with working_tools(means) as tools:
        yield await _find(source, tools, dry_run=dry_run)


async def _find(source: RiaUrl, tools: StoreTools, *, dry_run: bool) -> PackedDataset:
    store = await open_store(source, tools.seconds, tools)
    path = await path_of_named(store, source)
    layout = await _layout(store.storage, path)
    dataset = await store.dataset(path)
    sharing = await _sharing(store.storage, path, tools.git.gits)
    objects = await _directory(store.storage, path, b"annex/objects", None if dry_run else sharing)
    archives = await _directory(store.storage, path, b"archives", None if dry_run else sharing)
    return PackedDataset(dataset.name, objects, archives, layout, sharing, dataset.repository, tools.content.archives)


async def _layout(storage: Storage, path: bytes) -> Layout:
    try:
        text = await storage.read_file(path + b"/ria-layout-version", _MAX_VERSION_FILE)
    except NotInStore:
        text = None
    version = parse_dataset_version(text)
    if not version.known:
        name = os.fsdecode(path)
        raise ReadOnly(f"dataset {name} is left alone, since where its objects belong is unknown: {version.reason}")
    return version.layout


async def _sharing(storage: Storage, path: bytes, gits: PrivateGitDirs) -> Sharing:
    try:
        settings = await parse_config(gits, await storage.read_file(path + b"/config", MAX_CONFIG))
    except NotInStore:
        settings = ()
    return parse_sharing(settings)


async def _directory(storage: Storage, dataset: bytes, name: bytes, sharing: Sharing | None) -> bytes:
    """The absolute path of a directory of the dataset, made if missing with the modes of `sharing`, if that is given.

    Raises OutsideStore for a link out of the store.
    """
    try:
        return await storage.local_path(dataset + b"/" + name)
    except NotInStore:
        path = await storage.local_path(dataset) + b"/" + name
        if sharing is not None:
            make_directories(path, sharing)
        return path


def make_directories(path: bytes, sharing: Sharing) -> None:
    """Make the directory `path` and what is missing above it, with the dataset's modes. Raises StoreDenied, …"""
    with writing(path):
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for each in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(each, DIRECTORY_MODE)
                made = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    sharing.settle(made)
                finally:
                    os.close(made)
