"""Listings are kept as long as there is room, and never more of them than that."""

import pytest

from riafs.formats.gitobjects import FILE, SUBMODULE, Tree, parse_tree
from riafs.tree import listing as listing_module
from riafs.tree.listing import FEW, PIECE, GitEntry, Listing, ListingCache, git_version
from riafs.tree.protocol import Kind

ENTRY = GitEntry(b"x", Kind.FILE, 0, executable=False, mtime_ns=0, version=b"v", key=None, registered=False)


def listing_of(count: int) -> Listing:
    raw = b"".join(b"100644 %06d\0%b" % (number, bytes(20)) for number in range(count))
    tree: Tree = parse_tree(raw, 20)
    assert len(tree.names) == count
    assert count == 0 or tree.modes[0] == FILE
    return Listing(tree)


def test_least_recently_used_goes_first() -> None:
    cache = ListingCache(limit=100)
    for name in "abc":
        cache.keep(name, listing_of(60))
    assert cache.get("a") is not None
    cache.keep("d", listing_of(60))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]


def test_what_is_known_of_the_entries_counts_as_well() -> None:
    cache, first = ListingCache(limit=100), listing_of(60)
    cache.keep("first", first)
    cache.keep("second", listing_of(60))
    first.add_piece(0, (ENTRY,) * 60)
    cache.keep("first", first)
    cache.keep("third", listing_of(60))
    assert cache.get("second") is None


def test_listing_too_heavy_for_the_cache_is_kept_alone() -> None:
    cache = ListingCache(limit=100)
    cache.keep("light", listing_of(50))
    cache.keep("heavy", listing_of(500))
    assert cache.get("heavy") is not None
    assert cache.get("light") is not None
    cache.keep("heavier", listing_of(600))
    assert cache.get("heavy") is None


def test_empty_directories_take_room_too() -> None:
    cache = ListingCache(limit=10)
    for number in range(100):
        cache.keep(number, listing_of(0))
    assert sum(cache.get(number) is not None for number in range(100)) == 10


def entries_of(listing: Listing, number: int) -> tuple[GitEntry, ...]:
    """What a piece may hold: keys with and without a time, files, links and directories."""
    part = slice(number * PIECE, (number + 1) * PIECE)
    lines = zip(range(PIECE), listing.tree.names[part], listing.tree.modes[part], listing.tree.oids[part], strict=False)
    return tuple(
        GitEntry(
            name,
            (Kind.FILE, Kind.LINK, Kind.DIRECTORY)[index % 3],
            index % 5 - 1,
            executable=index % 4 == 0,
            mtime_ns=1_700_000_000_000_000_000 + (index % 7 == 6),
            version=git_version(mode, oid),
            key=b"MD5-s4--%d" % index if index % 2 else None,
            registered=mode == SUBMODULE,
        )
        for index, name, mode, oid in lines
    )


def test_only_so_many_pieces_of_one_listing_are_kept_as_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "_MAX_PIECES", 3)
    monkeypatch.setattr(listing_module, "_MAX_PACKED", 4)
    listing = listing_of(10 * PIECE - 5)
    pieces = [entries_of(listing, number) for number in range(10)]
    for number, piece in enumerate(pieces):
        listing.add_piece(number, piece)
        listing.add_piece(number, piece)
        assert listing.known(number * PIECE + 7) == piece[7:]
    assert list(listing.pieces) == [0, 1, 2]
    assert listing.classified == 3 * PIECE
    kept = [listing.known(number * PIECE) for number in range(10)]
    assert kept == [*pieces[:7], (), (), ()]


def test_what_is_asked_for_here_and_there_comes_in_groups() -> None:
    listing = listing_of(3 * PIECE)
    assert listing.to_read(PIECE + 20, listing=False) == range(PIECE + FEW, PIECE + 2 * FEW)
    assert listing.to_read(PIECE, listing=False) == range(PIECE, PIECE + FEW)
    assert listing.to_read(PIECE, listing=True) == range(PIECE, 2 * PIECE)


def test_who_goes_on_after_a_group_gets_a_piece() -> None:
    listing = listing_of(3 * PIECE)
    listing.add(listing.to_read(0, listing=False), (ENTRY,) * FEW)
    assert len(listing.known(5)) == FEW - 5
    assert not listing.known(FEW)
    wanted = listing.to_read(FEW, listing=False)
    assert wanted == range(PIECE)
    listing.add(wanted, (ENTRY,) * PIECE)
    assert not listing.groups
    assert listing.classified == len(listing.known(0)) == PIECE


def test_small_directories_are_found_out_whole() -> None:
    assert listing_of(PIECE).to_read(100, listing=False) == range(PIECE)


def test_only_so_many_groups_of_one_listing_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "_MAX_PIECES", 1)
    listing = listing_of(3 * PIECE)
    for start in range(0, 2 * PIECE, FEW):
        listing.add(range(start, start + FEW), (ENTRY,) * FEW)
        listing.add(range(start, start + FEW), (ENTRY,) * FEW)
    assert len(listing.groups) == PIECE // FEW
    assert listing.classified == PIECE
