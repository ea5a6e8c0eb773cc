"""The commit below local changes is gone from the store: a rewritten branch, git gc. The object alone, no kernel."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.daemon.pushing import Failure, Order, Outcome, push_changes
from riafs.errors import ChangedElsewhere, GitError, PushConflict
from riafs.formats.sources import parse_ria_source
from riafs.push.protocol import Prefer
from riafs.watching import NoWatcher
from tests.plugins.log_hygiene import Announce
from tests.push.conftest import content, means, request, sound, tree, with_annex
from tests.small import SmallDataset, SmallStore
from tests.writing.drivers import WritableObject, writable

LATER = 1_800_000_000
TREE = {b"a": b"1\n" * 50, b"b": b"2\n", b"d/x": b"x", b"d/y": b"y"}


@pytest.fixture
def datasets(tmp_path: Path) -> tuple[SmallDataset, SmallDataset]:
    store = SmallStore.make(tmp_path / "store")
    one, two = store.dataset("one", TREE), store.dataset("two", {b"a": b"1"})
    return with_annex(one), with_annex(two)


def store_of(dataset: SmallDataset) -> Path:
    return dataset.path.parent.parent


def prune(dataset: SmallDataset) -> None:
    shutil.rmtree(dataset.path / "logs", ignore_errors=True)
    dataset.git("gc", "-q", "--prune=now")


def squashed(dataset: SmallDataset) -> None:
    dataset.git("update-ref", "refs/heads/main", dataset.git("commit-tree", "-m", "squashed", "main^{tree}"))
    prune(dataset)


def rewritten(dataset: SmallDataset) -> None:
    """No tree of the root is the same."""
    dataset.git("update-ref", "-d", "refs/heads/main")
    dataset.commit({**TREE, b"b": b"other\n", b"d/y": b"why", b"c": b"3"}, time=LATER)
    prune(dataset)


async def work(driver: WritableObject) -> None:
    await driver.write(b"one/new", b"new", flags=os.O_CREAT)
    await driver.write(b"one/a", b"HERE", 10)
    await driver.rename(b"one/d", b"one/e")


async def push(driver: WritableObject, source: Path, **how: object) -> list[Outcome]:
    order = Order(request(**how))
    return await push_changes(
        driver.filesystem, parse_ria_source(str(source)), means(), order, NoWatcher(), driver.tell
    )


CHANGED = TREE[b"a"][:10] + b"HERE" + TREE[b"a"][14:]


@pytest.mark.parametrize("rewrite", [squashed, rewritten])
@pytest.mark.parametrize("again", [False, True])
async def test_changes_over_a_pruned_commit_are_shown_and_pushed(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, rewrite: Callable[[SmallDataset], None], again: bool
) -> None:
    one, _ = datasets
    source = store_of(one)
    async with writable(source, tmp_path / "over") as driver:
        await work(driver)
        rewrite(one)
        if not again:
            await check_shown(driver)
            await check_pushed(driver, one)
    if again:
        async with writable(source, tmp_path / "over") as driver:
            await check_shown(driver)
            await check_pushed(driver, one)


async def check_shown(driver: WritableObject) -> None:
    assert sorted(await driver.ls(b"one")) == [b"a", b"b", b"e", b"new"]
    assert await driver.read(b"one/a") == CHANGED
    assert await driver.read(b"one/b") == TREE[b"b"]
    assert await driver.read(b"one/e/y") == b"y"


async def check_pushed(driver: WritableObject, one: SmallDataset) -> None:
    source = store_of(one)
    differs = content(one, b"d/y") != b"y"
    if differs:
        with pytest.raises(PushConflict) as conflict:
            await push(driver, source)
        assert conflict.value.paths == (b"d/y",)
    [outcome] = await push(driver, source, prefer=Prefer.OURS if differs else Prefer.NEITHER)
    assert not outcome.kept
    sound(one)
    assert content(one, b"e/y") == b"y"
    assert content(one, b"a") == CHANGED
    await driver.filesystem.refresh(driver.tell)
    assert await driver.read(b"one/e/y") == b"y"
    assert await driver.read(b"one/b") == (b"other\n" if differs else TREE[b"b"])


@pytest.mark.parametrize("rewrite", [squashed, rewritten])
async def test_a_new_branch_for_changes_over_a_pruned_commit_begins_at_the_branch_that_is_there(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, rewrite: Callable[[SmallDataset], None]
) -> None:
    one, _ = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        await work(driver)
        rewrite(one)
        [outcome] = await push(driver, store_of(one), as_branch=b"refs/heads/rescue")
        assert outcome.kept
        assert one.git("rev-parse", "rescue^") == one.git("rev-parse", "main")
        sound(one)
        assert content(one, b"a", "rescue") == CHANGED
        assert content(one, b"e/y", "rescue") == b"y"
        assert b"d/x" not in tree(one, "rescue")
        await driver.filesystem.restore(one.id.encode(), [b""], driver.tell)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.read(b"one/d/x") == b"x"


async def test_what_is_kept_of_a_commit_goes_with_the_changes(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    one, two = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        await work(driver)
        await driver.write(b"two/new", b"n", flags=os.O_CREAT)
        kept = driver.filesystem.overlay.kept
        assert len(kept.names()) == 2
        await driver.filesystem.restore(one.id.encode(), [b""], driver.tell)
        driver.filesystem._keeper._asked.clear()
        driver.filesystem._keeper._forget(
            {b"%b-%b" % (two.id.encode().hex().encode(), two.git("rev-parse", "main").encode())}
        )
        assert len(kept.names()) == 1
        assert len(os.listdir(kept.path + b"/sha1/pack")) == 2


async def test_a_dataset_whose_commit_cannot_be_read_blocks_no_other(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, expected_warnings: Announce
) -> None:
    one, two = datasets
    source = store_of(one)
    async with writable(source, tmp_path / "over") as driver:
        await work(driver)
        await driver.write(b"two/new", b"n", flags=os.O_CREAT)
    shutil.rmtree(tmp_path / "over" / "base")
    rewritten(one)
    expected_warnings(f"dataset {one.id} is shown without its local changes, as the commit below them cannot be read")
    async with writable(source, tmp_path / "over") as driver:
        assert b"new" not in await driver.ls(b"one")
        assert await driver.read(b"two/new") == b"n"
        with pytest.raises(ChangedElsewhere, match="which cannot be read"):
            await driver.write(b"one/c", b"n", flags=os.O_CREAT)
        failed: list[Failure] = []
        order = Order(request())
        [outcome] = await push_changes(
            driver.filesystem, parse_ria_source(str(source)), means(), order, NoWatcher(), driver.tell, failed
        )
        assert (outcome.entrance, [each.entrances for each in failed]) == (b"two", [(b"one",)])
        assert content(two, b"new") == b"n"
        with pytest.raises(GitError):
            await push(driver, source)
        await driver.filesystem.restore(one.id.encode(), [b""], driver.tell)
    async with writable(source, tmp_path / "over") as driver:
        await driver.write(b"one/c", b"n", flags=os.O_CREAT)


@pytest.mark.parametrize("pruned", [False, True])
async def test_a_dataset_whose_branch_is_gone_blocks_no_other_and_shows_its_changes(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, pruned: bool, expected_warnings: Announce
) -> None:
    one, _ = datasets
    source = store_of(one)
    async with writable(source, tmp_path / "over") as driver:
        await work(driver)
    tip = one.git("rev-parse", "main")
    one.git("update-ref", "-d", "refs/heads/main")
    if pruned:
        prune(one)
    async with writable(source, tmp_path / "over") as driver:
        await check_shown(driver)
        await driver.write(b"two/new", b"n", flags=os.O_CREAT)
        failed: list[Failure] = []
        order = Order(request())
        [outcome] = await push_changes(
            driver.filesystem, parse_ria_source(str(source)), means(), order, NoWatcher(), driver.tell, failed
        )
        assert (outcome.entrance, [each.entrances for each in failed]) == (b"two", [(b"one",)])
        assert "--as-branch" in str(failed[0].error)
        if not pruned:
            await push(driver, source, as_branch=b"refs/heads/rescue")
            assert one.git("rev-parse", "rescue^") == tip
            assert content(one, b"e/y", "rescue") == b"y"
            sound(one)


async def test_a_dataset_that_was_made_anew_blocks_no_other(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, expected_warnings: Announce
) -> None:
    one, _ = datasets
    source = store_of(one)
    async with writable(source, tmp_path / "over") as driver:
        await work(driver)
    shutil.rmtree(tmp_path / "over" / "base")
    shutil.rmtree(one.path / "objects")
    shutil.rmtree(one.path / "refs")
    (one.path / "packed-refs").unlink(missing_ok=True)
    for name in ("objects", "refs"):
        (one.path / name).mkdir()
    expected_warnings(f"dataset {one.id} is shown without its local changes, as the commit below them cannot be read")
    async with writable(source, tmp_path / "over") as driver:
        assert await driver.ls(b"one") == []
        await driver.write(b"two/new", b"n", flags=os.O_CREAT)
        await driver.filesystem.restore(one.id.encode(), [b""], driver.tell)
        [outcome] = await push(driver, source)
        assert outcome.entrance == b"two"
