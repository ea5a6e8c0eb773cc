"""Places: paths from the root of what is shown, by which commands choose among local changes. Pure."""

import os
from collections.abc import Sequence

from riafs.errors import UsageError
from riafs.formats.paths import below, is_in
from riafs.overlay.changes import Change, ChangeKind


def select(changes: Sequence[Change], entrance: bytes, places: Sequence[bytes]) -> list[Change]:
    """Those of a dataset's changes that are at one of `places`, in their order; all for no places.

    Raises UsageError for a place inside of a directory that has another name in the store.
    """
    if not places or any(is_in(entrance, place) for place in places):
        return list(changes)
    inside = [below(place, entrance) for place in places if is_in(place, entrance)]
    chosen = [change for change in changes if any(_touches(change, place) for place in inside)]
    for change in changes:
        for place in inside:
            if change.kind is ChangeKind.RENAMED and change.path != place and is_in(place, change.path):
                inner, outer = os.fsdecode(place), os.fsdecode(change.path)
                raise UsageError(f"{inner} is in {outer}, which has another name in the store: choose {outer}")
    return chosen


def _touches(change: Change, place: bytes) -> bool:
    """A second name of a file of the commit goes with the first: without that there may be nothing to copy."""
    source = change.base.path if change.kind is ChangeKind.COPIED and change.base is not None else change.source
    return is_in(change.path, place) or (source is not None and is_in(source, place))
