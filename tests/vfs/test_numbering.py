"""Inode numbers: computed from a directory's number and a slot, and never used for something else."""

from hypothesis import given
from hypothesis import strategies as st

from riafs.tree.fixed import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Kind, Versions
from riafs.vfs.nodes import Node, renumbered
from riafs.vfs.numbers import MAX_SLOT, ROOT, inode_of, number_of, slot_of

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
    return FixedDirectory(entries, 0, {}), Versions({entry.name: entry.version for entry in entries}, directories)


@given(st.integers(1, 1 << 39), st.integers(0, MAX_SLOT))
def test_inode_tells_directory_and_slot(number: int, slot: int) -> None:
    inode = inode_of(number, slot)
    assert (number_of(inode), slot_of(inode)) == (number, slot)
    assert ROOT < inode < 1 << 64


@given(st.lists(LISTINGS, min_size=2, max_size=6))
def test_slots_stand_for_one_thing_for_ever(listings: list[Listing]) -> None:
    first, old = directory(listings[0])
    node = Node(5, 2, first, None)
    meaning = {position: _identity(name, listings[0]) for position, name in enumerate(old.of)}
    for listing in listings[1:]:
        newer, new = directory(listing)
        node.renumbering, names = renumbered(node, old, new)
        slots = node.renumbering.slots
        assert len(set(slots)) == len(slots)
        for name, slot in zip(new.of, slots, strict=True):
            assert meaning.setdefault(slot, _identity(name, listing)) == _identity(name, listing)
        kept = {name for name in old.of if name in new.of and _same(old, new, name)}
        assert names == (old.of.keys() | new.of.keys()) - kept
        node.directory, old = newer, new


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
    given_out = dict(enumerate(old.of))
    for listing in listings[1:]:
        newer, new = directory(listing)
        node.renumbering, _ = renumbered(node, old, new)
        node.directory, old = newer, new
        given_out |= {node.slot(position): name for position, name in enumerate(new.of)}
    for slot, name in given_out.items():
        assert _run(node.entry(slot)).name == name


def _run(call: object) -> Entry:
    """The entry that a coroutine which never waits answers with."""
    try:
        call.send(None)  # type: ignore[attr-defined]  # a coroutine
    except StopIteration as done:
        entry: Entry = done.value[1]
        return entry
    raise AssertionError("it waited")


def test_names_that_are_not_listed_have_slots_of_their_own() -> None:
    shown, _ = directory({b"listed": (97, True)})
    node = Node(5, 2, shown, None)
    entries = [
        Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=version)
        for name, version in ((b"x@1", b"a"), (b"x@2", b"a"), (b"x@1", b"b"), (b"x@2", b"b"))
    ]
    inodes = [node.hide(entry) for entry in entries]
    assert len({*inodes, node.inode_at(0)}) == 5
    assert [node.hide(entry) for entry in entries] == inodes
    for entry, inode in zip(entries, inodes, strict=True):
        assert _run(node.entry(slot_of(inode))) == entry
