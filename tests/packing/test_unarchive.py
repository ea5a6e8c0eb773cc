"""``riafs unarchive``: archived keys become loose objects, and the archive goes only when all of them are safe."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from riafs.errors import Busy, NotInStore, StoreError
from riafs.formats.annex import hash_lower
from riafs.formats.sevenzip.header import Listing, Member
from riafs.packing import unarchiving
from riafs.storage import posix
from riafs.watching import PackingStep
from tests.packing.conftest import (
    CONTENTS,
    NOISE,
    TEXT,
    archive,
    archive_path,
    archived,
    loose,
    nothing_unfinished,
    request,
    unarchive,
)
from tests.packing.test_archive import MEMBERS, At
from tests.small import SmallDataset, key_of, mixed_path


@pytest.fixture
async def packed(dataset: SmallDataset) -> SmallDataset:
    """The dataset with all objects in the archive and none loose."""
    await archive(dataset, request(prune=True))
    return dataset


async def test_every_key_is_loose_again(packed: SmallDataset) -> None:
    report = await unarchive(packed)
    assert loose(packed) == MEMBERS
    assert archived(packed) == MEMBERS
    assert (report.keys, report.unpacked, report.already, report.archive_removed) == (12, 12, 0, False)
    assert nothing_unfinished(packed)


async def test_objects_are_made_durable_together_before_they_get_their_names(
    packed: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []

    def noted(paths: Sequence[bytes], open_path: Callable[[bytes], int]) -> None:
        synced.append((len(paths), len(loose(packed))))
        posix.make_durable(paths, open_path)

    monkeypatch.setattr(unarchiving, "make_durable", noted)
    monkeypatch.setattr(unarchiving, "_MOST_UNNAMED", 5)
    assert (await unarchive(packed)).unpacked == 12
    assert synced[:3] == [(5, 0), (5, 5), (2, 10)]
    assert len(synced) == 4
    assert loose(packed) == MEMBERS
    assert nothing_unfinished(packed)


async def test_the_archive_is_removed_when_all_is_loose(packed: SmallDataset) -> None:
    assert (await unarchive(packed, remove=True)).archive_removed
    assert loose(packed) == MEMBERS
    assert not archive_path(packed).exists()
    assert nothing_unfinished(packed)


async def test_archive_and_back_as_often_as_one_likes(dataset: SmallDataset) -> None:
    for _ in range(3):
        await archive(dataset, request(prune=True))
        await unarchive(dataset, remove=True)
    assert loose(dataset) == MEMBERS


async def test_objects_are_read_only_and_keep_their_executable_bit(dataset: SmallDataset) -> None:
    dataset.object_path(key_of(b"x")).chmod(0o555)
    await archive(dataset, request(prune=True))
    await unarchive(dataset)
    assert dataset.object_path(key_of(b"x")).stat().st_mode & 0o777 == 0o555
    assert dataset.object_path(key_of(NOISE[0])).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    ("sharing", "file", "directory"),
    [("umask", 0o400, 0o700), ("group", 0o440, 0o2770), ("all", 0o444, 0o2775), ("0640", 0o440, 0o2750)],
)
async def test_modes_follow_the_sharing_of_the_dataset(
    packed: SmallDataset, sharing: str, file: int, directory: int
) -> None:
    packed.git("config", "core.sharedRepository", sharing)
    before = os.umask(0o077)
    try:
        await unarchive(packed)
    finally:
        os.umask(before)
    path = packed.object_path(key_of(b"x"))
    assert path.stat().st_mode & 0o7777 == file
    for above in list(path.parents)[:3]:
        assert above.stat().st_mode & 0o7777 == directory


async def test_what_is_loose_and_good_stays_as_it_is(packed: SmallDataset) -> None:
    path = packed.put(key_of(NOISE[0]), NOISE[0])
    before = path.stat()
    report = await unarchive(packed, remove=True)
    assert (report.unpacked, report.already) == (11, 1)
    assert path.stat().st_ino == before.st_ino
    assert report.archive_removed


async def test_a_damaged_loose_object_is_replaced_by_the_good_copy(packed: SmallDataset) -> None:
    packed.put(key_of(NOISE[0]), NOISE[0][:-1] + b"?").chmod(0o444)
    await unarchive(packed)
    assert loose(packed) == MEMBERS


async def test_keys_in_the_other_hash_directories_go_where_ora_looks(dataset: SmallDataset) -> None:
    key = key_of(b"lower")
    dataset.archive({b"%b/%b/%b" % (hash_lower(key), key, key): b"lower"}, paths=True)
    await unarchive(dataset)
    assert dataset.object_path(key).read_bytes() == b"lower"


@pytest.mark.parametrize("switches", [("-mx0",), ("-mx9", "-ms=on"), ("-m0=PPMd",)], ids=" ".join)
async def test_archives_of_7zip_are_unpacked(dataset: SmallDataset, switches: tuple[str, ...]) -> None:
    later = {key_of(b"%d more" % number * 100): b"%d more" % number * 100 for number in range(4)}
    dataset.archive(later, *switches)
    report = await unarchive(dataset, remove=True)
    assert report.archive_removed
    assert loose(dataset) == {**MEMBERS, **{mixed_path(key): content for key, content in later.items()}}


async def test_a_damaged_member_is_left_out_and_keeps_the_archive(dataset: SmallDataset) -> None:
    dataset.archive({key_of(b"right"): b"wrong", key_of(b"good"): b"good"})
    report = await unarchive(dataset, remove=True)
    assert [each.key for each in report.damaged] == [key_of(b"right")]
    assert not report.archive_removed
    assert loose(dataset) == {**MEMBERS, mixed_path(key_of(b"good")): b"good"}
    assert nothing_unfinished(dataset)


async def test_a_flipped_byte_of_a_key_without_digest_is_noticed(dataset: SmallDataset) -> None:
    path = dataset.archive({b"WORM-s9-m1--worm": b"worm-worm"}, "-mx0")
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"worm-worm", b"worm_worm"))
    report = await unarchive(dataset, remove=True)
    assert len(report.damaged) == 1
    assert loose(dataset) == MEMBERS


async def test_a_different_loose_object_without_digest_stays(dataset: SmallDataset) -> None:
    worm = b"WORM-s4-m1--worm"
    dataset.archive({worm: b"evil"})
    path = dataset.put(worm, b"good")
    report = await unarchive(dataset, remove=True)
    assert len(report.damaged) == 1
    assert not report.archive_removed
    assert path.read_bytes() == b"good"


async def test_other_files_in_the_archive_keep_it(dataset: SmallDataset) -> None:
    dataset.archive({mixed_path(key_of(b"a")): b"a", b"README": b"hello"}, paths=True)
    report = await unarchive(dataset, remove=True)
    assert (report.unpacked, report.others, report.archive_removed) == (1, 1, False)


@pytest.mark.parametrize("above", [b"x", b"x/../../../..", b"/tmp"])
async def test_only_the_key_says_where_a_member_goes(
    dataset: SmallDataset, monkeypatch: pytest.MonkeyPatch, above: bytes
) -> None:
    key = key_of(b"a")
    real = Listing.member

    def renamed(self: Listing, position: int) -> Member:
        return replace(real(self, position), name=above + b"/" + key + b"/" + key)

    dataset.archive({key: b"a"})
    monkeypatch.setattr(Listing, "member", renamed)
    await unarchive(dataset)
    assert dataset.object_path(key).read_bytes() == b"a"
    assert len(loose(dataset)) == len(CONTENTS) + 1


async def test_links_in_the_place_of_directories_lead_nowhere(packed: SmallDataset, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = packed.object_path(key_of(b"x")).parents[2]
    first.symlink_to(outside)
    with pytest.raises(StoreError):
        await unarchive(packed)
    assert list(outside.iterdir()) == []


async def test_a_dry_run_tells_and_changes_nothing(packed: SmallDataset) -> None:
    packed.put(key_of(TEXT[0]), TEXT[0])
    report = await unarchive(packed, remove=True, dry_run=True)
    assert (report.dry_run, report.keys, report.unpacked, report.already) == (True, 12, 11, 1)
    assert report.unpacked_bytes == sum(map(len, CONTENTS.values())) - len(TEXT[0])
    assert report.archive_removed
    assert archive_path(packed).exists()
    assert len(loose(packed)) == 1


async def test_without_an_archive_there_is_nothing_to_unpack(dataset: SmallDataset) -> None:
    with pytest.raises(NotInStore):
        await unarchive(dataset)


async def test_an_object_that_vanishes_before_the_end_keeps_the_archive(packed: SmallDataset) -> None:
    def drop() -> None:
        packed.object_path(key_of(b"x")).unlink()

    with pytest.raises(StoreError, match="archive stays"):
        await unarchive(packed, remove=True, watcher=At(PackingStep.CHECKING, drop))
    assert archived(packed) == MEMBERS


async def test_an_archive_changed_meanwhile_is_not_removed(packed: SmallDataset) -> None:
    def change() -> None:
        packed.archive({b"new": b"1"}, paths=True)

    with pytest.raises(Busy):
        await unarchive(packed, remove=True, watcher=At(PackingStep.REMOVING, change))
    assert archived(packed) == {**MEMBERS, b"new": b"1"}


@pytest.mark.parametrize(("field", "what"), [(4, "bytes"), (7, "inodes")])
async def test_without_room_nothing_is_written(
    packed: SmallDataset, monkeypatch: pytest.MonkeyPatch, field: int, what: str
) -> None:
    values = list(os.statvfs(packed.path))
    values[field] = 0
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    with pytest.raises(StoreError, match=what):
        await unarchive(packed, remove=True)
    assert loose(packed) == {}
    assert archived(packed) == MEMBERS
