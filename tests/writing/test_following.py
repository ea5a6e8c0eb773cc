"""Datasets without changes follow their branches, those with changes stay; the object alone, no kernel."""

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
import trio

from riafs.daemon.pushing import Order, push_changes
from riafs.errors import Busy, OverlayFailed, RiafsError, StaleHandle, UsageError
from riafs.formats.sources import parse_ria_source
from riafs.watching import NoWatcher
from tests.plugins.log_hygiene import Announce
from tests.push.conftest import means, request, tree, with_annex
from tests.small import Registered, SmallDataset, SmallStore
from tests.writing.drivers import WritableObject, writable

LATER = 1_800_000_000


@pytest.fixture
def datasets(tmp_path: Path) -> tuple[SmallDataset, SmallDataset]:
    store = SmallStore.make(tmp_path / "store")
    return store.dataset("one", {b"a": b"1", b"d/x": b"x"}), store.dataset("two", {b"a": b"1"})


def store_of(dataset: SmallDataset) -> Path:
    return dataset.path.parent.parent


async def test_only_the_changed_dataset_stays(datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path) -> None:
    one, _ = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        await driver.write(b"one/new", b"n", flags=os.O_CREAT)
        assert await driver.read(b"two/a") == b"1"
        for each in datasets:
            each.commit({b"a": b"2"}, time=LATER)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.read(b"one/a") == b"1"
        assert await driver.read(b"two/a") == b"2"
    async with writable(store_of(one), tmp_path / "over") as driver:
        assert sorted(await driver.ls(b"one")) == [b"a", b"d", b"new"]
        assert await driver.read(b"one/d/x") == b"x"
        await driver.filesystem.refresh(driver.tell)
        assert await driver.read(b"one/a") == b"1"
        await driver.filesystem.restore(one.id.encode(), [b""], driver.tell)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.ls(b"one") == [b"a"]
        assert await driver.read(b"one/a") == b"2"


