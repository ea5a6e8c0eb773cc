"""Checking: every part below a directory is read once, by several tasks, while the tree is being walked.

One task walks and sends parts to the readers through a short queue, so the walk is never far ahead. Rules for shared
state (one event loop): a part is in `_waiting` from when it was first met until it was read; other files that use it
are noted there, later in its finding.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from riafs.checking.report import Finding, Report, Verdict, judge
from riafs.content.copies import Copy, CopyState, KeyPart, Part
from riafs.errors import RiafsError
from riafs.formats.names import joined
from riafs.tree.protocol import Directory, Entry, Kind, Verifiable, VerifiableTop
from riafs.watching import Reading, Watcher


@dataclass(frozen=True, slots=True)
class Request:
    """How to check. `wanted`: the number of good copies there should be, None for as many as the source asks for."""

    every: bool = False
    """Read every copy, not only the first good one."""
    wanted: int | None = None
    jobs: int = 4
    """How many parts are read at once."""
    counting: bool = False
    """Whether to count first how much there is to read, for a progress bar; this takes a walk more."""


async def check(root: Directory, request: Request, watcher: Watcher) -> Report:
    """Read everything below `root`. Failures are findings of the report; raises nothing but cancellation."""
    checking = _Checking(request, watcher)
    if request.counting:
        watcher.begin(Reading.COUNTING, 0)
        counting = _Counting(request, watcher)
        await counting.walk(root)
        checking.expected = counting.report.parts
        watcher.begin(Reading.READING, counting.report.size)
    else:
        watcher.begin(Reading.READING, 0)
    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[Part](2 * request.jobs)
        for _ in range(request.jobs):
            nursery.start_soon(checking.read_on, receive.clone())
        receive.close()
        async with send:
            checking.send = send
            await checking.walk(root)
    return checking.report


class _Checking:
    """One check."""

    def __init__(self, request: Request, watcher: Watcher) -> None:
        self._request = request
        self._watcher = watcher
        self._seen: set[bytes] = set()
        self._waiting: dict[bytes, list[bytes | None]] = {}
        self._found: dict[bytes, Finding] = {}
        self.report = Report()
        self.expected = 0
        """How many parts there are to read; 0: not known."""
        self.send: trio.MemorySendChannel[Part] | None = None

    # -- walking ------------------------------------------------------------------------------------------------------

    async def walk(self, root: Directory) -> None:
        """Send every part below `root`, each once."""
        tops: list[tuple[bytes, VerifiableTop]] = []
        async for path, directory in self._directories(root):
            if isinstance(directory, VerifiableTop) and directory.holds_parts:
                tops.append((path, directory))
                self._watcher.at(os.fsdecode(path))
            async for name, part in self._parts(path, directory):
                await self._met(part, name)
        for path, top in tops:
            self._watcher.at(os.fsdecode(path))
            with self._problems_of(path):
                async for part in top.stored_parts():
                    await self._met(part, None)

    @contextmanager
    def _problems_of(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except RiafsError as problem:
            self.report.unlisted.append((path, str(problem)))

    async def _directories(self, root: Directory) -> AsyncIterator[tuple[bytes, Directory]]:
        """Every directory at and below `root`, with its path, in the order of a walk."""
        waiting: list[tuple[bytes, Directory, Entry | None]] = [(b"", root, None)]
        while waiting:
            path, directory, entry = waiting.pop()
            with self._problems_of(path):
                entered = directory if entry is None else await directory.directory(entry)
                below = [each for each in await _entries(entered) if each.kind is Kind.DIRECTORY]
                reason = (await entered.own_attributes()).get("error")
                if reason is not None:
                    self.report.empty.append((path, reason.decode(errors="replace")))
                yield path, entered
                waiting += [(joined(path, each.name), entered, each) for each in reversed(below)]

    async def _parts(self, path: bytes, directory: Directory) -> AsyncIterator[tuple[bytes, Part]]:
        """The parts of the files in one directory, each with its file's path."""
        if not isinstance(directory, Verifiable):
            return
        for entry in await _entries(directory):
            if entry.kind is Kind.FILE:
                name = joined(path, entry.name)
                with self._problems_of(name):
                    for part in await directory.parts(entry):
                        yield name, part

    async def _met(self, part: Part, path: bytes | None) -> None:
        name = _short(part)
        if name in self._waiting:
            self._waiting[name].append(path)
        elif name in self._found:
            self._found[name].used_by(path)
        elif name not in self._seen:
            self._seen.add(name)
            self._waiting[name] = [path]
            assert self.send is not None
            await self.send.send(part)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def read_on(self, parts: trio.MemoryReceiveChannel[Part]) -> None:
        """Check parts until the channel is closed."""
        async with parts:
            async for part in parts:
                copies = await self._copies(part)
                self._conclude(part, copies)
                self._watcher.advance(part.size or 0)
                self._watcher.files(self.report.parts, self.expected)

    async def _copies(self, part: Part) -> Sequence[Copy]:
        try:
            return await part.copies(every=self._request.every)
        except RiafsError as problem:
            return (Copy("the store", CopyState.UNREACHABLE, str(problem)),)

    def _conclude(self, part: Part, copies: Sequence[Copy]) -> None:
        report, name = self.report, _short(part)
        report.parts += 1
        report.size += part.size or 0
        report.copies += sum(copy.state.usable for copy in copies)
        for copy in copies:
            if copy.archive and isinstance(part, KeyPart):
                report.count(part.dataset.replace(b"/", b""), copy)
        wanted = part.wanted(self._request.wanted) if self._request.every else None
        verdict = judge(copies, wanted)
        users = self._waiting.pop(name)
        if verdict is Verdict.GOOD:
            report.good += 1
            report.unverifiable += all(copy.state is not CopyState.GOOD for copy in copies)
            return
        finding = self._found[name] = Finding(part, verdict, copies, wanted)
        for path in users:
            finding.used_by(path)
        report.findings.append(finding)


class _Counting(_Checking):
    """A walk that only counts: `parts` and `size` of its report."""

    async def _met(self, part: Part, path: bytes | None) -> None:
        name = _short(part)
        if name not in self._seen:
            self._seen.add(name)
            self.report.parts += 1
            self.report.size += part.size or 0
            self._watcher.advance(part.size or 0)
            self._watcher.files(self.report.parts, 0)


async def _entries(directory: Directory) -> list[Entry]:
    entries: list[Entry] = []
    while piece := await directory.entries(len(entries)):
        entries += piece
    return entries


def _short(part: Part) -> bytes:
    """A name of a part that takes little memory, however many parts there are."""
    return hashlib.blake2b(part.identity, digest_size=16).digest()
