"""``riafs verify`` on RIA stores: every kind of damage by name, and nothing but the store is believed."""

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from riafs.cli import main
from riafs.content.copies import CopyState, state_of
from riafs.errors import (
    ChangedContent,
    CorruptContent,
    DecodeFailed,
    EncryptedArchive,
    LinkLoop,
    MalformedArchive,
    MissingObject,
    MissingProgram,
    NotInStore,
    OutsideStore,
    OversizedArchive,
    RiafsError,
    StoreDenied,
    StoreTimeout,
    TooLarge,
    UnsupportedArchive,
    UnsupportedRepository,
)
from tests.plugins.log_hygiene import Announce
from tests.small import Files, Locked, Pointer, Registered, SmallDataset, SmallStore, key_of, noise, put

GOOD, OTHER = noise(5000, "good"), noise(70_000, "other")
KEYS = {key_of(GOOD): GOOD, key_of(OTHER): OTHER}


@pytest.fixture(autouse=True)
def _damage_is_expected(expected_warnings: Announce) -> None:
    expected_warnings("is damaged", "cannot be shown", "this copy is not used")


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def dataset(store: SmallStore) -> SmallDataset:
    """A dataset with two keys, both loose and good, one of them used twice, and a file in git."""
    files: Files = {
        b"a/good": Locked(key_of(GOOD)), b"a/again": Pointer(key_of(GOOD)), b"other": Locked(key_of(OTHER)),
        b"text": b"in git\n",
    }  # fmt: skip
    made = store.dataset("one", files)
    for key, content in KEYS.items():
        made.put(key, content)
    return made


def source(dataset: SmallDataset) -> str:
    return f"{dataset.path.parent.parent}#{dataset.id}"


def verify(capfd: pytest.CaptureFixture[str], where: str | Path, *words: str, status: int = 0) -> dict[str, Any]:
    """What the command says in JSON; it must end with `status`."""
    assert main.run("riafs", ["verify", str(where), "--json", *words]) == status
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return report


def states(report: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in report["findings"]}


