"""Recording a command over the control socket, from its beginning to the list of what it read and changed.

A recording begins only where what comes of it can be pushed: nothing is changed in the dataset or in one below it, and
the store takes a push. So all changes that are there at the end were made meanwhile; a file that none of the command's
processes has written is told apart.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from riafs.daemon.control import ASKED_BY, Command, Request
from riafs.daemon.requests import number, text
from riafs.errors import UsageError
from riafs.formats.names import below, is_in, joined
from riafs.formats.sources import RiaUrl
from riafs.overlay.changes import Change, ChangeKind
from riafs.push.opening import open_for_pushing
from riafs.slices import Pauses, Sliced, in_slices
from riafs.tree.tools import CommandSettings
from riafs.vfs.recording import Recording
from riafs.vfs.writable import WritableFileSystem


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
        named = replace(self._source, dataset=base.dataset, alias=None, version=None)
        async with open_for_pushing(named, self._means):
            pass

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

        ``elsewhere``: what was read outside of it, by paths from the root. ``moved``: somebody else has pushed
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
    """Whether somebody has written a file. Other changes are the command's, as far as anybody can tell."""
    content = change.content
    return content is not None and content.target is None and change.kind in _WRITTEN


def _is_patched(change: Change) -> bool:
    return _has_new_bytes(change) and change.content is not None and not change.content.is_whole
