"""``riafs archive``: what goes into the archive, what stays, and that nothing is lost."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from riafs.errors import (
    BadSource,
    Busy,
    CorruptContent,
    EncryptedArchive,
    NotAnArchive,
    OutsideStore,
    ReadOnly,
    SourceNotFound,
    StoreError,
)
from riafs.formats.annex import Layout, hash_lower, hash_mixed
from riafs.formats.keys import escape
from riafs.formats.sources import parse_ria_source
from riafs.packing.archive_file import FileMark
from riafs.packing.archiving import archive_objects
from riafs.packing.dataset import open_dataset
from riafs.packing.loose_objects import ObjectReader, find_loose
from riafs.watching import NoWatcher, PackingStep
from tests.packing.conftest import (
    CONTENTS,
    NOISE,
    TEXT,
    archive,
    archive_path,
    archived,
    extract,
    held,
    loose,
    means,
    nothing_unfinished,
    request,
    source,
    unarchive,
)
from tests.plugins.log_hygiene import Announce
from tests.small import Locked, SmallDataset, SmallStore, key_of, mixed_path, noise

MEMBERS = {mixed_path(key): content for key, content in CONTENTS.items()}


class At(NoWatcher):
    """Calls a function when a step begins."""

    def __init__(self, step: PackingStep, call: object) -> None:
        self._step = step
        self._call = call

    def begin(self, step: PackingStep, total: int) -> None:
        if step is self._step:
            assert callable(self._call)
            self._call()


def listing(dataset: SmallDataset) -> list[str]:
    """What 7-Zip tells of the archive, line by line."""
    command = ["7z", "l", "-slt", str(archive_path(dataset))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


async def test_every_object_is_in_an_archive_that_7zip_accepts(dataset: SmallDataset) -> None:
    report = await archive(dataset, request())
    assert archived(dataset) == MEMBERS
    assert loose(dataset) == MEMBERS
    assert (report.packed, report.compressed, report.already, report.removed) == (12, 6, 0, 0)
    assert report.archive_after == archive_path(dataset).stat().st_size
    assert nothing_unfinished(dataset)


async def test_the_path_that_ora_asks_for_gives_the_content(dataset: SmallDataset) -> None:
    await archive(dataset, request())
    for member, content in MEMBERS.items():
        assert extract(dataset, member) == content


async def test_pruning_removes_objects_and_empty_directories(dataset: SmallDataset) -> None:
    report = await archive(dataset, request(prune=True))
    assert loose(dataset) == {}
    assert list((dataset.path / "annex" / "objects").iterdir()) == []
    assert archived(dataset) == MEMBERS
    assert (report.removed, report.inodes_freed) == (12, 4 * 12)


async def test_pruning_later_removes_what_was_archived_before(dataset: SmallDataset) -> None:
    await archive(dataset, request())
    before = FileMark.of(archive_path(dataset).stat())
    report = await archive(dataset, request(prune=True))
    assert FileMark.of(archive_path(dataset).stat()) == before
    assert (report.packed, report.already, report.removed) == (0, 12, 12)
    assert loose(dataset) == {}


async def test_directories_that_git_annex_made_read_only_are_pruned_as_well(dataset: SmallDataset) -> None:
    for path in (dataset.path / "annex" / "objects").glob("*/*/*"):
        path.chmod(0o555)
    assert (await archive(dataset, request(prune=True))).removed == 12


async def test_a_second_run_adds_to_what_is_there(dataset: SmallDataset) -> None:
    await archive(dataset, request(prune=True))
    later = b"later " * 1000
    dataset.put(key_of(later), later)
    report = await archive(dataset, request(prune=True))
    assert archived(dataset) == {**MEMBERS, mixed_path(key_of(later)): later}
    assert (report.packed, report.chosen) == (1, 1)


@pytest.mark.parametrize(
    "switches",
    [
        ("-mx0",),
        ("-mx0", "-ms=on", "-mhc=off"),
        ("-mx1",),
        ("-m0=LZMA",),
        ("-m0=PPMd",),
        ("-m0=BZip2",),
        ("-m0=Deflate64",),
        ("-m0=BCJ2", "-m1=LZMA", "-m2=LZMA", "-m3=LZMA", "-mb0:1", "-mb0s1:2", "-mb0s2:3"),
        ("-m0=Delta:4", "-m1=LZMA2"),
        ("-ms=2f",),
        ("-mtc=on", "-mta=on"),
    ],
    ids=" ".join,
)
async def test_archives_of_7zip_are_kept_whatever_their_method(
    dataset: SmallDataset, switches: tuple[str, ...]
) -> None:
    old = {b"seven/zip/%d" % number: b"older content %d " % number * 400 for number in range(5)} | {b"e": b""}
    dataset.archive(old, *switches, paths=True)
    dataset.archive({b"seven/second": noise(3000)}, "-mx5", paths=True)
    await archive(dataset, request())
    assert archived(dataset) == {**old, b"seven/second": noise(3000), **MEMBERS}


async def test_7zip_can_add_to_the_result(dataset: SmallDataset) -> None:
    await archive(dataset, request())
    dataset.archive({b"added": b"by 7-Zip"}, "-mx5", paths=True)
    assert archived(dataset) == {**MEMBERS, b"added": b"by 7-Zip"}
    later = noise(100, "later")
    dataset.put(key_of(later), later)
    await archive(dataset, request())
    assert archived(dataset) == {**MEMBERS, b"added": b"by 7-Zip", mixed_path(key_of(later)): later}


async def test_compressed_members_lie_in_the_order_of_the_tree(dataset: SmallDataset) -> None:
    await archive(dataset, request())
    listed = [line.removeprefix("Path = ").encode() for line in listing(dataset) if line.startswith("Path")]
    paths = {b"dir%d/file%d" % (n % 3, n): key for n, key in enumerate(sorted(CONTENTS, reverse=True))}
    text = {mixed_path(key_of(content)) for content in TEXT}
    in_tree = [mixed_path(paths[path]) for path in sorted(paths)]
    assert [each for each in listed if each in text] == [each for each in in_tree if each in text]


async def test_a_solid_block_is_not_larger_than_asked_for(dataset: SmallDataset) -> None:
    await archive(dataset, request(solid_block=2 * len(TEXT[0])))
    blocks = [line for line in listing(dataset) if line.startswith("Blocks")]
    assert blocks == [f"Blocks = {3 + len(NOISE) + 1}"]
    assert archived(dataset) == MEMBERS


async def test_an_object_larger_than_a_block_is_compressed_by_itself(dataset: SmallDataset) -> None:
    large = b"%d" * 3_000_000
    dataset.put(key_of(large), large)
    await archive(dataset, request(solid_block=1000))
    assert archived(dataset) == {**MEMBERS, mixed_path(key_of(large)): large}
    assert archive_path(dataset).stat().st_size < 100_000


async def test_only_chosen_objects_are_packed(dataset: SmallDataset) -> None:
    month_ago = time.time() - 30 * 86400
    for content in [*TEXT, b"x"]:
        os.utime(dataset.object_path(key_of(content)), (month_ago, month_ago))
    report = await archive(dataset, request(older=20, larger=1, smaller=len(TEXT[0]) + 1, prune=True))
    assert archived(dataset) == {mixed_path(key_of(content)): content for content in TEXT}
    assert report.chosen == len(TEXT)
    assert loose(dataset) == {name: content for name, content in MEMBERS.items() if content not in TEXT}


async def test_a_dry_run_tells_and_changes_nothing(dataset: SmallDataset) -> None:
    report = await archive(dataset, request(prune=True, dry_run=True))
    assert (report.dry_run, report.packed, report.compressed, report.removed) == (True, 12, 6, 12)
    assert report.inodes_freed == 4 * 12
    assert report.packed_bytes == sum(map(len, CONTENTS.values()))
    assert 0 < report.archive_after < report.packed_bytes
    assert loose(dataset) == MEMBERS
    assert not (dataset.path / "archives").exists()


@pytest.mark.parametrize("wrong", [b"wrong", b"longer than it should be", b""], ids=["digest", "longer", "empty"])
async def test_a_damaged_object_is_left_out_and_stays(dataset: SmallDataset, wrong: bytes) -> None:
    bad = dataset.put(key_of(b"right"), wrong)
    report = await archive(dataset, request(prune=True))
    assert [each.key for each in report.damaged] == [key_of(b"right")]
    assert bad.read_bytes() == wrong
    assert archived(dataset) == MEMBERS
    assert list(loose(dataset).values()) == [wrong]


@pytest.mark.parametrize("solid_block", [100, 1 << 20], ids=["large", "in a block"])
async def test_a_damaged_compressible_object_leaves_no_trace(dataset: SmallDataset, solid_block: int) -> None:
    right = b"compressible " * 1000
    dataset.put(key_of(right), right[:-1] + b"!")
    report = await archive(dataset, request(solid_block=solid_block))
    assert len(report.damaged) == 1
    assert archived(dataset) == MEMBERS


async def test_with_nothing_but_damage_the_archive_stays(dataset: SmallDataset) -> None:
    await archive(dataset, request(prune=True))
    before = FileMark.of(archive_path(dataset).stat())
    dataset.put(key_of(b"right"), b"wrong")
    assert len((await archive(dataset, request(prune=True))).damaged) == 1
    assert FileMark.of(archive_path(dataset).stat()) == before


async def test_the_good_one_of_two_copies_is_packed(dataset: SmallDataset) -> None:
    key = key_of(b"right")
    dataset.put(key, b"wrong", hash_lower(escape(key)))
    dataset.put(key, b"right")
    report = await archive(dataset, request(prune=True))
    assert extract(dataset, mixed_path(key)) == b"right"
    assert loose(dataset) == {}
    assert len(report.damaged) in (0, 1)


async def test_a_damaged_copy_in_the_archive_saves_the_loose_one(dataset: SmallDataset) -> None:
    key = key_of(NOISE[0])
    dataset.archive({key: b"damaged"})
    report = await archive(dataset, request(prune=True))
    assert [(each.key, each.place) for each in report.damaged] == [(key, "archives/archive.7z")]
    assert loose(dataset) == {mixed_path(key): NOISE[0]}


async def test_a_damaged_block_in_the_archive_saves_the_loose_objects(
    dataset: SmallDataset, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    await archive(dataset, request(larger=len(NOISE[0])))  # only text, in one block
    raw = bytearray(archive_path(dataset).read_bytes())
    raw[80:100] = bytes(20)
    archive_path(dataset).write_bytes(raw)
    report = await archive(dataset, request(larger=len(NOISE[0]), prune=True))
    damaged = {each.key for each in report.damaged}
    assert damaged
    assert set(loose(dataset)) >= {mixed_path(key) for key in damaged}
    await unarchive(dataset, remove=True)
    assert loose(dataset) == MEMBERS


async def test_a_damaged_loose_object_goes_where_the_archive_has_a_good_copy(dataset: SmallDataset) -> None:
    await archive(dataset, request())
    dataset.object_path(key_of(NOISE[0])).chmod(0o644)
    dataset.put(key_of(NOISE[0]), b"damaged")
    await archive(dataset, request(prune=True))
    assert loose(dataset) == {}
    assert archived(dataset) == MEMBERS


async def test_keys_without_a_digest_are_compared_byte_by_byte(dataset: SmallDataset) -> None:
    worm, other = b"WORM-s4-m12--a/b:c%d&e", b"WORM-s4-m12--other"
    dataset.put(worm, b"worm")
    dataset.put(other, b"good")
    dataset.archive({other: b"evil"})
    report = await archive(dataset, request(prune=True))
    assert extract(dataset, mixed_path(worm)) == b"worm"
    assert loose(dataset) == {mixed_path(other): b"good"}
    assert [each.key for each in report.damaged] == [other]


async def test_an_object_in_git_annex_own_directory_is_archived_where_ora_looks(dataset: SmallDataset) -> None:
    key = b"URL-s3--http://example.org/a"
    dataset.put(key, b"url", hash_mixed(key))
    await archive(dataset, request(prune=True))
    assert extract(dataset, mixed_path(key)) == b"url"


async def test_layout_1_gives_lower_case_members(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("old", {b"a": Locked(key_of(b"a"))}, layout="1")
    dataset.put(key_of(b"a"), b"a", hash_lower(key_of(b"a")))
    await archive(dataset, request(prune=True))
    assert list(archived(dataset)) == [b"%b/%b/%b" % (hash_lower(key_of(b"a")), key_of(b"a"), key_of(b"a"))]


async def test_names_that_are_no_text_come_out_as_they_were(dataset: SmallDataset) -> None:
    content = b"odd"
    key = key_of(content, b".\xff\xee\xbe\x80")
    dataset.put(key, content)
    await archive(dataset, request(prune=True))
    assert archived(dataset)[mixed_path(key)] == content


async def test_other_files_and_links_stay(dataset: SmallDataset, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    objects = dataset.path / "annex" / "objects"
    target = objects / os.fsdecode(mixed_path(key_of(b"secret")))
    target.parent.mkdir(parents=True)
    target.symlink_to(outside)
    (objects / "aa" / "bb" / "no-key").mkdir(parents=True)
    (objects / "aa" / "bb" / "no-key" / "no-key").write_bytes(b"stray")
    report = await archive(dataset, request(prune=True))
    assert report.others == 2
    assert archived(dataset) == MEMBERS
    assert outside.read_bytes() == b"secret"
    assert target.is_symlink()


async def test_a_dataset_without_repository_is_packed_in_any_order(dataset: SmallDataset) -> None:
    shutil.rmtree(dataset.path / "refs")
    shutil.rmtree(dataset.path / "objects")
    (dataset.path / "HEAD").unlink()
    await archive(dataset, request(prune=True))
    assert archived(dataset) == MEMBERS


async def test_a_dataset_without_objects_has_nothing_to_pack(tmp_path: Path) -> None:
    empty = SmallStore.make(tmp_path / "store").dataset("empty", {b"file": b"in git"})
    for dry_run in (True, False):
        report = await archive(empty, request(prune=True, dry_run=dry_run))
        assert (report.chosen, report.archive_after) == (0, 0)
    assert not archive_path(empty).exists()


# -- who else is there ------------------------------------------------------------------------------------------------


async def test_objects_pushed_meanwhile_stay(dataset: SmallDataset) -> None:
    late = b"pushed meanwhile"

    def push() -> None:
        dataset.put(key_of(late), late)

    await archive(dataset, request(prune=True), At(PackingStep.CHECKING, push))
    assert loose(dataset) == {mixed_path(key_of(late)): late}


async def test_an_object_dropped_meanwhile_is_left_out(dataset: SmallDataset) -> None:
    gone = dataset.object_path(key_of(NOISE[0]))
    report = await archive(dataset, request(prune=True), At(PackingStep.PACKING, gone.unlink))
    assert [each.reason for each in report.damaged] == ["cannot be read: No such file or directory"]
    assert len(archived(dataset)) == len(MEMBERS) - 1


async def test_an_archive_changed_meanwhile_is_not_replaced(dataset: SmallDataset) -> None:
    dataset.archive({b"before": b"1"}, paths=True)

    def change() -> None:
        dataset.archive({b"meanwhile": b"2"}, paths=True)

    with pytest.raises(Busy):
        await archive(dataset, request(prune=True), At(PackingStep.REPLACING, change))
    assert archived(dataset) == {b"before": b"1", b"meanwhile": b"2"}
    assert loose(dataset) == MEMBERS
    assert nothing_unfinished(dataset)


async def test_nothing_is_removed_once_the_archive_was_changed(dataset: SmallDataset) -> None:
    def change() -> None:
        archive_path(dataset).write_bytes(b"")

    with pytest.raises(Busy):
        await archive(dataset, request(prune=True), At(PackingStep.REMOVING, change))
    assert loose(dataset) == MEMBERS


async def test_two_at_once_are_refused(dataset: SmallDataset) -> None:
    def start_another() -> None:
        command = [sys.executable, "-m", "riafs.cli.main", "archive", source(dataset)]
        other = subprocess.run(command, capture_output=True, text=True)
        assert other.returncode == 2
        assert "another riafs archive or unarchive (process " in other.stderr

    await archive(dataset, request(), At(PackingStep.PACKING, start_another))
    assert archived(dataset) == MEMBERS


async def test_what_a_killed_run_left_is_removed(dataset: SmallDataset) -> None:
    left = dataset.path / "archives" / ".riafs-packing"
    (left / "directory").mkdir(parents=True)
    (left / "archive.7z").write_bytes(b"half")
    (left / "lock").write_bytes(b"")
    await archive(dataset, request())
    assert nothing_unfinished(dataset)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["3", "1|l|x", ""])
async def test_an_unknown_layout_is_left_alone(dataset: SmallDataset, layout: str) -> None:
    (dataset.path / "ria-layout-version").write_text(layout)
    with pytest.raises(ReadOnly):
        await archive(dataset, request(prune=True))
    (dataset.path / "ria-layout-version").unlink()
    with pytest.raises(ReadOnly):
        await archive(dataset, request(prune=True))
    assert loose(dataset) == MEMBERS


async def test_a_source_must_name_a_dataset_and_no_version(dataset: SmallDataset) -> None:
    store = str(dataset.path.parent.parent)
    for text, failure in ((store, BadSource), (f"{store}#~one@main", BadSource), (f"{store}#~two", SourceNotFound)):
        with pytest.raises(failure):
            async with open_dataset(parse_ria_source(text), means(), dry_run=True):
                pass


async def test_an_encrypted_archive_is_not_added_to(dataset: SmallDataset) -> None:
    dataset.archive({b"secret": b"1" * 100}, "-ppassword", paths=True)
    before = archive_path(dataset).read_bytes()
    with pytest.raises(EncryptedArchive):
        await archive(dataset, request(prune=True))
    assert archive_path(dataset).read_bytes() == before
    assert loose(dataset) == MEMBERS


@pytest.mark.parametrize("content", [b"", b"no archive at all"])
async def test_a_file_that_is_no_archive_is_not_replaced(dataset: SmallDataset, content: bytes) -> None:
    archive_path(dataset).parent.mkdir()
    archive_path(dataset).write_bytes(content)
    with pytest.raises(NotAnArchive):
        await archive(dataset, request(prune=True))
    assert archive_path(dataset).read_bytes() == content


async def test_directories_on_another_disk_are_packed_where_that_is_allowed(
    dataset: SmallDataset, tmp_path: Path
) -> None:
    (disk := tmp_path / "disk").mkdir()
    (dataset.path / "annex" / "objects").rename(disk / "objects")
    (dataset.path / "annex" / "objects").symlink_to(disk / "objects")
    (disk / "archives").mkdir()
    (dataset.path / "archives").symlink_to(disk / "archives")
    with pytest.raises(OutsideStore):
        await archive(dataset, request(prune=True))
    assert list((disk / "archives").iterdir()) == []
    allowed = replace(means(), allow_links=(os.fsencode(disk),))
    async with open_dataset(parse_ria_source(source(dataset)), allowed, dry_run=False) as opened:
        await archive_objects(opened, request(prune=True), NoWatcher())
    assert [path.name for path in (disk / "archives").iterdir()] == ["archive.7z"]
    assert archived(dataset) == MEMBERS


async def test_a_link_in_the_archives_place_is_not_replaced(dataset: SmallDataset, tmp_path: Path) -> None:
    archive_path(dataset).parent.mkdir()
    archive_path(dataset).symlink_to(tmp_path / "elsewhere.7z")
    with pytest.raises(StoreError):
        await archive(dataset, request(prune=True))
    assert archive_path(dataset).is_symlink()


async def test_a_truncated_archive_is_not_replaced(dataset: SmallDataset) -> None:
    path = dataset.archive({b"one": noise(5000)}, "-mhc=off", "-mx0", paths=True)
    raw = path.read_bytes()
    path.write_bytes(raw[:32] + raw[1000:])
    with pytest.raises(Exception, match=r"archive|header"):
        await archive(dataset, request(prune=True))
    assert loose(dataset) == MEMBERS


# -- faults -----------------------------------------------------------------------------------------------------------


async def test_a_new_archive_that_gives_back_other_bytes_is_thrown_away(dataset: SmallDataset) -> None:
    await archive(dataset, request(smaller=100))
    before = archive_path(dataset).read_bytes()

    def flip() -> None:
        path = dataset.path / "archives" / ".riafs-packing" / "archive.7z"
        raw = bytearray(path.read_bytes())
        raw[raw.index(NOISE[1]) + 50] ^= 1
        path.write_bytes(raw)

    with pytest.raises(CorruptContent):
        await archive(dataset, request(prune=True), At(PackingStep.CHECKING, flip))
    assert archive_path(dataset).read_bytes() == before
    assert loose(dataset) == MEMBERS
    assert nothing_unfinished(dataset)


async def test_old_content_that_is_different_in_the_new_archive_is_noticed(dataset: SmallDataset) -> None:
    old = noise(4000, "old")
    dataset.archive({b"old": old}, paths=True)

    def flip() -> None:
        path = dataset.path / "archives" / ".riafs-packing" / "archive.7z"
        raw = bytearray(path.read_bytes())
        raw[raw.index(old)] ^= 1
        path.write_bytes(raw)

    with pytest.raises(CorruptContent):
        await archive(dataset, request(), At(PackingStep.CHECKING, flip))
    assert archived(dataset) == {b"old": old}


async def test_without_room_nothing_is_written(dataset: SmallDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(dataset.path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:4], 1, *real[5:])))
    with pytest.raises(StoreError, match="needs about"):
        await archive(dataset, request(prune=True))
    assert loose(dataset) == MEMBERS
    assert not archive_path(dataset).exists()


async def test_an_object_that_cannot_be_read_is_reported(
    dataset: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ObjectReader.open

    def fail(self: ObjectReader, path: bytes) -> int:
        if path == mixed_path(key_of(NOISE[0])):
            raise OSError(5, "Input/output error")
        return real(self, path)

    monkeypatch.setattr(ObjectReader, "open", fail)
    report = await archive(dataset, request(prune=True))
    assert [each.reason for each in report.damaged] == ["cannot be read: Input/output error"]
    assert loose(dataset) == {mixed_path(key_of(NOISE[0])): NOISE[0]}


async def test_modes_of_an_archive_are_kept(dataset: SmallDataset) -> None:
    dataset.archive({b"old": b"1"}, paths=True).chmod(0o640)
    await archive(dataset, request())
    assert archive_path(dataset).stat().st_mode & 0o777 == 0o640


async def test_a_shared_dataset_gets_a_shared_archive(dataset: SmallDataset) -> None:
    dataset.git("config", "core.sharedRepository", "group")
    before = os.umask(0o077)
    try:
        await archive(dataset, request())
    finally:
        os.umask(before)
    assert archive_path(dataset).stat().st_mode & 0o777 == 0o660
    assert archive_path(dataset).parent.stat().st_mode & 0o7777 == 0o2770


def test_an_estimate_of_freed_inodes_counts_directories_once(dataset: SmallDataset) -> None:
    with held(dataset.path / "annex" / "objects") as directory:
        found = find_loose(directory, Layout.MIXED)
    assert found.inodes_of(found.objects) == 48
    assert found.inodes_of(found.objects[:1]) == 4
    (dataset.object_path(key_of(b"x")).parent / "junk").write_bytes(b"")
    with held(dataset.path / "annex" / "objects") as directory:
        found = find_loose(directory, Layout.MIXED)
    assert found.inodes_of(found.objects) == 45
