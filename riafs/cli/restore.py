"""``riafs restore``: drop local changes, so that what the store has is shown again."""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence

from riafs.cli.changes import Kept, LocalChange, asked, is_below, local_changes, locate
from riafs.errors import NoSuchName

_SECONDS = 600.0


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Nothing is restored unless something is changed at each path."""
    target = locate(arguments.paths, arguments.overlay)
    wanted = restorable(local_changes(target), [os.fsdecode(place) for place in target.places] or [""])
    if isinstance(target, Kept):
        from riafs.overlay.overlay import opened  # slow to import, and of no use for a mount

        with opened(target.directory) as overlay:
            for dataset, paths in wanted.items():
                for path in paths:
                    overlay.restore(os.fsencode(dataset), os.fsencode(path))
        return 0
    for dataset, paths in wanted.items():
        asked(target.mount, "restore", {"dataset": dataset, "paths": list(paths)}, _SECONDS)
    return 0


def restorable(changes: Iterable[LocalChange], places: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Dataset → paths in it that are restored for `places`. Raises NoSuchName for a place without changes."""
    found: dict[str, list[str]] = {}
    changes = list(changes)
    for place in places:
        touched = [each for each in changes if is_below(each.path, place) or is_below(each.source or "\0", place)]
        if not touched:
            raise NoSuchName(f"nothing is changed at {place or 'the root'}; riafs diff lists what is")
        for each in touched:
            entrance = each.path[: len(each.path) - len(each.inside)].rstrip("/")
            path = "" if is_below(entrance, place) else place[len(entrance) + 1 :] if entrance else place
            if path not in found.setdefault(each.dataset, []):
                found[each.dataset].append(path)
    return found
