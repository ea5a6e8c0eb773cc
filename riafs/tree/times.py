"""Times of files that are not those of the commit that is shown.

`Times` are for a writable mount, so that a push leaves the times as they are. A push makes all files of a dataset ones
of a new commit: shown with its time, sources would become newer than what was made of them, and every file of a copy
would be older. So what was written here keeps the time it was written at, and what is as it was in the commit that the
first push was made over keeps that commit's time: each as long as there is the same content under the same name.

`LastChanges` are those of the commits that changed each file last (``--times=changed``). The history of a dataset is
walked once, along first parents, by a background task, and what was found stays in the cache. What a side branch
brought has the time of its merge, as that is when it came to be on this branch. A reader waits for the walk no longer
than a request to the store may take; after that the snapshot has the commit's times, and is replaced by one with the
right times when they are known.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Protocol

import trio
from cachetools import LRUCache

from riafs.cache.last_changes import LastChanges as KeptChanges
from riafs.cache.last_changes import UnknownParent
from riafs.errors import GitError, MalformedObject, MissingObject, ProgramKilled, RiafsError
from riafs.formats.gitobjects import DIRECTORY
from riafs.formats.gitrepository import parse_history
from riafs.git.repository import Repository
from riafs.storage.temporary import temporary_file
from riafs.tasks import Background, as_failure
from riafs.tree.listing import GitEntry, git_version

log = logging.getLogger(__name__)
_PIECE = 1 << 20
_MAX_NAMES = 200_000
"""Names whose times are kept in memory; of a larger directory those alone."""
_MOST_OPEN = 16
"""Files of the cache that are kept open, one a dataset."""
ChangeTimes = Mapping[bytes, int]


class PushedTime(NamedTuple):
    """A file, link or directory that was pushed from here."""

    content: bytes
    """Its serialised key; for what is not annexed, the object's name in hex."""
    mtime_ns: int


class KeptTimes(Protocol):
    """Where times are kept. Short calls, made on the event loop."""

    def since(self, dataset: bytes) -> bytes | None:
        """The commit (hex) that the first push of a dataset was made over, None where there was none."""

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, PushedTime]:
        """What was pushed into a directory (a path from the dataset's top), by name."""


class Times:
    """One per mount. Until something is laid over it, all times are the commits'."""

    def __init__(self) -> None:
        self._kept: KeptTimes | None = None

    def come_from(self, kept: KeptTimes) -> None:
        """Times are kept there from now on."""
        self._kept = kept

    def since(self, dataset: bytes) -> bytes | None:
        return None if self._kept is None else self._kept.since(dataset)

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, PushedTime]:
        return {} if self._kept is None else self._kept.written(dataset, directory)


class EarlierDirectory:
    """A directory of the commit that the first push was made over. `tree`: its object (hex), None where there was none;
    `time_ns`: the commit's.
    """

    __slots__ = ("_versions", "time_ns", "tree")

    def __init__(self, tree: bytes | None, time_ns: int) -> None:
        self.tree = tree
        self.time_ns = time_ns
        self._versions: Mapping[bytes, bytes] | None = None

    async def read(self, repository: Repository) -> None:
        """Read what was in it, for `has`. Where the store has lost it, nothing was."""
        if self._versions is None:
            tree = None
            with suppress(MissingObject, MalformedObject):
                tree = None if self.tree is None else await repository.tree(self.tree)
            lines = () if tree is None else zip(tree.names, tree.modes, tree.oids, strict=True)
            self._versions = {name: git_version(mode, oid) for name, mode, oid in lines}

    def has(self, entry: GitEntry) -> bool:
        """Whether the entry was there as it is now. After `read`."""
        return self._versions is not None and self._versions.get(entry.name) == entry.version

    def below(self, entry: GitEntry, *, same: bool) -> "EarlierDirectory":
        """A directory in it. `same`: this one is as it was. After `read`, unless it is the same."""
        if same:
            return EarlierDirectory(entry.oid, self.time_ns)
        version = b"" if self._versions is None else self._versions.get(entry.name, b"")
        is_directory = bool(version) and version == git_version(DIRECTORY, version[:-1])
        return EarlierDirectory(version[:-1].hex().encode() if is_directory else None, self.time_ns)


async def earlier_top(repository: Repository, commit: bytes) -> EarlierDirectory:
    """The top of a dataset in `commit`, which the first push was made over."""
    try:
        known = await repository.commit(commit)
    except (MissingObject, MalformedObject):  # it was pruned: nothing is known to be unchanged
        return EarlierDirectory(None, 0)
    return EarlierDirectory(known.tree, known.time * 1_000_000_000)


@dataclass(slots=True, eq=False)
class Walk:
    """`is_known`: whether the commit was walked to, once it has `ended`."""

    ended: trio.Event = field(default_factory=trio.Event)
    is_known: bool = False


