"""Pushing what an overlay holds, mounted or not: which datasets, in which order, and what is shown afterwards.

A dataset that is shown inside of another one is registered there at a commit. So that a push never takes from view what
it has just pushed, every dataset that is shown above a pushed one is pushed as well, be it only with the new commit of
what is registered in it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from riafs.daemon.finishing import finish_killed
from riafs.daemon.places import select
from riafs.errors import PushConflict, RiafsError
from riafs.formats.names import parents_of
from riafs.formats.sources import RiaUrl
from riafs.overlay.changes import NOTHING, Base, Carried, Change, ChangeKind
from riafs.overlay.overlay import Overlay
from riafs.push.destination import open_destination
from riafs.push.opening import open_writing
from riafs.push.publishing import Announce, unannounced
from riafs.push.pushing import Push
from riafs.push.registering import Moves
from riafs.push.request import PushReport, PushRequest
from riafs.push.superdatasets import Member, push_all
from riafs.storage.local_writer import LocalWriter
from riafs.tree.source import open_store
from riafs.tree.store import Store
from riafs.tree.tools import CommandSettings, StoreTools, working_tools
from riafs.vfs.refreshing import Change as Forgotten
from riafs.vfs.writable import WritableFileSystem
from riafs.watching import Watcher

Tell = Callable[[Sequence[Forgotten]], Awaitable[None]]
"""Hears what a kernel has to forget."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to push. `places`: paths from the root of what is shown; none: everything."""

    request: PushRequest
    places: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One dataset that was pushed. `entrance`: the path from the root to it."""

    entrance: bytes
    report: PushReport
    kept: bool
    """Whether the changes stay local as well: the branch that is shown here is not the one that was pushed to, or
    `overtaken` is not empty."""
    overtaken: tuple[bytes, ...] = ()
    """Paths that were changed here since the push began, or were not to be pushed, and by others in the store."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Datasets (the paths from the root to them) that were not pushed, and why. Their changes are as they were."""

    entrances: tuple[bytes, ...]
    error: RiafsError


@dataclass(slots=True)
class _Part:
    """One dataset's share in a push."""

    base: Base
    carried: Carried = NOTHING
    has_rows: bool = False
    above: bytes | None = None
    """Entrance of the dataset that registers it."""
    path: bytes = b""
    """Where it is registered there."""
    registered: list[bytes] = field(default_factory=list)
    """Where subdatasets are registered in it that were pushed with it."""
    named: bool = False
    """Whether it was asked for by its own directory, or by something in it."""

    def with_gitlinks(self) -> Carried:
        """What the push carried, and the commits at which subdatasets are registered since: these are no one else's."""
        moves = Moves(self.carried.changes)
        links = [Change(moves.place(path), ChangeKind.CHANGED, None, None, None, 0) for path in self.registered]
        return Carried([*self.carried.changes, *links], self.carried.rows)


async def push_changes(
    filesystem: WritableFileSystem,
    source: RiaUrl,
    means: CommandSettings,
    order: Order,
    watcher: Watcher,
    tell: Tell,
    failed: list[Failure] | None = None,
) -> list[Outcome]:
    """Push, and show the new commits. Nothing where nothing of it has changed. Subdatasets come first. What stops one
    dataset stops those that are registered in each other with it, and no others.

    Raises what `push_all` and `open_destination` raise, and UsageError for places that cannot be pushed for themselves;
    the local changes are as they were then. Where others were pushed, failures are added to `failed`, if that is given.
    """
    if not order.request.dry_run:
        await finish_killed(filesystem, source, means, tell)
    parts = await _find_parts(filesystem, order.places)
    failures: list[Failure] = []
    outcomes = await _push(filesystem.overlay, parts, source, means, order.request, watcher, failures) if parts else []
    if not order.request.dry_run and (outcomes or not failures):
        outcomes = await _show(filesystem, parts, outcomes, tell)
    if failures and (failed is None or not outcomes):
        raise failures[0].error
    if failed is not None:
        failed += failures
    return outcomes


async def _push(
    overlay: Overlay,
    parts: Mapping[bytes, _Part],
    source: RiaUrl,
    means: CommandSettings,
    request: PushRequest,
    watcher: Watcher,
    failures: list[Failure],
) -> list[Outcome]:
    """Push all, subdatasets first; what was not pushed is added to `failures`."""
    reports: dict[bytes, PushReport] = {}
    async with working_tools(means) as tools:
        tools.git.read_also(overlay.kept.directory)
        store = await open_store(source, tools.seconds, tools)
        writing = await open_writing(store, tools)
        try:
            for group in _related(parts):
                try:
                    for part in group.values():
                        await overlay.inspector.check(part.carried.changes)
                    members = [
                        Member(
                            at,
                            await _opened(overlay, part, store, writing, tools, request, watcher),
                            part.above,
                            part.path,
                        )
                        for at, part in group.items()
                    ]
                    reports |= await push_all(members)
                except RiafsError as error:
                    failures.append(Failure(tuple(group), error))
        finally:
            writing.close()
    return [Outcome(at, report, report.ref != parts[at].base.ref) for at, report in reports.items()]


