"""Pushing the changes of an overlay, mounted or not: which datasets, in which order, and what is shown afterwards.

A dataset that is shown inside of another one is registered there at a commit. So that a push never takes from view what
it has just pushed, every dataset that is shown above a pushed one is pushed as well, be it only with the new commit of
what is registered in it.

A push may have been killed after its last step in the store and before the overlay knew of it. The commit that it
announced is in the branch's history then, so its changes are dropped before the next push: they would be conflicts with
the user's own commit.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from riafs.counters import Counters
from riafs.daemon.opening import opening_plan
from riafs.daemon.plan import NamedSource
from riafs.errors import OverlayFailed, PushConflict, RiafsError, SourceNotFound, UsageError
from riafs.formats.names import below, is_in, is_in_one, parents_of
from riafs.formats.sources import RiaUrl, parse_source
from riafs.git.user import instead_of_rules
from riafs.overlay.changes import NOTHING, Base, Carried, Change, ChangeKind
from riafs.overlay.overlay import Overlay, recorded_source
from riafs.overlay.stat import Ownership
from riafs.push.merging import Moves
from riafs.push.protocol import Announce, PushReport, PushRequest, Share, unannounced
from riafs.push.pushers import open_pusher
from riafs.settings import complete_environment, load
from riafs.slices import Sliced
from riafs.tree.tools import CommandSettings
from riafs.vfs.assembly import open_assembled
from riafs.vfs.open_overlay import OverlayPlace, lay_over
from riafs.vfs.refreshing import Invalidation as Forgotten
from riafs.vfs.writable import WritableFileSystem
from riafs.watching import Watcher

Tell = Callable[[Sequence[Forgotten]], Awaitable[None]]
"""Called with what a kernel has to forget."""


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

    Raises as `open_pusher` and Pusher, and UsageError for places that cannot be pushed for themselves; local changes
    are as they were then. Where others were pushed, failures are added to `failed`, if that is given.
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
    async with open_pusher(source, means, overlay.kept.directory) as pusher:
        for group in _related(parts):
            try:
                for part in group.values():
                    await overlay.inspector.check(part.carried.changes)
                shares = [
                    Share(
                        at, part.base, part.carried.changes, part.above, part.path, may_empty=part.named,
                        announce=_announce(overlay, part),
                    )
                    for at, part in group.items()
                ]  # fmt: skip
                planned = await pusher.plan(shares, request, watcher)
                await planned.push()
                reports |= planned.result
            except RiafsError as error:
                failures.append(Failure(tuple(group), error))
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


def select(changes: Sequence[Change], entrance: bytes, places: Sequence[bytes]) -> Sliced[Sequence[Change]]:
    """Those of a dataset's changes that are at one of `places`, in their order; all for no places.

    Raises UsageError for a place inside of a directory that has another name in the store.
    """
    if not places or any(is_in(entrance, place) for place in places):
        return changes
    inside = {below(place, entrance) for place in places if is_in(place, entrance)}
    through = {above: place for place in inside for above in parents_of(place)}
    chosen = []
    for change in changes:
        if change.kind is ChangeKind.RENAMED and change.path in through:
            inner, outer = os.fsdecode(through[change.path]), os.fsdecode(change.path)
            raise UsageError(f"{inner} is in {outer}, which has another name in the store: choose {outer}")
        if _touches(change, inside):
            chosen.append(change)
        yield
    return chosen


def _touches(change: Change, places: Set[bytes]) -> bool:
    """A second name of a file of the commit goes with the first: without that there may be nothing to copy."""
    source = change.base.path if change.kind is ChangeKind.COPIED and change.base is not None else change.source
    return is_in_one(change.path, places) or (source is not None and is_in_one(source, places))


async def finish_killed(
    filesystem: WritableFileSystem,
    source: RiaUrl,
    means: CommandSettings,
    tell: Callable[[Sequence[Forgotten]], Awaitable[None]],
) -> None:
    """Put what is left of the changes over the commits of pushes that were killed; `tell` makes a kernel forget.

    Raises what opening the source and reading commits raises, and as WritableFileSystem.pushed.
    """
    overlay = filesystem.overlay
    bases = overlay.datasets()
    waiting = [(base, found) for base in bases if (found := overlay.announced(base.dataset)) is not None]
    if not waiting:
        return
    async with open_pusher(source, means, overlay.kept.directory) as pusher:
        for base, announced in waiting:
            try:
                published = await pusher.is_published(base, announced.commit)
            except SourceNotFound:  # the push that follows reports it
                continue
            if published:
                with contextlib.suppress(PushConflict):  # likewise
                    await filesystem.pushed(base.dataset, announced.commit, announced.carried, tell)
            overlay.withdraw(base.dataset)


# -- overlays that are not mounted ------------------------------------------------------------------------------------


@asynccontextmanager
async def open_unmounted(directory: str, named: NamedSource) -> AsyncIterator[WritableFileSystem]:
    """The overlay over its source. Raises Busy while it is mounted, OverlayFailed, and as opening the source."""
    async with open_assembled(opening_plan(named), Counters(), {}) as assembled:
        place = OverlayPlace(directory, Ownership(os.getuid(), os.getgid()))
        assert isinstance(named.source, RiaUrl)
        yield await lay_over(assembled, named.source, place)


def overlay_source(directory: str) -> NamedSource:
    """The source that an overlay's changes were made in, a RiaUrl. Raises OverlayFailed, BadSource."""
    text = recorded_source(directory)
    source = None if text is None else parse_source(text)
    if not isinstance(source, RiaUrl):
        raise OverlayFailed(f"the overlay {directory} was never mounted, so there is nothing to do with it")
    environment = complete_environment()
    settings = replace(load(environment, ()).settings, checkout=False)
    rules = instead_of_rules(environment)
    return NamedSource(source=source, settings=settings, environment=environment, instead_of=rules)
