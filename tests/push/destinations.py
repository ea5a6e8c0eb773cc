"""A dataset of a store as the destination of a push, for tests of single pushes and for benchmarks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from riafs.formats.sources import RiaUrl
from riafs.push.destination import Destination
from riafs.push.pushers import open_pusher
from riafs.push.ria import RiaPusher
from riafs.tree.tools import CommandSettings


@asynccontextmanager
async def open_for_pushing(source: RiaUrl, settings: CommandSettings) -> AsyncIterator[Destination]:
    """The dataset that `source` names."""
    async with open_pusher(source, settings) as pusher:
        assert isinstance(pusher, RiaPusher)
        yield await pusher.destination()
