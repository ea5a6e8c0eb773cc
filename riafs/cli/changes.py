"""Local changes: ``riafs diff`` lists them, ``riafs restore`` drops them."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from riafs.cli.render import amount, print_json, printable
from riafs.cli.targets import Kept, Mounted, changed_datasets, locate
from riafs.daemon.ask import asked
from riafs.errors import NoSuchName


class LocalChange(NamedTuple):
    """A change, one of maybe very many. `path`, `source`: from the root; `inside`: from the top of its dataset."""

    path: str
    kind: str
    size: int | None
    source: str | None
    dataset: str
    inside: str


def local_changes(target: Mounted | Kept) -> list[LocalChange]:
    """Those at the target's places, by path."""
    datasets = changed_datasets(target)
    found = [_change(each, dataset["dataset"], dataset["path"]) for dataset in datasets for each in dataset["changes"]]
    places = [os.fsdecode(place) for place in target.places]
    if places:
        found = [each for each in found if any(_touches(each, place) for place in places)]
    return sorted(found, key=lambda each: each.path)


def _change(known: Mapping[str, Any], dataset: str, entrance: str) -> LocalChange:
    above = f"{entrance}/" if entrance else ""
    source = None if known.get("source") is None else above + known["source"]
    return LocalChange(above + known["path"], known["kind"], known["size"], source, dataset, known["path"])


def _touches(change: LocalChange, place: str) -> bool:
    return is_below(change.path, place) or (change.source is not None and is_below(change.source, place))


def is_below(path: str, place: str) -> bool:
    """Whether `path` is `place` or in it, both from the root."""
    return not place or path == place or path.startswith(f"{place}/")


def run_diff(arguments: argparse.Namespace) -> int:
    """``riafs diff``."""
    changes = local_changes(locate(arguments.paths, arguments.overlay))
    if arguments.json:
        print_json(
            [{"path": each.path, "kind": each.kind, "size": each.size, "source": each.source} for each in changes]
        )
    else:
        sys.stdout.writelines(_diff_lines(changes))
    return 0


def _diff_lines(changes: Sequence[LocalChange]) -> Iterator[str]:
    """``added    path (12 B)``."""
    for each in changes:
        source = f" (was {each.source})" if each.source is not None else ""
        directory = "/" if each.kind == "added" and each.size is None else ""
        size = f" ({amount(each.size)})" if each.size is not None else ""
        yield f"{each.kind:<8} {printable(each.path + directory + source)}{size}\n"


_RESTORE_SECONDS = 600.0


def run_restore(arguments: argparse.Namespace) -> int:
    """``riafs restore``. Nothing is restored unless something is changed at each path."""
    target = locate(arguments.paths, arguments.overlay)
    wanted = restorable(local_changes(target), [os.fsdecode(place) for place in target.places] or [""])
    if isinstance(target, Kept):
        from riafs.overlay.overlay import opened  # slow to import, and of no use for a mount
        from riafs.overlay.restoring import restore as restore_changes

        with opened(target.directory) as overlay:
            for dataset, paths in wanted.items():
                for path in paths:
                    restore_changes(overlay, os.fsencode(dataset), os.fsencode(path))
        return 0
    for dataset, paths in wanted.items():
        asked(target.mount, "restore", {"dataset": dataset, "paths": list(paths)}, _RESTORE_SECONDS)
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
