"""The last part of a push: commits on the branch and on git-annex, and one transaction that moves both refs.

The refs move only from the values that the commits were made for (compare and swap). If another user was faster, the
commits are made again for the new values: changes are merged with the new commit, and lines are added to the logs of
the new git-annex branch, one for each key that the storage has now. As a log is a set of lines, that is the same as
git-annex's union merge; no line of another user is lost.
"""

import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from riafs.errors import Busy, GitError, PushConflict, PushRefused, StoreError
from riafs.formats.annexlogs import CHUNK_LOG, LOCATION_LOG, Tuning, with_chunks, with_presence
from riafs.formats.gitobjects import FILE, SUBMODULE, NewCommit, TreeEntry, encode_commit, read_tree_entries, tree_entry
from riafs.formats.keys import Key
from riafs.formats.specialremotes import SpecialRemote
from riafs.git.repository import Repository
from riafs.git.writing import RefsMoved, RefUpdate
from riafs.overlay.changes import Base
from riafs.push.destination import ANNEX_BRANCH, Destination
from riafs.push.merging import Merged, Registrations, merge
from riafs.push.protocol import Announce, Prefer, PushRequest, unannounced
from riafs.push.trees import Edits, TreeEditor
from riafs.watching import PushStep, Watcher

_ATTEMPTS = 100
_MAX_LOG = 4 << 20
_LONGEST_PAUSE = 0.3
_SHOWN = 10
_GITLINK = b"%o" % SUBMODULE
_ANNEX_MESSAGE = b"update"  # git-annex's own


@dataclass(frozen=True, slots=True)
class Published:
    """The part of `PushReport` about commits."""

    before: bytes
    commit: bytes
    changed: int
    overruled: tuple[bytes, ...]


