"""What a mount that can be written does over its control socket: tell of its changes, drop them, push them.

A push runs here, in the mount's own process: the overlay has one owner, programs go on working meanwhile, and the mount
moves to the new commit in the same breath. It goes on when the one who asked goes away; `status` tells how far it is.
Paths and names in requests and replies are text as `os.fsdecode` gives it.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import trio

from riafs.daemon.control import Command, Request
from riafs.errors import Busy, PushConflict, RiafsError, UsageError
from riafs.formats.gitwriting import Stamp
from riafs.formats.riaurl import RiaUrl
from riafs.fuse.session import Session
from riafs.overlay.changes import Base, Change
from riafs.push.merging import Prefer
from riafs.push.opening import open_for_pushing
from riafs.push.pushing import Push
from riafs.push.request import PushReport, PushRequest
from riafs.push.superdatasets import Member, push_all
from riafs.push.watching import Step
from riafs.tree.working import Means
from riafs.vfs.writable import WritableFileSystem


class Progress:
    """How far a push is: see Watcher."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._total = self._done = 0

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""
        self._step, self._total, self._done = step, total, 0

    def advance(self, amount: int) -> None:
        """See Watcher."""
        self._done += amount

    def end(self) -> None:
        """Nothing is being pushed any more."""
        self._step = None

    def status(self) -> Mapping[str, Any]:
        """For people who wait."""
        if self._step is None:
            return {}
        return {"pushing": {"step": self._step.value, "total": self._total, "done": self._done}}


class Changing:
    """The changes of `filesystem`, which shows `source`; `session` tells the kernel."""

    def __init__(self, filesystem: WritableFileSystem, source: RiaUrl, means: Means, session: Session) -> None:
        self._filesystem = filesystem
        self._source = source
        self._means = means
        self._session = session
        self._progress = Progress()
        self._pushing = trio.Lock()

    @property
    def commands(self) -> Mapping[str, Command]:
        """By the names that requests have."""
        return {
            "changes": _reporting(self._changes),
            "restore": _reporting(self._restore),
            "push": _reporting(self._push),
        }

    def status(self) -> Mapping[str, Any]:
        """Where the overlay is, and how many paths differ from their commits."""
        overlay = self._filesystem.overlay
        count = sum(sum(1 for _ in overlay.changes(base.dataset)) for base in overlay.datasets())
        return {"overlay": overlay.path, "changes": count, **self._progress.status()}

    async def _changes(self, _: Request) -> Mapping[str, Any]:
        """``{"command": "changes"}``: every dataset with changes, and each of them."""
        overlay = self._filesystem.overlay
        datasets = [
            {
                "dataset": os.fsdecode(area.base.dataset),
                "path": os.fsdecode(area.entrance),
                "ref": None if area.base.ref is None else os.fsdecode(area.base.ref),
                "commit": area.base.commit.decode(),
                "changes": [_shown(change) for change in overlay.changes(area.base.dataset)],
            }
            for area in overlay.rows.areas()
        ]
        return {"overlay": overlay.path, "datasets": datasets}

    async def _restore(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "restore", "dataset": ID, "paths": [PATH in the dataset, …]}``; ``""`` is all of it."""
        dataset = os.fsencode(_text(request, "dataset"))
        paths = [os.fsencode(path) for path in _texts(request, "paths")]
        await self._filesystem.restore(dataset, paths, self._session.tell)
        return {"restored": len(paths)}

    # -- pushing ------------------------------------------------------------------------------------------------------

    async def _push(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "push", "message": TEXT, "author": IDENT, "committer": IDENT}``, if wanted with ``datasets``
        (ids; else all, and those they are registered in), ``branch``, ``as_branch`` (full names), ``prefer``
        (see Prefer), ``dry_run``.
        """
        wanted = _push_request(request, self._means.search_path)
        chosen = (
            None if request.get("datasets") is None else {os.fsencode(each) for each in _texts(request, "datasets")}
        )
        try:
            self._pushing.acquire_nowait()
        except trio.WouldBlock:
            raise Busy("a push is under way already") from None
        self._filesystem.overlay.keeps_files = True
        try:
            return await self._push_members(wanted, chosen)
        finally:
            self._filesystem.overlay.keeps_files = False
            self._progress.end()
            self._pushing.release()

    async def _push_members(self, wanted: PushRequest, chosen: set[bytes] | None) -> Mapping[str, Any]:
        overlay = self._filesystem.overlay
        bases = {base.dataset: base for base in overlay.datasets() if chosen is None or base.dataset in chosen}
        registered = await self._registered(bases, follow=chosen is None)
        changes = {dataset: self._changes_of(dataset) for dataset in bases}
        async with AsyncExitStack() as stack:
            members = []
            for dataset, base in bases.items():
                source = replace(self._source, dataset=dataset, alias=None, version=None)
                destination = await stack.enter_async_context(open_for_pushing(source, self._means))
                push = Push(destination, base, changes[dataset], wanted, self._progress)
                members.append(Member(dataset, push, *registered.get(dataset, (None, b""))))
            reports = await push_all(members)
        if not wanted.dry_run:
            await self._move(bases, changes, reports)
        return {"pushed": [_report(dataset, report) for dataset, report in reports.items()]}

    def _changes_of(self, dataset: bytes) -> Sequence[Change]:
        overlay = self._filesystem.overlay
        known = {base.dataset for base in overlay.datasets()}
        return list(overlay.changes(dataset)) if dataset in known else []

    async def _registered(self, bases: dict[bytes, Base], *, follow: bool) -> dict[bytes, tuple[bytes, bytes]]:
        """Dataset → the one of `bases` that registers it, and where. `follow`: those that do are added to `bases`."""
        found: dict[bytes, tuple[bytes, bytes]] = {}
        for dataset in list(bases):
            below = dataset
            for home in await self._filesystem.superdatasets(dataset):
                above = home.base.dataset
                if follow:
                    bases.setdefault(above, home.base)
                if above not in bases:
                    break
                found[below] = above, home.path
                below = above
        return found

    async def _move(
        self,
        bases: Mapping[bytes, Base],
        changes: Mapping[bytes, Sequence[Change]],
        reports: Mapping[bytes, PushReport],
    ) -> None:
        """Show what was pushed to the branches that are shown. Changes that went to another branch stay changes."""
        known = {base.dataset for base in self._filesystem.overlay.datasets()}
        for dataset, report in reports.items():
            if dataset in known and report.ref == bases[dataset].ref:
                await self._filesystem.pushed(dataset, report.commit, changes[dataset], self._session.tell)
        await self._session.refresh()


