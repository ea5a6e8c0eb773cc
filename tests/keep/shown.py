"""What a mount of Keep shows, without a kernel."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.formats.sources import parse_source
from riafs.vfs.assembly import Plan, open_filesystem
from riafs.vfs.keep_plan import KeepPlan
from tests.behaviour.drivers import ObjectDriver
from tests.keep.standin.api import TOKEN
from tests.keep.standin.cluster import Cluster


@asynccontextmanager
async def shown(
    source: str, *, cache: Path | None = None, deadline: float = 5.0, **keep: Any
) -> AsyncIterator[ObjectDriver]:
    """The filesystem of a source. `keep`: see KeepPlan."""
    kept = None if cache is None else str(cache)
    plan = Plan(parse_source(source), deadline, Verify.AUTO, kept, os.environ["PATH"], keep=KeepPlan(**keep))
    async with open_filesystem(plan, Counters(), {b"stats": lambda: "lookups 1\n"}) as filesystem:
        yield ObjectDriver(filesystem)


@asynccontextmanager
async def shown_cluster(cluster: Cluster, rest: str = "", **options: Any) -> AsyncIterator[ObjectDriver]:
    """The filesystem of a stand-in cluster; counting of requests begins anew."""
    async with shown(f"arvados://{cluster.host}{rest}", token=TOKEN, insecure=True, **options) as driver:
        cluster.api.shape.reset()
        yield driver