class LastChanges:
    """Those of all datasets of a mount, kept in `directory`. `scratch`: for temporary files; `seconds`: how long a
    reader waits.
    """

    def __init__(self, directory: str, scratch: str, background: Background, seconds: float) -> None:
        self._directory = directory
        self._scratch = scratch
        self._background = background
        self._seconds = seconds
        self._walks: dict[tuple[bytes, bytes], Walk] = {}
        self._turns: dict[bytes, trio.Lock] = {}
        self._times: LRUCache[object, ChangeTimes] = LRUCache(_MAX_NAMES, getsizeof=lambda times: 1 + len(times))
        self._large: tuple[object, ChangeTimes] | None = None
        self._read: dict[bytes, KeptChanges] = {}
        self._one_at_a_time = trio.CapacityLimiter(1)

    def of(self, identifier: bytes, repository: Repository, commit: bytes) -> "CommitTimes":
        """The times at a commit (hex) of the dataset with that id."""
        return CommitTimes(self, identifier, repository, commit)

    # -- walking ------------------------------------------------------------------------------------------------------

    def walk(self, identifier: bytes, repository: Repository, commit: bytes) -> Walk:
        """The walk to a commit, begun now unless it was before."""
        walk = self._walks.get((identifier, commit))
        if walk is None:
            walk = self._walks[identifier, commit] = Walk()
            self._background.start_soon(self._run, walk, identifier, repository, commit)
        return walk

    async def _run(self, walk: Walk, identifier: bytes, repository: Repository, commit: bytes) -> None:
        try:
            async with self._turns.setdefault(identifier, trio.Lock()):
                with as_failure(f"the times of dataset {repository.name}"):
                    await self._walk(KeptChanges(self._directory, identifier), repository, commit)
            walk.is_known = True
        except RiafsError as error:
            if isinstance(error, ProgramKilled):
                del self._walks[identifier, commit]  # the next reader tries again
            log.warning(
                "dataset %s has the time of commit %s for all files: %s", repository.name, commit.decode()[:12], error
            )
        finally:
            walk.ended.set()

    async def _walk(self, kept: KeptChanges, repository: Repository, commit: bytes) -> None:
        if await trio.to_thread.run_sync(kept.has, commit):
            return
        tips = await trio.to_thread.run_sync(kept.tips)
        for without in (tips, ()) if tips else ((),):
            with temporary_file(os.fsencode(self._scratch)) as file:
                is_whole = await repository.write_history(commit, without, file.fileno())
                if is_whole and await trio.to_thread.run_sync(_add, kept, file):
                    return
        raise GitError(f"the history of {repository.name} cannot be read whole")

    # -- asking -------------------------------------------------------------------------------------------------------

    async def wait_for(self, walk: Walk) -> bool:
        """Whether the walk ended, as far as a reader waits for it."""
        with trio.move_on_after(self._seconds):
            await walk.ended.wait()
        return walk.ended.is_set()

    async def times(self, identifier: bytes, commit: bytes, directory: bytes) -> ChangeTimes:
        """Name → nanoseconds since the epoch, for a commit that was walked to. What cannot be read is missing."""
        name = identifier, commit, directory
        if self._large is not None and self._large[0] == name:
            return self._large[1]
        known: ChangeTimes | None = self._times.get(name)
        if known is not None:
            return known
        found: Mapping[bytes, ChangeTimes] | None = None
        try:
            found = await trio.to_thread.run_sync(
                self._look_up, identifier, commit, directory, limiter=self._one_at_a_time
            )
        except RiafsError as error:
            log.warning("times of a directory are not known: %s", error)
        if found is None:  # removed meanwhile: the next reader walks again
            self._walks.pop((identifier, commit), None)
            return {}
        for path, times in found.items():
            if len(times) < _MAX_NAMES:
                self._times[identifier, commit, path] = times
            elif path == directory:
                self._large = name, times
        return found[directory]

    def _look_up(self, identifier: bytes, commit: bytes, directory: bytes) -> Mapping[bytes, ChangeTimes] | None:
        """In a thread, one at a time."""
        kept = self._read.get(identifier)
        if kept is None:
            while len(self._read) >= _MOST_OPEN:
                self._read.pop(next(iter(self._read))).close()
            kept = self._read[identifier] = KeptChanges(self._directory, identifier)
        return kept.times(commit, directory)

    def close(self) -> None:
        """Give back what is open, when nothing is asked any more."""
        if not self._one_at_a_time.borrowed_tokens:
            for kept in self._read.values():
                kept.close()
            self._read.clear()


class CommitTimes:
    """The times at one commit: once asked for they stay what they are, as a snapshot never changes."""

    __slots__ = ("_commit", "_identifier", "_is_late", "_owner", "_repository", "_walk")

    def __init__(self, owner: LastChanges, identifier: bytes, repository: Repository, commit: bytes) -> None:
        self._owner = owner
        self._identifier = identifier
        self._repository = repository
        self._commit = commit
        self._walk: Walk | None = None
        self._is_late: bool | None = None

    async def is_late(self) -> bool:
        """Whether the walk took longer than a reader waits, so that these are the commit's times for good."""
        if self._is_late is None:
            self._walk = self._owner.walk(self._identifier, self._repository, self._commit)
            ended = await self._owner.wait_for(self._walk)
            if self._is_late is None:  # another task may have waited as well
                self._is_late = not ended
        return self._is_late

    @property
    def may_be_replaced(self) -> bool:
        """Whether better ones may come."""
        return self._is_late is not False

    @property
    def is_outdated(self) -> bool:
        """Whether they have come."""
        return bool(self._is_late) and self._walk is not None and self._walk.is_known

    async def of(self, directory: bytes) -> ChangeTimes:
        """Name → nanoseconds since the epoch for what is in a directory; empty where the commit's time counts."""
        if await self.is_late() or self._walk is None or not self._walk.is_known:
            return {}
        return await self._owner.times(self._identifier, self._commit, directory)


def _add(kept: KeptChanges, file: BinaryIO) -> bool:
    """Whether what git wrote follows on what is kept."""
    file.seek(0)
    try:
        kept.add(parse_history(_pieces(file)))
    except UnknownParent:
        return False
    return True


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
