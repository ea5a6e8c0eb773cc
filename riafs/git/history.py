"""The versions of a repository: its branches and tags, and its newest commits."""

import enum
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import AnyStr

from riafs.errors import MalformedObject
from riafs.formats.gitobjects import Heading, parse_commit, parse_heading
from riafs.git.repository import HIDDEN_BRANCHES, Repository

_BATCH = 400  # requests to git that fit into its pipe
_MAX_COMMIT = 1 << 20
_MAX_PARENTS = 8  # requests with a path are long
MAX_WALKED = 100_000
_PEELED = b"^{commit}"


class VersionKind(enum.Enum):
    """The kind of a version's name. The value is the prefix of its refs."""

    BRANCH = b"refs/heads/"
    TAG = b"refs/tags/"
    COMMIT = b""


@dataclass(frozen=True, slots=True)
class Version:
    """The version of ``@NAME``."""

    kind: VersionKind
    name: bytes
    """The name after the ``@``; for a commit, all its digits."""
    commit: bytes
    """In hex digits."""
    heading: Heading
    parents: Sequence[bytes]
    time: int
    """When it was committed, in seconds since the epoch."""


async def named(repository: Repository, kind: VersionKind, *, hidden: bool = False) -> list[Version]:
    """The branches or tags, by name, except those that git cannot read as a commit, and the branches of git-annex
    unless `hidden`. Raises MalformedObject, StoreError, GitError, …
    """
    refs = await repository.references.below(kind.value)
    if not hidden:
        refs = {name: oid for name, oid in refs.items() if not HIDDEN_BRANCHES.match(name)}
    names = sorted(refs)
    known = await _commits(repository, [refs[name] for name in names])
    return [
        _version(kind, name.removeprefix(kind.value), *found)
        for name, found in zip(names, known, strict=True)
        if found is not None
    ]


async def newest(repository: Repository, start: bytes, number: int, path: bytes = b"") -> list[Version]:
    """At most `number` commits from `start` (hex) backwards, the newest first; with `path`, only those that changed it.
    Commits that cannot be read are left out, and no more than MAX_WALKED are read.
    """
    found: list[Version] = []
    seen = {start}
    waiting: list[tuple[int, bytes, Version]] = []
    wanted: Sequence[bytes] = [start]
    while len(found) < number and len(seen) < MAX_WALKED:
        for commit in await _commits(repository, wanted):
            if commit is not None:
                version = _version(VersionKind.COMMIT, commit[0], *commit)
                heapq.heappush(waiting, (-version.time, version.commit, version))
        if not waiting:
            break
        version = heapq.heappop(waiting)[2]
        wanted = [parent for parent in dict.fromkeys(version.parents) if parent not in seen]
        seen.update(wanted)
        if await _changes(repository, version, path):
            found.append(version)
    return found


async def _changes(repository: Repository, version: Version, path: bytes) -> bool:
    """Whether no parent of the commit has the same entry at `path`; always for the empty path."""
    if not path or b"\n" in path:
        return True
    commits = (version.commit, *version.parents[:_MAX_PARENTS])
    own, *others = [
        None if each is None else each.oid
        for each in await repository.objects([b"info " + commit + b":" + path for commit in commits])
    ]
    return own not in others if others else own is not None


def abbreviated(commits: Iterable[AnyStr], digits: int = 10) -> Mapping[AnyStr, AnyStr]:
    """Each of `commits`, in hex digits → its first digits, as many as no other one begins with."""
    known = set(commits)
    while len({each[:digits] for each in known}) < len(known):
        digits += 1
    return {each: each[:digits] for each in known}


async def _commits(repository: Repository, names: Sequence[bytes]) -> list[tuple[bytes, bytes] | None]:
    """The object name and the text of the commit of each name, which may be that of a tag."""
    found: list[tuple[bytes, bytes] | None] = []
    for start in range(0, len(names), _BATCH):
        requests = [b"contents " + name + _PEELED for name in names[start : start + _BATCH]]
        for each in await repository.objects(requests, _MAX_COMMIT):
            usable = each is not None and each.kind == b"commit"
            found.append((each.oid, each.data) if each is not None and usable else None)
    return found


def _version(kind: VersionKind, name: bytes, commit: bytes, text: bytes) -> Version:
    heading = parse_heading(text)
    try:
        known = parse_commit(text)
    except MalformedObject:  # it is listed; opening it gives the reason
        return Version(kind, name, commit, heading, (), heading.time)
    return Version(kind, name, commit, heading, known.parents, known.time)
