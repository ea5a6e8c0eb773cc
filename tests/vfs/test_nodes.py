"""Inode numbers: computed from a directory's number and a slot, and never used for something else."""

from array import array
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from riafs.tree import slots as slots_module
from riafs.tree.directories import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Kind, Versions
from riafs.tree.slots import LISTED_SLOTS, Slots, distinct, own_slots
from riafs.vfs.nodes import MAX_NUMBER, MAX_SLOT, ROOT, Node, inode_of, new_number, number_of, renumbered, slot_of

# name → (version, whether it is a directory)
Listing = dict[bytes, tuple[int, bool]]
LISTINGS = st.dictionaries(
    st.sampled_from([b"%d" % number for number in range(8)]), st.tuples(st.sampled_from(b"abc"), st.booleans())
)


def directory(listing: Listing) -> tuple[Directory, Versions]:
    """A directory with that listing, and its versions."""
    entries = []
    for name, (version, is_directory) in listing.items():
        kind = Kind.DIRECTORY if is_directory else Kind.FILE
        text = b"%c%d" % (version, is_directory)  # no file has the version of a directory
        entries.append(Entry(name, kind, 0, executable=False, mtime_ns=0, version=text))
    directories = {name for name, (_, is_directory) in listing.items() if is_directory}
    return _Any(entries, directories), Versions({entry.name: entry.version for entry in entries}, directories)


class _Any(FixedDirectory):
    """One whose entries are not only directories."""

    def __init__(self, entries: list[Entry], directories: set[bytes]) -> None:
        super().__init__(entries, 0, {})
        self._names = directories

    async def versions(self) -> Versions:
        return Versions({entry.name: entry.version for entry in self._entries}, self._names)


def renew(node: Node, old: Versions, new: Versions, newer: Directory) -> frozenset[bytes]:
    """As a refresh does it."""
    wanted = waited(own_slots(newer))
    assert wanted is not None
    node.renumbering, names = renumbered(node, old, new, waited(node.slots()), waited(wanted.reach()))
    node.directory = newer
    return names


T = TypeVar("T")


def waited(call: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never waits comes to."""
    try:
        call.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    raise AssertionError("it waited")


def slots(node: Node) -> list[int]:
    found = waited(node.slots())
    assert found is not None
    return list(found)


@given(st.integers(1, MAX_NUMBER), st.integers(0, MAX_SLOT))
def test_inode_tells_directory_and_slot(number: int, slot: int) -> None:
    inode = inode_of(number, slot)
    assert (number_of(inode), slot_of(inode)) == (number, slot)
    assert ROOT < inode < 1 << 61


@given(st.lists(LISTINGS, min_size=2, max_size=6))
def test_slots_stand_for_one_thing_for_ever(listings: list[Listing]) -> None:
    first, old = directory(listings[0])
    node = Node(5, 2, first, None)
    meaning = {slot: _identity(name, listings[0]) for slot, name in zip(slots(node), old.of, strict=True)}
    for listing in listings[1:]:
        newer, new = directory(listing)
        names = renew(node, old, new, newer)
        assert len(set(slots(node))) == len(new.of)
        for name, slot in zip(new.of, slots(node), strict=True):
            assert meaning.setdefault(slot, _identity(name, listing)) == _identity(name, listing)
        kept = {name for name in old.of if name in new.of and _same(old, new, name)}
        assert names == (old.of.keys() | new.of.keys()) - kept
        old = new


def _identity(name: bytes, listing: Listing) -> tuple[bytes, object]:
    """A directory is its place; a file is its content."""
    version, is_directory = listing[name]
    return name, "directory" if is_directory else version


def _same(old: Versions, new: Versions, name: bytes) -> bool:
    both_directories = name in old.directories and name in new.directories
    return both_directories or (old.of[name] == new.of[name])


@given(st.lists(LISTINGS, min_size=2, max_size=6))
def test_every_slot_ever_given_out_leads_to_its_entry(listings: list[Listing]) -> None:
    first, old = directory(listings[0])
    node = Node(5, 2, first, None)
    given_out = dict(zip(slots(node), old.of, strict=True))
    for listing in listings[1:]:
        newer, new = directory(listing)
        renew(node, old, new, newer)
        old = new
        given_out |= dict(zip(slots(node), new.of, strict=True))
    for slot, name in given_out.items():
        assert waited(node.entry(slot))[1].name == name


def test_names_that_are_not_listed_have_slots_of_their_own() -> None:
    shown, _ = directory({b"listed": (97, True)})
    node = Node(5, 2, shown, None)
    entries = [
        Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=version)
        for name, version in ((b"x@1", b"a"), (b"x@2", b"a"), (b"x@1", b"b"), (b"x@2", b"b"))
    ]
    inodes = [node.hide(entry) for entry in entries]
    assert len({*map(slot_of, inodes), *slots(node)}) == 5
    assert [node.hide(entry) for entry in entries] == inodes
    for entry, inode in zip(entries, inodes, strict=True):
        assert waited(node.entry(slot_of(inode)))[1] == entry


@given(LISTINGS, LISTINGS)
def test_slots_are_the_same_in_every_mount(one: Listing, other: Listing) -> None:
    """Whatever else is in a directory, an unchanged entry has its slot, unless two would have the same one."""
    known = [
        dict(zip(of.of, slots(Node(5, 2, shown, None)), strict=True)) for shown, of in map(directory, (one, other))
    ]
    for name in one.keys() & other.keys():
        if _identity(name, one) == _identity(name, other):
            assert known[0][name] == known[1][name]


@given(st.lists(st.integers(0, 9) | st.integers(LISTED_SLOTS - 2, MAX_SLOT), max_size=30))
def test_of_two_entries_with_one_slot_the_first_keeps_it(wanted: list[int]) -> None:
    found = list(distinct(array("I", wanted)))
    assert len(set(found)) == len(wanted)
    assert all(slot < LISTED_SLOTS for slot in found)
    first = {slot: position for position, slot in reversed(list(enumerate(wanted))) if slot < LISTED_SLOTS}
    assert all(found[position] == slot for slot, position in first.items())


@given(st.lists(st.integers(0, 9) | st.integers(LISTED_SLOTS - 2, MAX_SLOT), max_size=30), st.lists(st.integers(0, 30)))
def test_slots_are_the_same_however_they_are_asked_for(wanted: list[int], ends: list[int]) -> None:
    """A few at a time, as a large directory is listed, or all at once."""
    whole = list(distinct(array("I", wanted)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots_module, "_RUN", 3)
        patch.setattr(slots_module, "_FIRST", 2)
        lazily = Slots.awaited(len(wanted), lambda start, end: array("I", wanted[start:end]))
        for end in ends:
            assert list(trio.run(lazily.reach, end))[:end] == whole[:end]
        assert list(trio.run(lazily.reach)) == whole
        assert trio.run(lazily.positions) == {slot: position for position, slot in enumerate(whole)}


def test_numbers_of_directories_are_made_from_their_inodes() -> None:
    taken: set[int] = set()
    for inode in (1 << 32, 2 << 32, 1 << 32):  # the last as if it had the same digest as the first
        taken.add(new_number(inode, taken))
    assert len(taken) == 3
    assert new_number(1 << 32, ()) in taken
    assert max(taken) <= MAX_NUMBER
    assert not {0, 1} & taken
