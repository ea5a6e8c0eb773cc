"""Which directory git is given for a repository's objects: the store's own, unless something in it leads out of the
store.

``objects/info/alternates`` may name other object directories (relative to this one, or absolute), and those again; git
follows them by itself. All of them have to lie inside the store, as has what links in an object directory lead to. That
is looked at when a dataset is opened.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from riafs.errors import NotInStore, OutsideStore, RiafsError, UnsupportedRepository
from riafs.formats.gitrepository import parse_alternates
from riafs.git.environment import PrivateGitDirs
from riafs.storage.protocol import ItemKind, LocalStore, Storage

log = logging.getLogger(__name__)

_MAX_ALTERNATES = 1 << 16
_MAX_DEPTH = 5  # as git


class MissingObjects(Protocol):
    """Fetches objects that a private copy of a repository does not have yet."""

    async def fetch(self, requests: Sequence[bytes]) -> bool:
        """Fetch the objects of `requests` (as in `Repository.objects`); whether it may help to ask for them again.

        Raises StoreTimeout, StoreError, GitError, NotInStore.
        """


@dataclass(frozen=True, slots=True)
class RepositoryPlace:
    """Where a repository is read."""

    storage: LocalStore
    path: bytes
    """The objects are in ``objects`` of this directory of `storage`."""
    refs: tuple[Storage, bytes]
    """Where the refs are: the storage, and the repository's path in it."""
    missing: MissingObjects | None = None
    """For a copy that is not complete."""


class RepositoryMirror(Protocol):
    """Private copies on this machine of the git repositories of stores that are no directories of it."""

    async def repository(self, storage: Storage, path: bytes) -> RepositoryPlace:
        """The copy of the repository at the store's path `path`.

        Raises NotInStore where there is no repository, UnsupportedRepository, and as Storage does.
        """


async def repository_place(storage: Storage, path: bytes, mirror: RepositoryMirror | None) -> RepositoryPlace:
    """Where git can read the repository at the store's path `path`: there, or in a copy that `mirror` makes.

    Raises UnsupportedRepository without either, and as RepositoryMirror.
    """
    if storage.local is not None:
        return RepositoryPlace(storage.local, path, (storage, path))
    if mirror is None:
        raise UnsupportedRepository(f"git cannot read the repository {os.fsdecode(path)} of {storage.name} from here")
    return await mirror.repository(storage, path)


@dataclass(frozen=True, slots=True)
class _Checked:
    path: bytes
    parts: Mapping[bytes, Sequence[bytes]]
    """Parts that git is not given as they are: the result of `_parts`."""


async def object_directory(storage: LocalStore, objects: bytes, gits: PrivateGitDirs) -> bytes:
    """The absolute path to give to git for the object directory at the store's path `objects`. Raises NotInStore, …"""
    checked: dict[bytes, _Checked] = {}
    outside = await _check(storage, objects, checked, 0)
    first, *others = checked.values()
    if not outside and not any(each.parts for each in checked.values()):
        return first.path
    linked = [gits.linked_objects(each.path, each.parts, ()) for each in others]
    return gits.linked_objects(first.path, first.parts, linked)


async def _check(storage: LocalStore, objects: bytes, checked: dict[bytes, _Checked], depth: int) -> bool:
    """Add `objects` and its alternates to `checked`; whether any alternate was refused."""
    path = await storage.local_path(objects)
    if path in checked:
        return False
    checked[path] = _Checked(path, await _parts(storage, objects))
    outside = False
    for line in await _alternates(storage, objects):
        below = storage.path_of(os.path.normpath(os.path.join(path, line)))
        if below is None or depth == _MAX_DEPTH:
            log.warning("%s: alternate %s is not followed, it leads out of the store", storage.name, os.fsdecode(line))
            outside = True
            continue
        try:
            outside |= await _check(storage, below, checked, depth + 1)
        except RiafsError as error:
            log.warning("alternate %s of %s is not used: %s", os.fsdecode(line), os.fsdecode(objects), error)
            outside = True
    return outside


async def _alternates(storage: LocalStore, objects: bytes) -> tuple[bytes, ...]:
    try:
        return parse_alternates(await storage.read_file(objects + b"/info/alternates", _MAX_ALTERNATES))
    except (NotInStore, OutsideStore):  # git is not shown an ``info`` that leads out either
        return ()


async def _parts(storage: LocalStore, objects: bytes) -> Mapping[bytes, Sequence[bytes]]:
    """The names in `objects` that git is not given as they are → what it is given of what is in them.

    These are, or contain, links that lead out of the store or nowhere, or what is no file: git would wait for a fifo.
    """
    items = await storage.list(objects)
    parts: dict[bytes, Sequence[bytes]] = {}
    for item in items:
        if await _is_refused(storage, objects + b"/" + item.name, item.kind):
            parts[item.name] = ()
    directories = [item.name for item in items if item.kind is ItemKind.DIRECTORY]
    below = await storage.list_each([objects + b"/" + name for name in directories])
    for name, inner in zip(directories, below, strict=True):
        place = objects + b"/" + name + b"/"
        kept = [item.name for item in inner if not await _is_refused(storage, place + item.name, item.kind)]
        if len(kept) < len(inner):
            parts[name] = kept
    return parts


async def _is_refused(storage: LocalStore, path: bytes, kind: ItemKind) -> bool:
    if kind is ItemKind.OTHER:
        log.warning("git is not given %s of %s: it is no file", os.fsdecode(path), storage.name)
        return True
    return kind is ItemKind.LINK and await _leads_out(storage, path)


async def _leads_out(storage: LocalStore, link: bytes) -> bool:
    try:
        await storage.stat(link)
    except RiafsError as error:
        log.warning("git objects are not read through a link: %s", error)
        return True
    return False
