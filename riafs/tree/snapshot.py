"""A dataset at one commit, as directories.

What an entry shows follows the blob alone: an annexed file whether its blob is a locked link or a pointer file, the
file itself where git holds the content, any other symbolic link as it is, a subdataset as a directory.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from riafs.errors import MissingObject, NoSuchName
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, LINK, SUBMODULE
from riafs.formats.keys import Key, parse_key
from riafs.formats.pointers import MAX_POINTER, parse_pointer
from riafs.git.catfile import GitObject
from riafs.storage.ranged import RangedBytes
from riafs.tree.listing import PIECE, GitEntry, Listing, git_version
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Found, Kind, Versions

if TYPE_CHECKING:
    from riafs.tree.dataset import Dataset

log = logging.getLogger(__name__)

_MAX_LINK = 1 << 20
"""Bytes of a link's blob that are read; Linux follows links of up to 4 KiB."""
_VERSIONED = re.compile(rb"([^@]+)@(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit of a dataset. `time_ns`: when it was committed."""

    dataset: "Dataset"
    commit: bytes
    tree: bytes
    time_ns: int

    def root(self) -> "CommitDirectory":
        """The commit's top directory."""
        return CommitDirectory(self, self.tree, b"")


@dataclass(frozen=True, slots=True)
class VersionedEntry(Entry):
    """What a look-up of ``NAME@REF`` finds."""

    directory: Directory


def versioned(entry: Entry) -> Directory:
    """The directory behind a VersionedEntry."""
    assert isinstance(entry, VersionedEntry)
    return entry.directory


class CommitDirectory:
    """A directory of a commit: see the Directory protocol. `path` is relative to the dataset, ``""`` for its top."""

    __slots__ = ("_name", "_snapshot", "_tree", "path")

    renewable = False

    def __init__(self, snapshot: Snapshot, tree: bytes, path: bytes) -> None:
        self._snapshot = snapshot
        self._tree = tree
        self._name = (snapshot.dataset.path, snapshot.time_ns, tree)
        self.path = path

    @property
    def mtime_ns(self) -> int:
        """Time of the commit."""
        return self._snapshot.time_ns

    # -- listing ------------------------------------------------------------------------------------------------------

    async def _listing(self) -> Listing:
        dataset = self._snapshot.dataset
        listing = dataset.listings.get(self._name)
        if listing is None:
            tree = await dataset.repository.tree(self._tree)
            if tree.dropped:
                dataset.counters.names_dropped += tree.dropped
                log.warning(
                    "%s: %d impossible names left out in /%s at %s, among them %r",
                    dataset.name, tree.dropped, self.path.decode(errors="replace"), self._snapshot.commit.decode(),
                    tree.dropped_names,
                )  # fmt: skip
            listing = Listing(tree, {name: position for position, name in enumerate(tree.names)})
            dataset.listings.keep(self._name, listing)
        return listing

    async def _piece(self, listing: Listing, number: int) -> tuple[GitEntry, ...]:
        piece = listing.pieces.get(number)
        if piece is None:
            piece = await _Classifier(self._snapshot, listing).piece(number)
            listing.add_piece(number, piece)
            self._snapshot.dataset.listings.keep(self._name, listing)
        return piece

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory."""
        listing = await self._listing()
        if start >= len(listing.tree.names):
            return ()
        piece = await self._piece(listing, start // PIECE)
        return piece[start % PIECE :] if start % PIECE else piece

    async def find(self, name: bytes) -> Found:
        """See Directory. ``NAME@REF`` finds a subdataset at another version."""
        listing = await self._listing()
        position = listing.positions.get(name)
        if position is None:
            return await self._find_versioned(listing, name)
        piece = await self._piece(listing, position // PIECE)
        return Found(position, piece[position % PIECE])

    async def _find_versioned(self, listing: Listing, name: bytes) -> Found:
        match = _VERSIONED.fullmatch(name)
        position = listing.positions.get(match[1]) if match else None
        if match is None or position is None or listing.tree.modes[position] != SUBMODULE:
            raise NoSuchName(f"no {name!r} in {self._snapshot.dataset.name}")
        dataset = await self._snapshot.dataset.subdatasets.dataset(self._snapshot, self._below(match[1]))
        return await dataset.versioned_entry(name, match[2])

    async def versions(self) -> Versions:
        """See Directory."""
        tree = (await self._listing()).tree
        return Versions(
            {name: git_version(mode, oid) for name, mode, oid in zip(tree.names, tree.modes, tree.oids, strict=True)},
            {name for name, mode in zip(tree.names, tree.modes, strict=True) if mode in (DIRECTORY, SUBMODULE)},
        )

    # -- entries ------------------------------------------------------------------------------------------------------

    def _below(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        if not isinstance(entry, GitEntry):
            return versioned(entry)
        if entry.registered:
            return await self._snapshot.dataset.subdatasets.directory(
                self._snapshot, self._below(entry.name), entry.oid
            )
        return CommitDirectory(self._snapshot, entry.oid, self._below(entry.name))

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        assert isinstance(entry, GitEntry)
        dataset = self._snapshot.dataset
        if entry.key is not None:
            return await dataset.contents.open(parse_key(entry.key), self._described(entry))
        if entry.size == UNKNOWN_SIZE:
            raise MissingObject(f"git object {entry.oid.decode()} of {self._described(entry)} cannot be read")
        return await dataset.repository.open_blob(entry.oid, entry.size)

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        assert isinstance(entry, GitEntry)
        [found] = await self._snapshot.dataset.repository.objects([b"contents " + entry.oid], _MAX_LINK)
        if found is None:
            raise MissingObject(f"git object {entry.oid.decode()} of {self._described(entry)} cannot be read")
        return found.data

    def _described(self, entry: Entry) -> str:
        path = self._below(entry.name).decode(errors="replace")
        return f"{path!r} in dataset {self._snapshot.dataset.name} at {self._snapshot.commit.decode()[:12]}"

    async def attributes(self, entry: Entry) -> Mapping[str, bytes]:
        """See Directory."""
        if not isinstance(entry, GitEntry):
            return await versioned(entry).own_attributes()
        known = dict(await self.own_attributes())
        known["path"] = self._below(entry.name)
        if entry.registered:
            return {
                **known,
                **await self._snapshot.dataset.subdatasets.attributes(self._snapshot, known["path"], entry.oid),
            }
        if entry.kind is not Kind.DIRECTORY:
            known["kind"] = b"git" if entry.key is None else b"annex"
        if entry.key is not None:
            known["key"] = entry.key
            known.update(await self._snapshot.dataset.contents.attributes(parse_key(entry.key)))
        else:
            known["object"] = entry.oid
        return known

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {"dataset": self._snapshot.dataset.identifier, "commit": self._snapshot.commit}

    async def renewed(self, turn: int) -> Directory | None:
        """A commit does not change."""
        return None


class _Classifier:
    """Finds out what the entries of one piece of a listing are."""

    def __init__(self, snapshot: Snapshot, listing: Listing) -> None:
        self._snapshot = snapshot
        self._tree = listing.tree

    async def piece(self, number: int) -> tuple[GitEntry, ...]:
        """The entries from position ``number * PIECE`` on."""
        positions = range(number * PIECE, min((number + 1) * PIECE, len(self._tree.names)))
        oids = {position: self._tree.oids[position].hex().encode() for position in positions}
        blobs = await self._blobs(oids)
        keys = {position: key for position, blob in blobs.items() if (key := self._key(blob)) is not None}
        sizes, executable = await self._stored(keys)
        time_ns = self._snapshot.time_ns
        entries = []
        for position in positions:
            mode = self._tree.modes[position]
            key = keys.get(position)
            if key is not None:
                kind, size = Kind.FILE, sizes[position]
            else:
                kind, size = _plain(mode, blobs.get(position))
            entries.append(
                GitEntry(
                    name=self._tree.names[position],
                    kind=kind,
                    size=size,
                    executable=mode == EXECUTABLE or position in executable,
                    mtime_ns=time_ns if key is None or key.mtime is None else key.mtime * 1_000_000_000,
                    version=git_version(mode, self._tree.oids[position]),
                    key=None if key is None else key.serialised,
                    registered=mode == SUBMODULE,
                )
            )
        return tuple(entries)

    async def _blobs(self, oids: Mapping[int, bytes]) -> dict[int, GitObject | None]:
        """Each blob: links and small files with their content, larger files with their size only."""
        requests = {}
        for position, oid in oids.items():
            mode = self._tree.modes[position]
            if mode == LINK:
                requests[position] = b"contents " + oid
            elif mode not in (DIRECTORY, SUBMODULE):
                requests[position] = b"info " + oid
        blobs = await self._read(requests)
        small = {
            position: b"contents " + oids[position]
            for position, blob in blobs.items()
            if blob is not None
            and not blob.data
            and 0 < blob.size <= MAX_POINTER
            and self._tree.modes[position] != LINK
        }
        blobs.update(await self._read(small))
        return blobs

    async def _read(self, requests: Mapping[int, bytes]) -> dict[int, GitObject | None]:
        if not requests:
            return {}
        found = await self._snapshot.dataset.repository.objects(list(requests.values()), _MAX_LINK)
        return dict(zip(requests, found, strict=True))

    @staticmethod
    def _key(blob: GitObject | None) -> Key | None:
        return parse_pointer(blob.data) if blob is not None and blob.data else None

    async def _stored(self, keys: Mapping[int, Key]) -> tuple[dict[int, int], set[int]]:
        """Sizes of the keys, and which of those behind locked links lie in the store as executable files.

        git has no executable bit for a link; it survives as the mode of the object (as git-annex and ORA keep it).
        """
        contents = self._snapshot.dataset.contents
        sizes = {}
        for position, key in keys.items():
            size = await contents.size(key) if key.size is None else key.size
            sizes[position] = UNKNOWN_SIZE if size is None else size
        locked = [position for position in keys if self._tree.modes[position] == LINK]
        flags = await contents.executable([keys[position] for position in locked]) if locked else ()
        return sizes, {position for position, flag in zip(locked, flags, strict=True) if flag}


def _plain(mode: int, blob: GitObject | None) -> tuple[Kind, int]:
    """Kind and size of what is not annexed."""
    if mode in (DIRECTORY, SUBMODULE):
        return Kind.DIRECTORY, 0
    if mode == LINK:
        return Kind.LINK, 0 if blob is None else blob.size
    return Kind.FILE, UNKNOWN_SIZE if blob is None else blob.size
