"""A dataset opened to be pushed to, by a command of its own process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from riafs.errors import BadSource, RiafsError
from riafs.formats.sources import RiaUrl
from riafs.push.destination import Destination, open_destination
from riafs.storage.deadline import Deadline
from riafs.storage.local_writer import LocalWriter
from riafs.storage.protocol import local_store
from riafs.tree.source import open_store, path_of_named
from riafs.tree.store import Store
from riafs.tree.tools import CommandSettings, StoreTools, working_tools


@asynccontextmanager
async def open_for_pushing(source: RiaUrl, means: CommandSettings) -> AsyncIterator[Destination]:
    """The dataset that `source` names. Raises BadSource where it names none, SourceNotFound, PushRefused, ReadOnly,
    StoreDenied, OutsideStore, StoreTimeout, StoreError, GitError.
    """
    if source.dataset is None and source.alias is None:
        raise BadSource(f"{source} names no dataset; one is named with #ID or #~ALIAS")
    async with working_tools(means) as tools:
        store = await open_store(source, tools.seconds, tools)
        path = await path_of_named(store, source)
        writing = await open_writing(store, tools)
        try:
            yield await open_destination(await store.dataset(path), writing, tools.git.gits, tools.seconds)
        finally:
            writing.close()


async def obstacle(source: RiaUrl, means: CommandSettings) -> str:
    """What stops every push to the dataset that `source` names, "" if nothing does that can be known before.

    Raises BadSource where it names none.
    """
    try:
        async with open_for_pushing(source, means) as destination:
            return destination.obstacle
    except BadSource:
        raise
    except RiafsError as error:
        return str(error)


async def open_writing(store: Store, tools: StoreTools) -> LocalWriter:
    """The store as something to write to, for all of its datasets; the caller closes it. Raises StoreDenied, …"""
    root = await local_store(store.storage).local_path(b".")
    patience = Deadline(f"store {store.storage.name}", tools.seconds, tools.counters)
    return await LocalWriter.open_root(root, patience)
