"""riafs push, diff, restore and overlay as a user types them, on an overlay that is not mounted."""

import json
import os
from pathlib import Path

import pytest
import trio

from riafs.cli import main
from riafs.cli.overlay import move
from riafs.cli.progress import Display
from riafs.errors import UsageError
from riafs.overlay.overlay import opened
from riafs.watching import PushStep
from tests.plugins.log_hygiene import Announce
from tests.push.conftest import content, run, sound, state, tree, with_annex
from tests.push.conftest import dataset as dataset
from tests.push.test_refusals import small_disk as small_disk
from tests.small import Registered, SmallDataset, SmallStore, noise
from tests.writing.drivers import WritableObject, writable

Output = pytest.CaptureFixture[str]


def changed(source: Path, overlay: Path, files: dict[bytes, bytes], *removed: bytes) -> Path:
    """Write files over a source, as a mount would, and leave the overlay unmounted."""

    async def change() -> None:
        async with writable(source, overlay) as driver:
            for path, data in files.items():
                await write(driver, path, data)
            for path in removed:
                await driver.unlink(path)

    trio.run(change)
    return overlay


async def write(driver: WritableObject, path: bytes, data: bytes) -> None:
    await driver.write(path, data, flags=os.O_CREAT | os.O_TRUNC)


def store_of(dataset: SmallDataset) -> Path:
    return dataset.path.parent.parent


@pytest.fixture
def overlay(dataset: SmallDataset, tmp_path: Path) -> Path:
    """With a new file, a changed one, and a removed one."""
    files = {b"one/new.dat": b"new", b"one/code/run.sh": b"#!/bin/bash\n"}
    return changed(store_of(dataset), tmp_path / "over", files, b"one/tool")


def riafs(*words: object) -> int:
    return main.run("riafs", list(map(str, words)))


def listed(overlay: Path, capfd: Output, *words: object) -> list[str]:
    """``kind path`` of each change."""
    capfd.readouterr()
    assert riafs("diff", "--overlay", overlay, "--json", *words) == 0
    return [f"{each['kind']} {each['path']}" for each in json.loads(capfd.readouterr().out)]


ALL = ["changed one/code/run.sh", "added one/new.dat", "removed one/tool"]


# -- what works -------------------------------------------------------------------------------------------------------


def test_diff_tells_kinds_sizes_and_places(overlay: Path, capfd: Output) -> None:
    assert riafs("diff", "--overlay", overlay) == 0
    assert capfd.readouterr().out.splitlines() == [
        "changed  one/code/run.sh (12 B)",
        "added    one/new.dat (3 B)",
        "removed  one/tool",
    ]
    assert listed(overlay, capfd) == ALL
    assert listed(overlay, capfd, "one/code", "/one/tool") == [ALL[0], ALL[2]]
    assert listed(overlay, capfd, "other") == []


def test_push_makes_a_commit_and_nothing_is_changed_any_more(
    overlay: Path, dataset: SmallDataset, capfd: Output
) -> None:
    assert riafs("push", "--overlay", overlay, "-m", "a message", "--author", "Some One <one@riafs.invalid>") == 0
    assert dataset.git("rev-parse", "main") in capfd.readouterr().out
    assert dataset.git("log", "-1", "--format=%an %ae %s", "main") == "Some One one@riafs.invalid a message"
    assert content(dataset, b"new.dat") == b"new"
    assert b"tool" not in tree(dataset)
    assert listed(overlay, capfd) == []
    sound(dataset)
    assert riafs("push", "--overlay", overlay) == 0
    assert "nothing to push" in capfd.readouterr().out


