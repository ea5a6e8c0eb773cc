"""Names that git cannot check out somewhere: refused where they are made, and told all at once where they are there."""

import os
from pathlib import Path

import pytest

from riafs.daemon.pushing import Order, push_changes
from riafs.errors import NotPermitted, PushRefused
from riafs.formats.sources import parse_ria_source
from riafs.overlay import namespace
from riafs.watching import NoWatcher
from tests.push.conftest import dataset as dataset
from tests.push.conftest import means, request, tree
from tests.small import SmallDataset
from tests.writing.drivers import WritableObject, writable

NAMES = [b".git", b".GIT", b"git~1", b".git ", b".git.", b".git::$INDEX_ALLOCATION", ".gi\u200dt".encode(), b"a\\.git"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_git_takes_nowhere_cannot_be_made(dataset: SmallDataset, tmp_path: Path, name: bytes) -> None:
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        for made in (
            driver.write(b"one/data/" + name, b"", flags=os.O_CREAT),
            driver.mkdir(b"one/" + name),
            driver.symlink(b"target", b"one/" + name),
            driver.rename(b"one/tool", b"one/" + name),
            driver.rename(b"one/data", b"one/code/" + name),
        ):
            with pytest.raises(NotPermitted, match="git takes no files and directories of this name"):
                await made
        await driver.mkdir(b"one/a\\b")
        await driver.write(b"one/git~2", b"", flags=os.O_CREAT)


async def test_gitmodules_is_no_link(dataset: SmallDataset, tmp_path: Path) -> None:
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        for name in (b".gitmodules", b"GITMOD~1", b".gitmodules "):
            for made in (
                driver.symlink(b"link", b"one/" + name),
                driver.rename(b"one/link", b"one/" + name),
                driver.rename(b"one/data/locked.dat", b"one/" + name),
            ):
                with pytest.raises(NotPermitted, match="git takes no links of this name"):
                    await made
        await driver.write(b"one/.gitmodules", b"", flags=os.O_CREAT)


async def push(driver: WritableObject, dataset: SmallDataset, *places: bytes) -> None:
    source = parse_ria_source(str(dataset.path.parent.parent))
    await push_changes(driver.filesystem, source, means(), Order(request(), places), NoWatcher(), driver.tell)


async def test_all_names_that_are_there_already_are_told_at_once_and_the_rest_can_be_pushed(
    dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with writable(dataset.path.parent.parent, tmp_path / "over") as driver:
        with monkeypatch.context() as former:
            former.setattr(namespace, "git_takes", lambda name, is_link: True)  # as earlier riafs had them
            await driver.mkdir(b"one/data/.git")
            for name in (b"HEAD", b"config"):
                await driver.write(b"one/data/.git/" + name, b"x", flags=os.O_CREAT)
            await driver.write(b"one/code/git~1", b"x", flags=os.O_CREAT)
            await driver.symlink(b"x", b"one/.gitmodules")
        await driver.write(b"one/code/good", b"good", flags=os.O_CREAT)
        with pytest.raises(PushRefused) as refused:
            await push(driver, dataset)
        assert "called '.gitmodules', 'code/git~1', 'data/.git'; rename" in str(refused.value)
        assert "b'" not in str(refused.value)
        await push(driver, dataset, b"one/code/good")
        assert tree(dataset)[b"code/good"] == ("100644", b"good")
        await driver.rename(b"one/data/.git", b"one/data/dotgit")
        await driver.unlink(b"one/code/git~1")
        await driver.unlink(b"one/.gitmodules")
        await push(driver, dataset)
        assert b"data/dotgit/HEAD" in tree(dataset)
