"""Local changes, and what became of them, as JSON: for the control socket and for ``--json``.

Paths and names are text as `os.fsdecode` gives it.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from riafs.daemon.control import described_error
from riafs.overlay.changes import Change
from riafs.overlay.overlay import Overlay, Snapshot
from riafs.overlay.rows import Area
from riafs.push.rules import annexed_key
from riafs.slices import in_slices, listing

if TYPE_CHECKING:
    from riafs.daemon.pushing import Failure, Outcome


async def describe_overlay(overlay: Overlay, snapshot: Snapshot) -> dict[str, Any]:
    """Every dataset with changes: its id, its path from the root, and each of its changes with the path in it."""
    areas = snapshot.areas()
    entrances = overlay.shown_entrances()
    return {
        "overlay": overlay.path,
        "datasets": [
            await _dataset(area, entrances.get(area.id, area.entrance), await snapshot.changes(area)) for area in areas
        ],
    }


async def _dataset(area: Area, entrance: bytes, changes: Sequence[Change]) -> dict[str, Any]:
    return {
        "dataset": os.fsdecode(area.base.dataset),
        "store": area.base.store,
        "path": os.fsdecode(entrance),
        "ref": None if area.base.ref is None else os.fsdecode(area.base.ref),
        "commit": area.base.commit.decode(),
        "changes": await in_slices(listing(map(_change, changes))),
    }


def _change(change: Change) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": os.fsdecode(change.path),
        "kind": change.kind.value,
        "size": _size(change) if change.content is None else change.content.size,
    }
    if change.source is not None:
        described["source"] = os.fsdecode(change.source)
    return described


def _size(change: Change) -> int | None:
    """Bytes of what is gone; None where only the store can tell, and for directories."""
    key = None if change.base is None else annexed_key(change.base)
    return None if key is None else key.size


def describe_failure(failure: "Failure") -> dict[str, Any]:
    """Datasets that were not pushed, and why."""
    return {"datasets": [os.fsdecode(entrance) for entrance in failure.entrances], **described_error(failure.error)}


def describe_outcome(outcome: "Outcome") -> dict[str, Any]:
    """What became of one dataset in a push."""
    report = outcome.report
    return {
        "path": os.fsdecode(outcome.entrance),
        "dataset": report.dataset,
        "ref": os.fsdecode(report.ref),
        "before": None if report.before is None else report.before.decode(),
        "commit": report.commit.decode(),
        "changed": report.changed,
        "annexed": report.annexed,
        "in_git": report.in_git,
        "objects_written": report.objects_written,
        "bytes_written": report.bytes_written,
        "empty_directories": [os.fsdecode(path) for path in report.empty_directories],
        "special_files": [os.fsdecode(path) for path in report.special_files],
        "overruled": [os.fsdecode(path) for path in report.overruled],
        "converted": [os.fsdecode(path) for path in report.converted],
        "pointers": {os.fsdecode(path): os.fsdecode(key.serialised) for path, key in report.pointers},
        "kept": outcome.kept,
        "overtaken": [os.fsdecode(path) for path in outcome.overtaken],
    }
