"""Background tasks that fail: see `sabotage`, which imports this only where it is wanted."""

import errno
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import trio

from riafs.archive.members import MemberAssembler
from riafs.archive.prefetch import Prefetch
from riafs.archive.scheduler import Scheduler
from riafs.cache.blocks import BlockCache
from riafs.cache.disk import DiskBlocks
from riafs.cache.verified import VerifiedMemory
from riafs.content.verifying import Verifier
from riafs.daemon import lifecycle
from riafs.daemon.change_commands import Changing
from riafs.daemon.logs import RecentErrors
from riafs.fuse import session
from riafs.fuse.session import Session
from riafs.overlay.overlay import Overlay
from riafs.vfs.filesystem import FileSystem

_NO_THREAD = "can't start new thread"
FAILURES: dict[str, Callable[[], Exception]] = {
    "bug": lambda: RuntimeError("a bug"),
    "thread": lambda: RuntimeError(_NO_THREAD),
    "memory": MemoryError,
    "system": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
}
_TASKS = (
    (VerifiedMemory, "_open"), (VerifiedMemory, "_write"), (BlockCache, "_write"), (DiskBlocks, "write"),
    (Verifier, "hash_part"), (Scheduler, "_go_to_goal"), (Scheduler, "_noted"), (MemberAssembler, "store"),
    (MemberAssembler, "check"), (MemberAssembler, "parts"), (Prefetch, "_decode_batch"),
    (Prefetch, "_decode_front"), (FileSystem, "keep_fresh"), (Session, "refresh"), (Overlay, "keep"),
    (Overlay, "tidy"), (session, "_forget_inode"), (lifecycle, "describe_stacks"), (Changing, "_changes"),
    (RecentErrors, "format"),
)  # fmt: skip
"""Where background tasks work, and what the control socket asks."""


def fail_once_each(failure: str) -> None:
    """Each of them fails at its first call."""
    for owner, name in _TASKS:
        _fail_once(owner, name, FAILURES[failure])


def _fail_once(owner: Any, name: str, failure: Callable[[], Exception]) -> None:
    works, left = getattr(owner, name), [failure()]

    @functools.wraps(works)
    def once(*arguments: Any, **options: Any) -> object:
        if left:
            raise left.pop()
        return works(*arguments, **options)

    setattr(owner, name, once)


def start_no_thread_at_first() -> None:
    """Once the mount is ready: the first thread for each function cannot be started."""
    run, become_ready = trio.to_thread.run_sync, lifecycle._Life._become_ready
    refused: set[str] = set()
    is_ready = threading.Event()

    async def refuse_first(function: Callable[..., object], *arguments: object, **options: Any) -> object:
        name = getattr(function, "__qualname__", repr(function))
        if is_ready.is_set() and name not in refused:
            refused.add(name)
            raise RuntimeError(_NO_THREAD)
        return await run(function, *arguments, **options)

    async def ready(*arguments: Any) -> None:
        await become_ready(*arguments)
        is_ready.set()

    trio.to_thread.run_sync = refuse_first  # type: ignore[assignment]  # that is the sabotage
    lifecycle._Life._become_ready = ready  # type: ignore[method-assign]  # likewise
