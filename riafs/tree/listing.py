"""Listings of git trees: names at once, and what each entry is for a reader as it is asked for.

Names, modes and object names of a tree are read together. What an entry is (an annexed file, a file in git, a link)
follows from its blob and is found out in pieces of PIECE entries, so that a directory of 100,000 entries starts to list
after a fraction of a second; where single entries of a large directory are asked for, in groups of FEW. Everything here
follows from the object name of the tree, and may be dropped and read again at any time.

`classify` costs little per entry only because git, the store and threads are asked for many entries at once: two
batches to git (links and sizes, then the content of small files), one request to the store. Entries of several
directories are classified in one call where it is known that all will be wanted.

Of a very large directory only the first pieces are kept as entries; the others are packed, which takes a fifth of the
memory, and a tenth of the time of classifying them again. Beyond that nothing is kept, rather than something else
dropped for it: a program that reads all of it again finds as much as there is room for.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachetools import LRUCache

from riafs.content.annex import AnnexContents
from riafs.formats.annex import MAX_POINTER, Pointed, pointed
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, SUBMODULE, Tree
from riafs.formats.keys import parse_key
from riafs.git.catfile import GitObject
from riafs.git.repository import Repository
from riafs.slices import Sliced, in_slices
from riafs.tree.protocol import UNKNOWN_SIZE, Entry, Kind, Origin
from riafs.tree.slots import Slots, slots_of_tree

PIECE = 256
FEW = 16
"""Entries of a group; a piece has a whole number of groups."""
MAX_CACHED_ENTRIES = 250_000
"""Entries kept in all, names alone counted as half: about 400 bytes each."""
_MAX_PIECES = 400
"""Pieces of one listing that are kept as entries."""
_MAX_PACKED = 4096
"""Further pieces of one listing that are kept: a million entries in some 80 MB."""
_RUN = 4096
"""Names that go into the index at once."""

_MARKS = {LINK: b"", FILE: b"f", EXECUTABLE: b"x", DIRECTORY: b"d", SUBMODULE: b"s"}
_MODES = {mark: mode for mode, mark in _MARKS.items() if mark}
_KINDS = tuple(Kind)
_EXECUTABLE = 8
MAX_LINK = 1 << 20
"""Bytes of a link's blob that are read; Linux follows links of up to 4 KiB."""
_NO_BLOB = (DIRECTORY, SUBMODULE)


def git_version(mode: int, raw_oid: bytes) -> bytes:
    """An entry's version: the object's raw name of even length, and a letter for what is no link.

    (Links are what a dataset has most of; theirs is the very object that the tree holds, which costs no memory.)
    """
    return raw_oid + _MARKS[mode] if mode != LINK else raw_oid


@dataclass(frozen=True, slots=True)
class GitEntry(Entry):
    """An entry of a dataset's tree; `version` is made by `git_version`."""

    key: bytes | None
    """Serialised annex key, where the entry is an annexed file."""
    registered: bool
    """Whether this is a subdataset."""

    @property
    def origin(self) -> Origin:
        mode = _MODES[self.version[-1:]] if len(self.version) & 1 else LINK
        return Origin(mode, self.oid, self.key or b"")

    @property
    def is_registered(self) -> bool:
        return self.registered

    @property
    def oid(self) -> bytes:
        """Name of the git object in hex; for a subdataset, the registered commit."""
        return self.version[: len(self.version) & ~1].hex().encode()

    @property
    def unreadable(self) -> bool:
        """Whether git could not read the object, so that not even the kind is certain."""
        return self.size == UNKNOWN_SIZE and self.key is None


class _Packed:
    """A piece in little memory: what does not follow from the tree."""

    __slots__ = ("_keys", "_kinds", "_sizes", "_times")

    def __init__(self, entries: Sequence[GitEntry]) -> None:
        self._kinds = bytes(_KINDS.index(each.kind) | _EXECUTABLE * each.executable for each in entries)
        self._sizes = array("q", (each.size for each in entries))
        self._keys = b"\n".join(each.key or b"" for each in entries)  # there is no newline in a key
        times = {each.mtime_ns for each in entries}
        self._times = array("q", times if len(times) == 1 else (each.mtime_ns for each in entries))

    def unpacked(self, tree: Tree, start: int) -> tuple[GitEntry, ...]:
        """The entries; the first one is at `start` in the tree."""
        count = len(self._kinds)
        part = slice(start, start + count)
        times = self._times if len(self._times) == count else self._times * count
        rows = zip(
            tree.names[part], tree.modes[part], tree.oids[part], self._kinds, self._sizes, times,
            self._keys.split(b"\n"), strict=True,
        )  # fmt: skip
        return tuple(
            GitEntry(
                name, _KINDS[kind & ~_EXECUTABLE], size, kind >= _EXECUTABLE, time,
                git_version(mode, oid), key or None, mode == SUBMODULE,
            )
            for name, mode, oid, kind, size, time, key in rows
        )  # fmt: skip


