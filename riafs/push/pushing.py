"""The push of one dataset: objects, then commits, then refs, each step durable before the next.

Until the refs move, the store only gets objects without references. So a push may be killed at any time, and can be
repeated; it uses the objects that are already there. Both refs (the branch and git-annex) move in one transaction from
the values that were read. If one of them has moved meanwhile, the changes are merged with the new commit, lines are
added to the new git-annex branch, and the transaction is tried again. No lock is needed for that.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from riafs.errors import MissingObject, PushRefused
from riafs.formats.gitobjects import FILE, SUBMODULE, object_name, tree_entry
from riafs.formats.gitrepository import adjusted_branch
from riafs.git.config import MAX_CONFIG
from riafs.overlay.changes import Base, Change
from riafs.push.content import ContentSource, Placer, load_rules
from riafs.push.destination import ANNEX_BRANCH, Destination
from riafs.push.merging import MODULES, Merged, Moves, Registrations, merge
from riafs.push.objects import ObjectWriter
from riafs.push.planning import Plan, Planner
from riafs.push.protocol import Announce, Prefer, PushReport, PushRequest, unannounced
from riafs.push.publishing import Publisher, branch_exists, refuse_conflicts
from riafs.push.rules import Rules, annexed_key
from riafs.push.trees import TreeEditor
from riafs.slices import Pauses
from riafs.tree.source import versions_near
from riafs.watching import PushStep, Watcher

_OBJECTS_AT_ONCE = 64 << 20


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The result of `prepare`, before anything is written."""

    ref: bytes
    planner: Planner
    plan: Plan
    placer: Placer
    rules: Rules
    to_annex: bool
    """Whether anything has to be written below ``annex``."""


