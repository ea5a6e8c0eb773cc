"""From a source as the user names it to the directory a mount shows."""

import os

from riafs.errors import BadSource, MissingObject, NoSuchVersion, NotInStore, RiafsError, SourceNotFound
from riafs.formats.sources import RiaUrl
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.tree.nearest import datasets_near, stores_near, versions_near
from riafs.tree.protocol import Directory
from riafs.tree.store import Store, StoreTools
from riafs.tree.storeroot import AliasDirectory, dataset_directory


async def open_source(source: RiaUrl, tools: StoreTools, *, keys: bool = False) -> Directory:
    """The store, or the dataset at a version, that `source` names. `keys`: also a dataset that has no commit or no git
    repository, and shows nothing, for what it stores.

    Raises BadSource, SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, StoreError, GitError.
    """
    store = await open_store(source, tools.seconds, tools)
    if source.dataset is None and source.alias is None:
        return await AliasDirectory.load(store)
    path = await path_of_named(store, source)
    dataset = await store.dataset(path)
    try:
        return await dataset.at(source.version)
    except (NoSuchVersion, NotInStore) as error:
        if keys and source.version is None:
            return await dataset_directory(store, path, 0)
        if isinstance(error, NotInStore):
            raise SourceNotFound(
                f"dataset {dataset.name} of {store.storage.name} has no git repository to show"
            ) from error
        near = "" if source.version is None else await versions_near(dataset.repository, source.version)
        raise NoSuchVersion(f"{error}{near}") from error
    except MissingObject as error:
        raise NoSuchVersion(f"dataset {dataset.name} of {store.storage.name}: {error}") from error


async def path_of_named(store: Store, source: RiaUrl) -> bytes:
    """The store's path of the dataset that `source` names. Raises SourceNotFound, which says what is near."""
    assert source.alias is not None or source.dataset is not None
    try:
        if source.alias is not None:
            return await store.path_of_alias(source.alias)
        return await store.path_of_id(source.dataset or b"")
    except SourceNotFound as error:
        raise SourceNotFound(f"{error}{await datasets_near(store, source)}") from error


async def open_store(source: RiaUrl, seconds: float, tools: StoreTools) -> Store:
    """The store that `source` names, whatever dataset it also names. Raises as `open_source`."""
    if source.scheme != "file":
        raise BadSource(
            f"{source}: stores behind ria+{source.scheme}:// cannot be mounted yet, only ria+file:// and paths"
        )
    path = os.path.abspath(source.path)
    patience = Deadline(f"store {os.fsdecode(path)}", seconds, tools.counters)
    try:
        storage = await LocalStorage.open_root(path, patience, tools.allow_links)
        try:
            return await Store.open(storage, tools)
        except RiafsError:
            storage.close()
            raise
    except SourceNotFound as error:
        raise SourceNotFound(f"{error}{await stores_near(path, patience)}") from error
