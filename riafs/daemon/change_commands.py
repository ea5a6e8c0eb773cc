"""The control socket's commands of a writable mount: list its changes, drop them, push them, record a program.

A push runs in the mount's own process: the overlay has one owner, programs continue meanwhile, and the mount switches
to the new commit at once. It continues when its requester goes away; `status` tells how far it is.

A recording begins only where its result can be pushed: there are no changes in the dataset or in one below it, and the
store accepts a push. So all changes that exist at the end were made meanwhile; files that none of the recorded
processes has written are told apart.

Paths and names in requests and replies are text as `os.fsdecode` gives it.
"""

import gc
import os
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from riafs.daemon.control import ASKED_BY, Command, Request, number, text, texts
from riafs.daemon.pushing import Failure, Order, Tell, push_changes
from riafs.daemon.replies import describe_failure, describe_outcome, describe_overlay
from riafs.errors import Busy, RiafsError, UsageError
from riafs.formats.gitobjects import Stamp
from riafs.formats.names import below, is_in, joined
from riafs.formats.sources import RiaUrl
from riafs.overlay.changes import Change, ChangeKind
from riafs.push.protocol import Prefer, PushRequest
from riafs.push.pushers import open_pusher
from riafs.slices import Pauses, Sliced, in_slices
from riafs.tasks import Background
from riafs.tree.tools import CommandSettings
from riafs.vfs.recording import Recording
from riafs.vfs.writable import WritableFileSystem
from riafs.watching import Step

_COUNTING_SECONDS = 1.0
_NEVER = (1 << 31) - 1


class Progress:
    """A Watcher that remembers how far a push is."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._dataset = ""
        self._total = self._done = self._files = self._of_files = 0

    def begin(self, step: Step, total: int) -> None:
        self._step, self._total, self._done = step, total, 0
        self._files = self._of_files = 0

    def advance(self, amount: int) -> None:
        self._done += amount

    def files(self, done: int, total: int) -> None:
        self._files, self._of_files = done, total

    def at(self, name: str) -> None:
        self._dataset = name

    def end(self) -> None:
        """Nothing is being pushed any more."""
        self._step, self._dataset = None, ""

    def status(self) -> Mapping[str, Any]:
        """The entry ``pushing`` of the mount's status while something is pushed."""
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
        """Where the overlay is, and how many paths differ from their commits: None while there are so many that
        counting them, for the first time or after a change, takes longer than a status should.
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
        """``{"command": "pushable"}``: what stops pushes to the one dataset that is mounted, as ``obstacle``."""
        if self._source.dataset is None and self._source.alias is None:
            return {"obstacle": ""}  # of a whole store, a push of each dataset says it
        try:
            async with open_pusher(self._source, self._means) as pusher:
                return {"obstacle": await pusher.check()}
        except RiafsError as error:
            return {"obstacle": str(error)}

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


class Recordings:
    """Those of a mount of `source`."""

    def __init__(self, filesystem: WritableFileSystem, source: RiaUrl, means: CommandSettings) -> None:
        self._filesystem = filesystem
        self._source = source
        self._means = means

    @property
    def commands(self) -> Mapping[str, Command]:
        """By the names that requests have."""
        return {"record": self._record, "recorded": self._recorded}

    async def _record(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "record", "place": PATH}``: from now on, what the processes below the one that asks do in the
        dataset that the directory is in. Ends with ``recorded``, or with that process.
        """
        recorder = self._filesystem.recorder
        index = await recorder.begin(os.fsencode(text(request, "place")), number(request, ASKED_BY))
        recording = recorder.recording(index)
        try:
            await self._check_unchanged(recording)
            await self._check_pushable(recording)
        except BaseException:
            recorder.end(index)
            raise
        base = recording.base
        return {
            "recording": index,
            "dataset": os.fsdecode(base.dataset),
            "path": os.fsdecode(recording.entrance),
            "commit": base.commit.decode(),
            "overlay": self._filesystem.overlay.path,
        }

    async def _check_unchanged(self, recording: Recording) -> None:
        shown = os.fsdecode(recording.base.dataset)
        for path, _ in await self._changes(recording):
            raise UsageError(
                f"dataset {shown} has local changes ({os.fsdecode(path)}), and a command is run on none: riafs push or "
                "riafs restore first"
            )
        area = self._filesystem.overlay.rows.area(recording.base.dataset)
        if area is not None and area.entrance != recording.entrance:
            raise UsageError(
                f"dataset {shown} is being changed in /{os.fsdecode(area.entrance)}: run the command there"
            )

    async def _check_pushable(self, recording: Recording) -> None:
        base = recording.base
        if base.ref is None:
            raise UsageError(
                f"{os.fsdecode(base.dataset)} is shown at a commit, not at a branch: nothing can be pushed"
            )
        async with open_pusher(self._source, self._means) as pusher:
            await pusher.check(base.dataset)

    async def _changes(self, recording: Recording) -> list[tuple[bytes, Change]]:
        """All but empty directories and special files, which no commit can hold; with paths from the root."""
        found: list[tuple[bytes, Change]] = []
        with self._filesystem.overlay.snapshot() as snapshot:
            for area in snapshot.areas():
                if is_in(area.entrance, recording.entrance):
                    found += await in_slices(_pushable(area.entrance, await snapshot.changes(area)))
        return found

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _recorded(self, request: Request) -> Mapping[str, Any]:
        """``{"command": "recorded", "recording": NUMBER}``: what was read and changed, by paths from the dataset's top.

        ``elsewhere``: what was read outside of it, by paths from the root. ``moved``: whether others have pushed
        meanwhile.
        """
        index = number(request, "recording")
        recording = self._filesystem.recorder.recording(index)
        try:
            changes, patched, pauses = [], set(), Pauses()
            for path, change in await self._changes(recording):
                changes.append(await self._described(recording, path, change))
                if _is_patched(change) and change.base is not None:  # what it is now depends on what it was
                    patched.add(path.removesuffix(change.path) + change.base.path)
                await pauses.pause()
            read = recording.read | patched
            commit = await self._filesystem.recorder.commit(recording)
        finally:
            self._filesystem.recorder.end(index)
        inside = {path for path in read if is_in(path, recording.entrance)}
        return {
            "inputs": [os.fsdecode(below(path, recording.entrance)) for path in sorted(inside)],
            "elsewhere": [os.fsdecode(path) for path in sorted(read - inside)],
            "changes": changes,
            "moved": commit != recording.base.commit,
        }

    async def _described(self, recording: Recording, path: bytes, change: Change) -> Mapping[str, Any]:
        mine = not _has_new_bytes(change) or await self._filesystem.recorder.inode_at(path) in recording.written
        return {"path": os.fsdecode(below(path, recording.entrance)), "kind": change.kind.value, "mine": mine}


def _pushable(entrance: bytes, changes: Sequence[Change]) -> Sliced[list[tuple[bytes, Change]]]:
    found = []
    for change in changes:
        empty = change.kind is ChangeKind.ADDED and change.content is None
        if not empty and change.kind is not ChangeKind.SPECIAL:
            found.append((joined(entrance, change.path), change))
        yield
    return found


_WRITTEN = (ChangeKind.ADDED, ChangeKind.CHANGED, ChangeKind.COPIED)


def _has_new_bytes(change: Change) -> bool:
    """Whether a file's bytes were written. For other changes it is not known by whom: they count as the command's."""
    content = change.content
    return content is not None and content.target is None and change.kind in _WRITTEN


def _is_patched(change: Change) -> bool:
    return _has_new_bytes(change) and change.content is not None and not change.content.is_whole