def _reporting(command: Command) -> Command:
    """`command`, with failures as replies: ``error``, ``exit_code``, of conflicts ``paths``."""

    async def reported(request: Request) -> Mapping[str, Any]:
        try:
            return await command(request)
        except RiafsError as error:
            reply: dict[str, Any] = {"error": str(error), "kind": type(error).__name__, "exit_code": error.exit_code}
            if isinstance(error, PushConflict):
                reply["paths"] = [os.fsdecode(path) for path in error.paths]
            return reply

    return reported


def _shown(change: Change) -> dict[str, Any]:
    size = None if change.content is None else change.content.size
    shown: dict[str, Any] = {"path": os.fsdecode(change.path), "kind": change.kind.value, "size": size}
    if change.source is not None:
        shown["source"] = os.fsdecode(change.source)
    return shown


def _report(dataset: bytes, report: PushReport) -> dict[str, Any]:
    return {
        "dataset": os.fsdecode(dataset),
        "ref": os.fsdecode(report.ref),
        "before": None if report.before is None else report.before.decode(),
        "commit": report.commit.decode(),
        "changed": report.changed,
        "annexed": report.annexed,
        "in_git": report.in_git,
        "objects_written": report.objects_written,
        "bytes_written": report.bytes_written,
        "empty_directories": [os.fsdecode(path) for path in report.empty_directories],
        "overruled": [os.fsdecode(path) for path in report.overruled],
    }


# -- requests ---------------------------------------------------------------------------------------------------------


def _text(request: Request, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"a request {request['command']} needs {name}, which is text")
    return value


def _texts(request: Request, name: str) -> list[str]:
    value = request.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"a request {request['command']} needs {name}, which is a list of texts")
    return value


def _push_request(request: Request, search_path: str) -> PushRequest:
    try:
        prefer = Prefer(request.get("prefer", Prefer.NEITHER.value))
    except ValueError as error:
        raise UsageError(f"prefer: {error}") from error
    return PushRequest(
        message=os.fsencode(_text(request, "message")),
        author=Stamp(os.fsencode(_text(request, "author"))),
        committer=Stamp(os.fsencode(_text(request, "committer"))),
        search_path=search_path,
        branch=os.fsencode(_text(request, "branch")) if request.get("branch") else None,
        as_branch=os.fsencode(_text(request, "as_branch")) if request.get("as_branch") else None,
        prefer=prefer,
        dry_run=request.get("dry_run") is True,
    )
