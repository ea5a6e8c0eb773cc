"""A dataset at one commit, as directories.

What an entry shows follows the blob alone: an annexed file whether its blob is a locked link or a pointer file, the
file itself where git holds the content, any other symbolic link as it is, a subdataset as a directory.
"""

import itertools
import logging
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

from riafs.content.copies import BlobPart, KeyPart, Part
from riafs.content.directory_walk import DirectoryWalk
from riafs.errors import MissingObject, NoSuchName, NoSuchVersion, NotThereYet
from riafs.formats.gitobjects import DIRECTORY, SUBMODULE, Tree
from riafs.formats.gitrepository import looks_like_commit
from riafs.formats.keys import parse_key
from riafs.formats.names import joined
from riafs.git.kept_objects import KeptObjects
from riafs.git.references import Resolved
from riafs.git.repository import IN_MEMORY
from riafs.storage.bytesource import DeferredBytes, RangedBytes
from riafs.tree.checkout import NOTHING, DirectoryConversions
from riafs.tree.dataset import Dataset, Signature, Snapshot
from riafs.tree.directories import PlainDirectory
from riafs.tree.listing import MAX_LINK, PIECE, GitEntry, Listing, TreeLine, classify, git_version, tree_lines
from riafs.tree.protocol import UNKNOWN_SIZE, DatasetPosition, Directory, Entry, Found, Kind, Versions
from riafs.tree.slots import Slots
from riafs.tree.times import ChangeTimes, EarlierDirectory, PushedTime, earlier_top

log = logging.getLogger(__name__)

_PREPARED_DIRECTORIES = 16
_PREPARED_ENTRIES = 1024
_LOOK_AHEAD = 64
_LATE = b" "
"""Marks versions of what has other times than it will have."""
_VERSIONED = re.compile(rb"([^@]+)@(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class VersionedEntry(Entry):
    """What a look-up of ``NAME@REF`` finds."""

    directory: Directory


def versioned(entry: Entry) -> Directory:
    """The directory behind a VersionedEntry."""
    assert isinstance(entry, VersionedEntry)
    return entry.directory


def top_of(snapshot: Snapshot) -> "CommitDirectory":
    """The top directory of a commit."""
    return CommitDirectory(snapshot, snapshot.tree, b"")


class DatedEntries(Sequence[GitEntry]):
    """`entries` with the times that `time` gives them, each found out when it is looked at: often only the first is."""

    __slots__ = ("_entries", "_time")

    def __init__(self, entries: Sequence[GitEntry], time: Callable[[GitEntry], int]) -> None:
        self._entries = entries
        self._time = time

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, position: int, /) -> GitEntry: ...
    @overload
    def __getitem__(self, position: slice, /) -> Sequence[GitEntry]: ...
    def __getitem__(self, position: int | slice, /) -> GitEntry | Sequence[GitEntry]:
        if isinstance(position, slice):
            return DatedEntries(self._entries[position], self._time)
        return self._dated(self._entries[position])

    def __iter__(self) -> Iterator[GitEntry]:
        return map(self._dated, self._entries)

    def _dated(self, entry: GitEntry) -> GitEntry:
        time = self._time(entry)
        if time == entry.mtime_ns:
            return entry
        return GitEntry(
            entry.name, entry.kind, entry.size, entry.executable, time, entry.version, entry.key, entry.registered
        )


def _changed(times: ChangeTimes, commit_ns: int, entry: GitEntry) -> int:
    """When an entry was changed last; a time that its key has counts instead."""
    return times.get(entry.name, commit_ns) if entry.mtime_ns == commit_ns else entry.mtime_ns


