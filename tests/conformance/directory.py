"""What every implementation of a directory must do. `CHECKS` run on any directory; they look at what it lists."""

from collections.abc import Awaitable, Callable, Sequence

import pytest

from riafs.errors import NoSuchName
from riafs.formats.names import valid_name
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Kind

Check = Callable[[Directory], Awaitable[None]]


async def all_entries(directory: Directory) -> list[Entry]:
    """All entries, piece by piece."""
    found: list[Entry] = []
    while piece := await directory.entries(len(found)):
        found += piece
    return found


async def it_lists_the_same_from_any_position(directory: Directory) -> None:
    entries = await all_entries(directory)
    for start in range(len(entries)):
        piece = await directory.entries(start)
        assert piece
        assert list(piece) == entries[start : start + len(piece)]


async def it_lists_nothing_at_the_end_and_beyond(directory: Directory) -> None:
    count = len(await all_entries(directory))
    for start in (count, count + 1, count + 1000, 1 << 40):
        assert not await directory.entries(start)


async def it_lists_possible_names_once(directory: Directory) -> None:
    names = [entry.name for entry in await all_entries(directory)]
    assert len(set(names)) == len(names)
    assert all(map(valid_name, names))


async def it_finds_what_it_lists_where_it_lists_it(directory: Directory) -> None:
    for position, entry in enumerate(await all_entries(directory)):
        found = await directory.find(entry.name)
        assert (found.position, found.entry) == (position, entry)


async def it_finds_no_other_name(directory: Directory) -> None:
    for name in (b"no such name", b"", b".", b"..", b"a/b", b"a\0b", b"@", b"x@y", b"x" * 5000, b"\xff"):
        with pytest.raises(NoSuchName):
            await directory.find(name)


async def its_versions_are_those_of_its_entries_in_order(directory: Directory) -> None:
    entries = await all_entries(directory)
    versions = await directory.versions()
    assert list(versions.of.items()) == [(entry.name, entry.version) for entry in entries]
    assert set(versions.directories) == {entry.name for entry in entries if entry.kind is Kind.DIRECTORY}


async def it_stays_as_it_is(directory: Directory) -> None:
    first = await all_entries(directory)
    assert await all_entries(directory) == first


async def it_opens_its_directories(directory: Directory) -> None:
    for entry in await all_entries(directory):
        if entry.kind is Kind.DIRECTORY:
            below = await directory.directory(entry)
            await below.entries(0)
            assert isinstance(below.mtime_ns, int)


async def it_opens_files_of_the_size_it_shows(directory: Directory) -> None:
    for entry in await all_entries(directory):
        if entry.kind is Kind.FILE:
            content = await directory.open(entry)
            assert entry.size in (UNKNOWN_SIZE, content.size)
            assert len(await content.read(0, content.size + 1)) == content.size
            content.close()


async def its_links_are_as_long_as_it_shows(directory: Directory) -> None:
    for entry in await all_entries(directory):
        if entry.kind is Kind.LINK:
            assert len(await directory.target(entry)) == entry.size


async def its_entries_have_attributes_of_bytes(directory: Directory) -> None:
    for entry in await all_entries(directory):
        assert_attributes(await directory.attributes(entry))


async def it_has_attributes_of_its_own(directory: Directory) -> None:
    assert_attributes(await directory.own_attributes())


def assert_attributes(attributes: object) -> None:
    """Short names and values, as extended attributes can be."""
    assert isinstance(attributes, dict)
    for name, value in attributes.items():
        assert isinstance(name, str)
        assert name.isidentifier()
        assert isinstance(value, bytes)


async def it_is_not_renewed_while_nothing_changes(directory: Directory) -> None:
    for turn in (1, 2, 2, 3):
        assert await directory.renewed(turn) is None


CHECKS: Sequence[Check] = (
    it_lists_the_same_from_any_position,
    it_lists_nothing_at_the_end_and_beyond,
    it_lists_possible_names_once,
    it_finds_what_it_lists_where_it_lists_it,
    it_finds_no_other_name,
    its_versions_are_those_of_its_entries_in_order,
    it_stays_as_it_is,
    it_opens_its_directories,
    it_opens_files_of_the_size_it_shows,
    its_links_are_as_long_as_it_shows,
    its_entries_have_attributes_of_bytes,
    it_has_attributes_of_its_own,
    it_is_not_renewed_while_nothing_changes,
)
