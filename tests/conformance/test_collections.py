"""Directories of collections, and of trees composed of them, follow the protocol of directories."""

from collections.abc import Callable

import pytest

from riafs.errors import NotInStore
from riafs.formats.composed import parse_composition
from riafs.tree.collection import CollectionDirectory
from riafs.tree.composed import ComposedDirectory
from riafs.tree.listing import PIECE
from riafs.tree.protocol import Directory
from tests.collections import EMPTY, directory, locator
from tests.conformance.directory import CHECKS, Check
from tests.plugins.log_hygiene import Announce

FOO, BAR = locator(b"foo"), locator(b"barbar")
EVERYTHING = rf""". {FOO} {BAR}+Zx 0:3:foo 3:6:bar 0:9:both 0:0:empty 0:3:again 0:3:again
. {FOO} 1:2:\377\012\011\040name 0:3:a\000b
. {BAR} 0:6:{"n" * 255} 0:6:{"n" * 256} 0:1:again
./folder/below {FOO} 0:3:f
./leaf {EMPTY} 0:0:\056
""".encode()
MANY = ". {} {}\n".format(FOO, " ".join(f"0:3:{number:04d}" for number in range(2 * PIECE + 3))).encode()
COMPOSED = rb"""a\040file one/foo
a\040folder one/folder
deep/er/file many/0007
deep/er/all one
"""


async def resolve(name: bytes) -> Directory:
    texts = {b"one": EVERYTHING, b"many": MANY}
    if name not in texts:
        raise NotInStore(f"no collection {name.decode()}")
    return directory(texts[name], b"foo", b"barbar")


def composed(text: bytes = COMPOSED) -> ComposedDirectory:
    return ComposedDirectory(parse_composition(text), resolve, 11)


def below(path: bytes) -> CollectionDirectory:
    return CollectionDirectory(directory(EVERYTHING, b"foo", b"barbar").collection, path)


OPENERS: dict[str, Callable[[], Directory]] = {
    "collection": lambda: below(b""),
    "folder": lambda: below(b"folder"),
    "below": lambda: below(b"folder/below"),
    "empty-folder": lambda: below(b"leaf"),
    "empty-collection": lambda: directory(b""),
    "several-pieces": lambda: directory(MANY, b"foo"),
    "with-records": lambda: directory(EVERYTHING, b"foo", b"barbar", records={b".arvados#collection": b"{}"}),
    "composed": lambda: composed(COMPOSED),
    "composed-many": lambda: composed(b"".join(b"%03d many/%04d\n" % (number, number) for number in range(PIECE + 5))),
    "composed-of-nothing": lambda: composed(b""),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", OPENERS.values(), ids=OPENERS)
async def test_directory_of_collections(
    make: Callable[[], Directory], check: Check, expected_warnings: Announce
) -> None:
    expected_warnings("1 impossible names left out")
    await check(make())
