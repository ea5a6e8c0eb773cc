"""What a command does in a writable mount: which files of the commit it opens to read, and which files it writes.

A recording is requested by a process, the runner; whatever the processes below it do (by ``/proc``, proc(5)) is the
command's. The kernel says of each request which thread it comes from, and asks for each open, also where it has all of
a file's pages.

Invariants: two recordings have no dataset in common; the dataset of a recording stays at its commit until its end,
which comes at the latest with the end of the runner.
"""

import contextlib
import os
import select
from dataclasses import dataclass, field

from riafs.errors import Busy, NoSuchName, RiafsError, StaleHandle, UsageError
from riafs.formats.names import is_in
from riafs.overlay.changes import Base
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.vfs.inode_aliases import InodeAliases
from riafs.vfs.lower_tree import LowerTree
from riafs.vfs.nodes import ROOT

_ATTEMPTS = 5
_DEEPEST = 10_000


def processes_above(thread: int) -> frozenset[int]:
    """Numbers of the processes above the one that `thread` is of, up to the first one; none where it has ended, or is
    not to be seen from here.
    """
    for _ in range(_ATTEMPTS):
        found = _climb(thread)
        if found is not None:
            return frozenset(found)
    return frozenset()


def _climb(process: int) -> list[int] | None:
    """None: one of them has ended on the way up, so that those below it have another parent now."""
    found: list[int] = []
    while len(found) < _DEEPEST:
        parent = _parent(process)
        if parent is None:
            return None if found else []
        if not parent:
            return found
        found.append(parent)
        process = parent
    return found


def _parent(process: int) -> int | None:
    """0 where there is none, None where there is no such process."""
    try:
        with open(f"/proc/{process}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()  # a program's name may have blanks and parentheses
    return int(fields[1]) if len(fields) > 1 else None


_READS = (os.O_RDONLY, os.O_RDWR)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


@dataclass(slots=True)
class Recording:
    """What was seen so far. `base`, `entrance`: the dataset, and the path from the root to it; `top`: its inode."""

    runner: int
    process: int
    """Descriptor that tells when the runner has ended."""
    base: Base
    entrance: bytes
    top: int
    read: set[bytes] = field(default_factory=set)
    """Paths, from the root, of the commit's files that were opened to be read."""
    written: set[int] = field(default_factory=set)
    """Inodes of files that were made, emptied, or opened to be written."""

    @property
    def is_over(self) -> bool:
        """Whether the runner has ended."""
        waiting = select.poll()
        waiting.register(self.process, select.POLLIN)
        return bool(waiting.poll(0))


@dataclass(frozen=True, slots=True)
class Seen:
    """An open that is under way: to be noted once it has succeeded."""

    recordings: tuple[Recording, ...]
    inode: int
    read: bytes | None
    writes: bool


class Recorder:
    """The recordings of one mount. `numbers`: by which the kernel calls things."""

    def __init__(self, merged: OverlayFileSystem, lower: LowerTree, aliases: InodeAliases) -> None:
        self._merged = merged
        self._lower = lower
        self._aliases = aliases
        self._recordings: dict[int, Recording] = {}
        self._last = 0

    # -- recordings ---------------------------------------------------------------------------------------------------

    async def begin(self, place: bytes, runner: int) -> int:
        """Record what the processes below `runner` do; the number of the recording. It is about the dataset that the
        directory `place` (from the root) is in.

        Raises UsageError where that is none, NoSuchName, Busy where another command records in it, and what looking at
        the tree raises.
        """
        self._drop_ended()
        found = await self._merged.inodes.dataset(await self._find(place))
        if found is None:
            raise UsageError(f"{os.fsdecode(place) or 'the root'} is in no dataset that can be changed")
        base, entrance = found
        top = await self._find(entrance)
        for other in self._recordings.values():
            if is_in(other.entrance, entrance) or is_in(entrance, other.entrance):
                raise Busy(f"process {other.runner} runs a command in {os.fsdecode(other.entrance) or 'the root'}")
        try:
            process = os.pidfd_open(runner)
        except OSError as error:
            raise UsageError(f"process {runner} cannot be recorded from here: {error.strerror}") from error
        self._last += 1
        self._recordings[self._last] = Recording(runner, process, base, entrance, top)
        return self._last

    def recording(self, number: int) -> Recording:
        """One that has not ended. Raises UsageError."""
        try:
            return self._recordings[number]
        except KeyError:
            raise UsageError(f"there is no recording {number}") from None

    async def commit(self, recording: Recording) -> bytes | None:
        """The commit that its dataset is over now, None where it is not shown any more."""
        top = await self.inode_at(recording.entrance)
        found = None if top is None else await self._merged.inodes.dataset(top)
        return None if found is None or found[0].dataset != recording.base.dataset else found[0].commit

    def end(self, number: int) -> None:
        """Forget a recording."""
        recording = self._recordings.pop(number, None)
        if recording is not None:
            os.close(recording.process)

    def close(self) -> None:
        """Forget all."""
        for number in list(self._recordings):
            self.end(number)

    def _drop_ended(self) -> None:
        for number, recording in list(self._recordings.items()):
            if recording.is_over:
                self.end(number)

    async def hold(self) -> None:
        """Keep the datasets of recordings at their commits for another while."""
        self._drop_ended()
        for recording in list(self._recordings.values()):
            with contextlib.suppress(RiafsError):
                await self._lower.home(recording.top)

    async def _find(self, path: bytes) -> int:
        inode = ROOT
        for name in path.split(b"/") if path else ():
            found = await self._merged.lookup(inode, name)
            if found is None:
                raise NoSuchName(f"there is no {os.fsdecode(path)}")
            inode = found.inode
        return inode

    async def inode_at(self, path: bytes) -> int | None:
        """The inode of a path from the root, None where there is nothing."""
        try:
            return await self._find(path)
        except NoSuchName:
            return None

    # -- what is seen -------------------------------------------------------------------------------------------------

    async def seen(self, inode: int, flags: int, thread: int | None) -> Seen | None:
        """An open of the kernel's `inode` by `thread`, None where it is no command's. Raises what looking at the tree
        raises.
        """
        recordings = self._of(thread)
        if not recordings:
            return None
        reads = flags & os.O_ACCMODE in _READS and not flags & os.O_TRUNC
        number = self._aliases.now(inode)
        read = await self._origin(number) if reads else None
        return Seen(recordings, number, read, bool(flags & _WRITES))

    async def _origin(self, inode: int) -> bytes | None:
        try:
            return await self._merged.inodes.origin(inode)
        except StaleHandle:  # of a dataset that moves on, so of none that is recorded
            return None

    @staticmethod
    def note(seen: Seen) -> None:
        """It has succeeded."""
        for recording in seen.recordings:
            if seen.read is not None:
                recording.read.add(seen.read)
            if seen.writes:
                recording.written.add(seen.inode)

    def wrote(self, inode: int, thread: int | None) -> None:
        """The kernel's `inode` was made or cut by `thread`."""
        for recording in self._of(thread):
            recording.written.add(self._aliases.now(inode))

    def _of(self, thread: int | None) -> tuple[Recording, ...]:
        if thread is None or not self._recordings:
            return ()
        above = processes_above(thread)
        return tuple(each for each in self._recordings.values() if each.runner in above)
