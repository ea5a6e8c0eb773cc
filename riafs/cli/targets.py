"""The arguments of commands: sources, datasets named by their ids, files in mounts, local changes.

A source is parsed after git's ``insteadOf`` rules, with relative paths from the working directory. A dataset can be
named by its id (``ID`` or ``STORE#ID``) where a path can be given. Local changes are in a mount, named by a path in it,
or in an overlay that is not mounted, named by ``--overlay``; then paths are those from the root of the source.
"""

import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from riafs.daemon.ask import asked
from riafs.daemon.mounts import Mount, is_at_or_below, resolve, riafs_mounts
from riafs.daemon.plan import absolute_source
from riafs.errors import NoSuchName, NotMounted, StoreTimeout, TooLarge, UsageError
from riafs.formats.sources import STANDARD_INPUT, KeepUrl, RiaUrl, Source

if TYPE_CHECKING:
    from riafs.storage.temporary import SpilledText

MAX_MANIFEST = 1 << 30
"""Bytes of a manifest on standard input."""
_LISTING_SECONDS = 60.0
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A dataset; `store`: as a source, None for whichever store."""

    identifier: str
    store: str | None

    def entrances(self, datasets: Iterable[Mapping[str, Any]]) -> list[str]:
        """Paths from the root to it, among datasets with changes as `daemon.listing` describes them."""
        return [
            each["path"]
            for each in datasets
            if each["dataset"] == self.identifier and self.store in (None, each.get("store"))
        ]


def named_dataset(text: str) -> NamedDataset | None:
    """What `text` names, None where it is a path. Raises BadSource."""
    store, mark, identifier = text.rpartition("#")
    if not _ID.fullmatch(identifier) or os.path.lexists(text):
        return None
    if not mark:
        return NamedDataset(identifier, None)
    source = absolute_source(store, ())
    return NamedDataset(identifier, str(source)) if isinstance(source, RiaUrl) else None


Complain = Callable[[str, OSError], None]


@dataclass(frozen=True, slots=True)
class File:
    """A regular file. `size` in bytes."""

    path: str
    size: int
    mount: Mount

    @property
    def dataset(self) -> str:
        """What to call the dataset or collection that it is in."""
        _, mark, label = self.mount.source.rpartition("#")
        if mark and "/" not in label:
            return label.removeprefix("~")
        names = os.path.relpath(self.path, self.mount.mountpoint).split("/")
        return "/".join(names[: 2 if names[0] in ("by-id", "by_id") else 1])


def files_below(paths: Iterable[str], complain: Complain) -> Iterator[File]:
    """The regular files at and below `paths`, which may be links themselves; links in a tree are not followed.

    `complain` is called with each path that cannot be read. Raises UsageError for a path outside of riafs mounts.
    """
    mounts = {mount.device: mount for mount in riafs_mounts()}
    for path in paths:
        real = os.path.realpath(path)
        try:
            status = os.lstat(real)
        except OSError as error:
            complain(path, error)
            continue
        mount = mounts.get(f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}")
        if mount is None:
            raise UsageError(f"{path} is not in a riafs mount")
        if stat.S_ISREG(status.st_mode):
            yield File(real, status.st_size, mount)
        elif stat.S_ISDIR(status.st_mode):
            yield from _below(real, mount, complain)


def _below(top: str, mount: Mount, complain: Complain) -> Iterator[File]:
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                listed = list(entries)  # at once, as the caller may stop in the middle
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield File(entry.path, entry.stat(follow_symlinks=False).st_size, mount)
        except OSError as error:
            complain(path, error)


# -- sources


def manifest_on_input(source: Source) -> "SpilledText | None":
    """The manifest that comes on standard input, read whole while there still is one; None where none does.

    Raises UsageError for a terminal, TooLarge.
    """
    if not isinstance(source, KeepUrl) or source.manifests != STANDARD_INPUT:
        return None
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("manifests=- takes a manifest from standard input: riafs mount … < FILE")
    from riafs.storage.temporary import TEXT_PIECE, SpilledText  # imports trio

    text = SpilledText(os.fsencode(tempfile.gettempdir()), "the manifest on standard input")
    while piece := sys.stdin.buffer.read(TEXT_PIECE):
        text.append(piece)
        if len(text) > MAX_MANIFEST:
            raise TooLarge(f"the manifest on standard input has more than {MAX_MANIFEST} bytes; give it as a file")
    return text


# -- local changes


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
        raise UsageError(f"{mount.mountpoint} is mounted read-only, so nothing is changed there")
    places = tuple(place for _, place in found)
    return Mounted(mount, () if not paths or b"" in places else places)


def _in_overlay(path: str, directory: str) -> bytes:
    """The path from the root that `path` means, which may also be a dataset with changes."""
    named = named_dataset(path)
    if named is None:
        return _from_root(path)
    entrances = named.entrances(changed_datasets(Kept(directory, ())))
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
        raise NotMounted(
            f"{absolute} is in no riafs mount: name a path in one, or with --overlay an overlay that is not mounted"
        )
    mount = max(candidates, key=lambda each: len(each.mountpoint))
    place = os.path.relpath(absolute, mount.mountpoint)
    return mount, b"" if place == "." else os.fsencode(place)


def _with_dataset(named: NamedDataset) -> tuple[Mount, bytes]:
    """The mount of this user in which a dataset has changes, and its place there."""
    mounts = [mount for mount in riafs_mounts() if mount.writable and os.getuid() in (0, mount.owner)]
    found: list[tuple[Mount, str]] = []
    for mount in mounts:
        with suppress(NotMounted, StoreTimeout):  # one that does not answer is not asked for
            found += [(mount, place) for place in named.entrances(changed_datasets(Mounted(mount, ())))]
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


def changed_datasets(target: Mounted | Kept) -> list[dict[str, Any]]:
    """All datasets with changes, as `daemon.listing` describes them."""
    if isinstance(target, Mounted):
        return list(asked(target.mount, "changes", {}, _LISTING_SECONDS)["datasets"])
    import trio  # slow to import, and of no use for a mount

    from riafs.daemon.replies import describe_overlay
    from riafs.overlay.overlay import opened

    with opened(target.directory) as overlay, overlay.snapshot() as snapshot:
        return list(trio.run(describe_overlay, overlay, snapshot)["datasets"])
