"""``.keys`` grows while it is listed, and is looked through bit by bit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pytest

from riafs.errors import NoSuchName, StoreError
from riafs.formats.keys import Key, parse_file_name
from riafs.tree.keys_directory import KeysDirectory

if TYPE_CHECKING:
    from riafs.content.annex import AnnexContents
    from riafs.tree.protocol import Entry


def name_of(number: int) -> bytes:
    return b"MD5E-s1--%032x" % number


class Stored:
    """Keys that are stored, and looked through ten at a time. `looked`: how many times; `fails`: once, at that time."""

    def __init__(self, count: int) -> None:
        self.names = [name_of(number) for number in range(count)]
        self.looked = 0
        self.fails = 0

    def stored_keys(self) -> "Look":
        return Look(self)

    async def size(self, key: Key) -> int | None:
        return 1 if key.file_name in self.names else None


class Look:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.at = 0

    async def some(self) -> Sequence[Key]:
        self.stored.looked += 1
        if self.stored.looked == self.stored.fails:
            raise StoreError("stale handle")
        found = self.stored.names[self.at : self.at + 10]
        self.at += len(found)
        return [parse_file_name(name) for name in found]


def shown(stored: Stored) -> KeysDirectory:
    return KeysDirectory(cast("AnnexContents", stored), b"an-id", 0)


async def rest_of(directory: KeysDirectory, start: int) -> list[bytes]:
    found: list[Entry] = []
    while more := await directory.entries(start + len(found)):
        found += more
    return [entry.name for entry in found]


async def test_a_listing_begins_before_all_was_looked_through() -> None:
    stored = Stored(1000)
    directory = shown(stored)
    assert [entry.name for entry in await directory.entries(0)] == stored.names[:10]
    assert stored.looked == 1
    assert await rest_of(directory, 0) == stored.names
    assert stored.looked == 1 + 101


async def test_what_was_stored_before_a_listing_began_is_in_it_and_at_its_end() -> None:
    stored = Stored(35)
    directory = shown(stored)
    await directory.entries(0)
    await directory.entries(10)
    stored.names[:0] = [name_of(999)]  # where the first listing has looked already
    assert [entry.name for entry in await directory.entries(0)][:1] == [name_of(0)]
    assert sorted(await rest_of(directory, 0)) == sorted(stored.names)
    assert (await directory.find(name_of(999))).position is not None


async def test_known_keys_are_shown_without_looking_again() -> None:
    stored = Stored(25)
    directory = shown(stored)
    await rest_of(directory, 0)
    looked = stored.looked
    for _ in range(3):
        assert (await directory.entries(0))[0].name == name_of(0)
        found = await directory.find(name_of(24))
        assert (found.position, found.entry.size) == (24, 1)
    assert stored.looked == looked
    with pytest.raises(NoSuchName):
        await directory.find(b"no key")
    stored.names.append(name_of(25))
    assert (await directory.find(name_of(25))).position == 25


async def test_a_failure_is_told_and_the_next_listing_has_all() -> None:
    stored = Stored(50)
    stored.fails = 3
    directory = shown(stored)
    with pytest.raises(StoreError, match="stale handle"):
        await rest_of(directory, 0)
    assert await rest_of(directory, 20) == stored.names[20:]
    assert await rest_of(directory, 0) == stored.names
