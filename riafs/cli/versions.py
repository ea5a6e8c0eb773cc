"""``riafs versions``: the branches, tags and newest commits of a dataset, or of every dataset of a store."""

import argparse
import logging
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import trio

from riafs.api import AsyncTree, Version, open_tree
from riafs.cli.main import complain
from riafs.cli.render import print_json, print_table
from riafs.daemon.ask import asked
from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.daemon.plan import named_source
from riafs.errors import BadSource, RiafsError, UsageError
from riafs.formats.sources import RiaUrl, parse_ria_source
from riafs.git.history import abbreviated
from riafs.settings import Given

_TITLES = ("KIND", "NAME", "COMMIT", "DATE", "AUTHOR", "SUBJECT")
_OF_URL = re.compile(r"ria\+(file|ssh)://([^/]*)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Listed:
    """One dataset. `shown`: the commit that is shown there, None before the first one."""

    name: str
    dataset: str
    shown: str | None
    versions: Sequence[Version]


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Of a store, datasets that cannot be read are named and the others are listed."""
    logging.getLogger("riafs").addHandler(logging.NullHandler())
    mount = _mount_of(arguments.source)
    if mount is None:
        named, path = named_source(arguments.source), b""
    else:
        source, path = _in_mount(arguments.source, mount)
        named = replace(named_source(str(source), _ssh_of(source, mount)), source=source)
    if not isinstance(named.source, RiaUrl):
        raise BadSource(f"{named.source}: only datasets have versions; a collection of Keep is one, named by its hash")
    every = named.source.alias is None and named.source.dataset is None
    failures: list[RiafsError] = []

    async def look() -> list[_Listed]:
        async with open_tree(named) as tree:
            if every:
                return [each async for each in _all_datasets(tree, failures, internal=arguments.all)]
            known = await tree.attributes()
            versions = await tree.versions(path, arguments.number, internal=arguments.all)
            assert isinstance(named.source, RiaUrl)
            name = os.fsdecode(named.source.alias or known["dataset"])
            return [_listed(name, known, versions)]

    found = trio.run(look)
    if arguments.json:
        print_json([asdict(each) | {"versions": [_json(version) for version in each.versions]} for each in found])
    else:
        _print(found, every=every)
    return failures[0].exit_code if failures else 0


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
    match = _OF_URL.fullmatch(mount.source)
    if match is None:
        raise UsageError(f"{path} is in a mount of {mount.source}: only datasets have versions")
    store = replace(parse_ria_source(match[3]), scheme=match[1], host=match[2] or None)  # nothing is percent-encoded
    dataset, commit = _attribute(path, "dataset"), _attribute(path, "commit")
    return replace(store, alias=None, dataset=dataset, version=commit), _attribute(path, "path") or b""


def _ssh_of(source: RiaUrl, mount: Mount) -> Sequence[Given]:
    """The mount's own way to reach another machine, as that need not be this command's."""
    if source.local:
        return ()
    return (Given("ssh-command", asked(mount, "status", {})["settings"]["ssh-command"], "the mount"),)


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, f"user.riafs.{name}")
    except OSError:
        return None


# -- all datasets of a store ------------------------------------------------------------------------------------------


async def _all_datasets(tree: AsyncTree, failures: list[RiafsError], *, internal: bool) -> AsyncIterator[_Listed]:
    """Those of a store, each once, by its alias if it has one; what cannot be read is added to `failures`."""
    seen: set[bytes] = set()
    waiting = [""]
    for path in waiting:  # grows meanwhile
        for entry in await tree.ls(path):
            try:
                known = await tree.attributes(entry.name)
                if "dataset" not in known:
                    waiting.append(entry.name)
                elif known["dataset"] not in seen:
                    seen.add(known["dataset"])
                    yield _listed(entry.name, known, await tree.versions(entry.name, 0, internal=internal))
            except RiafsError as failure:
                complain(f"{entry.name}: {failure}")
                failures.append(failure)


def _listed(name: str, known: Mapping[str, bytes], versions: Sequence[Version]) -> _Listed:
    """`known`: the dataset's attributes."""
    shown = known.get("commit")
    return _Listed(name, os.fsdecode(known["dataset"]), None if shown is None else shown.decode(), versions)


# -- output -----------------------------------------------------------------------------------------------------------


def _print(found: Sequence[_Listed], *, every: bool) -> None:
    rows = []
    for each in found:
        short = abbreviated(version.commit for version in each.versions)
        rows += [[each.name, *_row(version, each.shown, short[version.commit])] for version in each.versions]
        if not each.versions:
            complain(f"{each.name} has no version yet")
    if every:
        print_table(("DATASET", *_TITLES), rows)
    elif rows:
        print_table(_TITLES, [row[1:] for row in rows])


def _row(version: Version, shown: str | None, short: str) -> list[str]:
    return [
        version.kind,
        short if version.kind == "commit" else version.name,
        short + ("*" if version.commit == shown else ""),
        version.time.strftime("%Y-%m-%d %H:%M"),
        version.author,
        version.subject,
    ]


def _json(version: Version) -> dict[str, Any]:
    known = asdict(version)
    known["date"] = known.pop("time").isoformat()
    return known