class Publisher:
    """Commits changes and moves refs. `trees` has blobs and trees that are not written yet."""

    def __init__(
        self,
        destination: Destination,
        base: Base,
        request: PushRequest,
        trees: TreeEditor,
        watcher: Watcher,
        announce: Announce = unannounced,
    ) -> None:
        self._to = destination
        self._base = base
        self._request = request
        self._trees = trees
        self._watcher = watcher
        self._announce = announce
        self.registrations: Registrations | None = None
        """Updates ``.gitmodules``."""
        self.brings_back = False
        """Whether the store may have pruned objects of the base commit that an edit uses."""

    async def publish(
        self,
        ref: bytes,
        edits: Edits,
        keys: Mapping[bytes, Key],
        chunked: Mapping[Key, int],
        starting_point: Callable[[bytes], Awaitable[bytes]],
    ) -> Published:
        """Commit `edits` of the base's tree after the commit that `starting_point` returns, and log `keys` (by path).

        Raises PushConflict, Busy if other users are faster too often, GitError, StoreError, …
        """
        for attempt in range(_ATTEMPTS):
            self._watcher.begin(PushStep.HISTORY, 0)
            before = await starting_point(ref)
            merged = await self._merged(ref, before, edits)
            if self.brings_back:
                await self._bring_back(merged.edits)
            commit = await self._commit(before, merged)
            logged = [key for path, key in keys.items() if path in merged.edits or path not in merged.conflicts]
            # git-annex first: git moves them one after the other, and readers of the commit look for its content.
            updates = await self._annex_updates(list(dict.fromkeys(logged)), chunked)
            updates += await self._updates(ref, before, commit)
            if commit != before and ref == self._base.ref:
                await self._announce(commit)
            try:
                await self._move(updates)
            except RefsMoved:
                await trio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))  # noqa: S311 - no secret
                continue
            return Published(before, commit, len(merged.edits), tuple(sorted(merged.conflicts)))
        raise Busy(f"refs of {self._to.dataset.name} moved {_ATTEMPTS} times while this was pushed; try again")

    # -- commits ------------------------------------------------------------------------------------------------------

    async def _merged(self, ref: bytes, before: bytes, edits: Edits) -> Merged:
        base_root, root = await self._to.root(self._base.commit), await self._to.root(before)
        merged = await merge(self._trees, base_root, root, edits, self._request.prefer)
        if self.registrations is not None:
            await self.registrations.update(root, merged, self._request.prefer)
        if merged.conflicts and self._request.as_branch is not None and self._request.prefer is Prefer.NEITHER:
            raise branch_exists(ref, self._to)
        if self._request.prefer is Prefer.NEITHER:
            refuse_conflicts(merged, self._to, self._base, ref, before)
        return merged

    async def _bring_back(self, edits: Edits) -> None:
        """Write objects of edits that the store has pruned, and all objects in them, again."""
        repository = self._to.dataset.repository
        level = {one.oid.hex().encode() for one in edits.values() if one is not None and one.mode != _GITLINK}
        seen: set[bytes] = set()
        while level := level - seen:
            seen |= level
            wanted = sorted(oid for oid in level if not self._trees.is_new(oid))
            missing = await repository.lacking(wanted)
            found = await repository.objects([b"contents " + oid for oid in wanted]) if wanted else []
            level = set()
            for oid, each in zip(wanted, found, strict=True):
                if each is None:
                    raise PushRefused(
                        f"{self._to.dataset.name}: object {oid.decode()} of commit {self._base.commit.decode()}, which "
                        "the store has pruned, was too large to be kept here: restore the renamed files, or copy them"
                    )
                if oid in missing:
                    self._trees.add(each.kind, each.data)
                if each.kind == b"tree":
                    items = read_tree_entries(each.data, self._to.git.digits // 2).values()
                    level |= {one.oid.hex().encode() for one in items if one.mode != _GITLINK}

    async def _commit(self, before: bytes, merged: Merged) -> bytes:
        """The new commit (hex), or `before` if its tree is the same."""
        root = await self._to.root(before)
        tree = await self._trees.edit(root, merged.edits)
        return before if tree == root else self._add_commit(tree, before, self._request.message)

    def _add_commit(self, tree: bytes, parent: bytes, message: bytes) -> bytes:
        made = NewCommit(tree, (parent,), self._request.author, self._request.committer, message)
        return self._trees.add(b"commit", encode_commit(made))

    async def _updates(self, ref: bytes, before: bytes, commit: bytes) -> list[RefUpdate]:
        if self._request.as_branch is not None and await self._to.tip(ref) is None:
            return [RefUpdate(ref, commit, None, self._ident)]
        if self._request.as_branch is not None and commit != before:
            raise branch_exists(ref, self._to)
        return [] if commit == before else [RefUpdate(ref, commit, before, self._ident)]

    async def _annex_updates(self, keys: Sequence[Key], chunked: Mapping[Key, int]) -> list[RefUpdate]:
        annex = self._to.annex
        if annex is None or annex.storage is None or not keys:
            return []
        tip = await self._to.tip(ANNEX_BRANCH)
        if tip is None:
            raise StoreError(f"the git-annex branch of {self._to.dataset.name} was removed while this was pushed")
        root = await self._to.root(tip)
        in_chunks = {key: chunked[key] for key in keys if key in chunked}
        logs = AnnexLogs(self._to.dataset.repository, annex.tuning, annex.storage, keys, in_chunks)
        tree = await logs.tree(self._trees, root, int(time.time()))
        if tree == root:
            return []
        commit = self._add_commit(tree, tip, _ANNEX_MESSAGE)
        return [RefUpdate(ANNEX_BRANCH, commit, tip, self._ident)]

    # -- refs ---------------------------------------------------------------------------------------------------------

    @property
    def _ident(self) -> bytes:
        return self._request.committer.ident

    async def _move(self, updates: Sequence[RefUpdate]) -> None:
        new = self._trees.take()
        if not updates:
            return
        self._watcher.begin(PushStep.HISTORY, len(new))
        await self._to.git.store(new)
        self._watcher.advance(len(new))
        self._watcher.begin(PushStep.REFS, len(updates))
        await self._to.refs.move(updates)
        self._watcher.advance(len(updates))
        await self._confirm(updates)
        if await self._to.refs.lists_wanted():
            await self._to.refs.renew_lists()

    async def _confirm(self, updates: Sequence[RefUpdate]) -> None:
        """Read the refs back, before the overlay drops its changes."""
        for update in updates:
            now = await self._to.tip(update.name)
            if now == update.old:
                raise StoreError(f"{os.fsdecode(update.name)} of {self._to.dataset.name} was moved, but is as before")


def branch_exists(ref: bytes, destination: Destination) -> PushRefused:
    """The failure if the new branch exists."""
    branch = os.fsdecode(ref.removeprefix(b"refs/heads/"))
    return PushRefused(f"branch {branch} of {destination.dataset.name} exists already; choose another name")


def refuse_conflicts(merged: Merged, destination: Destination, base: Base, ref: bytes, tip: bytes) -> None:
    """Raise PushConflict if `merged` has conflicts between `base` and `tip`, the current commit of `ref`."""
    if not merged.conflicts:
        return
    paths = sorted(merged.conflicts)
    shown = ", ".join(os.fsdecode(path) for path in paths[:_SHOWN])
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    branch = os.fsdecode(ref.removeprefix(b"refs/heads/"))
    raise PushConflict(
        f"{destination.dataset.name}: changed both here since {base.commit.decode()} and on {branch}, which "
        f"is at {tip.decode()} now: {shown}{more}; "
        "nothing was pushed, --ours, --theirs or --as-branch NAME decides",
        tuple(paths),
    )


# -- logs of the git-annex branch --------------------------------------------------------------------------------------


class AnnexLogs:
    """Writes the logs of keys that `storage` has; `chunked`: keys in chunks → number of chunks."""

    def __init__(
        self,
        repository: Repository,
        tuning: Tuning,
        storage: SpecialRemote,
        keys: Sequence[Key],
        chunked: Mapping[Key, int],
    ) -> None:
        self._repository = repository
        self._tuning = tuning
        self._storage = storage
        self._keys = keys
        self._chunked = chunked

    async def tree(self, trees: TreeEditor, root: bytes, now: int) -> bytes:
        """The branch's tree `root` (hex) with the lines added; `now` in seconds since the epoch."""
        wanted = [self._tuning.log_path(key, LOCATION_LOG) for key in self._keys]
        wanted += [self._tuning.log_path(key, CHUNK_LOG) for key in self._chunked]
        old = await self._texts(await trees.look_up(root, wanted))
        new: dict[bytes, TreeEntry | None] = {}
        for path, text in self._changed(old, now):
            new[path] = tree_entry(FILE, trees.add(b"blob", text))
        return await trees.edit(root, new) if new else root

    async def _texts(self, found: Mapping[bytes, TreeEntry | None]) -> dict[bytes, bytes]:
        known = {path: entry.oid.hex().encode() for path, entry in found.items() if entry is not None}
        blobs = (
            await self._repository.objects([b"contents " + oid for oid in known.values()], _MAX_LOG) if known else []
        )
        texts: dict[bytes, bytes] = {}
        for path, blob in zip(known, blobs, strict=True):
            if blob is None or blob.kind != b"blob":
                raise GitError(f"the log {path.decode(errors='replace')} of {self._repository.name} cannot be read")
            texts[path] = blob.data
        return texts

    def _changed(self, old: Mapping[bytes, bytes], now: int) -> list[tuple[bytes, bytes]]:
        uuid = self._storage.log_uuid
        changed: list[tuple[bytes, bytes]] = []
        for key in self._keys:
            path = self._tuning.log_path(key, LOCATION_LOG)
            text = with_presence(old.get(path, b""), uuid, now)
            if text is not None:
                changed.append((path, text))
        for key, count in self._chunked.items():
            path, size = self._tuning.log_path(key, CHUNK_LOG), self._storage.chunk_size
            text = with_chunks(old.get(path, b""), uuid, size, count, now) if size else None
            if text is not None:
                changed.append((path, text))
        return changed
