"""The Python interface: a source as a tree of paths, read without mounting it. `riafs` exports all of it.

>>> with riafs.open_source("/srv/store#~study") as tree:      # doctest: +SKIP
...     [each.name for each in tree.ls("sub-01")]
...     tree.read_range("sub-01/bold.nii.gz", 0, 348)

`open_source` gives a `Tree` to ``with`` and an `AsyncTree` to ``async with`` (trio). Both have the same methods; the
event loop of a Tree runs in a thread of its own, so any number of threads may use it at once. Paths are separated by
``/`` and start at the top of the source, which is ``""``; in text they are as `os.fsdecode` gives them. A directory is
looked at once and shown in that state while the tree is open. Nothing can be changed.

All failures are RiafsErrors, see `riafs.errors`; each method names the likely ones.
"""

import datetime
import io
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TypeVar, TypeVarTuple

import outcome
import trio
from cachetools import LRUCache

from riafs.counters import Counters
from riafs.daemon.opening import opening_plan
from riafs.daemon.plan import NamedSource, named_source
from riafs.errors import IsADirectoryHere, LinkLoop, NoSuchName, NoSuchVersion, NotADirectoryHere, UsageError
from riafs.formats.sources import STANDARD_INPUT, KeepUrl
from riafs.git.history import Version as GitVersion
from riafs.git.history import VersionKind, named, newest
from riafs.settings import Given
from riafs.storage.bytesource import RangedBytes
from riafs.tree.commit_directory import VersionedDirectory
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Kind
from riafs.tree.store_root import PendingDirectory
from riafs.vfs.assembly import open_assembled

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Path = str | bytes

_DIRECTORIES = 1024
_MAX_LINKS = 40  # as Linux
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Info:
    """An entry of a tree."""

    name: str
    """Its path from the top."""
    type: str
    """``file``, ``directory`` or ``link``."""
    size: int | None
    """Bytes of a file or of a link's target. None in listings where only opening the file tells; `info` always has it.
    """
    mtime: float
    """Seconds since the epoch."""
    executable: bool


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a dataset: open ``SOURCE@NAME`` to read it."""

    kind: str
    """``branch``, ``tag`` or ``commit``."""
    name: str
    commit: str
    time: datetime.datetime
    """When it was authored, with the author's time zone."""
    author: str
    subject: str