class CommitDirectory(PlainDirectory):
    """A directory of a commit. `path` is relative to the dataset, ``""`` for its top."""

    __slots__ = ("_name", "_since", "_snapshot", "_tree", "dataset", "path")

    def __init__(self, snapshot: Snapshot, tree: bytes, path: bytes, since: EarlierDirectory | None = None) -> None:
        self.dataset = snapshot.dataset
        self._snapshot = snapshot
        self._tree = tree
        self._since = since
        self._name = (snapshot.dataset.path, snapshot.time_ns, tree)
        self.path = path

    @property
    def mtime_ns(self) -> int:
        """Time of the commit."""
        return self._snapshot.time_ns

    @property
    def renewable(self) -> bool:
        """The top is, as long as times of last changes may come."""
        changed = self._snapshot.changed
        return not self.path and changed is not None and changed.may_be_replaced

    # -- its commit ---------------------------------------------------------------------------------------------------

    @property
    def dataset_position(self) -> DatasetPosition:
        return DatasetPosition(self.dataset.identifier, self._snapshot.commit, self.path)

    async def branch(self) -> bytes | None:
        try:
            return (await self.dataset.repository.find(None)).ref
        except NoSuchVersion:
            return None

    def forget(self) -> None:
        self.dataset.listings.forget(self.dataset.path)

    async def at_commit(self, commit: bytes) -> Directory:
        return top_of(await self.dataset.snapshot(commit))

    async def keep_in(self, kept: KeptObjects, name: bytes) -> None:
        await kept.keep(name, self.dataset.repository, self._snapshot.commit)

    # -- listing ------------------------------------------------------------------------------------------------------

    async def _listing(self) -> Listing:
        listing = self.dataset.listings.get(self._name)
        return self._listed(await self.dataset.repository.tree(self._tree)) if listing is None else listing

    def _listed(self, tree: Tree) -> Listing:
        dataset = self.dataset
        if tree.dropped:
            dataset.counters.names_dropped += tree.dropped
            log.warning(
                "%s: %d impossible names left out in /%s at %s, among them %r",
                dataset.name, tree.dropped, self.path.decode(errors="replace"), self._snapshot.commit.decode(),
                tree.dropped_names,
            )  # fmt: skip
        listing = Listing(tree)
        dataset.listings.keep(self._name, listing)
        return listing

    async def _entries(self, listing: Listing, position: int, *, for_listing: bool) -> Sequence[GitEntry]:
        """Some entries from `position` on, at least one."""
        known = listing.known(position)
        if not known:
            wanted = listing.to_read(position, listing=for_listing)
            dataset, lines = self.dataset, list(tree_lines(listing.tree, wanted.start, wanted.stop))
            read = tuple(await classify(dataset.repository, dataset.contents, lines, self._snapshot.time_ns))
            listing.add(wanted, read)
            self.dataset.listings.keep(self._name, listing)
            known = read[position - wanted.start :]
        return known

    def _keep(self, listing: Listing, piece: tuple[GitEntry, ...]) -> None:
        listing.add(range(PIECE), piece)
        self.dataset.listings.keep(self._name, listing)

    async def prepare(self, start: int) -> None:
        """Read the trees of the next directories in one batch, then their first pieces in another."""
        tree = (await self._listing()).tree
        near = range(start, min(start + _LOOK_AHEAD, len(tree.names)))
        wanted = [position for position in near if tree.modes[position] == DIRECTORY][:_PREPARED_DIRECTORIES]
        directories = [
            CommitDirectory(self._snapshot, tree.oids[position].hex().encode(), self._below(tree.names[position]))
            for position in wanted
        ]
        if directories and not directories[0].listed:  # else an earlier call has prepared it, and more with it
            await prepare_together(self._snapshot, directories)

    @property
    def listed(self) -> bool:
        """Whether the listing is at hand."""
        return self.dataset.listings.get(self._name) is not None

    async def entries(self, start: int) -> Sequence[Entry]:
        listing = await self._listing()
        if start >= len(listing.tree.names):
            return ()
        entries = await self._entries(listing, start, for_listing=True)
        if start == 0 and self.dataset.contents.walk is not None:
            self.dataset.contents.walk.listed((self._tree, self.path), partial(self._files_of, listing))
        return await self._as_shown(listing, entries)

    async def find(self, name: bytes) -> Found:
        """``NAME@REF`` finds a subdataset at another version."""
        listing = await self._listing()
        position = await listing.position(name)
        if position is None:
            return await self._find_versioned(listing, name)
        entries = await self._entries(listing, position, for_listing=False)
        [entry] = await self._as_shown(listing, entries[:1])
        return Found(position, entry)

    async def _find_versioned(self, listing: Listing, name: bytes) -> Found:
        match = _VERSIONED.fullmatch(name)
        position = await listing.position(match[1]) if match else None
        if match is None:
            raise NoSuchName(f"no {os.fsdecode(name)} in {self.dataset.name}")
        if position is None or listing.tree.modes[position] != SUBMODULE:
            raise NotThereYet(f"no {os.fsdecode(name)} in {self.dataset.name}")
        dataset = await self.dataset.subdatasets.dataset(self._snapshot, self._below(match[1]))
        return await find_version(dataset, name, match[2])

    async def versions(self) -> Versions:
        listing = await self._listing()
        tree, mark = listing.tree, (await self._wanted(listing)).mark
        if self._snapshot.changed is not None and await self._snapshot.changed.is_late():
            mark += _LATE
        lines = zip(tree.names, tree.modes, tree.oids, strict=True)
        return Versions(
            {name: git_version(mode, oid) + mark for name, mode, oid in lines},
            {name for name, mode in zip(tree.names, tree.modes, strict=True) if mode in (DIRECTORY, SUBMODULE)},
        )

    async def slots(self) -> Slots:
        return (await self._listing()).slots

    # -- entries ------------------------------------------------------------------------------------------------------

    def _below(self, name: bytes) -> bytes:
        return joined(self.path, name)

    async def directory(self, entry: Entry) -> Directory:
        if not isinstance(entry, GitEntry):
            return versioned(entry)
        if entry.registered:
            return await self.dataset.subdatasets.directory(self._snapshot, self._below(entry.name), entry.oid)
        since = await self._earlier()
        if since is not None and since.tree != self._tree:
            await since.read(self.dataset.repository)
        below = None if since is None else since.below(entry, same=since.tree == self._tree)
        return CommitDirectory(self._snapshot, entry.oid, self._below(entry.name), below)

    async def _as_shown(self, listing: Listing, entries: Sequence[GitEntry]) -> Sequence[GitEntry]:
        checkouts, wanted = self.dataset.checkouts, await self._wanted(listing)
        if checkouts is not None and wanted.conversions:
            entries = await checkouts.shown(self.dataset.repository, wanted, entries)
        return await self._dated(entries)

    async def _wanted(self, listing: Listing) -> DirectoryConversions:
        """What attributes ask for in this directory."""
        dataset = self.dataset
        if dataset.checkouts is None:
            return NOTHING
        return await dataset.checkouts.wanted(dataset.repository, self._snapshot.commit, self.path, listing.tree)

    # -- times --------------------------------------------------------------------------------------------------------

    async def _earlier(self) -> EarlierDirectory | None:
        """This directory in the commit that the first push from here was made over, if there was one."""
        if self._since is None and not self.path and self._snapshot.own_times:
            first_base = self.dataset.times.since(self.dataset.identifier)
            self._since = None if first_base is None else await earlier_top(self.dataset.repository, first_base)
        return self._since

    async def _dated(self, entries: Sequence[GitEntry]) -> Sequence[GitEntry]:
        """The entries with their own times, where these are not the commit's."""
        snapshot = self._snapshot
        if snapshot.changed is not None:
            entries = DatedEntries(entries, partial(_changed, await snapshot.changed.of(self.path), snapshot.time_ns))
        since = await self._earlier()
        if since is None:
            return entries
        if since.tree != self._tree:
            await since.read(snapshot.dataset.repository)
        written = snapshot.dataset.times.written(snapshot.dataset.identifier, self.path)
        return DatedEntries(entries, partial(self._since_pushes, since, written))

    def _since_pushes(self, since: EarlierDirectory, written: Mapping[bytes, PushedTime], entry: GitEntry) -> int:
        """The time of an entry in a mount that has pushed."""
        own = written.get(entry.name)
        if own is not None and own.content == (entry.key or entry.oid):
            return own.mtime_ns
        if entry.mtime_ns != self._snapshot.time_ns:
            return entry.mtime_ns
        return since.time_ns if since.tree == self._tree or since.has(entry) else entry.mtime_ns

    async def open(self, entry: Entry) -> RangedBytes:
        assert isinstance(entry, GitEntry)
        dataset = self.dataset
        if entry.key is not None:
            if dataset.contents.walk is not None:
                await self._walk(dataset.contents.walk, entry)
            return await dataset.contents.find(parse_key(entry.key), lambda: self._described(entry))
        if entry.size == UNKNOWN_SIZE:
            raise MissingObject(f"git object {entry.oid.decode()} of {self._described(entry)} cannot be read")
        if dataset.checkouts is not None:
            conversion = (await self._wanted(await self._listing())).conversions.get(entry.name)
            opened = conversion and await dataset.checkouts.open(dataset.repository, entry.oid, conversion)
            if opened:
                return opened
        # That git has it is known from its size. A large one is written to a file, which may find no room: at open.
        if entry.size > IN_MEMORY:
            return await dataset.repository.open_blob(entry.oid, entry.size)
        return DeferredBytes(entry.size, lambda: dataset.repository.open_blob(entry.oid, entry.size))

    async def _walk(self, walk: DirectoryWalk, entry: GitEntry) -> None:
        """Tell that a file is opened, and which ones come next as far as that is known."""
        listing = await self._listing()
        position = await listing.position(entry.name)
        if position is not None:
            walk.opened((self._tree, self.path), position, partial(self._files_of, listing))

    def _files_of(self, listing: Listing, start: int, end: int) -> Iterator[tuple[bytes, int]]:
        """The store's path and the size of each annexed file from one position to another, as far as they are known."""
        while start < end and (known := listing.known(start)[: end - start]):
            start += len(known)
            for each in known:
                if each.key is not None and each.size != UNKNOWN_SIZE:
                    yield self.dataset.contents.likely_object(parse_key(each.key)), each.size

    async def parts(self, entry: Entry) -> Sequence[Part]:
        assert isinstance(entry, GitEntry)
        dataset = self.dataset
        if entry.key is not None:
            return (KeyPart(dataset.contents, dataset.path, parse_key(entry.key)),)
        size = None if entry.size == UNKNOWN_SIZE else entry.size
        return (BlobPart(dataset.repository, dataset.path, entry.oid, size),)

    async def target(self, entry: Entry) -> bytes:
        assert isinstance(entry, GitEntry)
        [found] = await self.dataset.repository.objects([b"contents " + entry.oid], MAX_LINK)
        if found is None:
            raise MissingObject(f"git object {entry.oid.decode()} of {self._described(entry)} cannot be read")
        return found.data

    def _described(self, entry: Entry) -> str:
        path = self._below(entry.name).decode(errors="replace")
        return f"{path!r} in dataset {self.dataset.name} at {self._snapshot.commit.decode()[:12]}"

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        if not isinstance(entry, GitEntry):
            return await versioned(entry).own_attributes()
        known = self._commit_attributes()
        known["path"] = self._below(entry.name)
        if entry.registered:
            known |= {"kind": b"subdataset", "commit": entry.oid}
            if name not in ("path", "kind", "commit"):
                known |= await self.dataset.subdatasets.attributes(self._snapshot, known["path"], entry.oid)
            return known
        if entry.kind is not Kind.DIRECTORY:
            known["kind"] = b"git" if entry.key is None else b"annex"
        if entry.key is not None:
            known["key"] = entry.key
            known |= await self.dataset.contents.attributes(parse_key(entry.key), name)
        else:
            known["object"] = entry.oid
        return known

    async def own_attributes(self) -> Mapping[str, bytes]:
        return self._commit_attributes()

    def _commit_attributes(self) -> dict[str, bytes]:
        """What a directory and its entries have in common; the ref that was asked for is the top's alone."""
        return {"dataset": self.dataset.identifier, "commit": self._snapshot.commit}

    async def renewed(self, turn: int) -> Directory | None:
        """A commit does not change, but when its files were changed last may take long to find out."""
        changed = self._snapshot.changed
        if self.path or changed is None or not changed.is_outdated:
            return None
        return top_of(self._snapshot.dated_anew())


