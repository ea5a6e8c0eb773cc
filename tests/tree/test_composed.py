import errno
from collections.abc import Mapping

import pytest

from riafs.counters import Counters
from riafs.errors import NotInStore, RiafsError, StoreDenied, StoreTimeout
from riafs.formats.composed import parse_composition
from riafs.tree.collection import CollectionDirectory
from riafs.tree.composed import ComposedDirectory
from riafs.tree.protocol import Directory, Kind
from riafs.vfs.filesystem import FileSystem
from tests.behaviour.drivers import ObjectDriver
from tests.collections import directory, locator

FOO, BAR = locator(b"foo"), locator(b"barbar")
ONE = f". {FOO} 0:3:f 0:2:g\n./d/e {FOO} 1:2:x\n"


class Changing(CollectionDirectory):
    """The collection that a uuid stands for, which may change."""

    renewable = True
    __slots__ = ("_collections", "_text")

    def __init__(self, collections: "Collections", text: str) -> None:
        super().__init__(directory(text.encode(), b"foo", b"barbar").collection, b"")
        self._collections = collections
        self._text = text

    async def renewed(self, turn: int) -> Directory | None:
        newer = self._collections.texts[b"changing"]
        return None if newer == self._text else Changing(self._collections, newer)


class Collections:
    """Collections by name, and the failures of others."""

    def __init__(self, texts: Mapping[bytes, str] | None = None) -> None:
        self.texts = {b"one": ONE, b"changing": ONE, **(texts or {})}
        self.failures: dict[bytes, RiafsError] = {}
        self.asked: list[bytes] = []

    async def resolve(self, name: bytes) -> Directory:
        self.asked.append(name)
        if name in self.failures:
            raise self.failures[name]
        if name not in self.texts:
            raise NotInStore(f"no collection {name.decode()}")
        if name == b"changing":
            return Changing(self, self.texts[name])
        return directory(self.texts[name].encode(), b"foo", b"barbar")


def driven(collections: Collections, *lines: str) -> ObjectDriver:
    folder = parse_composition("\n".join(lines).encode())
    return ObjectDriver(FileSystem(ComposedDirectory(folder, collections.resolve, 11), Counters()))


async def test_paths_come_from_several_collections() -> None:
    collections = Collections({b"two": f". {BAR} 0:6:bar\n"})
    shown = driven(collections, "a/renamed one/f", "a/two two", "deep/er/e one/d", "bar two/bar")
    assert await shown.ls(b"") == [b"a", b"bar", b"deep"]
    assert await shown.read(b"a/renamed") == b"foo"
    assert await shown.read(b"a/two/bar") == b"barbar"
    assert await shown.read(b"deep/er/e/e/x") == b"oo"
    assert (await shown.stat(b"bar")).size == 6
    assert await shown.getxattr(b"a/renamed", "user.riafs.path") == b"f"
    assert await shown.getxattr(b"a/two", "user.riafs.collection") != b""


async def test_a_path_asks_for_its_own_collection_only() -> None:
    collections = Collections()
    shown = driven(collections, "x one/f", "y two/f")
    assert await shown.read(b"x") == b"foo"
    assert collections.asked == [b"one"]


async def test_a_collection_is_asked_for_once_by_a_folder() -> None:
    collections = Collections()
    shown = driven(collections, *(f"{number} one/f" for number in range(50)))
    assert len(await shown.ls(b"")) == 50
    assert collections.asked.count(b"one") <= 8
    await shown.ls(b"")
    await shown.read(b"7")
    assert collections.asked.count(b"one") <= 8


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("three", "no collection three"),
        ("one/nowhere", "no nowhere"),
        ("one/f/g", ": f is not a directory"),
        ("one/d/nowhere/x", "no nowhere"),
    ],
)
async def test_what_is_not_there_is_a_directory_that_says_so(source: str, reason: str) -> None:
    shown = driven(Collections(), f"bad {source}", "good one/f")
    assert await shown.ls(b"") == [b"bad", b"good"]
    assert (await shown.stat(b"bad")).kind is Kind.DIRECTORY
    assert reason.encode() in await shown.getxattr(b"bad", "user.riafs.error")
    with pytest.raises(RiafsError, match=reason) as failure:
        await shown.ls(b"bad")
    assert failure.value.errno == errno.EIO
    assert await shown.read(b"good") == b"foo"


async def test_a_denied_collection_is_denied() -> None:
    collections = Collections()
    collections.failures[b"secret"] = StoreDenied("not yours")
    shown = driven(collections, "x secret/f", "good one/f")
    with pytest.raises(StoreDenied, match="not yours"):
        await shown.ls(b"x")
    assert await shown.read(b"good") == b"foo"


async def test_a_store_that_does_not_answer_is_asked_again() -> None:
    collections = Collections()
    collections.failures[b"one"] = StoreTimeout("no answer")
    shown = driven(collections, "x one/f", "y two")
    for path in (b"", b"x"):
        with pytest.raises(StoreTimeout):
            await (shown.ls(path) if not path else shown.stat(path))
    del collections.failures[b"one"]
    assert await shown.read(b"x") == b"foo"
    assert await shown.ls(b"") == [b"x", b"y"]


async def refresh(shown: ObjectDriver) -> None:
    async def tell(changes: object) -> None:
        pass

    await shown.filesystem.refresh(tell)


async def test_a_collection_that_changes_is_followed() -> None:
    collections = Collections()
    shown = driven(
        collections, "file changing/f", "other changing/g", "below/all changing", "fixed one/f", "d changing/d"
    )
    assert await shown.read(b"file") == b"foo"
    assert await shown.read(b"below/all/f") == b"foo"
    assert await shown.ls(b"d/e") == [b"x"]
    before = {path: (await shown.stat(path)).inode for path in (b"file", b"other", b"fixed", b"d")}
    collections.texts[b"changing"] = f". {FOO} {BAR} 3:6:f 0:2:g\n./d/e {FOO} 1:2:y\n"
    await refresh(shown)
    assert await shown.read(b"file") == b"barbar"
    assert await shown.read(b"below/all/f") == b"barbar"
    assert await shown.ls(b"d/e") == [b"y"]
    after = {path: (await shown.stat(path)).inode for path in before}
    assert {path for path in before if before[path] == after[path]} == {b"other", b"fixed", b"d"}


async def test_a_tree_of_fixed_collections_is_never_renewed() -> None:
    root = ComposedDirectory(parse_composition(b"x one/f\n"), Collections().resolve, 11)
    await root.entries(0)
    assert not root.renewable
    assert await root.renewed(1) is None
