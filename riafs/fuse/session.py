"""A mount: the kernel's side of a FileSystem, from mounting to unmounting. One per process, as pyfuse3 has it."""

import logging
import os
import pwd
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic
from urllib.parse import quote

import pyfuse3
import trio

from riafs.errors import MountFailed
from riafs.fuse.guard import Guard
from riafs.fuse.operations import FS, ReadOnlyOperations
from riafs.fuse.presentation import Presentation, Presenter
from riafs.fuse.waiting import wait_eagerly
from riafs.tasks import Background
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.refreshing import Invalidation

log = logging.getLogger(__name__)

SUBTYPE = "riafs"
# Requests that wait for a store are limited by its Patience far below this, so that cached paths always get a turn.
_MAX_TASKS = 512


@dataclass(frozen=True, slots=True)
class KernelOptions:
    """How to mount. `fsname` is what the mount table shows as the source."""

    mountpoint: str
    fsname: str
    allow_other: bool
    allow_root: bool
    auto_unmount: bool
    noexec: bool = False
    writable: bool = False

    def as_libfuse(self) -> set[str]:
        """libfuse's options: never with suid programs or devices, permissions always checked."""
        options = {
            "rw" if self.writable else "ro",
            "nosuid",
            "nodev",
            "default_permissions",
            f"fsname={_escaped(self.fsname)}",
            f"subtype={SUBTYPE}",
        }
        chosen = {
            "allow_other": self.allow_other,
            "allow_root": self.allow_root,
            "auto_unmount": self.auto_unmount,
            "noexec": self.noexec,
        }
        return options | {name for name, wanted in chosen.items() if wanted}


def _escaped(fsname: str) -> str:
    """libfuse splits options at commas, and pyfuse3 takes ASCII only."""
    return quote(fsname, safe="/:@#~+?&=%[] ").replace("%2C", "%2c")


def _nameless() -> str:
    """Why fusermount3 refuses a user without a name; root, which can mount without it, needs none."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return (
            f"fusermount3 mounts only for users with a name, and uid {os.getuid()} has none: give it an entry in "
            f"/etc/passwd, or let root mount with -o allow_other,uid={os.getuid()}"
        )
    return ""


class Session(Generic[FS]):
    """Serves `filesystem`. A subclass for each kind of file system makes the handlers."""

    def __init__(self, filesystem: FS, options: KernelOptions, presentation: Presentation) -> None:
        self._filesystem: FS = filesystem
        self._options = options
        self._presentation = presentation
        self._guard = Guard(filesystem.counters)
        self._background: Background | None = None

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount, report `started`, serve until unmounted or cancelled; then nothing is mounted any more.

        Raises MountFailed.
        """
        wait_eagerly()
        try:
            pyfuse3.init(self._operations(), self._options.mountpoint, self._options.as_libfuse())
        except RuntimeError as error:
            raise MountFailed(
                f"cannot mount on {self._options.mountpoint}: the kernel or fusermount3 refused "
                f"({_nameless() or 'try riafs doctor'})"
            ) from error
        try:
            async with trio.open_nursery() as nursery:
                self._background = Background(nursery, self._filesystem.counters)
                self._background.keep_running(self._filesystem.keep_fresh, self.tell, self._presentation.refresh)
                for task in self._tasks():
                    self._background.keep_running(task)
                task_status.started()
                await pyfuse3.main(max_tasks=_MAX_TASKS)
                nursery.cancel_scope.cancel()
        finally:
            self._background = None
            pyfuse3.close(unmount=True)
            self._filesystem.close()

    @abstractmethod
    def _operations(self) -> pyfuse3.Operations:
        """The handlers of requests."""

    def _tasks(self) -> Iterable[Callable[[], Awaitable[None]]]:
        """What the file system needs running while it is served."""
        return ()

    @staticmethod
    def stop() -> None:
        """End `serve` after the requests under way."""
        pyfuse3.terminate()

    # -- invalidation -------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Look now for what has changed in the store."""
        await self._filesystem.refresh(self.tell)

    async def tell(self, changes: Sequence[Invalidation]) -> None:
        """Make the kernel forget what changed. In a thread: it blocks while a request for the directory is under
        way."""
        await trio.to_thread.run_sync(_forget_changes, changes, abandon_on_cancel=True)

    def _forget_content(self, inode: int) -> None:
        if self._background is not None:
            self._background.start_soon(trio.to_thread.run_sync, _forget_inode, inode, False)


class ReadOnlySession(Session[FileSystem]):
    """A mount that can only be read."""

    def _operations(self) -> pyfuse3.Operations:
        return ReadOnlyOperations(self._filesystem, Presenter(self._presentation), self._guard, self._forget_content)


def _forget_changes(changes: Sequence[Invalidation]) -> None:
    for change in changes:
        for name in change.names:
            _quietly(pyfuse3.invalidate_entry, change.inode, name)
        for inode in (change.inode, *change.directories):
            _forget_inode(inode, attributes_only=True)
        for inode in change.contents:
            _forget_inode(inode, attributes_only=False)


def _forget_inode(inode: int, attributes_only: bool) -> None:  # noqa: FBT001  # as the kernel's call
    _quietly(pyfuse3.invalidate_inode, inode, attributes_only)


def _quietly(notify: Callable[..., None], *arguments: object) -> None:
    """The kernel answers ENOENT for what it does not know, which is as good as forgotten."""
    try:
        notify(*arguments)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("the kernel cannot be notified of changes: %s", error)
