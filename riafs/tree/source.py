"""From a source as the user names it to the directory that a mount shows, or to what may have been meant.

The functions with ``near`` in their names are called only when a command fails. Each answer is the end of a message,
empty where nothing is near; they raise nothing.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import replace

from riafs.errors import BadSource, MissingObject, NoSuchVersion, NotInStore, RiafsError, SourceNotFound
from riafs.formats.sources import RiaUrl
from riafs.formats.text import listed, nearest
from riafs.git.history import VersionKind
from riafs.git.repository import HIDDEN_BRANCHES, Repository
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import ItemKind, Storage
from riafs.tree.commit_directory import open_version
from riafs.tree.protocol import Directory
from riafs.tree.store import ALIASES, DATASET_SIGNS, Store, is_dataset_path
from riafs.tree.store_root import AliasDirectory, dataset_directory
from riafs.tree.tools import StoreTools

_SHOWN = 3
_MAX_LOOKED_AT = 10_000
_MAX_CONFIG = 1 << 20
_LOCAL_URL = re.compile(r"^\s*url\s*=\s*(?:file://)?(/.*?)\s*$", re.MULTILINE)


async def open_source(source: RiaUrl, tools: StoreTools, *, keys: bool = False) -> Directory:
    """The store, or the dataset at a version, that `source` names. `keys`: also a dataset that has no commit or no git
    repository, and shows nothing, for what it stores.

    Raises BadSource, SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, StoreError, GitError.
    """
    store = await open_store(source, tools.seconds, tools)
    if source.dataset is None and source.alias is None:
        return await AliasDirectory.load(store)
    path = await path_of_named(store, source)
    dataset = await store.dataset(path)
    try:
        return await open_version(dataset, source.version)
    except (NoSuchVersion, NotInStore) as error:
        if keys and source.version is None:
            return await dataset_directory(store, path, 0)
        if isinstance(error, NotInStore):
            raise SourceNotFound(
                f"dataset {dataset.name} of {store.storage.name} has no git repository to show"
            ) from error
        near = "" if source.version is None else await versions_near(dataset.repository, source.version)
        raise NoSuchVersion(f"{error}{near}") from error
    except MissingObject as error:
        raise NoSuchVersion(f"dataset {dataset.name} of {store.storage.name}: {error}") from error


async def path_of_named(store: Store, source: RiaUrl) -> bytes:
    """The store's path of the dataset that `source` names. Raises SourceNotFound, which says what is near."""
    assert source.alias is not None or source.dataset is not None
    try:
        if source.alias is not None:
            return await store.path_of_alias(source.alias)
        return await store.path_of_id(source.dataset or b"")
    except SourceNotFound as error:
        raise SourceNotFound(f"{error}{await datasets_near(store, source)}") from error


async def open_store(source: RiaUrl, seconds: float, tools: StoreTools) -> Store:
    """The store that `source` names, whatever dataset it also names. Raises as `open_source`."""
    if source.scheme != "file":
        return await _open_remote(source, tools)
    path = os.path.abspath(source.path)
    deadline = Deadline(f"store {os.fsdecode(path)}", seconds, tools.counters)
    try:
        storage = await LocalStorage.open_root(path, deadline, tools.allow_links)
        try:
            return await Store.open(storage, tools)
        except RiafsError:
            storage.close()
            raise
    except SourceNotFound as error:
        raise SourceNotFound(f"{error}{await stores_near(path, deadline)}") from error


async def _open_remote(source: RiaUrl, tools: StoreTools) -> Store:
    if tools.remote is None:
        raise BadSource(f"{source} is on another machine; this needs a store in a directory of this one")
    storage, mirror = await tools.remote.open(source)
    try:
        return await Store.open(storage, replace(tools, mirror=mirror))
    except BaseException:
        storage.close()
        raise


async def versions_near(repository: Repository, version: bytes) -> str:
    """The branches and tags of a dataset whose names are nearest to `version`."""
    try:
        branches = await repository.references.below(VersionKind.BRANCH.value)
        tags = await repository.references.below(VersionKind.TAG.value)
    except (RiafsError, OSError):
        return ""
    names = {name.split(b"/", 2)[2] for name in [*branches, *tags] if not HIDDEN_BRANCHES.match(name)}
    near = nearest(os.fsdecode(version), map(os.fsdecode, names), _SHOWN)
    if not near:
        return ""
    if len(names) > len(near):
        return f"; the nearest are {listed(near)} (riafs versions lists all)"
    return f"; there {'is' if len(near) == 1 else 'are'} {listed(near)}"


# -- datasets of a store ----------------------------------------------------------------------------------------------


