"""Listings: what is known of one git tree, read piece by piece and kept as long as there is room.

Names, modes and object names of a tree come at once; what each entry is for a reader (an annexed file, a file in git, a
link) needs its blob and is found out in pieces of PIECE entries, so that a directory of 100,000 entries starts to list
after a fraction of a second. Everything here follows from the object name of the
tree and may be dropped and read again at any time.

Whoever asks for entries here and there in a large directory, without listing it, gets groups of FEW entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cachetools import LRUCache

from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, SUBMODULE, Tree
from riafs.tree.protocol import UNKNOWN_SIZE, Entry
from riafs.tree.slots import Slots, slots_of_tree

PIECE = 256
FEW = 16
"""Entries of a group; a piece has a whole number of groups."""
MAX_CACHED_ENTRIES = 250_000
"""Entries kept in all, names alone counted as half: about 400 bytes each."""
_MAX_PIECES = 400
"""Pieces kept of one listing, so that a directory of a million entries can be walked through in bounded memory."""


_MARKS = {LINK: b"", FILE: b"f", EXECUTABLE: b"x", DIRECTORY: b"d", SUBMODULE: b"s"}


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
    def oid(self) -> bytes:
        """Name of the git object in hex; for a subdataset, the registered commit."""
        return self.version[: len(self.version) & ~1].hex().encode()

    @property
    def unreadable(self) -> bool:
        """Whether git could not read the object, so that not even the kind is certain."""
        return self.size == UNKNOWN_SIZE and self.key is None


@dataclass(slots=True)
class Listing:
    """One git tree. `pieces`: number of the piece → its entries; `groups`: the same for groups outside of these."""

    tree: Tree
    positions: dict[bytes, int]
    pieces: dict[int, tuple[GitEntry, ...]] = field(default_factory=dict)
    groups: dict[int, tuple[GitEntry, ...]] = field(default_factory=dict)
    slots: Slots | None = None
    """Once asked for."""
    classified: int = 0
    """Entries in `pieces` and `groups`."""

    @property
    def weight(self) -> int:
        """Cost in the cache, in entries; at least one, also for an empty directory."""
        names = len(self.positions) if self.slots is None else 2 * len(self.positions)
        return 1 + (names + self.classified) // 2

    def numbered(self) -> Slots:
        """The slots, computed now if they were not before: 0.1 s for a million."""
        if self.slots is None:
            tree = self.tree
            directories = [position for position, mode in enumerate(tree.modes) if mode in (DIRECTORY, SUBMODULE)]
            self.slots = slots_of_tree(tree.names, tree.oids, directories)
        return self.slots

    def known(self, position: int) -> Sequence[GitEntry]:
        """Entries from `position` on, as far as they were found out together; none if that one was not."""
        piece = self.pieces.get(position // PIECE)
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
        """Keep a piece; the oldest one goes when there are too many."""
        for group in range(number * PIECE // FEW, (number + 1) * PIECE // FEW) if self.groups else ():
            self._drop_group(group)
        if number not in self.pieces:
            self.pieces[number] = entries
            self.classified += len(entries)
        if len(self.pieces) > _MAX_PIECES:
            self.classified -= len(self.pieces.pop(next(iter(self.pieces))))

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
