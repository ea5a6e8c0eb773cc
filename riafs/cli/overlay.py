"""``riafs overlay``: which overlays this user has; moving, removing and recovering those that are not mounted."""

import argparse
import errno
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from riafs.cli.render import counted, print_json, print_table, printable
from riafs.cli.status import report
from riafs.daemon.mounts import riafs_mounts
from riafs.errors import OverlayDamaged, OverlayFailed, RiafsError, UsageError
from riafs.overlay.overlay import holding, opened, recorded_source
from riafs.settings import complete_environment, overlays_directory

_TITLES = ("DIRECTORY", "SOURCE", "CHANGES", "MOUNTPOINT")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    if arguments.action == "move":
        move(os.path.abspath(arguments.directory), os.path.abspath(arguments.target))
    elif arguments.action == "remove":
        remove(os.path.abspath(arguments.directory), force=arguments.force)
    elif arguments.action == "recover":
        return recover(os.path.abspath(arguments.directory), arguments.target)
    else:
        _list(as_json=arguments.json)
    return 0


def _list(*, as_json: bool) -> None:
    known = overlays(complete_environment())
    if as_json:
        print_json(known)
    elif known:
        rows = [[str("-" if each[name] is None else each[name]) for name in each] for each in known]
        print_table(_TITLES, rows)


def overlays(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Those of running mounts, and those in the default directory for overlays."""
    found: dict[str, dict[str, Any]] = {}
    for mount in riafs_mounts():
        known = report(mount, environment) if mount.writable else {}
        if "overlay" in known:
            found[known["overlay"]] = _line(known["overlay"], known["source"], known["changes"], mount.mountpoint)
    place = overlays_directory(environment)
    names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    for path in (f"{place}/{name}" for name in names):
        if path not in found:
            found[path] = _unmounted(path)
    return list(found.values())


def _line(directory: str, source: str | None, changes: int | None, mountpoint: str | None) -> dict[str, Any]:
    return {"directory": directory, "source": source, "changes": changes, "mountpoint": mountpoint}


def _unmounted(path: str) -> dict[str, Any]:
    """Its source and its changes, as far as they can be told."""
    try:
        source = recorded_source(path)
        return _line(path, source, count_changes(path), None)
    except OverlayDamaged as error:
        print(f"riafs: {error}", file=sys.stderr)
        return _line(path, None, None, None)
    except (RiafsError, OSError):  # in use elsewhere: there it is all the same
        return _line(path, None, None, None)


def count_changes(directory: str) -> int:
    """How many paths differ. Raises OverlayFailed, Busy."""
    with opened(directory) as overlay:
        return overlay.count_changes()


def move(directory: str, target: str) -> None:
    """Give an overlay another place, on whichever file system. Raises Busy while it is in use, UsageError, …"""
    recorded_source(directory)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already")
    with holding(directory):
        try:
            os.rename(directory, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise OverlayFailed(f"{directory} cannot be moved to {target}: {error.strerror}") from error
            _copy(directory, target)
    print(f"moved; mount it with --overlay {target}")


def _copy(directory: str, target: str) -> None:
    unfinished = f"{target}.unfinished"
    try:
        os.mkdir(unfinished, 0o700)
        shutil.copytree(directory, unfinished, dirs_exist_ok=True)
        os.chmod(unfinished, 0o700)
        os.sync()
        os.rename(unfinished, target)
        _sync_above(target)  # the only copy from here on
    except (OSError, shutil.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OverlayFailed(f"{directory} cannot be copied to {target}: {error}") from error
    shutil.rmtree(directory)


def _sync_above(path: str) -> None:
    """Make a name last. Raises OSError."""
    above = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(above)
    finally:
        os.close(above)


def remove(directory: str, *, force: bool) -> None:
    """Remove an overlay. Raises Busy while it is in use, UsageError for one with changes unless `force`."""
    try:
        changes = count_changes(directory)
    except OverlayDamaged:
        if not force:
            raise
        changes = 0
    if changes and not force:
        raise UsageError(f"{directory} has {counted(changes, 'change')} not pushed; --force drops them")
    with holding(directory):
        try:
            shutil.rmtree(directory)
        except OSError as error:
            raise OverlayFailed(f"{directory} cannot be removed: {error.strerror}") from error


def recover(directory: str, target: str | None) -> int:
    """Make a damaged overlay usable again; the exit status. Raises Busy while it is in use, UsageError, …"""
    from riafs.overlay.recovery import recover as recovered_to  # of no use for the other actions

    try:
        with opened(directory):
            print(f"{directory} is complete; there is nothing to recover")
            return 0
    except OverlayDamaged:
        found = recovered_to(directory, os.path.abspath(target or f"{directory}.recovered"))
    for path in found.named:
        print(printable(f"named     {os.fsdecode(path)}"))
    for place in found.numbered:
        print(printable(f"numbered  {place}"))
    for path in found.lost:
        print(printable(f"lost      {os.fsdecode(path)}: what was changed in it, or the end of that, is gone"))
    print(f"files with names are shown when {directory} is mounted again; all other data is in {found.directory}")
    return 0
