"""What a mount that can be written does over its control socket: tell of its changes, drop them, push them.

A push runs here, in the mount's own process: the overlay has one owner, programs go on working meanwhile, and the mount
moves to the new commit in the same breath. It goes on when the one who asked goes away; `status` tells how far it is.
Paths and names in requests and replies are text as `os.fsdecode` gives it.
"""

import gc
import os
from collections.abc import Mapping
from typing import Any

import trio

from riafs.daemon.control import Command, Request
from riafs.daemon.listing import describe_failure, describe_outcome, describe_overlay
from riafs.daemon.pushing import Failure, Order, Tell, push_changes
from riafs.daemon.recording import Recordings
from riafs.daemon.requests import text, texts
from riafs.errors import Busy, UsageError
from riafs.formats.gitobjects import Stamp
from riafs.formats.sources import RiaUrl
from riafs.push.merging import Prefer
from riafs.push.opening import obstacle
from riafs.push.request import PushRequest
from riafs.tasks import Background
from riafs.tree.tools import CommandSettings
from riafs.vfs.writable import WritableFileSystem
from riafs.watching import Step

_COUNTING_SECONDS = 1.0
_NEVER = (1 << 31) - 1


class Progress:
    """How far a push is: see Watcher."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._dataset = ""
        self._total = self._done = self._files = self._of_files = 0

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""
        self._step, self._total, self._done = step, total, 0
        self._files = self._of_files = 0

    def advance(self, amount: int) -> None:
        """See Watcher."""
        self._done += amount

    def files(self, done: int, total: int) -> None:
        """See Watcher."""
        self._files, self._of_files = done, total

    def at(self, name: str) -> None:
        """See Watcher."""
        self._dataset = name

    def end(self) -> None:
        """Nothing is being pushed any more."""
        self._step, self._dataset = None, ""

    def status(self) -> Mapping[str, Any]:
        """For people who wait."""
        if self._step is None:
            return {}
        return {
            "pushing": {
                "dataset": self._dataset,
                "step": self._step.value,
                "total": self._total,
                "done": self._done,
                "in_bytes": self._step.in_bytes,
                "files": self._files,
                "of_files": self._of_files,
            }
        }


class Changing:
    """The changes of `filesystem`, which shows `source`; `tell` makes the kernel forget, `background` runs what a
    request does not wait for.
    """

    def __init__(
        self, filesystem: WritableFileSystem, source: RiaUrl, means: CommandSettings, tell: Tell, background: Background
    ) -> None:
        self._filesystem = filesystem
        self._source = source
        self._means = means
        self._tell = tell
        self._progress = Progress()
        self._recordings = Recordings(filesystem, source, means)
        self._pushing = trio.Lock()
        self._background = background
        self._counted: tuple[tuple[int, int], int | None] = (-1, -1), None
        """How many changes there were in which state of the overlay."""
        self._counting: trio.Event | None = None
        self._large = 0
        self._collecting = gc.get_threshold()

    @property
    def commands(self) -> Mapping[str, Command]:
        """By the names that requests have."""
        return {
            "changes": self._with_many_objects(self._changes),
            "restore": self._with_many_objects(self._restore),
            "push": self._with_many_objects(self._push),
            "pushable": self._pushable,
            **self._recordings.commands,
        }

    def _with_many_objects(self, command: Command) -> Command:
        """Now and then Python looks through all objects for cycles, a second for a million changes: as long as a
        command has them, only through those made last.
        """

        async def run(request: Request) -> Mapping[str, Any]:
            young, middle, _ = self._collecting
            self._large += 1
            gc.set_threshold(young, middle, _NEVER)
            try:
                return await command(request)
            finally:
                self._large -= 1
                if not self._large:
                    gc.set_threshold(*self._collecting)

        return run

    async def status(self) -> Mapping[str, Any]:
        """Where the overlay is, and how many paths differ from their commits: None while that many are being counted
        for the first time, or again after a change, that nobody would wait for it.
        """
        overlay = self._filesystem.overlay
        overlay.journal.before_commit()  # what is written counts, stored or not
        if self._state() != self._counted[0]:
            if self._counting is None:
                self._counting = trio.Event()
                self._background.start_soon(self._count)
            with trio.move_on_after(_COUNTING_SECONDS):
                await self._counting.wait()
        counted, changes = self._counted
        known = changes if counted == self._state() else None
        return {"overlay": overlay.path, "changes": known, **self._progress.status()}

    def _state(self) -> tuple[int, int]:
        rows = self._filesystem.overlay.rows
        return rows.last_version, rows.turn

    async def _count(self) -> None:
        counting = self._counting
        assert counting is not None
        try:
            overlay = self._filesystem.overlay
            with overlay.snapshot() as snapshot:
                state = self._state()
                self._counted = state, sum([await snapshot.count(area) for area in snapshot.areas()])
        finally:
            self._counting = None
            counting.set()

    async def _changes(self, _: Request) -> Mapping[str, Any]:
        """``{"command": "changes"}``: see describe_overlay."""
        with self._filesystem.overlay.snapshot() as snapshot:
            return await describe_overlay(self._filesystem.overlay, snapshot)

    async def _restore(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "restore", "dataset": ID, "paths": [PATH in the dataset, …]}``; ``""`` is all of it."""
        dataset = os.fsencode(text(request, "dataset"))
        paths = [os.fsencode(path) for path in texts(request, "paths")]
        await self._filesystem.restore(dataset, paths, self._tell)
        return {"restored": len(paths)}

    async def _pushable(self, _: Request) -> Mapping[str, Any]:
        """``{"command": "pushable"}``: what stops every push to the one dataset that is mounted, as ``obstacle``."""
        if self._source.dataset is None and self._source.alias is None:
            return {"obstacle": ""}  # of a whole store, a push of each dataset says it
        return {"obstacle": await obstacle(self._source, self._means)}

    # -- pushing ------------------------------------------------------------------------------------------------------

    async def _push(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "push", "message": TEXT, "author": IDENT, "committer": IDENT}``, if wanted with ``places``
        (paths from the root; else everything), ``branch``, ``as_branch`` (full names), ``prefer`` (see Prefer),
        ``dry_run``, ``unfiltered``.
        """
        order = push_order(request, self._means.search_path)
        try:
            self._pushing.acquire_nowait()
        except trio.WouldBlock:
            raise Busy("a push is under way already") from None
        self._filesystem.overlay.keeps_files = True
        failed: list[Failure] = []
        try:
            outcomes = await push_changes(
                self._filesystem, self._source, self._means, order, self._progress, self._tell, failed
            )
        finally:
            self._filesystem.overlay.keeps_files = False
            self._progress.end()
            self._pushing.release()
        return {
            "pushed": [describe_outcome(outcome) for outcome in outcomes],
            "failed": [describe_failure(failure) for failure in failed],
        }


# -- requests ---------------------------------------------------------------------------------------------------------


def push_order(request: Request, search_path: str) -> Order:
    """What a request asks for. Raises UsageError."""
    try:
        prefer = Prefer(request.get("prefer", Prefer.NEITHER.value))
    except ValueError as error:
        raise UsageError(f"prefer: {error}") from error
    wanted = PushRequest(
        message=os.fsencode(text(request, "message")),
        author=Stamp(os.fsencode(text(request, "author"))),
        committer=Stamp(os.fsencode(text(request, "committer"))),
        search_path=search_path,
        branch=os.fsencode(text(request, "branch")) if request.get("branch") else None,
        as_branch=os.fsencode(text(request, "as_branch")) if request.get("as_branch") else None,
        prefer=prefer,
        dry_run=request.get("dry_run") is True,
        unfiltered=request.get("unfiltered") is True,
    )
    places = texts(request, "places") if request.get("places") else []
    return Order(wanted, tuple(map(os.fsencode, places)))