class AsyncFile:
    """A file that is open for reading; also an asynchronous context manager. Any number of tasks may read at once."""

    def __init__(self, content: RangedBytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Bytes."""
        return self._content.size

    async def read_range(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on; fewer than `length` only at the end of the file.

        Raises ValueError for negative numbers, CorruptContent, StoreTimeout, StoreError, …
        """
        if offset < 0 or length < 0:
            raise ValueError(f"bytes {offset} + {length} of a file are asked for; neither number can be negative")
        return bytes(await self._content.read(offset, length))

    async def aclose(self) -> None:
        """Release the file."""
        self._content.close()

    async def __aenter__(self) -> "AsyncFile":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncTree:
    """An open source, for trio."""

    def __init__(self, root: Directory, name: str) -> None:
        self._root = root
        self._name = name
        self._directories: LRUCache[tuple[bytes, ...], Directory] = LRUCache(_DIRECTORIES)

    async def ls(self, path: Path = "") -> list[Info]:
        """The entries of a directory. Raises NoSuchName, NotADirectoryHere, …"""
        found = await self._look_up(path, follow=True)
        directory = await found.opened(path)
        entries: list[Entry] = []
        while piece := await directory.entries(len(entries)):
            entries += piece
        return [_info((*found.names, entry.name), entry, entry.size) for entry in entries]

    async def info(self, path: Path) -> Info:
        """The entry at `path`, of a link itself. Raises NoSuchName, NotADirectoryHere, …; where only opening a file
        tells its size, what `open` raises."""
        found = await self._look_up(path, follow=False)
        if found.entry is None:
            return Info("", "directory", 0, self._root.mtime_ns / 1e9, executable=False)
        size = found.entry.size
        if size == UNKNOWN_SIZE and found.entry.kind is Kind.FILE:
            async with AsyncFile(await found.parent.open(found.entry)) as file:
                size = file.size
        elif size == UNKNOWN_SIZE:
            size = len(await found.parent.target(found.entry))
        return _info(found.names, found.entry, size)

    async def attributes(self, path: Path = "") -> Mapping[str, bytes]:
        """What riafs knows of an entry: ``key``, ``commit``, ``locators``, …, as a mount shows in ``user.riafs.…``."""
        found = await self._look_up(path, follow=False)
        return await (self._root.own_attributes() if found.entry is None else found.parent.attributes(found.entry))

    async def open(self, path: Path) -> AsyncFile:
        """A file, links followed. Raises NoSuchName, IsADirectoryHere, MissingContent, CorruptContent, …"""
        found = await self._look_up(path, follow=True)
        if found.entry is None or found.entry.kind is Kind.DIRECTORY:
            raise IsADirectoryHere(f"{_text(path) or 'the top'} is a directory of {self._name}")
        return AsyncFile(await found.parent.open(found.entry))

    async def read_range(self, path: Path, offset: int, length: int) -> bytes:
        """Some bytes of a file, as `AsyncFile.read_range`. To read one file often, `open` it once."""
        async with await self.open(path) as file:
            return await file.read_range(offset, length)

    async def versions(self, path: Path = "", commits: int = 20, *, internal: bool = False) -> list[Version]:
        """The branches and tags of the dataset that `path` is in, and the newest `commits` that changed `path`.

        `internal`: also the branches of git-annex itself. Raises NoSuchVersion where `path` is in no dataset
        (collections have no versions, nor has the top of a store).
        """
        found = await self._look_up(path, follow=True)
        entered = [*found.directories]
        if found.entry is None or found.entry.kind is Kind.DIRECTORY:
            entered.append(await found.opened(path))
        tops = [each for each in entered if isinstance(each, VersionedDirectory | PendingDirectory)]
        if not tops:
            raise NoSuchVersion(f"{_text(path) or 'the top'} of {self._name} is in no dataset, so it has no versions")
        repository, shown = tops[-1].dataset.repository, (await tops[-1].own_attributes()).get("commit")
        versions = await named(repository, VersionKind.BRANCH, hidden=internal)
        versions += await named(repository, VersionKind.TAG, hidden=internal)
        if shown is not None:
            versions += await newest(repository, shown, commits, b"/".join(found.names[entered.index(tops[-1]) :]))
        return [*map(_version, versions)]

    # -- paths --------------------------------------------------------------------------------------------------------

    async def _look_up(self, path: Path, *, follow: bool) -> "_Found":
        """The entry at `path`. Links on the way are followed; one at its end if `follow`."""
        waiting = os.fsencode(path).strip(b"/").split(b"/")[::-1]
        names: list[bytes] = []
        directories, links = [self._root], 0
        entry: Entry | None = None
        while waiting:
            name = waiting.pop()
            if name in (b"", b"."):
                continue
            if entry is not None:  # of a directory
                directories.append(await self._entered(names, directories[-1], entry, path))
            if name == b"..":
                if not names:
                    raise NoSuchName(f"{_text(path)} leads out of {self._name}")
                names.pop()
                directories.pop()
                entry = await self._again(names, directories)
                continue
            entry = (await directories[-1].find(name)).entry
            if entry.kind is Kind.LINK and (follow or any(waiting)):
                target = await directories[-1].target(entry)
                links += 1
                if links > _MAX_LINKS:
                    raise LinkLoop(f"{_text(path)}: more than {_MAX_LINKS} symbolic links")
                if target.startswith(b"/"):
                    raise NoSuchName(f"{_text(path)} is or has a link to {os.fsdecode(target)}, not in {self._name}")
                waiting += target.rstrip(b"/").split(b"/")[::-1]
                entry = await self._again(names, directories)
                continue
            names.append(name)
        return _Found(self, tuple(names), directories, entry)

    @staticmethod
    async def _again(names: list[bytes], directories: list[Directory]) -> Entry | None:
        """The entry of the directory that `names` lead to, which is then no longer among `directories`."""
        if not names:
            return None
        directories.pop()
        return (await directories[-1].find(names[-1])).entry

    async def _entered(self, names: list[bytes], parent: Directory, entry: Entry, path: Path) -> Directory:
        if entry.kind is not Kind.DIRECTORY:
            raise NotADirectoryHere(f"{_text(path)}: {os.fsdecode(b'/'.join(names))} is no directory of {self._name}")
        known = self._directories.get(tuple(names))
        if known is None:
            known = self._directories[tuple(names)] = await parent.directory(entry)
        return known


@dataclass(frozen=True, slots=True)
class _Found:
    """The result of a look-up. `directories`: from the top to the one that has `entry`; None for the top itself."""

    tree: AsyncTree
    names: tuple[bytes, ...]
    directories: list[Directory]
    entry: Entry | None

    @property
    def parent(self) -> Directory:
        return self.directories[-1]

    async def opened(self, path: Path) -> Directory:
        """The directory that was looked up. Raises NotADirectoryHere."""
        if self.entry is None:
            return self.parent
        return await self.tree._entered([*self.names], self.parent, self.entry, path)


def _text(path: Path) -> str:
    return os.fsdecode(path)


def _info(names: tuple[bytes, ...], entry: Entry, size: int) -> Info:
    known = None if size == UNKNOWN_SIZE else size
    return Info(os.fsdecode(b"/".join(names)), entry.kind.value, known, entry.mtime_ns / 1e9, entry.executable)


def _version(found: GitVersion) -> Version:
    zone = datetime.timezone(datetime.timedelta(seconds=found.heading.offset))
    return Version(
        kind=found.kind.name.lower(),
        name=os.fsdecode(found.name),
        commit=found.commit.decode(),
        time=datetime.datetime.fromtimestamp(found.heading.time, zone),
        author=found.heading.author,
        subject=found.heading.subject,
    )


# -- opening ----------------------------------------------------------------------------------------------------------


def open_source(source: str | os.PathLike[str], **options: str) -> "OpenedSource":
    """A source to enter with ``with`` or, in trio, ``async with``: everything that ``riafs mount`` takes.

    `options` are those of a mount (``verify="always"``, ``deadline="5"``, ``cache_dir=…``), as text; the others come
    from the user's configuration and ``RIAFS_…`` variables. Entering raises BadSource and UsageError for mistakes,
    SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, MissingProgram, …
    """
    return OpenedSource(os.fspath(source), tuple(Given(name, text, "open_source") for name, text in options.items()))


class OpenedSource:
    """What `open_source` gives; entered once."""

    def __init__(self, source: str, given: tuple[Given, ...]) -> None:
        self._source = source
        self._given = given
        self._entered: AbstractAsyncContextManager[AsyncTree] | None = None
        self._thread: _LoopThread | None = None

    async def __aenter__(self) -> AsyncTree:
        self._entered = _opened(self._source, self._given)
        return await self._entered.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._entered is not None
        await self._entered.__aexit__(kind, error, trace)

    def __enter__(self) -> "Tree":
        self._thread = _LoopThread(_opened(self._source, self._given))
        return Tree(self._thread)

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._thread.close()


@asynccontextmanager
async def _opened(source: str, given: tuple[Given, ...]) -> AsyncIterator[AsyncTree]:
    named = await trio.to_thread.run_sync(named_source, source, given)
    async with open_tree(named) as tree:
        yield tree


@asynccontextmanager
async def open_tree(named: NamedSource) -> AsyncIterator[AsyncTree]:
    """`open_source` for a source that is parsed already."""
    if isinstance(named.source, KeepUrl) and named.source.manifests == STANDARD_INPUT:
        raise UsageError(f"{named.source}: a manifest on standard input is for commands; put it into a file")
    plan = await trio.to_thread.run_sync(opening_plan, named)
    async with open_assembled(plan, Counters(), {}) as assembled:
        yield AsyncTree(assembled.root, str(plan.source))


# -- for programs without an event loop -------------------------------------------------------------------------------


class _LoopThread:
    """An event loop in a thread, in which a tree is open until `close`. Raises what opening it raises."""

    def __init__(self, opening: AbstractAsyncContextManager[AsyncTree]) -> None:
        self._opening = opening
        self._ready = threading.Event()
        self._end: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._outcome: outcome.Value[None] | outcome.Error | None = None
        self.tree: AsyncTree
        self._thread = threading.Thread(target=self._run, name="riafs.open_source", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._token is None:
            self.close()

    def _run(self) -> None:
        self._outcome = outcome.capture(trio.run, self._serve)
        self._ready.set()

    async def _serve(self) -> None:
        async with self._opening as self.tree:
            self._end, self._token = trio.Event(), trio.lowlevel.current_trio_token()
            self._ready.set()
            await self._end.wait()

    def run(self, function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
        """The result of an asynchronous function, run there. Raises ValueError after `close`."""
        try:
            return trio.from_thread.run(function, *arguments, trio_token=self._token)
        except trio.RunFinishedError:
            raise ValueError("the source is closed") from None

    def close(self) -> None:
        """Close the tree and end the thread. Raises what ended it."""
        if self._token is not None and self._end is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._end.set)
        self._thread.join()
        assert self._outcome is not None
        self._outcome.unwrap()


class Tree:
    """An open source, for programs without an event loop: the methods of `AsyncTree`, from any thread."""

    def __init__(self, thread: _LoopThread) -> None:
        self._thread = thread

    def ls(self, path: Path = "") -> list[Info]:
        """The entries of a directory. Raises NoSuchName, NotADirectoryHere, …"""
        return self._thread.run(self._thread.tree.ls, path)

    def info(self, path: Path) -> Info:
        """The entry at `path`, of a link itself. Raises NoSuchName, NotADirectoryHere, …"""
        return self._thread.run(self._thread.tree.info, path)

    def attributes(self, path: Path = "") -> Mapping[str, bytes]:
        """What riafs knows of an entry: ``key``, ``commit``, …"""
        return self._thread.run(self._thread.tree.attributes, path)

    def open(self, path: Path) -> io.BufferedReader:
        """A binary file, links followed; libraries (nibabel, h5py, …) take it. Raises NoSuchName, IsADirectoryHere, …;
        its methods raise as `AsyncFile.read_range`."""
        return io.BufferedReader(_File(self._thread, self._thread.run(self._thread.tree.open, path), path), _BUFFER)

    def read_range(self, path: Path, offset: int, length: int) -> bytes:
        """The bytes of a file from `offset` on; fewer than `length` only at its end. Raises as `open` and reading."""
        return self._thread.run(self._thread.tree.read_range, path, offset, length)

    def versions(self, path: Path = "", commits: int = 20, *, internal: bool = False) -> list[Version]:
        """The branches and tags of the dataset that `path` is in, and the newest `commits` that changed `path`.

        `internal`: also the branches of git-annex itself. Raises NoSuchVersion where `path` is in no dataset.
        """
        return self._thread.run(partial(self._thread.tree.versions, path, commits, internal=internal))


class _File(io.RawIOBase):
    def __init__(self, thread: _LoopThread, file: AsyncFile, path: Path) -> None:
        self._thread = thread
        self._file = file
        self._position = 0
        self.name = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the beginning of the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of typeshed's own kind
        data = self._thread.run(self._file.read_range, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            try:
                self._thread.run(self._file.aclose)
            except ValueError:  # with the source
                return
