"""Datasets in datasets: the subdataset is pushed first, then registered at its new commit."""

import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from riafs.errors import PushConflict, PushRefused
from riafs.formats.sources import parse_ria_source, parse_source
from riafs.push.pushers import open_pusher
from riafs.push.pushing import Push
from riafs.push.ria import Member, PlannedRiaPush, subdatasets_first
from riafs.watching import NoWatcher
from tests.push.conftest import changes_over, means, request, tree
from tests.push.destinations import open_for_pushing
from tests.small import Registered, SmallDataset, SmallStore


@pytest.fixture
def datasets(tmp_path: Path) -> dict[bytes, SmallDataset]:
    """A dataset in a dataset in a dataset."""
    store = SmallStore.make(tmp_path / "store")
    inner = store.dataset("inner", {b"x": b"x"})
    middle = store.dataset("middle", {b"sub/inner": Registered(inner.git("rev-parse", "main")), b"y": b"y"})
    outer = store.dataset("outer", {b"middle": Registered(middle.git("rev-parse", "main"))})
    return {b"outer": outer, b"middle": middle, b"inner": inner}


ABOVE = {b"outer": (None, b""), b"middle": (b"outer", b"middle"), b"inner": (b"middle", b"sub/inner")}


async def push_members(
    datasets: dict[bytes, SmallDataset], area: Path, written: dict[bytes, dict[bytes, bytes]]
) -> None:
    """Push files written into each of the datasets."""
    async with AsyncExitStack() as stack:
        members = []
        for name, dataset in datasets.items():
            below = changes_over(dataset, area / os.fsdecode(name))
            source = parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}")
            destination = await stack.enter_async_context(open_for_pushing(source, means()))
            changes = [below.write(path, data) for path, data in sorted(written.get(name, {}).items())]
            push = Push(destination, below.base(dataset.id), changes, request(), NoWatcher())
            members.append(Member(name, push, *ABOVE[name]))
        if b"conflict" in written:
            datasets[b"middle"].commit({b"y": b"theirs"})
        planned = PlannedRiaPush(members)
        await planned.prepare()
        await planned.push()


async def test_every_superdataset_registers_the_new_commit(datasets: dict[bytes, SmallDataset], tmp_path: Path) -> None:
    (tmp_path / "area").mkdir()
    await push_members(datasets, tmp_path / "area", {b"inner": {b"new": b"1"}, b"middle": {b"z": b"2"}})
    inner, middle, outer = (datasets[name] for name in (b"inner", b"middle", b"outer"))
    assert tree(inner)[b"new"] == ("100644", b"1")
    assert tree(middle)[b"z"] == ("100644", b"2")
    assert tree(middle)[b"sub/inner"] == ("160000", inner.git("rev-parse", "main").encode())
    assert tree(outer)[b"middle"] == ("160000", middle.git("rev-parse", "main").encode())


async def test_a_dataset_without_changes_stays_registered_where_it_is(
    datasets: dict[bytes, SmallDataset], tmp_path: Path
) -> None:
    (tmp_path / "area").mkdir()
    registered = tree(datasets[b"middle"])[b"sub/inner"]
    datasets[b"inner"].commit({b"x": b"theirs"})
    await push_members(datasets, tmp_path / "area", {b"middle": {b"z": b"2"}})
    assert tree(datasets[b"middle"])[b"sub/inner"] == registered


async def test_a_conflict_in_one_stops_all(datasets: dict[bytes, SmallDataset], tmp_path: Path) -> None:
    (tmp_path / "area").mkdir()
    before = datasets[b"inner"].git("rev-parse", "main")
    written = {b"inner": {b"new": b"1"}, b"middle": {b"y": b"ours"}, b"conflict": {}}
    with pytest.raises(PushConflict):
        await push_members(datasets, tmp_path / "area", written)
    assert datasets[b"inner"].git("rev-parse", "main") == before


def test_the_order(dataset: SmallDataset) -> None:
    push = object.__new__(Push)
    members = [Member(b"a", push), Member(b"b", push, b"a", b"x"), Member(b"c", push, b"b", b"y")]
    assert [member.name for member in subdatasets_first(members)] == [b"c", b"b", b"a"]
    with pytest.raises(PushRefused):
        subdatasets_first([Member(b"a", push, b"b", b"x"), Member(b"b", push, b"a", b"x")])


@pytest.mark.parametrize("source", ["keep+file:///volumes?manifests=/manifests", "arvados://cluster.invalid"])
async def test_a_source_without_a_pusher_is_refused(source: str) -> None:
    with pytest.raises(PushRefused, match="cannot be pushed to"):
        async with open_pusher(parse_source(source), means()):
            pass
