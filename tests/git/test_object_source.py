"""Objects that a repository borrows: from inside the store yes, from outside never."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.errors import RiafsError
from tests.behaviour.drivers import opened
from tests.small import SmallDataset, SmallStore, put

Announce = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


def borrower(store: SmallStore, lender: SmallDataset, *lines: str) -> SmallDataset:
    """A dataset without objects of its own, whose branch is the lender's."""
    dataset = store.dataset("one")
    put(dataset.path / "objects" / "info" / "alternates", "".join(f"{line}\n" for line in lines).encode())
    put(dataset.path / "refs" / "heads" / "main", lender.git("rev-parse", "main").encode() + b"\n")
    return dataset


async def file_of_one(store: SmallStore) -> bytes:
    async with opened(store.path) as shown:
        return await shown.read(b"one/file")


async def test_relative_alternate_inside_the_store(store: SmallStore) -> None:
    lender = store.dataset("lender", {b"file": b"lent"})
    borrower(store, lender, f"../../../{lender.id[:3]}/{lender.id[3:]}/objects")
    assert await file_of_one(store) == b"lent"


async def test_absolute_alternate_inside_the_store(store: SmallStore) -> None:
    lender = store.dataset("lender", {b"file": b"lent"})
    borrower(store, lender, "# a comment", "", str(lender.path / "objects"))
    assert await file_of_one(store) == b"lent"


async def test_alternate_of_an_alternate(store: SmallStore) -> None:
    lender = store.dataset("lender", {b"file": b"lent"})
    between = store.dataset("between")
    put(between.path / "objects" / "info" / "alternates", os.fsencode(lender.path / "objects") + b"\n")
    borrower(store, lender, str(between.path / "objects"))
    assert await file_of_one(store) == b"lent"


@pytest.mark.parametrize("form", ["{}", "{}/.", "../../../../outside/{name}/objects", "/{}"])
async def test_alternate_outside_is_not_used(
    store: SmallStore, tmp_path: Path, form: str, expected_warnings: Announce
) -> None:
    expected_warnings("leads out of the store", "cannot be shown")
    (tmp_path / "outside").mkdir()
    outside = SmallStore.make(tmp_path / "outside" / "store").dataset("x", {b"file": b"secret"})
    outside.path.rename(tmp_path / "outside" / "repository")
    objects = tmp_path / "outside" / "repository" / "objects"
    lender = SmallDataset(objects.parent, "", "")
    borrower(store, lender, form.format(objects, name="repository"))
    with pytest.raises(RiafsError):
        await file_of_one(store)


async def test_good_alternate_beside_one_outside_is_used(
    store: SmallStore, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("leads out of the store")
    lender = store.dataset("lender", {b"file": b"lent"})
    borrower(store, lender, str(tmp_path), str(lender.path / "objects"))
    assert await file_of_one(store) == b"lent"


async def test_link_to_an_alternate_outside_is_not_used(
    store: SmallStore, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("riafs")
    outside = SmallStore.make(tmp_path / "outside").dataset("x", {b"file": b"secret"})
    (store.path / "door").symlink_to(outside.path)
    borrower(store, outside, str(store.path / "door" / "objects"))
    with pytest.raises(RiafsError):
        await file_of_one(store)


@pytest.mark.parametrize("part", ["objects", "objects/pack", "objects/info"])
async def test_link_in_place_of_a_directory_of_objects_is_not_followed(
    store: SmallStore, tmp_path: Path, part: str, expected_warnings: Announce
) -> None:
    expected_warnings("riafs")
    dataset = store.dataset("one", {b"file": b"secret"})
    dataset.git("repack", "-adq")
    (dataset.path / part).rename(tmp_path / "away")
    (dataset.path / part).symlink_to(tmp_path / "away")
    if part == "objects/info":
        assert await file_of_one(store) == b"secret"  # nothing in it is needed
        return
    with pytest.raises(RiafsError):
        await file_of_one(store)


async def test_loops_and_endless_lists_of_alternates_end(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs")
    dataset = store.dataset("one", {b"file": b"mine"})
    other = store.dataset("other", {b"file": b"other"})
    put(dataset.path / "objects" / "info" / "alternates", (os.fsencode(other.path / "objects") + b"\n") * 5000)
    put(other.path / "objects" / "info" / "alternates", os.fsencode(dataset.path / "objects") + b"\n")
    blob = dataset.git("rev-parse", "main:file")
    place = dataset.path / "objects" / blob[:2] / blob[2:]
    genuine = place.rename(dataset.path / "away")
    with pytest.raises(RiafsError, match="alternates is larger than"):  # only then is there a reason to look there
        await file_of_one(store)
    genuine.rename(place)
    put(dataset.path / "objects" / "info" / "alternates", (os.fsencode(other.path / "objects") + b"\n") * 100)
    assert await file_of_one(store) == b"mine"
