"""Stores whose parts are reached through links: absolute ones into the store, and others into directories that the
administrator allows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.errors import OutsideStore, RiafsError, SourceNotFound
from tests.behaviour.drivers import opened
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise, put

Announce = Callable[..., None]

CONTENT = noise(5000, "links")
KEY = key_of(CONTENT)


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    """A dataset with an object, in ``real/store``, which is known as ``data/store`` too."""
    made = SmallStore.make(tmp_path / "real" / "store").dataset("one", {b"file": Locked(KEY), b"small": b"of one"})
    made.put(KEY, CONTENT)
    (tmp_path / "data").symlink_to("real")
    (tmp_path / "disk").mkdir()
    return made


def moved(path: Path, to: Path) -> None:
    """`path` is a link to where it was moved."""
    shutil.move(path, to)
    path.symlink_to(to)


@pytest.mark.parametrize("root", ["real", "data"])
async def test_alias_with_an_absolute_target_in_the_store(tmp_path: Path, dataset: SmallDataset, root: str) -> None:
    store = tmp_path / "data" / "store"
    (store / "alias" / "data").symlink_to(tmp_path / root / "store" / dataset.id[:3] / dataset.id[3:])
    async with opened(store) as shown:
        assert set(await shown.ls(b"")) == {b"one", b"data", b"by-id"}
        assert await shown.read(b"data/file") == CONTENT
        assert await shown.read(b"data@main/small") == b"of one"
    async with opened(store, "#~data") as shown:
        assert await shown.read(b"file") == CONTENT


async def test_absolute_links_between_objects(tmp_path: Path, dataset: SmallDataset) -> None:
    moved(dataset.object_path(KEY), dataset.path / "kept")
    async with opened(tmp_path / "real" / "store") as shown:
        assert await shown.read(b"one/file") == CONTENT


async def test_reasons_of_aliases_that_are_left_out_are_told_apart(
    tmp_path: Path, dataset: SmallDataset, expected_warnings: Announce, caplog: pytest.LogCaptureFixture
) -> None:
    expected_warnings("is left out")
    store = dataset.path.parents[1]
    for name, target in {"moved": "/former/store/abc/def", "dangling": "../abc/def", "loop": "loop"}.items():
        (store / "alias" / name).symlink_to(target)
    (store / "alias" / "gone").symlink_to(store / "abc" / "def")
    async with opened(store) as shown:
        assert await shown.ls(b"") == [b"one", b"by-id"]
    said = {record.args[0]: str(record.args[1]) for record in caplog.records if isinstance(record.args, tuple)}
    assert "leads out of the store, to /former/store/abc/def" in said["alias/moved"]
    assert "is a link to ../abc/def, which does not exist" in said["alias/dangling"]
    assert f"is a link to {store}/abc/def, which does not exist" in said["alias/gone"]
    assert "in a circle" in said["alias/loop"]
    with pytest.raises(OutsideStore, match="to /former/store"):
        async with opened(store, "#~moved"):
            pass


# -- parts of a store elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "annex", "annex/objects", "objects", "refs", "file"])
async def test_part_of_a_dataset_on_another_disk(
    tmp_path: Path, dataset: SmallDataset, expected_warnings: Announce, part: str
) -> None:
    moved(dataset.object_path(KEY) if part == "file" else dataset.path / part, tmp_path / "disk" / "part")
    store = dataset.path.parents[1]
    async with opened(store, allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.ls(b"by-id") == [dataset.id.encode()]
        for name in (b"one", b"by-id/" + dataset.id.encode()):
            assert await shown.read(name + b"/file") == CONTENT
            assert await shown.read(name + b"/small") == b"of one"
        assert await shown.getxattr(b"one", "user.riafs.dataset") == dataset.id.encode()
    async with opened(store, "#~one", allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.read(b"file") == CONTENT
        dataset.commit({b"file": Locked(KEY), b"new": b"1"})
        await shown.refresh()
        assert await shown.ls(b"") == [b"file", b"new"]
    expected_warnings("")
    async with opened(store) as shown:
        with pytest.raises(RiafsError):
            await shown.read(b"one/file")


async def test_archive_on_another_disk(tmp_path: Path, dataset: SmallDataset) -> None:
    dataset.object_path(KEY).unlink()
    dataset.archive({KEY: CONTENT})
    moved(dataset.path / "archives", tmp_path / "disk" / "archives")
    async with opened(dataset.path.parents[1], allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert await shown.getxattr(b"one/file", "user.riafs.where") == b"archives/archive.7z"


async def test_alias_that_knows_a_dataset_by_its_place_on_the_other_disk(
    tmp_path: Path, dataset: SmallDataset, expected_warnings: Announce
) -> None:
    moved(dataset.path, tmp_path / "disk" / "moved")
    store = dataset.path.parents[1]
    (store / "alias" / "direct").symlink_to(tmp_path / "disk" / "moved")
    (tmp_path / "disk" / "stray").mkdir()
    (store / "alias" / "stray").symlink_to(tmp_path / "disk" / "stray")
    expected_warnings("alias/stray is left out: .* leads to no dataset")
    async with opened(store, allow_links=[tmp_path / "disk"]) as shown:
        assert set(await shown.ls(b"")) == {b"one", b"direct", b"by-id"}
        assert await shown.read(b"direct/file") == CONTENT
    async with opened(store, "#~direct", allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.read(b"file") == CONTENT
    with pytest.raises(SourceNotFound, match="leads to no dataset"):
        async with opened(store, "#~stray", allow_links=[tmp_path / "disk"]):
            pass


async def test_all_datasets_of_a_prefix_on_another_disk(tmp_path: Path, dataset: SmallDataset) -> None:
    moved(dataset.path.parent, tmp_path / "disk" / "prefix")
    store = SmallStore(dataset.path.parents[1])
    async with opened(store.path, allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.ls(b"by-id") == [dataset.id.encode()]
        put(tmp_path / "disk" / "prefix" / "later" / "HEAD", b"ref: refs/heads/main\n")
        await shown.refresh()
        assert await shown.ls(b"by-id") == sorted([dataset.id.encode(), dataset.id[:3].encode() + b"later"])


async def test_allowed_directory_does_not_lead_further(
    tmp_path: Path, dataset: SmallDataset, expected_warnings: Announce
) -> None:
    """Absolute and relative links of an allowed directory, at an object and at the objects of git."""
    moved(dataset.object_path(KEY), tmp_path / "secret")
    moved(dataset.path / "annex", tmp_path / "disk" / "annex")
    expected_warnings("leads out of the store")
    async with opened(dataset.path.parents[1], allow_links=[tmp_path / "disk"]) as shown:
        with pytest.raises(OutsideStore, match="secret"):
            await shown.read(b"one/file")


async def test_allowed_directory_that_is_not_there_is_told(
    tmp_path: Path, dataset: SmallDataset, expected_warnings: Announce
) -> None:
    expected_warnings("gone are not followed: No such file or directory")
    async with opened(dataset.path.parents[1], allow_links=[tmp_path / "gone"]) as shown:
        assert await shown.read(b"one/file") == CONTENT


async def test_alternates_by_another_name_of_the_store_and_in_an_allowed_directory(
    tmp_path: Path, dataset: SmallDataset
) -> None:
    store = SmallStore(dataset.path.parents[1])
    lender = store.dataset("lender", {b"a": b"of the lender"})
    borrower = store.dataset("borrower")
    shutil.copytree(lender.path / "refs", borrower.path / "refs", dirs_exist_ok=True)
    alternates = borrower.path / "objects" / "info" / "alternates"
    alternates.write_text(f"{tmp_path}/data/store/{lender.id[:3]}/{lender.id[3:]}/objects\n")
    async with opened(tmp_path / "data" / "store") as shown:
        assert await shown.read(b"borrower/a") == b"of the lender"
    shutil.copytree(lender.path / "objects", tmp_path / "disk" / "objects")
    alternates.write_text(f"{tmp_path}/disk/objects\n")
    async with opened(store.path, allow_links=[tmp_path / "disk"]) as shown:
        assert await shown.read(b"borrower/a") == b"of the lender"
