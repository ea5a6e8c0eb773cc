"""What is near a source that names nothing: the version, alias, dataset or store that may have been meant.

Asked only when a command fails. Each answer is the end of a message, empty where nothing is near; nothing here raises.
"""

import difflib
import os
import re
from collections.abc import Iterator

from riafs.errors import NotInStore, RiafsError
from riafs.formats.sources import RiaUrl
from riafs.formats.text import listed, nearest
from riafs.git.history import VersionKind
from riafs.git.repository import HIDDEN_BRANCHES, Repository
from riafs.storage.deadline import Deadline
from riafs.storage.protocol import ItemKind, Storage
from riafs.tree.store import ALIASES, Store, is_dataset_path

_SHOWN = 3
_MAX_LOOKED_AT = 10_000
_MAX_CONFIG = 1 << 20
_LOCAL_URL = re.compile(r"^\s*url\s*=\s*(?:file://)?(/.*?)\s*$", re.MULTILINE)
_SPLIT = 3  # characters of an id that name the first directory


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


async def stores_near(path: bytes, patience: Deadline) -> str:
    """The store, or the dataset in one, that is at, above, below or beside the directory `path`, which is no store."""
    try:
        found = await patience.run(_near_on_disk, os.fsdecode(path))
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
    return any(os.path.exists(os.path.join(path, sign)) for sign in ("HEAD", "annex/objects", "archives"))


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
    return place[:_SPLIT] + place[_SPLIT + 1 :]


def _names(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry, _ in zip(entries, range(_MAX_LOOKED_AT), strict=False)]
    except OSError:
        return []
