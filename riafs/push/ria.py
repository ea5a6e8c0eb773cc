"""Pushes to the datasets of a RIA store: subdatasets first, then the datasets that register them.

The push of each dataset is atomic. All are planned before the first is pushed, so that a conflict in one of them stops
all. If a later one fails, the subdatasets that were pushed stay pushed, and the same push can be repeated: changes that
were pushed are no changes any more.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from riafs.errors import BadSource, MissingObject, PushRefused
from riafs.formats.sources import RiaUrl
from riafs.overlay.changes import Base
from riafs.push.destination import Destination, open_destination
from riafs.push.protocol import PushReport, PushRequest, Share
from riafs.push.pushing import Push
from riafs.storage.deadline import Deadline
from riafs.storage.local_writer import LocalWriter
from riafs.storage.protocol import local_store
from riafs.tree.source import path_of_named
from riafs.tree.store import Store
from riafs.tree.tools import StoreTools
from riafs.watching import Watcher

_MOST_COMMITS = 10_000
"""Commits of other users that are searched for one of ours."""


class RiaPusher:
    """The Pusher of a store; `source` may name one dataset of it."""

    def __init__(self, source: RiaUrl, store: Store, tools: StoreTools) -> None:
        self._source = source
        self._store = store
        self._tools = tools
        self._writing: LocalWriter | None = None

    def close(self) -> None:
        """Close descriptors."""
        if self._writing is not None:
            self._writing.close()

    async def check(self, dataset: bytes | None = None) -> str:
        """The obstacle for annexed files. Raises BadSource for None if the source names no dataset."""
        return (await self.destination(dataset)).obstacle

    async def destination(self, dataset: bytes | None = None) -> Destination:
        """The dataset with this id, or the one that the source names. Raises as `check`."""
        store, source = self._store, self._source
        if dataset is None and source.dataset is None and source.alias is None:
            raise BadSource(f"{source} names no dataset; one is named with #ID or #~ALIAS")
        path = await (path_of_named(store, source) if dataset is None else store.path_of_id(dataset))
        if self._writing is None:
            deadline = Deadline(f"store {store.storage.name}", self._tools.seconds, self._tools.counters)
            self._writing = await LocalWriter.open_root(await local_store(store.storage).local_path(b"."), deadline)
        return await open_destination(
            await store.dataset(path), self._writing, self._tools.git.gits, self._tools.seconds
        )

    async def plan(self, shares: Sequence[Share], request: PushRequest, watcher: Watcher) -> "PlannedRiaPush":
        """Open and plan all, subdatasets first."""
        members = []
        for share in shares:
            destination = await self.destination(share.base.dataset)
            push = Push(destination, share.base, share.changes, request, watcher, share.announce)
            push.may_empty = share.may_empty
            members.append(Member(share.name, push, share.above, share.path))
        planned = PlannedRiaPush(members)
        await planned.prepare()
        return planned

    async def is_published(self, base: Base, commit: bytes) -> bool:
        # Search the history of the branch, back to the commit of `base`.
        repository = (await self._store.dataset(await self._store.path_of_id(base.dataset))).repository
        tip = None if base.ref is None else await repository.references.resolve(base.ref)
        waiting, seen = [] if tip is None else [tip.oid], {base.commit}
        while waiting and len(seen) < _MOST_COMMITS:
            oid = waiting.pop(0)
            if oid == commit:
                return True
            if oid not in seen:
                seen.add(oid)
                try:
                    waiting += (await repository.commit(oid)).parents
                except MissingObject:
                    continue
        return False


@dataclass(frozen=True, slots=True)
class Member:
    """The push of one dataset; the other fields are those of `Share`."""

    name: bytes
    push: Push
    above: bytes | None = None
    path: bytes = b""


class PlannedRiaPush:
    """Pushes of datasets of which some are registered in others. Raises PushRefused for a circle."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._ordered = subdatasets_first(members)
        self._reports: dict[bytes, PushReport] = {}

    async def prepare(self) -> None:
        """Plan every push. Raises as Push.prepare."""
        for member in self._ordered:
            member.push.called(os.fsdecode(member.name))
            await member.push.prepare()

    async def push(self) -> None:
        """Push every member after those registered in it. Raises as Push.run."""
        moved: dict[bytes, dict[bytes, bytes]] = {}
        for number, member in enumerate(self._ordered, 1):
            position = f" ({number} of {len(self._ordered)})" if len(self._ordered) > 1 else ""
            member.push.called(os.fsdecode(member.name) + position)
            gitlinks = moved.get(member.name, {})
            report = self._reports[member.name] = await member.push.run(gitlinks)
            # A dataset without changes, its subdatasets included, stays registered at its commit.
            if member.above is not None and (gitlinks or member.push.has_changes):
                moved.setdefault(member.above, {})[member.path] = report.commit

    @property
    def result(self) -> Mapping[bytes, PushReport]:
        """The reports so far."""
        return self._reports


def subdatasets_first(members: Sequence[Member]) -> list[Member]:
    """The members in an order in which each comes after those registered in it."""
    waiting = {member.name: member for member in members}
    ordered: list[Member] = []
    while waiting:
        blocked = {member.above for member in waiting.values()}
        free = [member for name, member in waiting.items() if name not in blocked]
        if not free:
            raise PushRefused("datasets that are registered in each other cannot be pushed together")
        ordered += [waiting.pop(member.name) for member in free]
    return ordered
