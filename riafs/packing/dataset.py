"""The dataset that is packed or unpacked: found through its store, as directories on this machine.

Only datasets whose layout is known are touched, as in DataLad's ORA, which only reads from others.
"""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from riafs.archive.archive import ArchiveTools
from riafs.errors import BadSource, NotInStore, ReadOnly
from riafs.formats.annex import Layout, parse_dataset_version
from riafs.formats.sources import RiaUrl
from riafs.git.config import MAX_CONFIG, parse_config
from riafs.git.environment import PrivateGitDirs
from riafs.git.repository import Repository
from riafs.storage.deadline import Deadline
from riafs.storage.local_writer import LocalWriter
from riafs.storage.openat import DIRECTORY_FLAGS, open_resolved
from riafs.storage.permissions import Sharing, parse_sharing
from riafs.storage.posix import ABSENT, HeldDirectory, writing_to
from riafs.storage.protocol import Storage, local_store
from riafs.tree.source import open_store, path_of_named
from riafs.tree.store import Store, StoreTools
from riafs.tree.working import Means, working_tools

_MAX_VERSION_FILE = 4096
_DECODING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class PackedDataset:
    """A dataset of a store on this machine. Its directories are open; in a dry run one that is missing is `ABSENT`."""

    name: str
    objects: HeldDirectory
    archives: HeldDirectory
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
        store = await open_store(source, tools.seconds, tools)
        path = await path_of_named(store, source)
        layout = await _layout(store.storage, path)
        dataset = await store.dataset(path)
        sharing = await _sharing(store.storage, path, tools.git.gits)
        made = None if dry_run else sharing
        with ExitStack() as stack:
            objects = await _held(store, path + b"/annex/objects", made, tools)
            stack.callback(objects.close)
            archives = await _held(store, path + b"/archives", made, tools)
            stack.callback(archives.close)
            yield PackedDataset(
                dataset.name, objects, archives, layout, sharing, dataset.repository, tools.content.archives
            )


async def _held(store: Store, path: bytes, sharing: Sharing | None, tools: StoreTools) -> HeldDirectory:
    """A directory of the store, open; made if missing with the modes of `sharing`, if that is given."""
    storage = local_store(store.storage)
    try:
        place = await storage.local_path(path)
    except NotInStore:
        if sharing is None:
            return HeldDirectory(ABSENT, os.path.join(os.fsencode(storage.name), path))
        patience = Deadline(f"store {storage.name}", tools.seconds, tools.counters)
        making = await LocalWriter.open_root(await storage.local_path(b"."), patience)
        try:
            await making.make_directories([path], sharing)
            await making.settle()
        finally:
            making.close()
        place = await storage.local_path(path)
    with writing_to(place):
        return HeldDirectory(open_resolved(place, DIRECTORY_FLAGS), place)


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