async def prepare_together(snapshot: Snapshot, directories: Sequence[CommitDirectory]) -> None:
    """List `directories`, as far as they are small and not listed yet, with few questions to git and the store."""
    dataset = snapshot.dataset
    missing = [each for each in directories if not each.listed]
    trees = await dataset.repository.trees([each._tree for each in missing])
    lines: list[TreeLine] = []
    prepared: list[tuple[CommitDirectory, Listing]] = []
    for directory, tree in zip(missing, trees, strict=True):
        if tree is None or len(tree.names) > PIECE or len(lines) + len(tree.names) > _PREPARED_ENTRIES:
            continue
        prepared.append((directory, directory._listed(tree)))
        lines += tree_lines(tree, 0, PIECE)
    entries = iter(await classify(dataset.repository, dataset.contents, lines, snapshot.time_ns)) if lines else iter(())
    for directory, listing in prepared:
        directory._keep(listing, tuple(itertools.islice(entries, len(listing.tree.names))))


class VersionedDirectory(CommitDirectory):
    """The top of a dataset at the commit that `version` named when this was made. `open_version` makes them.

    Renewable unless `signature` is None, for a pinned commit.
    """

    __slots__ = ("_resolved", "_signature", "_version")

    def __init__(
        self, snapshot: Snapshot, version: bytes | None, signature: Signature | None, resolved: Resolved
    ) -> None:
        super().__init__(snapshot, snapshot.tree, b"")
        self._version = version
        self._signature = signature
        self._resolved = resolved

    @property
    def renewable(self) -> bool:
        return self._signature is not None or super().renewable

    async def branch(self) -> bytes | None:
        return self._resolved.ref

    async def at_commit(self, commit: bytes) -> Directory:
        signature: Signature | None = None if self._signature is None else ()  # as no refs have it
        return VersionedDirectory(await self.dataset.snapshot(commit), self._version, signature, self._resolved)

    @property
    def holds_parts(self) -> bool:
        return self._version is None  # else one version was asked for

    async def stored_parts(self) -> AsyncGenerator[Part, None]:
        """All stored keys."""
        async for key in self.dataset.contents.stored_keys():
            yield KeyPart(self.dataset.contents, self.dataset.path, key)

    async def own_attributes(self) -> Mapping[str, bytes]:
        return {**await super().own_attributes(), **({"ref": self._resolved.ref} if self._resolved.ref else {})}

    async def renewed(self, turn: int) -> Directory | None:
        """Compares a few stat results first, so that asking every few seconds is cheap."""
        if await super().renewed(turn) is not None:
            return VersionedDirectory(self._snapshot.dated_anew(), self._version, self._signature, self._resolved)
        if self._signature is None:
            return None
        if await self.dataset.watch.seen(self.dataset.path, self._resolved.refs, turn) == self._signature:
            return None
        newer = await open_version(self.dataset, self._version)
        if newer._snapshot.commit == self._snapshot.commit:
            self._signature, self._resolved = newer._signature, newer._resolved
            return None
        self.dataset.counters.refs_moved += 1
        return newer


