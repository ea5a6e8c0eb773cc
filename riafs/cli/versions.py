"""``riafs versions``: the branches, tags and newest commits of a dataset, or of every dataset of a store."""

import argparse
import datetime
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import trio

from riafs.cli.main import complain
from riafs.cli.render import print_json, print_table
from riafs.counters import Counters
from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.daemon.opening import opening_plan
from riafs.daemon.plan import absolute_source
from riafs.errors import BadSource, NoSuchVersion, NotInStore, UsageError
from riafs.formats.sources import RiaUrl, parse_ria_source
from riafs.git.history import Version, VersionKind, abbreviated, named, newest
from riafs.git.user import instead_of_rules
from riafs.settings import complete_environment, load
from riafs.tree.commit_directory import VersionedDirectory
from riafs.tree.dataset import Dataset
from riafs.tree.protocol import Directory
from riafs.tree.store_root import StoreDirectory
from riafs.vfs.assembly import open_assembled

_TITLES = ("KIND", "NAME", "COMMIT", "DATE", "AUTHOR", "SUBJECT")
_OF_URL = "ria+file://"


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for. `path`: from the dataset's top, what commits have to change."""

    source: RiaUrl
    path: bytes
    commits: int
    hidden: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """One dataset. `shown`: the commit that is shown there, None before the first one."""

    name: str
    dataset: str
    shown: bytes | None
    versions: Sequence[Version]


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    logging.getLogger("riafs").addHandler(logging.NullHandler())
    environment = complete_environment()
    rules = tuple(instead_of_rules(environment))
    mount = _mount_of(arguments.source)
    if mount is None:
        source, path = absolute_source(arguments.source, rules), b""
    else:
        source, path = _in_mount(arguments.source, mount)
    if not isinstance(source, RiaUrl):
        raise BadSource(f"{source}: only datasets have versions; a collection of Keep is one, named by its hash")
    asked = _Asked(source, path, arguments.number, arguments.all)
    plan = opening_plan(source, load(environment, ()).settings, environment, rules, None)

    async def look() -> list[_Found]:
        async with open_assembled(plan, Counters(), {}) as assembled:
            return [each async for each in _look(assembled.root, asked)]

    found = trio.run(look)
    if arguments.json:
        print_json([_json(each) for each in found])
    else:
        _print(found, every=source.alias is None and source.dataset is None)
    return 0


# -- paths in mounts --------------------------------------------------------------------------------------------------


def _mount_of(path: str) -> Mount | None:
    """The mount that a path is in, None for what is a source."""
    try:
        device = os.stat(path).st_dev
    except (OSError, ValueError):
        return None
    mounts = {mount.device: mount for mount in riafs_mounts()}
    return mounts.get(f"{os.major(device)}:{os.minor(device)}")


def _in_mount(path: str, mount: Mount) -> tuple[RiaUrl, bytes]:
    """The dataset that a path is in at the commit that is shown there, or the store; and the path in the dataset."""
    if not mount.source.startswith(_OF_URL):
        raise UsageError(f"{path} is in a mount of {mount.source}: only datasets have versions")
    store = parse_ria_source(mount.source.removeprefix(_OF_URL))  # nothing is percent-encoded there
    dataset, commit = _attribute(path, "dataset"), _attribute(path, "commit")
    return replace(store, alias=None, dataset=dataset, version=commit), _attribute(path, "path") or b""


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, f"user.riafs.{name}")
    except OSError:
        return None


# -- looking ----------------------------------------------------------------------------------------------------------


async def _look(root: Directory, asked: _Asked) -> AsyncIterator[_Found]:
    if isinstance(root, VersionedDirectory):
        name = asked.source.alias or root.dataset.identifier
        yield await _versions(root.dataset, name, asked, asked.commits)
        return
    assert isinstance(root, StoreDirectory)
    seen: set[bytes] = set()
    async for dataset, name in _datasets(root):
        if dataset.identifier not in seen:  # by its alias first
            seen.add(dataset.identifier)
            yield await _versions(dataset, name, asked, 0)


async def _datasets(root: StoreDirectory) -> AsyncIterator[tuple[Dataset, bytes]]:
    """Those in a directory of a store and below it, with their paths from it."""
    waiting: list[tuple[StoreDirectory, bytes]] = [(root, b"")]
    for directory, path in waiting:  # grows meanwhile
        for entry in await directory.entries(0):
            dataset = await directory.dataset(entry)
            if dataset is not None:
                yield dataset, path + entry.name
                continue
            below = await directory.directory(entry)
            assert isinstance(below, StoreDirectory)
            waiting.append((below, path + entry.name + b"/"))


async def _versions(dataset: Dataset, name: bytes, asked: _Asked, commits: int) -> _Found:
    repository = dataset.repository
    found = await named(repository, VersionKind.BRANCH, hidden=asked.hidden)
    found += await named(repository, VersionKind.TAG, hidden=asked.hidden)
    shown = None
    with suppress(NoSuchVersion, NotInStore):
        shown = await repository.peeled((await repository.find(asked.source.version)).oid)
        found += await newest(repository, shown, commits, asked.path)
    return _Found(os.fsdecode(name), dataset.name, shown, found)


# -- telling ----------------------------------------------------------------------------------------------------------


def _print(found: Sequence[_Found], *, every: bool) -> None:
    rows = [
        [each.name, *_row(version, each.shown, short[version.commit])]
        for each in found
        for short in [abbreviated(each.versions)]
        for version in each.versions
    ]
    for each in found:
        if not each.versions:
            complain(f"{each.name} has no version yet")
    if every:
        print_table(("DATASET", *_TITLES), rows)
    elif rows:
        print_table(_TITLES, [row[1:] for row in rows])


def _row(version: Version, shown: bytes | None, short: bytes) -> list[str]:
    commit = version.kind is VersionKind.COMMIT
    return [
        version.kind.name.lower(),
        os.fsdecode(short if commit else version.name),
        short.decode() + ("*" if version.commit == shown else ""),
        _date(version).strftime("%Y-%m-%d %H:%M"),
        version.heading.author,
        version.heading.subject,
    ]


def _json(found: _Found) -> dict[str, Any]:
    return {
        "name": found.name,
        "dataset": found.dataset,
        "shown": None if found.shown is None else found.shown.decode(),
        "versions": [
            {
                "kind": version.kind.name.lower(),
                "name": os.fsdecode(version.name),
                "commit": version.commit.decode(),
                "date": _date(version).isoformat(),
                "author": version.heading.author,
                "subject": version.heading.subject,
            }
            for version in found.versions
        ],
    }


def _date(version: Version) -> datetime.datetime:
    zone = datetime.timezone(datetime.timedelta(seconds=version.heading.offset))
    return datetime.datetime.fromtimestamp(version.heading.time, zone)
