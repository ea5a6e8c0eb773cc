"""The end of a push that was killed after its last step in the store and before the overlay knew of it.

The commit that it announced is in the branch's history then, and what it carried is no change any more. Without this,
what was changed since would be a conflict with one's own push.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from riafs.errors import MissingObject, PushConflict, SourceNotFound
from riafs.formats.sources import RiaUrl
from riafs.git.repository import Repository
from riafs.overlay.changes import Base
from riafs.overlay.pushes import PendingPush
from riafs.tree.source import open_store
from riafs.tree.tools import CommandSettings, working_tools
from riafs.vfs.refreshing import Invalidation as Forgotten
from riafs.vfs.writable import WritableFileSystem

_MOST_COMMITS = 10_000
"""That others may have made since."""


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
    async with working_tools(means) as tools:
        tools.git.read_also(overlay.kept.directory)
        store = await open_store(source, tools.seconds, tools)
        for base, announced in waiting:
            try:
                dataset = await store.dataset(await store.path_of_id(base.dataset))
            except SourceNotFound:  # the push that comes now will tell
                continue
            if await _is_published(dataset.repository, base, announced):
                with contextlib.suppress(PushConflict):  # the push that comes now will tell
                    await filesystem.pushed(base.dataset, announced.commit, announced.carried, tell)
            overlay.withdraw(base.dataset)


async def _is_published(repository: Repository, base: Base, announced: PendingPush) -> bool:
    """Whether the branch has come to the announced commit."""
    tip = None if base.ref is None else await repository.references.resolve(base.ref)
    waiting, seen = [] if tip is None else [tip.oid], {base.commit}
    while waiting and len(seen) < _MOST_COMMITS:
        oid = waiting.pop(0)
        if oid == announced.commit:
            return True
        if oid not in seen:
            seen.add(oid)
            try:
                waiting += (await repository.commit(oid)).parents
            except MissingObject:
                continue
    return False
