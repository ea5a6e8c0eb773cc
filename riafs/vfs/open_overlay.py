"""An overlay laid over what was assembled: the last step of opening something that can be written."""

import logging
import os
from dataclasses import dataclass, replace

from riafs.formats.sources import RiaUrl
from riafs.overlay.overlay import open_when_free
from riafs.overlay.stat import Ownership
from riafs.vfs.assembly import Assembled
from riafs.vfs.lower_tree import not_here
from riafs.vfs.writable import WritableFileSystem
from riafs.watching import Doing, untold

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OverlayPlace:
    """Where changes are kept, and how what was not changed looks."""

    directory: str
    """Absolute; made if missing."""
    ownership: Ownership


async def lay_over(
    assembled: Assembled, source: RiaUrl, place: OverlayPlace, doing: Doing = untold
) -> WritableFileSystem:
    """The file system of `source` with the changes in `place`. Given back with `assembled`.

    Raises Busy while another process uses the overlay, StoreDenied where others could write to it, OverlayFailed where
    it belongs to something else or cannot be used, OverlayFull.
    """
    filesystem = assembled.filesystem
    overlay = open_when_free(place.directory, filesystem.counters, doing)
    assembled.call_at_close(overlay.close)
    if assembled.git is not None:
        assembled.git.read_also(overlay.kept.directory)
    assembled.times.come_from(overlay.times)
    store = str(replace(source, dataset=None, alias=None, version=None))
    writable = WritableFileSystem(filesystem, overlay, place.ownership, store)
    assembled.call_at_close(writable.close)
    await writable.attach(doing)
    if overlay.source != str(source):
        for area in writable.unshown():  # there never was such a dataset here
            raise not_here(area.base, area.entrance)
    for area in writable.unshown():
        shown, dataset = os.fsdecode(area.entrance), os.fsdecode(area.base.dataset)
        log.warning(
            "dataset %s is not shown at /%s any more: its changes are kept, for a push or restore", dataset, shown
        )
    for unavailable, reason in writable.unavailable.items():
        log.warning(
            "dataset %s is shown without its local changes, as the commit below them cannot be read: %s; "
            "they are kept, for a push or restore", os.fsdecode(unavailable), reason
        )  # fmt: skip
    overlay.belong_to(str(source))
    return writable
