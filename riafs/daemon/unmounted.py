"""Overlays that are not mounted, opened by a command under their lock."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from riafs.counters import Counters
from riafs.daemon.opening import opening_plan
from riafs.errors import OverlayFailed
from riafs.formats.sources import RiaUrl, parse_source
from riafs.overlay.inode_map import Ownership
from riafs.overlay.overlay import recorded_source
from riafs.settings import Settings
from riafs.vfs.assembly import open_assembled
from riafs.vfs.open_overlay import OverlayPlace, lay_over
from riafs.vfs.writable import WritableFileSystem


@asynccontextmanager
async def open_unmounted(
    directory: str, settings: Settings, environment: Mapping[str, str], rules: tuple[tuple[str, str], ...]
) -> AsyncIterator[WritableFileSystem]:
    """The overlay with its source below. Raises OverlayFailed, Busy while it is mounted, and as opening the source."""
    source = overlay_source(directory)
    plan = opening_plan(source, replace(settings, checkout=False), environment, rules, None)
    async with open_assembled(plan, Counters(), {}) as assembled:
        place = OverlayPlace(directory, Ownership(os.getuid(), os.getgid()))
        yield await lay_over(assembled, source, place)


def overlay_source(directory: str) -> RiaUrl:
    """The source that an overlay's changes were made in. Raises OverlayFailed, BadSource."""
    text = recorded_source(directory)
    source = None if text is None else parse_source(text)
    if not isinstance(source, RiaUrl):
        raise OverlayFailed(f"the overlay {directory} was never mounted, so there is nothing to do with it")
    return source