@dataclass(slots=True)
class Listing:
    """One git tree. `pieces`: number of the piece → its entries; `packed`: the same for those beyond; `groups`: number
    of the group → its entries, outside of these."""

    tree: Tree
    pieces: dict[int, tuple[GitEntry, ...]] = field(default_factory=dict)
    packed: dict[int, _Packed] = field(default_factory=dict)
    groups: dict[int, tuple[GitEntry, ...]] = field(default_factory=dict)
    slots: Slots = field(init=False)
    classified: int = 0
    """Entries in `pieces` and `groups`."""
    _positions: dict[bytes, int] | None = None
    """Name → position, once asked for."""
    _last: tuple[int, tuple[GitEntry, ...]] = -1, ()
    """The piece that was used last of those that are not in `pieces`: its number and entries."""

    def __post_init__(self) -> None:
        self.slots = slots_of_tree(self.tree)

    @property
    def weight(self) -> int:
        """Cost in the cache, in entries; at least one, also for an empty directory."""
        columns = 1 + (self._positions is not None) + self.slots.has_positions
        return 1 + (len(self.tree.names) * columns + self.classified) // 2 + len(self.packed) * PIECE // 5

    async def position(self, name: bytes) -> int | None:
        """Where an entry of that name is."""
        if self._positions is None:
            self._positions = await in_slices(self._index())
        return self._positions.get(name)

    def _index(self) -> Sliced[dict[bytes, int]]:
        positions: dict[bytes, int] = {}
        for start in range(0, len(self.tree.names), _RUN):
            names = self.tree.names[start : start + _RUN]
            positions.update(zip(names, range(start, start + len(names)), strict=True))
            yield
        return positions

    def known(self, position: int) -> Sequence[GitEntry]:
        """Entries from `position` on, as far as they were classified with it; none if it was not."""
        number = position // PIECE
        piece = self.pieces.get(number)
        if piece is None:
            packed = None if self._last[0] == number else self.packed.get(number)
            if packed is not None:
                self._last = number, packed.unpacked(self.tree, number * PIECE)
            piece = self._last[1] if self._last[0] == number else None
        if piece is not None:
            return piece[position % PIECE :] if position % PIECE else piece
        return self.groups.get(position // FEW, ())[position % FEW :]

    def to_read(self, position: int, *, listing: bool) -> range:
        """Which entries to find out, as the one at `position` is wanted: a piece or a group.

        `listing`: the entries after it will be wanted too if it is the first one of a piece, as where the one before
        it is known.
        """
        goes_on = (listing and position % PIECE == 0) or bool(position and self.known(position - 1))
        count = PIECE if goes_on or len(self.tree.names) <= PIECE else FEW
        start = position - position % count
        return range(start, start + count)

    def add(self, read: range, entries: tuple[GitEntry, ...]) -> None:
        """Keep the entries of what `to_read` gave; the oldest piece or group goes when there are too many.

        Where an object could not be read they are not kept: it is asked for again, as it may be brought back.
        """
        if any(entry.unreadable for entry in entries):
            return
        if len(read) == PIECE:
            self.add_piece(read.start // PIECE, entries)
        elif read.start // FEW not in self.groups:
            self.groups[read.start // FEW] = entries
            self.classified += len(entries)
            if len(self.groups) > _MAX_PIECES * PIECE // FEW:
                self._drop_group(next(iter(self.groups)))

    def add_piece(self, number: int, entries: tuple[GitEntry, ...]) -> None:
        """Keep a piece, if there is room: else only until the next one."""
        for group in range(number * PIECE // FEW, (number + 1) * PIECE // FEW) if self.groups else ():
            self._drop_group(group)
        if number in self.pieces or number in self.packed:
            return
        if len(self.pieces) < _MAX_PIECES:
            self.pieces[number] = entries
            self.classified += len(entries)
            return
        self._last = number, entries
        if len(self.packed) < _MAX_PACKED:
            self.packed[number] = _Packed(entries)

    def _drop_group(self, number: int) -> None:
        self.classified -= len(self.groups.pop(number, ()))


class ListingCache:
    """Listings by (dataset, commit time, tree), the least recently used dropped first. One per mount.

    A listing heavier than the whole cache is kept alone in a place of its own, until the next such one comes.
    """

    def __init__(self, limit: int = MAX_CACHED_ENTRIES) -> None:
        self._cache: LRUCache[object, Listing] = LRUCache(limit, getsizeof=lambda listing: listing.weight)
        self._heavy: tuple[object, Listing] | None = None

    def get(self, name: object) -> Listing | None:
        """The listing kept under `name`."""
        if self._heavy is not None and self._heavy[0] == name:
            return self._heavy[1]
        listing: Listing | None = self._cache.get(name)
        return listing

    def forget(self, dataset: bytes) -> None:
        """Drop what is known of a dataset (its path in the store): objects in the store have other modes now."""
        for name in [name for name in self._cache if isinstance(name, tuple) and name[0] == dataset]:
            self._cache.pop(name, None)
        if self._heavy is not None and isinstance(self._heavy[0], tuple) and self._heavy[0][0] == dataset:
            self._heavy = None

    def keep(self, name: object, listing: Listing) -> None:
        """Keep a listing, or note that it has grown."""
        if listing.weight <= self._cache.maxsize:
            self._cache[name] = listing
        else:
            self._cache.pop(name, None)
            self._heavy = (name, listing)


class TreeLine(NamedTuple):
    """A line of a git tree."""

    name: bytes
    mode: int
    oid: bytes
    """Raw."""


def tree_lines(tree: Tree, start: int, end: int) -> Iterable[TreeLine]:
    """The lines of `tree` from position `start` up to `end`."""
    return map(TreeLine, tree.names[start:end], tree.modes[start:end], tree.oids[start:end])


async def classify(
    repository: Repository, contents: AnnexContents, lines: Sequence[TreeLine], time_ns: int
) -> list[GitEntry]:
    """An entry for each of `lines`; `time_ns` is the commit's time. Raises GitError, StoreError, StoreTimeout."""
    blobs = await _blobs(repository, lines)
    keys = [pointed(blob.data) if blob is not None and blob.data else None for blob in blobs]
    sizes = await _missing_sizes(contents, keys)
    executable = await _executable(contents, lines, keys)
    entries = []
    for index, (line, blob, key) in enumerate(zip(lines, blobs, keys, strict=True)):
        if key is None:
            kind, size = _plain(line.mode, blob)
        else:
            kind, size = Kind.FILE, sizes[index] if key.size is None else key.size
        entries.append(
            GitEntry(
                line.name,
                kind,
                size,
                line.mode == EXECUTABLE or index in executable,
                time_ns if key is None or key.mtime is None else key.mtime * 1_000_000_000,
                git_version(line.mode, line.oid),
                None if key is None else key.serialised,
                line.mode == SUBMODULE,
            )
        )
    return entries


async def _blobs(repository: Repository, lines: Sequence[TreeLine]) -> list[GitObject | None]:
    """Each line's blob: links and small files with their content, larger files with their size only."""
    blobs: list[GitObject | None] = [None] * len(lines)
    wanted = [index for index, line in enumerate(lines) if line.mode not in _NO_BLOB]
    first = [
        (b"contents " if lines[index].mode == LINK else b"info ") + lines[index].oid.hex().encode() for index in wanted
    ]
    for index, blob in zip(wanted, await repository.objects(first, MAX_LINK), strict=True):
        blobs[index] = blob
    small = [
        index
        for index in wanted
        if lines[index].mode != LINK and (blob := blobs[index]) is not None and 0 < blob.size <= MAX_POINTER
    ]
    if small:
        second = [b"contents " + lines[index].oid.hex().encode() for index in small]
        for index, blob in zip(small, await repository.objects(second, MAX_LINK), strict=True):
            blobs[index] = blob or blobs[index]  # a damaged one still has the size that it says it has
    return blobs


async def _missing_sizes(contents: AnnexContents, keys: Sequence[Pointed | None]) -> dict[int, int]:
    """index → size of the content, for keys that do not tell it."""
    sizes = {}
    for index, key in enumerate(keys):
        if key is not None and key.size is None:
            size = await contents.size(parse_key(key.serialised))
            sizes[index] = UNKNOWN_SIZE if size is None else size
    return sizes


async def _executable(contents: AnnexContents, lines: Sequence[TreeLine], keys: Sequence[Pointed | None]) -> set[int]:
    """Indexes of locked links whose content lies in the store as an executable file.

    git has no executable bit for a link; it survives as the mode of the object (as git-annex and ORA keep it).
    """
    locked = {index: key.file_name for index, key in enumerate(keys) if key is not None and lines[index].mode == LINK}
    if not locked:
        return set()
    flags = await contents.executable(list(locked.values()))
    return {index for index, flag in zip(locked, flags, strict=True) if flag}


def _plain(mode: int, blob: GitObject | None) -> tuple[Kind, int]:
    """Kind and size of what is not annexed."""
    if mode in _NO_BLOB:
        return Kind.DIRECTORY, 0
    if mode == LINK:
        return Kind.LINK, UNKNOWN_SIZE if blob is None else blob.size
    return Kind.FILE, UNKNOWN_SIZE if blob is None else blob.size