async def open_version(dataset: Dataset, version: bytes | None) -> VersionedDirectory:
    """The top directory at a branch, tag or commit, None for HEAD. Raises NoSuchVersion, GitError, …"""
    first = await dataset.repository.find(version)
    # Taken before the ref is read for good, so that no move in between can be missed later.
    signature = await dataset.watch.look(dataset.path, first.refs)
    resolved = await dataset.repository.find(version)
    pinned = version is not None and resolved.ref is None and looks_like_commit(version)
    snapshot = await dataset.snapshot(await dataset.repository.peeled(resolved.oid), own_times=not pinned)
    return VersionedDirectory(snapshot, version, None if pinned else signature, resolved)


async def find_version(dataset: Dataset, name: bytes, ref: bytes) -> Found:
    """The entry for ``NAME@REF``, in which a ``/`` of the ref is written ``%2F``. Raises NotThereYet."""
    version = ref.replace(b"%2F", b"/").replace(b"%2f", b"/").replace(b"%25", b"%")
    try:
        directory = await open_version(dataset, version)
    except NoSuchVersion as error:
        raise NotThereYet(str(error)) from error
    entry = VersionedEntry(
        name, Kind.DIRECTORY, 0, executable=True, mtime_ns=directory.mtime_ns, version=version, directory=directory
    )
    return Found(None, entry)