def _announce(overlay: Overlay, part: _Part) -> Announce:
    return partial(overlay.announce, part.base.dataset, part.carried) if part.has_rows else unannounced


def _related(parts: Mapping[bytes, _Part]) -> list[dict[bytes, _Part]]:
    """The parts in groups, each of those that are registered in each other."""
    groups: list[dict[bytes, _Part]] = []
    for entrance, part in parts.items():
        joined = [group for group in groups if part.above in group or any(e.above == entrance for e in group.values())]
        for group in joined:
            groups.remove(group)
        merged = {entrance: part}
        for group in joined:
            merged |= group
        groups.append(merged)
    return groups


async def _opened(
    overlay: Overlay, part: _Part, store: Store, writing: LocalWriter, tools: StoreTools, request: PushRequest,
    watcher: Watcher,
) -> Push:  # fmt: skip
    dataset = await store.dataset(await store.path_of_id(part.base.dataset))
    destination = await open_destination(dataset, writing, tools.git.gits, tools.seconds)
    push = Push(destination, part.base, part.carried.changes, request, watcher, _announce(overlay, part))
    push.may_empty = part.named
    return push


async def _show(
    filesystem: WritableFileSystem, parts: Mapping[bytes, _Part], outcomes: Sequence[Outcome], tell: Tell
) -> list[Outcome]:
    """Put what is left of the changes over the new commits; once begun, it is brought to its end."""
    with trio.CancelScope(shield=True):
        for part in parts.values():
            if part.above is not None and part.above in parts:
                parts[part.above].registered.append(part.path)
        shown = [await _shown(filesystem, parts[outcome.entrance], outcome, tell) for outcome in outcomes]
        overlay = filesystem.overlay
        with overlay.snapshot() as snapshot:
            unchanged = [area.base for area in snapshot.areas() if not await snapshot.count(area)]
        for base in unchanged:  # looked at to be changed, and then it was not
            if overlay.rows.area(base.dataset) is not None:
                await filesystem.pushed(base.dataset, base.commit, NOTHING, tell)
        await filesystem.refresh(tell)
    return shown


async def _shown(filesystem: WritableFileSystem, part: _Part, outcome: Outcome, tell: Tell) -> Outcome:
    """Put what is left of a dataset's changes over its new commit, unless others changed the same there."""
    if not part.has_rows or outcome.kept:
        return outcome
    try:
        await filesystem.pushed(part.base.dataset, outcome.report.commit, part.with_gitlinks(), tell)
    except PushConflict as conflict:
        filesystem.overlay.withdraw(part.base.dataset)
        return replace(outcome, kept=True, overtaken=conflict.paths)
    return outcome


async def _find_parts(filesystem: WritableFileSystem, places: Sequence[bytes]) -> dict[bytes, _Part]:
    """Entrance → the datasets with changes at `places`, and those that they are registered in."""
    overlay = filesystem.overlay
    parts: dict[bytes, _Part] = {}
    with overlay.snapshot() as snapshot:
        areas, seen = snapshot.areas(), overlay.shown_entrances()
        entrances = {area.entrance for area in areas}
        inside = _by_dataset(places, set(seen.values()))
        named = set(places)
        for area in areas:
            here = seen[area.id]
            own = [*inside.get(here, ()), *({*parents_of(here), b""} & named)]
            if places and not own:
                continue
            carried = await snapshot.carried(area, partial(select, entrance=here, places=own))
            if not carried.changes:
                continue
            part = parts.setdefault(area.entrance, _Part(area.base, has_rows=True))
            part.carried = carried
            part.named = not here or here in inside
            for home in await filesystem.superdatasets(area.base.dataset):
                part.above, part.path = home.entrance, home.path
                part = parts.setdefault(home.entrance, _Part(home.base, has_rows=home.entrance in entrances))
    return parts


def _by_dataset(places: Sequence[bytes], entrances: Set[bytes]) -> Mapping[bytes, Sequence[bytes]]:
    """Entrance of a dataset → those of `places` that are in it, and in none within it."""
    found: dict[bytes, list[bytes]] = {}
    for place in places:
        nearest = next((each for each in (place, *reversed(parents_of(place)), b"") if each in entrances), None)
        if nearest is not None:
            found.setdefault(nearest, []).append(place)
    return found