async def test_who_asks_in_vain_holds_a_dataset_for_a_minute(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        home = await driver.filesystem._lower.home((await driver.status(b"one/a")).inode)
        assert home is not None
        assert (home.entrance, home.path, home.base.ref) == (b"one", b"a", b"refs/heads/main")
        one.commit({b"a": b"2"}, time=LATER)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.read(b"one/a") == b"1"
        monkeypatch.setattr(trio, "current_time", lambda: float("inf"))
        await driver.filesystem.refresh(driver.tell)
        monkeypatch.undo()
        assert await driver.read(b"one/a") == b"2"


async def test_a_file_that_the_store_has_replaced_cannot_be_changed_any_more(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    one, _ = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        inode = (await driver.status(b"one/a")).inode
        one.commit({b"a": b"2"}, time=LATER)
        await driver.filesystem.refresh(driver.tell)
        with pytest.raises(StaleHandle):
            await driver.filesystem.open(inode, os.O_WRONLY)
        assert await driver.read(b"one/a") == b"2"


async def test_a_changed_subdataset_stays_when_its_superdataset_moves(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    one, two = datasets
    modules = f'[submodule "i"]\n\tpath = sub\n\turl = ./x\n\tdatalad-id = {two.id}\n'.encode()
    registered = Registered(two.git("rev-parse", "main"))
    one.commit({b".gitmodules": modules, b"sub": registered}, time=LATER)
    async with writable(store_of(one), tmp_path / "over") as driver:
        await driver.write(b"one/sub/new", b"n", flags=os.O_CREAT)
        later = Registered(two.commit({b"a": b"2"}, time=LATER))
        one.commit({b".gitmodules": modules, b"sub": later, b"more": b""}, time=LATER + 1)
        await driver.filesystem.refresh(driver.tell)
        assert b"more" in await driver.ls(b"one")
        assert await driver.read(b"one/sub/a") == b"1"
        assert await driver.read(b"one/sub/new") == b"n"
    async with writable(store_of(one), tmp_path / "over") as driver:
        assert await driver.read(b"one/sub/a") == b"1"
        assert await driver.read(b"one/sub/new") == b"n"


@pytest.mark.parametrize("way", ["push", "push later", "restore later"])
async def test_changes_of_a_subdataset_that_its_superdataset_has_dropped_are_kept(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, way: str, expected_warnings: Announce
) -> None:
    expected_warnings(f"dataset {datasets[1].id} is not shown at /sub any more: its changes are kept")
    one, two = map(with_annex, datasets)
    modules = f'[submodule "i"]\n\tpath = sub\n\turl = ./x\n\tdatalad-id = {two.id}\n'.encode()
    one.commit({b".gitmodules": modules, b"sub": Registered(two.git("rev-parse", "main"))}, time=LATER)

    async def push(driver: WritableObject) -> None:
        source = parse_ria_source(f"{store_of(one)}#~one")
        await push_changes(driver.filesystem, source, means(), Order(request()), NoWatcher(), driver.tell)
        assert not driver.filesystem.overlay.datasets()
        assert b"new" in tree(two)
        assert one.git("log", "-1", "--format=%at", "main") == str(LATER + 1)  # no commit of ours

    async with writable(store_of(one), tmp_path / "over", "#~one") as driver:
        await driver.write(b"sub/new", b"n", flags=os.O_CREAT)
        one.commit({b"a": b"2", b".gitattributes": b"* annex.largefiles=nothing\n"}, time=LATER + 1)
        two.commit({b"a": b"1", b".gitattributes": b"* annex.largefiles=nothing\n"}, time=LATER)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.ls(b"") == [b".gitattributes", b"a"]
        assert [change.path for change in driver.filesystem.overlay.changes(two.id.encode())] == [b"new"]
        if way == "push":
            await push(driver)
    if way == "push":
        return
    async with writable(store_of(one), tmp_path / "over", "#~one") as driver:
        assert [area.entrance for area in driver.filesystem.unshown()] == [b"sub"]
        assert await driver.ls(b"") == [b".gitattributes", b"a"]
        assert [change.path for change in driver.filesystem.overlay.changes(two.id.encode())] == [b"new"]
        await driver.write(b"a", b"3")
        await driver.filesystem.restore(one.id.encode(), [b"a"], driver.tell)
        if way == "push later":
            await push(driver)
        else:
            await driver.filesystem.restore(two.id.encode(), [b"new"], driver.tell)
            assert two.id.encode() not in {base.dataset for base in driver.filesystem.overlay.datasets()}
    async with writable(store_of(one), tmp_path / "over", "#~one") as driver:
        assert not driver.filesystem.unshown()


async def test_an_overlay_for_something_else_is_refused(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    one, _ = datasets
    async with writable(store_of(one), tmp_path / "over") as driver:
        await driver.write(b"one/new", b"n", flags=os.O_CREAT)
    with pytest.raises(OverlayFailed, match=one.id):
        async with writable(store_of(one), tmp_path / "over", "#~two"):
            pass
    other = SmallStore.make(tmp_path / "other")
    other.dataset("one", {b"a": b"1"})
    with pytest.raises(OverlayFailed, match=re.escape(str(parse_ria_source(str(store_of(one)))))):
        async with writable(other.path, tmp_path / "over"):
            pass


async def test_a_dataset_is_the_root_of_its_own_mount(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    one, _ = datasets

    async def look(driver: WritableObject) -> None:
        assert sorted(await driver.ls(b"")) == [b"a", b"d", b"new"]
        assert await driver.read(b"new") == b"n"

    async with writable(store_of(one), tmp_path / "over", "#~one") as driver:
        await driver.write(b"new", b"n", flags=os.O_CREAT)
        await look(driver)
    one.commit({b"a": b"2"}, time=LATER)
    async with writable(store_of(one), tmp_path / "over", "#~one") as driver:
        await look(driver)
        with pytest.raises(RiafsError) as caught:
            await driver.write(b".riafs/new", b"n", flags=os.O_CREAT)
        assert caught.value.errno == errno.EROFS


async def test_a_dataset_stays_at_its_commit_as_long_as_a_command_is_recorded_in_it(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = datasets
    begun = trio.current_time()
    async with writable(store_of(one), tmp_path / "over") as driver:
        recorder = driver.filesystem.recorder
        number = await recorder.begin(b"one", os.getpid())
        with pytest.raises(Busy, match="runs a command in one"):
            await recorder.begin(b"one", os.getpid())
        for dataset in (one, two):
            dataset.commit({b"a": b"2"}, time=LATER)
        for hours, shown in ((1, b"1"), (2, b"1"), (3, b"2")):
            if hours == 3:
                recorder.end(number)
            monkeypatch.setattr(trio, "current_time", lambda passed=hours * 3600.0: begun + passed)
            await driver.filesystem.refresh(driver.tell)
            monkeypatch.undo()
            assert (await driver.read(b"one/a"), await driver.read(b"two/a")) == (shown, b"2")
        with pytest.raises(UsageError, match="there is no recording"):
            recorder.recording(number)


def another_process() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


async def test_a_recording_ends_with_the_process_that_asked(
    datasets: tuple[SmallDataset, SmallDataset], tmp_path: Path
) -> None:
    async with writable(store_of(datasets[0]), tmp_path / "over") as driver:
        recorder = driver.filesystem.recorder
        asking = another_process()
        await recorder.begin(b"one", asking.pid)
        asking.communicate()
        await recorder.begin(b"one", os.getpid())
        with pytest.raises(UsageError, match="cannot be recorded from here"):
            await recorder.begin(b"two", asking.pid)
        with pytest.raises(UsageError, match="is in no dataset"):
            await recorder.begin(b"", os.getpid())