def test_a_good_dataset_has_nothing_to_report(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    report = verify(capfd, source(dataset))
    assert (report["parts"], report["good"], report["findings"]) == (3, 3, [])
    assert report["bytes"] == len(GOOD) + len(OTHER) + len(b"in git\n")


def test_a_damaged_key_is_named_with_all_files_that_use_it(
    dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset.put(key_of(GOOD), GOOD[:-1] + b"!")
    [finding] = verify(capfd, source(dataset), status=2)["findings"]
    assert (finding["state"], finding["name"]) == ("damaged", key_of(GOOD).decode())
    assert (sorted(finding["files"]), finding["used_by"]) == (["a/again", "a/good"], 2)
    [copy] = finding["copies"]
    assert copy["state"] == "damaged"


def test_a_copy_of_the_wrong_size_is_damaged(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.put(key_of(OTHER), OTHER[:-1])
    [finding] = verify(capfd, source(dataset), status=2)["findings"]
    assert (finding["state"], finding["copies"][0]["problem"]) == ("damaged", "has 69999 bytes")


def test_a_missing_key_is_missing(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.object_path(key_of(OTHER)).unlink()
    assert states(verify(capfd, source(dataset), status=2)) == {key_of(OTHER).decode(): "missing"}


def test_nothing_remembered_is_believed(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    """Same size, same times: only reading tells."""
    verify(capfd, source(dataset))
    path = dataset.object_path(key_of(OTHER))
    before = path.stat()
    path.write_bytes(bytes(len(OTHER)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert states(verify(capfd, source(dataset), status=2)) == {key_of(OTHER).decode(): "damaged"}


def test_a_damaged_copy_beside_a_good_one_is_reported(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.archive({key_of(OTHER): OTHER})
    dataset.put(key_of(OTHER), bytes(len(OTHER)))
    [finding] = verify(capfd, source(dataset), status=64)["findings"]
    assert finding["state"] == "damaged copy"
    assert [each["state"] for each in finding["copies"]] == ["damaged", "good"]


def test_without_all_replicas_copies_after_the_first_good_one_are_not_read(
    dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset.archive({key_of(OTHER): bytes(len(OTHER))})
    assert verify(capfd, source(dataset))["findings"] == []
    report = verify(capfd, source(dataset), "--all-replicas", status=64)
    assert states(report) == {key_of(OTHER).decode(): "damaged copy"}


def test_copies_are_counted_against_a_wish(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.archive({key_of(OTHER): OTHER})
    few = states(verify(capfd, source(dataset), "--copies", "2", status=64))
    assert few == {key_of(GOOD).decode(): "under-replicated"}  # git keeps one copy, whatever is asked for
    many = states(verify(capfd, source(dataset), "--copies", "1"))
    assert many == {key_of(OTHER).decode(): "over-replicated"}


def test_keys_of_other_versions_are_read_too(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    old = key_of(b"old")
    dataset.put(old, b"OLD")
    [finding] = verify(capfd, source(dataset), status=2)["findings"]
    assert (finding["name"], finding["files"], finding["used_by"]) == (old.decode(), [], 0)


def test_a_version_is_checked_for_itself(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.put(key_of(b"old"), b"OLD")
    assert verify(capfd, source(dataset) + "@main")["parts"] == 3


def test_a_store_is_checked_dataset_by_dataset_each_once(
    store: SmallStore, dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    other = store.dataset("two", {b"file": Locked(key_of(GOOD))})
    other.put(key_of(GOOD), bytes(len(GOOD)))
    report = verify(capfd, store.path, status=2)
    assert report["parts"] == 4  # the same key in two datasets is two things to check
    [finding] = report["findings"]
    assert finding["files"] == [f"{other.id}/file"]


def test_a_broken_repository_is_a_directory_that_cannot_be_listed(
    store: SmallStore, dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = store.dataset("broken", {b"file": b"x"})
    for path in (broken.path / "objects").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"garbage")
    report = verify(capfd, store.path, status=2)
    assert [each["path"] for each in report["unlisted"]] == [broken.id]
    assert report["good"] == 3


def test_a_subdataset_that_is_not_there_is_told_but_no_failure(
    store: SmallStore, capfd: pytest.CaptureFixture[str]
) -> None:
    top = store.dataset("top", {b"sub": Registered("1" * 40), b"file": b"in git"})
    report = verify(capfd, source(top))
    assert [each["path"] for each in report["empty"]] == ["sub"]


def test_a_key_without_a_digest_is_checked_by_its_size(store: SmallStore, capfd: pytest.CaptureFixture[str]) -> None:
    key = b"WORM-s3-m1700000000--file"
    made = store.dataset("worm", {b"file": Locked(key)})
    made.put(key, b"abc")
    report = verify(capfd, source(made))
    assert (report["good"], report["size_only"]) == (1, 1)


def test_what_is_no_key_is_passed_over(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    put(dataset.path / "annex/objects/Xx/yY/not a key/not a key", b"?")
    put(dataset.path / "annex/objects/tmp", b"?")
    assert verify(capfd, source(dataset))["parts"] == 3


def test_members_of_an_archive_are_read(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    for key in KEYS:
        dataset.object_path(key).unlink()
    dataset.archive(KEYS | {key_of(b"unused"): b"unused"}, "-mx5")
    report = verify(capfd, source(dataset))
    assert (report["parts"], report["good"]) == (4, 4)


def test_a_copy_that_needs_a_password_is_not_called_damaged(
    dataset: SmallDataset, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIAFS_ARCHIVE_PASSWORD", raising=False)
    dataset.object_path(key_of(GOOD)).unlink()
    dataset.archive({key_of(GOOD): GOOD}, "-mx1", "-psecret")
    assert states(verify(capfd, source(dataset), status=2)) == {key_of(GOOD).decode(): "unreachable"}


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (NotInStore("x"), CopyState.ABSENT),
        (MissingObject("x"), CopyState.ABSENT),
        (CorruptContent("x"), CopyState.DAMAGED),
        (DecodeFailed("x"), CopyState.DAMAGED),
        (StoreDenied("x"), CopyState.UNREACHABLE),
        (StoreTimeout("x"), CopyState.UNREACHABLE),
        (EncryptedArchive("x"), CopyState.UNREACHABLE),
        (MissingProgram("x"), CopyState.UNREACHABLE),
        (OutsideStore("x"), CopyState.UNREACHABLE),
        (LinkLoop("x"), CopyState.DAMAGED),
        (UnsupportedArchive("x"), CopyState.UNREACHABLE),
        (OversizedArchive("x"), CopyState.UNREACHABLE),
        (MalformedArchive("x"), CopyState.DAMAGED),
        (UnsupportedRepository("x"), CopyState.UNREACHABLE),
        (ChangedContent("x"), CopyState.UNREACHABLE),
        (TooLarge("x"), CopyState.UNREACHABLE),
    ],
)
def test_damage_is_what_the_store_would_have_to_mend(problem: RiafsError, state: CopyState) -> None:
    assert state_of(problem) is state


def test_people_get_a_table_with_the_worst_first(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.put(key_of(GOOD), b"short")
    dataset.object_path(key_of(OTHER)).unlink()
    assert main.run("riafs", ["verify", source(dataset), "--jobs", "2"]) == 2
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["STATE", "missing", "damaged"]
    assert lines[3].endswith("1 good, 1 missing, 1 damaged; 1 usable copies read")
    assert [line.partition(":")[0] for line in lines[4:]] == [
        "next, for what is missing (keys)", "next, for what is damaged (keys)",
    ]  # fmt: skip


def test_a_store_s_files_are_called_by_aliases_one_line_for_all_of_a_key(
    store: SmallStore, dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset.put(key_of(GOOD), GOOD[:-1] + b"!")
    assert main.run("riafs", ["verify", str(store.path)]) == 2
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("damaged")]
    assert line.split("  ")[1:] == [
        "one/a/again and 1 other file", key_of(GOOD).decode(), "loose object: damaged",
    ]  # fmt: skip


def test_an_archive_with_bad_members_has_a_line_of_its_own(
    store: SmallStore, dataset: SmallDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    for key in KEYS:
        dataset.object_path(key).unlink()
    dataset.archive({key_of(GOOD): GOOD, key_of(OTHER): bytes(len(OTHER))})
    assert main.run("riafs", ["verify", str(store.path)]) == 2
    assert "one: archives/archive.7z: 1 damaged, 1 good of the keys that were read in it" in capfd.readouterr().out
    [archive] = verify(capfd, store.path, status=2)["archives"]
    assert archive["copies"] == {"damaged": 1, "good": 1}


def test_an_archive_that_cannot_be_read_is_one_line_with_the_reason(
    store: SmallStore, dataset: SmallDataset, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIAFS_ARCHIVE_PASSWORD", raising=False)
    for key in KEYS:
        dataset.object_path(key).unlink()
    dataset.archive(KEYS, "-mx1", "-psecret", "-mhe=on")
    assert main.run("riafs", ["verify", str(store.path)]) == 2
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("one: archives/archive.7z: ")]
    assert "2 unreachable, 0 good" in line
    assert "password" in line


# -- what nobody looked at, and nothing at all ------------------------------------------------------------------------


def test_an_object_behind_a_link_out_of_the_store_is_unreachable(
    dataset: SmallDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = dataset.object_path(key_of(OTHER))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    [finding] = verify(capfd, source(dataset), status=2)["findings"]
    assert finding["state"] == "unreachable"
    assert "leads out of the store" in finding["copies"][0]["problem"]


def test_a_member_without_a_codec_is_unreachable(
    dataset: SmallDataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A method that nobody has: its id is exchanged for one that does not exist."""
    dataset.object_path(key_of(OTHER)).unlink()
    archive = dataset.archive({key_of(OTHER): OTHER}, "-m0=ppmd", "-mhc=off")
    data = archive.read_bytes()
    assert data.count(b"\x23\x03\x04\x01") == 1
    start, header = data[:32], data[32:].replace(b"\x23\x03\x04\x01", b"\x23\x03\x04\x77")
    size = int.from_bytes(start[20:28], "little")
    following = start[12:28] + zlib.crc32(header[-size:]).to_bytes(4, "little")
    archive.write_bytes(start[:8] + zlib.crc32(following).to_bytes(4, "little") + following + header)
    [finding] = verify(capfd, source(dataset), status=2)["findings"]
    assert finding["state"] == "unreachable", finding


def test_a_dataset_without_git_is_read_all_the_same(store: SmallStore, capfd: pytest.CaptureFixture[str]) -> None:
    made = store.dataset("storage")
    for name in ("HEAD", "config"):
        (made.path / name).unlink()
    for name in ("objects", "refs"):
        shutil.rmtree(made.path / name)
    made.put(key_of(GOOD), GOOD)
    made.put(key_of(OTHER), OTHER[:-1] + b"!")
    for where in (source(made), f"{store.path}#~storage", str(store.path)):
        report = verify(capfd, where, status=2)
        assert (report["parts"], report["good"], states(report)) == (2, 1, {key_of(OTHER).decode(): "damaged"})


@pytest.mark.parametrize("where", ["a store", "a dataset", "by its id"])
def test_nothing_to_read_is_no_success(store: SmallStore, capfd: pytest.CaptureFixture[str], where: str) -> None:
    if where != "a store":
        store.dataset("empty")
    source = {"a store": f"{store.path}", "a dataset": f"{store.path}#~empty", "by its id": f"{store.path}"}[where]
    assert main.run("riafs", ["verify", source]) == 2
    assert "nothing was read, so nothing is known to be good" in capfd.readouterr().err


def test_a_dataset_s_directory_is_told_how_to_name_it(
    dataset: SmallDataset, store: SmallStore, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run("riafs", ["verify", str(dataset.path)]) != 0
    assert f"did you mean {store.path}#~one?" in capfd.readouterr().err


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["verify", str(tmp_path / "none")]) == 32
    assert capfd.readouterr().err.count("\n") == 1
