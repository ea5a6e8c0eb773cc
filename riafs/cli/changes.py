"""Where the local changes are that a command is about: in a mount, or in the directory of an overlay.

A path in a mount names the mount and a place in it. For an overlay that is not mounted, its directory is given, and
places are paths from the root of the source.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from riafs import errors
from riafs.cli.datasets import NamedDataset, named_dataset
from riafs.daemon.ask import SECONDS, ask
from riafs.daemon.mounts import Mount, is_at_or_below, resolve, riafs_mounts
from riafs.errors import NoSuchName, NotMounted, PushConflict, RiafsError, StoreDenied, StoreTimeout, UsageError
from riafs.settings import complete_environment

_LISTING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Mounted:
    """Changes in a mount. `places`: paths from its root, none for everything."""

    mount: Mount
    places: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Changes in an overlay that is not mounted."""

    directory: str
    places: tuple[bytes, ...]


def locate(paths: Sequence[str], overlay: str | None) -> Mounted | Kept:
    """What `paths` and ``--overlay`` mean; no paths: everything, in the mount that the working directory is in.

    Raises NotMounted, UsageError for paths in several mounts, and in a mount that is only read.
    """
    if overlay is not None:
        directory = os.path.abspath(overlay)
        return Kept(directory, tuple(_in_overlay(path, directory) for path in paths))
    found = [_in_mount(path) for path in paths or ["."]]
    mounts = {mount.mountpoint: mount for mount, _ in found}
    if len(mounts) > 1:
        raise UsageError(f"{' and '.join(sorted(mounts))} are different mounts: one at a time")
    [mount] = mounts.values()
    if not mount.writable:
        raise UsageError(f"{mount.mountpoint} is mounted to be read only, so nothing is changed there")
    places = tuple(place for _, place in found)
    return Mounted(mount, () if not paths or b"" in places else places)


def _in_overlay(path: str, directory: str) -> bytes:
    """The path from the root that `path` means, which may also be a dataset with changes."""
    named = named_dataset(path)
    if named is None:
        return _from_root(path)
    entrances = named.entrances(_datasets(Kept(directory, ())))
    if not entrances:
        raise NoSuchName(f"nothing is changed in dataset {path}")
    return os.fsencode(entrances[0])


def _from_root(path: str) -> bytes:
    place = os.path.normpath(path.strip("/"))
    if place == ".." or place.startswith("../"):
        raise UsageError(f"{path} leads out of the source")
    return b"" if place == "." else os.fsencode(place)


def _in_mount(path: str) -> tuple[Mount, bytes]:
    """The riafs mount that a path is in, whether there still is something or not, and the path from its root; for a
    dataset's id, where it has changes.
    """
    named = named_dataset(path)
    if named is not None:
        return _with_dataset(named)
    absolute = resolve(path) if os.path.isdir(path) else os.path.abspath(path)
    absolute = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    candidates = [mount for mount in riafs_mounts() if is_at_or_below(absolute, mount.mountpoint)]
    if not candidates:
        raise NotMounted(f"{absolute} is in no riafs mount; an overlay that is not mounted is given with --overlay DIR")
    mount = max(candidates, key=lambda each: len(each.mountpoint))
    place = os.path.relpath(absolute, mount.mountpoint)
    return mount, b"" if place == "." else os.fsencode(place)


def _with_dataset(named: NamedDataset) -> tuple[Mount, bytes]:
    """The mount of this user in which a dataset has changes, and its place there."""
    mounts = [mount for mount in riafs_mounts() if mount.writable and os.getuid() in (0, mount.owner)]
    found: list[tuple[Mount, str]] = []
    for mount in mounts:
        with suppress(NotMounted, StoreTimeout):  # one that does not answer is not asked for
            found += [(mount, place) for place in named.entrances(_datasets(Mounted(mount, ())))]
    if not found:
        raise NoSuchName(
            f"nothing is changed in dataset {named.identifier} in a mount of this user; "
            "an overlay that is not mounted is given with --overlay DIR"
        )
    if len(found) > 1:
        places = " and ".join(os.path.join(mount.mountpoint, place) for mount, place in found)
        raise UsageError(f"dataset {named.identifier} has changes in {places}: name one of these directories")
    [(mount, place)] = found
    return mount, os.fsencode(place)


# -- asking -----------------------------------------------------------------------------------------------------------


def asked(mount: Mount, command: str, arguments: Mapping[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """What a mount's daemon replies. Raises what went wrong there, StoreDenied for another user's mount, …"""
    try:
        reply = ask(mount, command, complete_environment(), seconds, arguments)
    except PermissionError as error:
        raise StoreDenied(f"the mount at {mount.mountpoint} is another user's") from error
    if "error" in reply:
        raise failure_told(reply, mount)
    return reply


def failure_told(reply: Mapping[str, Any], mount: Mount) -> RiafsError:
    """The failure that a mount's daemon tells of."""
    message, kind = str(reply["error"]), getattr(errors, str(reply.get("kind")), None)
    if kind is PushConflict:
        return PushConflict(message, tuple(os.fsencode(path) for path in reply.get("paths", ())))
    if isinstance(kind, type) and issubclass(kind, RiafsError):
        return kind(message)
    return NotMounted(f"the daemon of {mount.mountpoint} does not do that: {message}")


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
    datasets = _datasets(target)
    found = [_change(each, dataset["dataset"], dataset["path"]) for dataset in datasets for each in dataset["changes"]]
    places = [os.fsdecode(place) for place in target.places]
    if places:
        found = [each for each in found if any(_touches(each, place) for place in places)]
    return sorted(found, key=lambda each: each.path)


def _datasets(target: Mounted | Kept) -> list[dict[str, Any]]:
    """All datasets with changes, as `daemon.listing` describes them."""
    if isinstance(target, Mounted):
        return list(asked(target.mount, "changes", {}, _LISTING_SECONDS)["datasets"])
    import trio  # slow to import, and of no use for a mount

    from riafs.daemon.replies import describe_overlay
    from riafs.overlay.overlay import opened

    with opened(target.directory) as overlay, overlay.snapshot() as snapshot:
        return list(trio.run(describe_overlay, overlay, snapshot)["datasets"])


def _change(known: Mapping[str, Any], dataset: str, entrance: str) -> LocalChange:
    above = f"{entrance}/" if entrance else ""
    source = None if known.get("source") is None else above + known["source"]
    return LocalChange(above + known["path"], known["kind"], known["size"], source, dataset, known["path"])


def _touches(change: LocalChange, place: str) -> bool:
    return is_below(change.path, place) or (change.source is not None and is_below(change.source, place))


def is_below(path: str, place: str) -> bool:
    """Whether `path` is `place` or in it, both from the root."""
    return not place or path == place or path.startswith(f"{place}/")