async def datasets_near(store: Store, source: RiaUrl) -> str:
    """The alias or id in `store` that `source`, which names a dataset that is not there, may mean."""
    place = source.path
    try:
        aliases = [os.fsdecode(name) for name in await _aliases(store.storage)]
        ids = [os.fsdecode(path.replace(b"/", b"")) for path in await store.dataset_paths()]
    except (RiafsError, OSError):
        return ""
    word = os.fsdecode(source.alias or source.dataset or b"")
    if source.alias is None and word in aliases:
        return _meant(place, f"~{word}", source)
    if source.alias is not None and word in ids:
        return _meant(place, word, source)
    begun = [each for each in ids if each.startswith(word)] if source.alias is None else []
    if len(begun) == 1:
        return _meant(place, begun[0], source)
    close = difflib.get_close_matches(word, aliases, _SHOWN)
    if not close and source.alias is None:
        close = difflib.get_close_matches(word, ids, 1)
    labels = [f"~{each}" if each in aliases else each for each in close]
    if len(labels) == 1:
        return _meant(place, labels[0], source)
    if labels:
        return f"; the nearest are {listed(['#' + label for label in labels])}"
    near = nearest(word, aliases, _SHOWN)
    return f"; its aliases are {listed(near)}{' and others' if len(aliases) > len(near) else ''}" if near else ""


def _meant(place: bytes, label: str, source: RiaUrl) -> str:
    version = "" if source.version is None else f"@{os.fsdecode(source.version)}"
    return f"; did you mean {os.fsdecode(place)}#{label}{version}?"


async def _aliases(storage: Storage) -> list[bytes]:
    """The names of the links below ``alias/``, whether they lead to a dataset or not."""
    found: list[bytes] = []
    waiting = [ALIASES]
    for directory in waiting:  # grows meanwhile
        try:
            items = () if storage.listing is None else await storage.listing.list(directory)
        except NotInStore:
            continue
        for item in items:
            path = directory + b"/" + item.name
            if item.kind is ItemKind.LINK:
                found.append(path.removeprefix(ALIASES + b"/"))
            elif item.kind is ItemKind.DIRECTORY:
                waiting.append(path)
        if len(found) + len(waiting) > _MAX_LOOKED_AT:
            break
    return found


# -- stores -----------------------------------------------------------------------------------------------------------


async def stores_near(path: bytes, deadline: Deadline) -> str:
    """The store, or the dataset in one, that is at, above, below or beside the directory `path`, which is no store."""
    try:
        found = await deadline.run(_near_on_disk, os.fsdecode(path))
    except (RiafsError, OSError):
        return ""
    return f"; did you mean {found}?" if found else ""


def _near_on_disk(path: str) -> str:
    for each in dict.fromkeys((path, os.path.realpath(path))):
        for above in _upwards(each):
            if _is_store(above):
                return _within(above, os.path.relpath(each, above))
    if os.path.isdir(path):
        for url in _remotes(path):
            for above in filter(_is_store, _upwards(url)):
                return _within(above, os.path.relpath(url, above))
        below = [name for name in _names(path) if _is_store(os.path.join(path, name))]
        return os.path.join(path, below[0]) if len(below) == 1 else ""
    parent, name = os.path.split(path)
    stores = [each for each in _names(parent) if _is_store(os.path.join(parent, each))]
    close = difflib.get_close_matches(name, stores, 1)
    return os.path.join(parent, close[0]) if close else ""


def _remotes(path: str) -> list[str]:
    """The paths on this machine that a clone at `path` came from or is pushed to."""
    try:
        with open(os.path.join(path, ".git", "config"), encoding="utf-8", errors="surrogateescape") as file:
            return _LOCAL_URL.findall(file.read(_MAX_CONFIG))
    except OSError:
        return []


def _upwards(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path


def _is_store(path: str) -> bool:
    """Whether it looks like a store's root; datasets have a file of that name as well, and beside it their own."""
    return os.path.isfile(os.path.join(path, "ria-layout-version")) and not _is_dataset(path)


def _is_dataset(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, os.fsdecode(sign))) for sign in DATASET_SIGNS)


def _within(store: str, rest: str) -> str:
    """What `rest`, a path below a store, is nearest to in that store."""
    words = rest.split("/")
    if words[0] == os.fsdecode(ALIASES):
        words = words[1:]
    place = "/".join(words[:2])
    if is_dataset_path(os.fsencode(place)) and _is_dataset(os.path.join(store, place)):
        return f"{store}#{_label(store, place)}"
    aliases = _names(os.path.join(store, os.fsdecode(ALIASES)))
    close = difflib.get_close_matches(words[0], aliases, 1) if words else []
    return f"{store}#~{close[0]}" if close else store


def _label(store: str, place: str) -> str:
    """The alias of the dataset at `place` of a store, its id if it has none."""
    there = os.path.realpath(os.path.join(store, place))
    aliases = os.path.join(store, os.fsdecode(ALIASES))
    for name in sorted(_names(aliases)):
        if os.path.realpath(os.path.join(aliases, name)) == there:
            return f"~{name}"
    return place.replace("/", "", 1)


def _names(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry, _ in zip(entries, range(_MAX_LOOKED_AT), strict=False)]
    except OSError:
        return []