def test_push_tells_in_json(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    assert riafs("push", "--overlay", overlay, "--json") == 0
    [outcome] = json.loads(capfd.readouterr().out)
    assert (outcome["path"], outcome["dataset"], outcome["ref"]) == ("one", dataset.id, "refs/heads/main")
    assert (outcome["changed"], outcome["annexed"], outcome["in_git"], outcome["kept"]) == (3, 1, 1, False)


def test_only_what_is_named_is_pushed(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    assert riafs("push", "--overlay", overlay, "one/code", "one/tool") == 0
    assert content(dataset, b"code/run.sh") == b"#!/bin/bash\n"
    assert b"new.dat" not in tree(dataset)
    assert listed(overlay, capfd) == ["added one/new.dat"]
    assert riafs("push", "--overlay", overlay, "nowhere") == 0
    assert "nothing to push" in capfd.readouterr().out


def test_a_dataset_is_named_by_its_id(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    store, other = store_of(dataset), "00000000-0000-4000-8000-000000000000"
    assert listed(overlay, capfd, dataset.id) == listed(overlay, capfd, f"{store}#{dataset.id}") == ALL
    for unknown in (other, f"{store}/other#{dataset.id}"):
        assert riafs("diff", "--overlay", overlay, unknown) == 2
        assert "nothing is changed in dataset" in capfd.readouterr().err
    assert riafs("push", "--overlay", overlay, f"ria+file://{store}#{dataset.id}") == 0
    assert content(dataset, b"new.dat") == b"new"


def test_a_dry_run_changes_nothing(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    before = state(dataset)
    assert riafs("push", "--overlay", overlay, "--dry-run") == 0
    assert "one: would be pushed to main: 3 paths, 1 annexed and 1 in git" in capfd.readouterr().out
    assert state(dataset) == before
    assert listed(overlay, capfd) == ALL


def test_another_branch_takes_a_copy_and_the_changes_stay(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    assert riafs("push", "--overlay", overlay, "--as-branch", "mine") == 0
    assert "the changes stay local as well" in capfd.readouterr().out
    assert content(dataset, b"new.dat", "mine") == b"new"
    assert b"new.dat" not in tree(dataset)
    assert listed(overlay, capfd) == ALL


def test_restore_drops_what_is_named_and_nothing_else(overlay: Path, capfd: Output) -> None:
    assert riafs("restore", "--overlay", overlay, "one/tool", "one/code") == 0
    assert listed(overlay, capfd) == ["added one/new.dat"]
    assert riafs("restore", "--overlay", overlay, "one/new.dat", "one/tool") == 2
    assert "nothing is changed at one/tool" in capfd.readouterr().err
    assert listed(overlay, capfd) == ["added one/new.dat"]
    assert riafs("restore", "--overlay", overlay, "/") == 0
    assert listed(overlay, capfd) == []


def nested(tmp_path: Path) -> tuple[SmallDataset, SmallDataset]:
    """A subdataset at ``sub/inner`` of another dataset."""
    store = SmallStore.make(tmp_path / "store")
    inner = with_annex(store.dataset("inner", {b"x": b"x"}))
    modules = f'[submodule "i"]\n\tpath = sub/inner\n\turl = ./x\n\tdatalad-id = {inner.id}\n'
    registered = Registered(inner.git("rev-parse", "main"))
    return inner, with_annex(store.dataset("outer", {b".gitmodules": modules.encode(), b"sub/inner": registered}))


def test_a_subdataset_that_is_pushed_alone_is_registered_and_stays_in_view(tmp_path: Path, capfd: Output) -> None:
    inner, outer = nested(tmp_path)
    files = {b"outer/own": b"1", b"outer/sub/inner/new": b"2"}
    overlay = changed(tmp_path / "store", tmp_path / "over", files)
    assert riafs("push", "--overlay", overlay, "outer/sub/inner") == 0
    assert tree(outer)[b"sub/inner"] == ("160000", inner.git("rev-parse", "main").encode())
    assert b"own" not in tree(outer)
    assert listed(overlay, capfd) == ["added outer/own"]

    async def look() -> bytes:
        async with writable(tmp_path / "store", overlay) as driver:
            return await driver.read(b"outer/sub/inner/new")

    assert trio.run(look) == b"2"
    assert riafs("push", "--overlay", overlay) == 0
    assert content(outer, b"own") == b"1"


def test_overlays_are_listed_moved_and_removed(
    dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Output
) -> None:
    monkeypatch.setattr("riafs.cli.overlay.riafs_mounts", tuple)
    monkeypatch.setattr("riafs.cli.overlay.overlays_directory", lambda _: str(tmp_path / "overlays"))
    overlay = changed(store_of(dataset), tmp_path / "overlays" / "first", {b"one/new": b"new"})
    assert riafs("overlay", "--json") == 0
    [known] = json.loads(capfd.readouterr().out)
    assert known["directory"] == str(overlay)
    assert (known["source"], known["changes"], known["mountpoint"]) == (f"ria+file://{store_of(dataset)}", 1, None)
    assert riafs("overlay", "list") == 0
    assert str(overlay) in capfd.readouterr().out
    assert riafs("overlay", "move", overlay, tmp_path / "second") == 0
    assert listed(tmp_path / "second", capfd) == ["added one/new"]
    assert riafs("overlay", "remove", tmp_path / "second") == 1
    assert "1 change not pushed" in capfd.readouterr().err
    assert riafs("overlay", "remove", tmp_path / "second", "--force") == 0
    assert not (tmp_path / "second").exists()


def test_an_overlay_moves_to_another_file_system(overlay: Path, small_disk: Path, capfd: Output) -> None:
    move(str(overlay), str(small_disk / "over"))
    assert not overlay.exists()
    assert listed(small_disk / "over", capfd) == ALL
    assert riafs("push", "--overlay", small_disk / "over") == 0


def test_an_overlay_in_use_is_left_alone(overlay: Path, capfd: Output) -> None:
    with opened(str(overlay)):
        for words in (["push", "--overlay", overlay], ["overlay", "move", overlay, f"{overlay}2"]):
            assert riafs(*words) == 2
            assert "is in use by another process" in capfd.readouterr().err
    assert listed(overlay, capfd) == ALL


# -- what is refused, or fails: one line, an exit status, the overlay as it was ---------------------------------------


def refused(overlay: Path, capfd: Output, status: int, reason: str, *words: str) -> None:
    capfd.readouterr()
    assert riafs("push", "--overlay", overlay, *words) == status
    line = capfd.readouterr().err
    assert reason in line
    assert line.count("\n") == 1
    assert listed(overlay, capfd) == ALL


def test_a_conflict_lists_its_paths_and_is_decided(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    dataset.commit({b"new.dat": b"theirs", b"tool": b"theirs"}, time=1_800_000_000)
    before = state(dataset)
    commits = dataset.git("log", "--format=%H", "main").split()
    assert riafs("push", "--overlay", overlay) == 16
    output, errors = capfd.readouterr()
    assert {"conflict  new.dat", "conflict  tool"} <= set(output.splitlines())
    assert "changed both here since" in errors
    assert [commit for commit in commits if commit in errors] == commits
    assert state(dataset) == before
    refused(overlay, capfd, 16, "nothing was pushed", "--json")
    assert riafs("push", "--overlay", overlay, "--ours") == 0
    assert content(dataset, b"new.dat") == b"new"
    assert listed(overlay, capfd) == []


def test_theirs_gives_local_changes_up(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    dataset.commit({b"new.dat": b"theirs", b"code/run.sh": b"#!/bin/sh\n"}, time=1_800_000_000)
    assert riafs("push", "--overlay", overlay, "--theirs") == 0
    assert "new.dat was changed in the store as well" in capfd.readouterr().out
    assert tree(dataset)[b"new.dat"][1] == b"theirs"
    assert content(dataset, b"code/run.sh") == b"#!/bin/bash\n"
    assert listed(overlay, capfd) == []


def test_a_read_only_store_is_refused(small_disk: Path, tmp_path: Path, capfd: Output) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"tool": b"", b"code/run.sh": b""}))
    files = {b"one/new.dat": b"new", b"one/code/run.sh": b"#!/bin/bash\n"}
    overlay = changed(store_of(dataset), tmp_path / "over", files, b"one/tool")
    run(tmp_path, "mount", "-o", "remount,ro", small_disk)
    refused(overlay, capfd, 2, "read-only")


def test_a_full_disk_half_way_leaves_everything_as_it_was(small_disk: Path, tmp_path: Path, capfd: Output) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"tool": b"", b"code/run.sh": b""}))
    files = {b"one/new.dat": noise(4_000_000), b"one/code/run.sh": b"#!/bin/bash\n"}
    overlay = changed(store_of(dataset), tmp_path / "over", files, b"one/tool")
    before = state(dataset)
    refused(overlay, capfd, 2, "no room")
    assert state(dataset) == before
    sound(dataset)


def test_a_dataset_that_goes_away_half_way_is_told_and_the_push_run_again(
    overlay: Path, dataset: SmallDataset, capfd: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = Path(f"{dataset.path}.gone")

    def leave(_: Display, step: PushStep, total: int) -> None:
        if step is PushStep.HISTORY and not gone.exists():
            dataset.path.rename(gone)

    with monkeypatch.context() as patched:
        patched.setattr(Display, "begin", leave)
        assert riafs("push", "--overlay", overlay) in (1, 2, 32)  # what is found first: no branch, or no directory
    assert capfd.readouterr().err.count("\n") == 1
    gone.rename(dataset.path)
    assert listed(overlay, capfd) == ALL
    assert riafs("push", "--overlay", overlay) == 0
    sound(dataset)


def test_no_author_is_refused(overlay: Path, capfd: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    refused(overlay, capfd, 1, "git does not know who you are")


def test_an_unknown_layout_is_refused(
    overlay: Path, dataset: SmallDataset, capfd: Output, expected_warnings: Announce
) -> None:
    expected_warnings("unknown dataset version")
    (dataset.path / "ria-layout-version").write_text("7\n")
    refused(overlay, capfd, 1, "its layout is unknown")


def test_a_tuned_repository_is_refused(overlay: Path, dataset: SmallDataset, capfd: Output) -> None:
    with_annex(dataset, difference=b"1s uuid objectHash1 = 1\n")
    refused(overlay, capfd, 1, "difference.log")


@pytest.mark.parametrize("form", ["encryption=shared cipher=eHh4", "encryption=none chunksize=1MiB"])
def test_a_storage_in_another_form_is_refused(overlay: Path, dataset: SmallDataset, capfd: Output, form: str) -> None:
    with_annex(dataset, form)
    before = state(dataset)
    refused(overlay, capfd, 1, form.split()[0] if "shared" in form else "chunksize")
    assert state(dataset) == before


def test_a_missing_branch_is_refused(overlay: Path, capfd: Output) -> None:
    refused(overlay, capfd, 1, "branch nowhere of", "--branch", "nowhere")
    refused(overlay, capfd, 1, "cannot be the name of a branch", "--branch", "a..b")


def test_a_detached_head_is_refused(dataset: SmallDataset, tmp_path: Path, capfd: Output) -> None:
    (dataset.path / "HEAD").write_text(dataset.git("rev-parse", "main") + "\n")
    files = {b"one/new.dat": b"new", b"one/code/run.sh": b"#!/bin/bash\n"}
    overlay = changed(store_of(dataset), tmp_path / "over", files, b"one/tool")
    refused(overlay, capfd, 1, "is shown at a commit, not at a branch")
    assert riafs("push", "--overlay", overlay, "--as-branch", "mine") == 0


def test_a_directory_that_is_no_overlay_is_refused(tmp_path: Path, capfd: Output) -> None:
    for command in ("push", "diff"):
        assert riafs(command, "--overlay", tmp_path) == 2
        assert "is no overlay" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_path_in_no_mount_and_one_out_of_the_source_are_refused(overlay: Path, tmp_path: Path, capfd: Output) -> None:
    assert riafs("diff", tmp_path) == 1
    assert "is in no riafs mount" in capfd.readouterr().err
    assert riafs("diff", "--overlay", overlay, "../x") == 1
    with pytest.raises(UsageError, match="exists already"):
        move(str(overlay), str(tmp_path))


def test_a_damaged_overlay_is_refused_everywhere_and_recovered(
    overlay: Path, dataset: SmallDataset, capfd: Output
) -> None:
    (overlay / "overlay.sqlite").unlink()
    for words in (("diff",), ("push",), ("restore", "one/new.dat")):
        assert riafs(words[0], "--overlay", overlay, *words[1:]) == 2
        assert f"riafs overlay recover {overlay}" in capfd.readouterr().err
    assert riafs("overlay", "recover", overlay) == 0
    said = capfd.readouterr().out
    assert "named     one/new.dat" in said
    assert f"all other data is in {overlay}.recovered" in said
    assert listed(overlay, capfd) == ALL
    assert riafs("overlay", "recover", overlay) == 0
    assert "nothing to recover" in capfd.readouterr().out
    (overlay / "overlay.sqlite").write_bytes(b"")
    assert riafs("overlay", "remove", overlay) == 2
    assert riafs("overlay", "remove", overlay, "--force") == 0
    assert not overlay.exists()
