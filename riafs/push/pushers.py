"""The pusher of a source, by the kind of the source."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from riafs.errors import PushRefused
from riafs.formats.sources import RiaUrl, Source
from riafs.push.protocol import Pusher
from riafs.push.ria import RiaPusher
from riafs.tree.source import open_store
from riafs.tree.tools import CommandSettings, working_tools


@asynccontextmanager
async def open_pusher(
    source: Source, settings: CommandSettings, alternate: Callable[[bytes], bytes] | None = None
) -> AsyncIterator[Pusher]:
    """The pusher of `source`. `alternate`: object format → a local object directory with git objects that the store may
    have pruned.

    Raises PushRefused if this kind of source cannot be pushed to, SourceNotFound, OutsideStore, StoreDenied, …
    """
    if not isinstance(source, RiaUrl):
        raise PushRefused(f"{source} cannot be pushed to: changes are pushed to the datasets of RIA stores")
    async with working_tools(settings) as tools:
        if alternate is not None:
            tools.git.read_also(alternate)
        pusher = RiaPusher(source, await open_store(source, tools.seconds, tools), tools)
        try:
            yield pusher
        finally:
            pusher.close()