class Push:
    """A push of `changes` against `base`, in an overlay's order. `announce` is called right before the branch that the
    mount shows moves.
    """

    def __init__(
        self,
        destination: Destination,
        base: Base,
        changes: Sequence[Change],
        request: PushRequest,
        watcher: Watcher,
        announce: Announce = unannounced,
    ) -> None:
        self._to = destination
        self._base = base
        self._changes = changes
        self._request = request
        self._watcher = watcher
        self._announce = announce
        self._trees = TreeEditor(destination.dataset.repository, destination.git.digits)
        self.may_empty = True
        """Whether the push may remove all files of the dataset."""
        self._base_root = b""
        self._gone = False
        """Whether the store has pruned the base commit."""
        self._moves = Moves(changes)
        self._prepared: _Prepared | None = None

    @property
    def has_changes(self) -> bool:
        """Whether there are any changes."""
        return bool(self._changes)

    def called(self, name: str) -> None:
        """Report to the watcher that this dataset is pushed now."""
        self._watcher.at(name)

    async def prepare(self) -> None:
        """Find all refusals and conflicts that can be found without writing anything.

        Raises PushConflict, PushRefused, StoreTimeout, StoreError, GitError, Busy (a lock was left), and what reading
        changed files raises.
        """
        self._watcher.begin(PushStep.LOOKING, 0)
        ref = await self._ref()
        self._gone = await self._is_gone()
        self._base_root = await self._to.root(self._base.commit)
        await self._starting_point(ref)
        await self._to.refs.check([ref, ANNEX_BRANCH])
        planner = Planner(self._to.dataset.repository, self._trees)
        plan = await planner.plan(self._changes)
        await self._check_registrations(plan)
        structure = await self._trees.edit(self._base_root, plan.edits, keep=False)
        if not self.may_empty and not plan.contents:
            self._refuse_empty(structure)
        rules = await load_rules(self._to, self._trees, structure, plan.contents, self._request.search_path)
        placer = Placer(self._to, rules, self._trees)
        await placer.check(plan.contents, unfiltered=self._request.unfiltered)
        await self._foresee_conflicts(ref, plan, placer)
        to_annex = await self._goes_to_annex(plan, placer)
        self._prepared = _Prepared(ref, planner, plan, placer, rules, to_annex)

    async def run(self, gitlinks: Mapping[bytes, bytes] | None = None) -> PushReport:
        """Push; for a dry run only report. `gitlinks`: path of a subdataset → its new commit (hex).

        Raises as `prepare` (after PushConflict the store has at most more objects without references), and Busy,
        StoreDenied, ReadOnly.
        """
        if self._prepared is None:
            await self.prepare()
        ready = self._prepared
        assert ready is not None
        plan = ready.plan
        plan.edits.update(
            {self._moves.place(path): tree_entry(SUBMODULE, oid) for path, oid in (gitlinks or {}).items()}
        )
        if self._request.dry_run:
            return await self._foreseen(ready)
        async with self._workspace(ready) as workspace:
            objects = ObjectWriter(self._to, workspace, ready.rules.extensions, self._watcher)
            await self._place(ready, objects)
        request = self._request
        if self._gone and request.as_branch is not None:
            request = replace(request, prefer=Prefer.OURS)  # nothing to merge with: the base commit is gone
        publisher = Publisher(self._to, self._base, request, self._trees, self._watcher, self._announce)
        publisher.brings_back, publisher.registrations = self._gone, self._registrations
        published = await publisher.publish(ready.ref, plan.edits, plan.keys, objects.chunked, self._starting_point)
        return PushReport(
            self._to.dataset.name, ready.ref, published.before, published.commit, published.changed,
            len(plan.keys), len(plan.contents) - len(plan.keys), objects.written, objects.written_bytes,
            tuple(plan.empty), published.overruled, tuple(sorted(ready.placer.converted)),
            tuple(sorted({**plan.pointers, **ready.placer.pointers}.items())), tuple(plan.special),
        )  # fmt: skip

    # -- preparing ----------------------------------------------------------------------------------------------------

    async def _ref(self) -> bytes:
        ref = self._request.as_branch or self._request.branch or self._base.ref
        if ref is None:
            raise PushRefused(
                f"{self._to.dataset.name} is shown at a commit, not at a branch; name one with --branch or --as-branch"
            )
        if not ref.startswith(b"refs/heads/") or ref == ANNEX_BRANCH:
            raise PushRefused(f"{os.fsdecode(ref)} is no branch to push to")
        found = await self._to.dataset.repository.references.resolve(ref)
        if found is not None and found.ref is not None:  # a branch may be a symbolic ref to another one
            ref = found.ref
        self._refuse_adjusted(ref)
        return ref

    def _refuse_adjusted(self, ref: bytes) -> None:
        """Refuse git-annex's adjusted branches: commits on one do not reach the branch that it was made from."""
        below = self._base.ref if self._request.as_branch is None else None
        for branch in (ref, below):
            original = None if branch is None else adjusted_branch(branch)
            if branch is not None and original is not None:
                name, of = (os.fsdecode(each.removeprefix(b"refs/heads/")) for each in (branch, original))
                raise PushRefused(
                    f"{self._to.dataset.name}: {name} is {of} as git annex adjust made it for one work tree, so that "
                    f"{of} would never see what is pushed there; git annex sync in a clone on {name} and then git push "
                    f"of {of} bring what was committed on {name}, after which {of} is shown, or --as-branch NAME keeps "
                    "these changes on a branch of their own"
                )

    async def _starting_point(self, ref: bytes) -> bytes:
        """The parent of the new commit. Raises PushRefused."""
        tip = await self._to.tip(ref)
        name = f"branch {os.fsdecode(ref.removeprefix(b'refs/heads/'))} of {self._to.dataset.name}"
        if self._request.as_branch is not None:
            if tip is not None and await self._is_pushed_already(tip):
                return tip
            if tip is not None:
                raise branch_exists(ref, self._to)
            return await self._above_gone() if self._gone else self._base.commit
        if tip is None:
            near = await versions_near(self._to.dataset.repository, ref.removeprefix(b"refs/heads/"))
            raise PushRefused(f"{name} does not exist; --as-branch makes a new one{near}")
        return tip

    def _refuse_empty(self, root: bytes) -> None:
        if root != self._base_root and root == object_name(b"tree", b"", self._to.git.digits):
            raise PushRefused(
                f"all files of {self._to.dataset.name} were removed, and a push would leave it empty: name its own "
                "directory (riafs push DIRECTORY) if that is meant; riafs restore brings its files back; a subdataset "
                "whose directory is removed, too (rmdir), keeps them and is only not registered any more"
            )

    @property
    def _registrations(self) -> Registrations:
        return Registrations(self._to, self._trees, self._base_root, self._moves)

    async def _check_registrations(self, plan: Plan) -> None:
        """Raise PushRefused if ``.gitmodules`` would lose a subdataset, before anything is sent."""
        edits = dict(plan.edits)
        for change in plan.contents:
            if change.path == MODULES and change.content is not None and change.content.size <= MAX_CONFIG:
                opened = await ContentSource(self._to).open(change)
                edits[MODULES] = tree_entry(FILE, self._trees.add(b"blob", bytes(await opened.read(0, opened.size))))
                opened.close()
        await self._registrations.update(self._base_root, Merged(edits), Prefer.NEITHER)

    async def _is_gone(self) -> bool:
        repository = self._to.dataset.repository
        return repository.reads_kept and bool(await repository.lacking([self._base.commit]))

    async def _above_gone(self) -> bytes:
        """The parent for a new branch if the base commit was pruned: the commit of the branch now."""
        found = await self._to.dataset.repository.find(None) if self._base.ref is None else None
        tip = found.oid if found is not None else await self._to.tip(self._base.ref or b"")
        if tip is None:
            raise PushRefused(
                f"commit {self._base.commit.decode()} of {self._to.dataset.name}, the base of the changes, was pruned, "
                f"and {os.fsdecode(self._base.ref or b'')} is gone, too: make that branch again"
            )
        return tip

    async def _is_pushed_already(self, tip: bytes) -> bool:
        """Whether the new branch was made by this same push, which was killed before it could report."""
        try:
            before = await self._above_gone() if self._gone else self._base.commit
            return before in (await self._to.dataset.repository.commit(tip)).parents
        except MissingObject:
            return False

    @asynccontextmanager
    async def _workspace(self, ready: _Prepared) -> AsyncIterator[bytes]:
        """A directory for unfinished objects; none if no object is written, as a user who may write git objects may not
        be allowed to write into ``annex``.
        """
        if not ready.to_annex:
            yield b""
            return
        directory = self._to.dataset.path + b"/annex"
        await self._to.writing.make_directories([directory + b"/objects"], self._to.sharing)
        async with self._to.writing.workspace(directory) as workspace:
            yield workspace

    async def _goes_to_annex(self, plan: Plan, placer: Placer) -> bool:
        """Whether objects are written or get another mode. Raises the failure if this user cannot do that."""
        for change in () if plan.modes else plan.contents:
            await trio.lowlevel.checkpoint()
            if (await placer.verdict(change)).backend is not None:
                break
        else:
            if not plan.modes:
                return False
        await self._to.writing.check_writable([self._to.dataset.path + b"/annex/objects"])
        return True

    async def _foresee_conflicts(self, ref: bytes, plan: Plan, placer: Placer) -> None:
        """Find conflicts before anything is sent. Only files that were changed in the store as well are hashed."""
        tip = await self._starting_point(ref)
        root = await self._to.root(tip)
        if root == self._base_root or self._request.prefer is not Prefer.NEITHER or self._request.as_branch is not None:
            return
        edits = dict(plan.edits)
        paths = [change.path for change in plan.contents]
        before, theirs = await self._trees.look_up(self._base_root, paths), await self._trees.look_up(root, paths)
        pauses = Pauses()
        for change in plan.contents:
            await pauses.pause()
            if before[change.path] != theirs[change.path]:
                edits[change.path] = await placer.foresee(change)
            else:
                edits.pop(change.path, None)
        refuse_conflicts(
            await merge(self._trees, self._base_root, root, edits, Prefer.NEITHER), self._to, self._base, ref, tip
        )

    async def _foreseen(self, ready: _Prepared) -> PushReport:
        plan = ready.plan
        annexed: list[Change] = []
        pauses = Pauses()
        for change in plan.contents:
            await pauses.pause()
            if (await ready.placer.verdict(change)).backend is not None:
                annexed.append(change)
            else:
                await ready.placer.look_for_pointer(change)
        sizes = [change.content.size for change in annexed if change.content is not None]
        tip = await self._starting_point(ready.ref)
        return PushReport(
            self._to.dataset.name, ready.ref, tip, tip, len(plan.edits), len(annexed),
            len(plan.contents) - len(annexed), len(annexed), sum(sizes), tuple(plan.empty), (), (),
            tuple(sorted({**plan.pointers, **ready.placer.pointers}.items())), tuple(plan.special),
        )  # fmt: skip

    # -- content ------------------------------------------------------------------------------------------------------

    async def _place(self, ready: _Prepared, objects: ObjectWriter) -> None:
        plan = ready.plan
        sizes = [change.content.size for change in plan.contents if change.content is not None]
        self._watcher.begin(PushStep.OBJECTS, sum(sizes))
        for number, change in enumerate(plan.contents):
            self._watcher.files(number, len(plan.contents))
            placed = await ready.placer.place(change, objects)
            plan.edits[change.path] = placed.entry
            if placed.key is not None:
                plan.keys[change.path] = placed.key
            if self._trees.new_bytes > _OBJECTS_AT_ONCE:
                await self._to.git.store(self._trees.take())
            await trio.lowlevel.checkpoint()
        await objects.finish()
        for change in plan.modes:
            assert change.base is not None
            assert change.content is not None
            key = annexed_key(change.base)
            assert key is not None
            if not await objects.set_executable(key, executable=change.content.executable):
                plan.edits[change.path] = ready.planner.unlocked(change)
