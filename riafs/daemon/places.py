"""Places: paths from the root of what is shown, by which commands choose among local changes. Pure."""

import os
from collections.abc import Sequence, Set

from riafs.errors import UsageError
from riafs.formats.names import below, is_in, is_in_one, parents_of
from riafs.overlay.changes import Change, ChangeKind
from riafs.slices import Sliced


def select(changes: Sequence[Change], entrance: bytes, places: Sequence[bytes]) -> Sliced[Sequence[Change]]:
    """Those of a dataset's changes that are at one of `places`, in their order; all for no places.

    Raises UsageError for a place inside of a directory that has another name in the store.
    """
    if not places or any(is_in(entrance, place) for place in places):
        return changes
    inside = {below(place, entrance) for place in places if is_in(place, entrance)}
    through = {above: place for place in inside for above in parents_of(place)}
    chosen = []
    for change in changes:
        if change.kind is ChangeKind.RENAMED and change.path in through:
            inner, outer = os.fsdecode(through[change.path]), os.fsdecode(change.path)
            raise UsageError(f"{inner} is in {outer}, which has another name in the store: choose {outer}")
        if _touches(change, inside):
            chosen.append(change)
        yield
    return chosen


def _touches(change: Change, places: Set[bytes]) -> bool:
    """A second name of a file of the commit goes with the first: without that there may be nothing to copy."""
    source = change.base.path if change.kind is ChangeKind.COPIED and change.base is not None else change.source
    return is_in_one(change.path, places) or (source is not None and is_in_one(source, places))
