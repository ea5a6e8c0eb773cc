"""Work and pushes in turns, some of them killed: after a push that ends nothing is changed, all is in the commit."""

import os
import random
from pathlib import Path

import pytest
import trio

from riafs.cli import main
from riafs.daemon import pushing
from riafs.errors import Busy, NoSuchName
from riafs.overlay.changes import ChangeKind
from riafs.overlay.overlay import opened
from riafs.tree.protocol import Kind
from tests.push.conftest import content, tree
from tests.push.conftest import dataset as dataset
from tests.small import SmallDataset
from tests.writing.drivers import WritableObject, writable
from tests.writing.test_commands import store_of

TOP = b"one/work"
MOVES = ((b"b", b"c"), (b"c", b"b"), (b"b", b"a/b"), (b"a/b", b"b"))


async def files(driver: WritableObject, top: bytes = TOP) -> dict[bytes, bytes]:
    """Path → content of all below."""
    found = {}
    for name in await driver.ls(top):
        path = top + b"/" + name
        if (await driver.stat(path)).kind is Kind.DIRECTORY:
            found.update(await files(driver, path))
        else:
            found[path] = await driver.read(path)
    return found


async def exists(driver: WritableObject, path: bytes) -> bool:
    try:
        await driver.stat(path)
    except NoSuchName:
        return False
    return True


async def name(driver: WritableObject, chance: random.Random) -> bytes:
    """One in a directory that exists."""
    directory = TOP + chance.choice((b"/a", b"/b"))
    for path in (TOP, directory):
        if not await exists(driver, path):
            await driver.mkdir(path)
    return directory + b"/f%d.dat" % chance.randrange(4)


async def work(driver: WritableObject, chance: random.Random) -> None:
    """One change."""
    path, known = await name(driver, chance), sorted(await files(driver))
    way = chance.choice(("write", "write", "patch", "unlink", "rename", "move", "move"))
    if way == "write" or not known:
        await driver.write(path, b"%d" % chance.getrandbits(40), flags=os.O_CREAT | os.O_TRUNC)
    elif way == "patch":
        await driver.write(chance.choice(known), b"X")
    elif way == "unlink":
        await driver.unlink(chance.choice(known))
    elif way == "rename":
        await driver.rename(chance.choice(known), path)
    else:
        old, new = (TOP + b"/" + each for each in chance.choice(MOVES))
        possible = await exists(driver, old) and not await exists(driver, new)
        if possible and await exists(driver, os.path.dirname(new)):
            await driver.rename(old, new)


def turn(dataset: SmallDataset, overlay: Path, chance: random.Random) -> dict[bytes, bytes]:
    """Work; what is there then."""

    async def run() -> dict[bytes, bytes]:
        async with writable(store_of(dataset), overlay) as driver:
            for _ in range(chance.randrange(1, 14)):
                await work(driver, chance)
            return await files(driver)

    return trio.run(run)


def check(dataset: SmallDataset, overlay: Path, expected: dict[bytes, bytes]) -> None:
    committed = [path for path in tree(dataset) if path.startswith(b"work/")]
    assert {b"one/" + path: content(dataset, path) for path in committed} == expected
    with opened(str(overlay)) as kept:
        changes = [change for base in kept.datasets() for change in kept.changes(base.dataset)]
    assert [each for each in changes if each.content or each.kind is not ChangeKind.ADDED] == []  # no empty directories


async def end(*_: object) -> None:
    raise Busy("killed after the last step in the store")


@pytest.mark.parametrize("seed", [1, 10])
def test_work_and_pushes_in_turns(
    dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, long: bool
) -> None:
    chance, overlay = random.Random(seed), tmp_path / "over"
    for _ in range(100 if long else 6):
        expected = turn(dataset, overlay, chance)
        with monkeypatch.context() as patch:
            if killed := chance.random() < 0.5:
                patch.setattr(pushing, "_show", end)
            status = main.run("riafs", ["push", "--overlay", str(overlay)])
        assert status in ((0, 2) if killed else (0,))
        if status == 0:
            check(dataset, overlay, expected)


def test_a_directory_in_the_place_of_one_that_was_renamed_is_no_change_after_a_push(
    dataset: SmallDataset, tmp_path: Path
) -> None:
    overlay = tmp_path / "over"

    async def change() -> dict[bytes, bytes]:
        async with writable(store_of(dataset), overlay) as driver:
            await driver.rename(b"one/data", TOP)
            await driver.mkdir(b"one/data")
            await driver.write(b"one/data/new.dat", b"new", flags=os.O_CREAT)
            return await files(driver)

    expected = trio.run(change)
    assert main.run("riafs", ["push", "--overlay", str(overlay)]) == 0
    check(dataset, overlay, expected)
    assert content(dataset, b"data/new.dat") == b"new"
