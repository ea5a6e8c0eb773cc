"""Pushing from a mount: it shows the new commit with nothing changed, and whoever works in it is not disturbed."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from riafs.daemon.ask import ask
from riafs.daemon.mounts import mount_at
from riafs.errors import OverlayDamaged
from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.push.conftest import LOCKED, STAMP, tree, with_annex
from tests.push.conftest import dataset as dataset
from tests.small import Registered, SmallDataset, SmallStore

IDENT = os.fsdecode(STAMP.ident)


@pytest.fixture
def mount(fuse: None, dataset: SmallDataset, tmp_path: Path) -> Iterator[Mounted]:
    store = dataset.path.parent.parent
    with mounted(store, tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as made:
        yield made


def tell(mount: Mounted, command: str, **arguments: Any) -> dict[str, Any]:
    found = mount_at(str(mount.path))
    assert found is not None
    return ask(found, command, os.environ, 60.0, arguments)


def push(mount: Mounted, **arguments: Any) -> dict[str, Any]:
    return tell(mount, "push", message="a push", author=IDENT, committer=IDENT, **arguments)


def changed(mount: Mounted) -> list[str]:
    return [each["path"] for found in tell(mount, "changes")["datasets"] for each in found["changes"]]


def test_what_was_pushed_is_in_the_commit_and_no_change_any_more(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "new.dat").write_bytes(b"new" * 1000)
    (top / "code" / "more.sh").write_text("#!/bin/sh\n")
    with open(top / "data" / "locked.dat", "r+b") as file:
        file.write(b"L")
    (top / "tool").unlink()
    os.rename(top / "data" / "sub", top / "moved")
    assert changed(mount) == ["code/more.sh", "data/locked.dat", "moved", "new.dat", "tool"]
    [report] = push(mount)["pushed"]
    assert (report["dataset"], report["ref"]) == (dataset.id, "refs/heads/main")
    assert report["commit"] == dataset.git("rev-parse", "main")
    assert changed(mount) == []
    assert mount.status()["changes"] == 0
    assert (top / "new.dat").read_bytes() == b"new" * 1000
    assert (top / "data" / "locked.dat").read_bytes() == b"L" + LOCKED[1:]
    assert sorted(os.listdir(top)) == [".gitattributes", "code", "data", "link", "moved", "new.dat"]
    assert (top / "moved" / "deep.dat").read_bytes() == LOCKED
    assert os.getxattr(top / "new.dat", "user.riafs.kind") == b"annex"
    assert tree(dataset)[b"code/more.sh"] == ("100644", b"#!/bin/sh\n")


def test_open_files_and_working_directories_are_not_disturbed(mount: Mounted) -> None:
    top = mount.path / "one"
    (top / "results").mkdir()
    (top / "results" / "log").write_bytes(b"first\n")
    here = os.getcwd()
    with open(top / "data" / "locked.dat", "r+b", buffering=0) as writer:
        writer.write(b"L")
        with (
            open(top / "results" / "log", "rb", buffering=0) as reader,
            open(top / "data" / "locked.dat", "rb", buffering=0) as other,
        ):
            os.chdir(top / "results")
            try:
                push(mount)
                assert os.listdir(".") == ["log"]
                assert os.path.realpath(os.getcwd()) == str(top / "results")
                assert Path("log").read_bytes() == b"first\n"
                assert reader.read() == b"first\n"
                assert os.fstat(reader.fileno()).st_size == 6
                Path("second").write_bytes(b"second\n")
                assert sorted(os.listdir(".")) == ["log", "second"]
                assert sorted(os.listdir(top / "results")) == ["log", "second"]
            finally:
                os.chdir(here)
            writer.write(b"M")
            assert other.read()[:2] == b"LM"
    assert (top / "data" / "locked.dat").read_bytes() == b"LM" + LOCKED[2:]
    assert changed(mount) == ["data/locked.dat", "results/second"]
    push(mount)
    assert changed(mount) == []
    assert (top / "results" / "second").read_bytes() == b"second\n"


def test_who_is_in_a_renamed_directory_stays_in_it(mount: Mounted) -> None:
    top = mount.path / "one"
    (top / "new" / "in").mkdir(parents=True)
    (top / "new" / "in" / "f").write_bytes(b"1")
    here = os.getcwd()
    for place, renamed in ((top / "data" / "sub", top / "moved" / "sub"), (top / "new" / "in", top / "later" / "in")):
        os.chdir(place)
        try:
            os.rename(renamed.parent.with_name(place.parent.name), renamed.parent)
            for turn in range(3):
                push(mount)
                assert renamed.parent.name in os.listdir(top)
                assert os.getcwd() == str(renamed)
                Path(f"made{turn}").write_bytes(b"%d" % turn)
                assert (renamed / f"made{turn}").read_bytes() == b"%d" % turn
                assert sorted(os.listdir(".")) == sorted(os.listdir(renamed))
        finally:
            os.chdir(here)
    assert mount.counter("handler_errors") == 0


def test_a_reader_does_not_keep_others_from_writing(mount: Mounted) -> None:
    log = mount.path / "one" / "log"
    log.write_bytes(b"1")
    with open(log, "rb", buffering=0) as reader:
        push(mount)
        with open(log, "ab") as writer:
            writer.write(b"2")
        assert os.fstat(reader.fileno()).st_size == 1
        assert reader.read() == b"1"
    assert log.read_bytes() == b"12"
    push(mount)
    assert log.read_bytes() == b"12"


def test_a_listing_goes_on_over_a_push(mount: Mounted) -> None:
    many = mount.path / "one" / "many"
    many.mkdir()
    names = {f"{number:04}" for number in range(2000)}
    for name in names:
        (many / name).touch()
    with os.scandir(many) as listing:
        listed = [next(listing).name for _ in range(3)]
        push(mount)
        listed += [entry.name for entry in listing]
    assert len(listed) == 2000
    assert set(listed) == names == set(os.listdir(many))


def test_after_a_push_the_branch_is_followed_again(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "new").write_bytes(b"x")
    dataset.commit({b"theirs": b"1"}, time=1_800_000_000)
    mount.refresh()
    assert "theirs" not in os.listdir(top)
    push(mount)
    assert {"theirs", "new"} <= set(os.listdir(top))
    dataset.commit({b"later": b"2"}, time=1_900_000_000)
    mount.refresh()
    assert os.listdir(top) == ["later"]


@pytest.mark.parametrize(("who", "turns"), [("AB", 60), ("ABCDEFGH", 20)])
def test_nothing_is_lost_while_others_write(mount: Mounted, dataset: SmallDataset, who: str, turns: int) -> None:
    top = mount.path / "one"
    script = """
import os, sys
top, who, turns = sys.argv[1:]
for i in range(int(turns)):
    os.makedirs(f"{top}/{who}/{i % 5}", exist_ok=True)
    with open(f"{top}/{who}/{i % 5}/{i}", "w") as file:
        file.write(f"{who} {i}")
    with open(f"{top}/{who}/log", "a") as file:
        file.write(f"{i}\\n")
    if i % 3 == 0:
        os.rename(f"{top}/{who}/{i % 5}/{i}", f"{top}/{who}/renamed-{i}")
    if i % 7 == 0:
        os.unlink(f"{top}/{who}/renamed-{i}" if i % 3 == 0 else f"{top}/{who}/{i % 5}/{i}")
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, top, each, str(turns)]) for each in who]
    pushes = 0
    while any(each.poll() is None for each in writers):
        answer = push(mount)
        assert answer.get("kind") in (None, "Busy"), answer
        pushes += "pushed" in answer
    assert [each.returncode for each in writers] == [0] * len(who)
    assert pushes
    push(mount)
    expected = {}
    for each in who:
        expected[f"{each}/log"] = "".join(f"{i}\n" for i in range(turns))
        for i in range(turns):
            path = f"{each}/renamed-{i}" if i % 3 == 0 else f"{each}/{i % 5}/{i}"
            if i % 7:
                expected[path] = f"{each} {i}"
    found = [path for each in who for path in (top / each).rglob("*") if path.is_file()]
    assert {str(path.relative_to(top)): path.read_text() for path in found} == expected
    assert changed(mount) == []
    committed = {os.fsdecode(path) for path in tree(dataset) if path[1:2] == b"/"}
    assert committed == expected.keys()
    assert mount.counter("handler_errors") == 0


def test_a_conflict_is_told_and_leaves_everything_as_it_is(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "tool").write_bytes(b"ours")
    dataset.commit({b"tool": b"theirs"}, time=1_800_000_000)
    answer = push(mount)
    assert (answer["kind"], answer["exit_code"], answer["paths"]) == ("PushConflict", 16, ["tool"])
    assert (top / "tool").read_bytes() == b"ours"
    assert changed(mount) == ["tool"]
    push(mount, prefer="ours")
    assert (top / "tool").read_bytes() == b"ours"
    assert changed(mount) == []
    assert tree(dataset)[b"tool"][1] == b"ours"


def test_another_branch_takes_a_copy(mount: Mounted, dataset: SmallDataset) -> None:
    (mount.path / "one" / "new").write_bytes(b"x")
    push(mount, as_branch="refs/heads/proposal")
    assert changed(mount) == ["new"]
    assert b"new" in tree(dataset, "proposal")


def test_a_dry_run_changes_nothing(mount: Mounted, dataset: SmallDataset) -> None:
    before = dataset.git("rev-parse", "main")
    (mount.path / "one" / "new").write_bytes(b"x")
    assert push(mount, dry_run=True)["pushed"][0]["annexed"] == 1
    assert changed(mount) == ["new"]
    assert dataset.git("rev-parse", "main") == before


def test_what_is_restored_is_as_in_the_commit(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "tool").write_bytes(b"something longer")
    (top / "new").write_bytes(b"x")
    (top / "link").unlink()
    os.rename(top / "code", top / "program")
    assert tell(mount, "restore", dataset=dataset.id, paths=["tool", "program", "link"]) == {"restored": 3}
    assert (top / "tool").read_bytes() == b"tool\n"
    assert os.readlink(top / "link") == "code/run.sh"
    assert (top / "code" / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert changed(mount) == ["new"]
    with open(top / "new", "rb"):
        assert tell(mount, "restore", dataset=dataset.id, paths=["new"])["kind"] == "Busy"
    assert tell(mount, "restore", dataset=dataset.id, paths=["nothing"])["kind"] == "NoSuchName"
    assert tell(mount, "restore", dataset=dataset.id, paths=[""]) == {"restored": 1}
    assert not (top / "new").exists()
    assert changed(mount) == []


def test_subdatasets_are_registered_at_their_new_commits(fuse: None, tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    inner = with_annex(store.dataset("inner", {b"x": b"x"}))
    modules = f'[submodule "i"]\n\tpath = sub/inner\n\turl = ./x\n\tdatalad-id = {inner.id}\n'
    registered = Registered(inner.git("rev-parse", "main"))
    outer = with_annex(store.dataset("outer", {b".gitmodules": modules.encode(), b"sub/inner": registered}))
    with mounted(f"{store.path}#~outer", tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as mount:
        (mount.path / "sub" / "inner" / "new").write_bytes(b"1")
        reports = push(mount)["pushed"]
        assert [each["dataset"] for each in reports] == [inner.id, outer.id]
        assert (mount.path / "sub" / "inner" / "new").read_bytes() == b"1"
        assert changed(mount) == []
        assert tree(outer)[b"sub/inner"] == ("160000", inner.git("rev-parse", "main").encode())
        commit = os.getxattr(mount.path / "sub" / "inner", "user.riafs.commit")
        assert commit.decode() == inner.git("rev-parse", "main")


def test_an_unmount_says_where_changes_are(fuse: None, dataset: SmallDataset, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    overlay = tmp_path / "over"
    run_riafs("mount", f"{dataset.path.parent.parent}#~one", tmp_path / "mnt", "--overlay", overlay)
    (tmp_path / "mnt" / "new").write_bytes(b"x")
    (tmp_path / "mnt" / "tool").unlink()
    done = run_riafs("umount", tmp_path / "mnt")
    assert done.returncode == 0
    assert done.stdout == f"2 changes not pushed, kept in {overlay}\n"


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [fifo, lambda file: os.truncate(file, 100)], ids=["fifo", "cut off"])
def test_what_was_written_and_is_not_there_any_more_is_not_pushed(
    mount: Mounted, dataset: SmallDataset, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """And nothing waits for a fifo: neither the push nor whoever reads something else."""
    top, before = mount.path / "one", dataset.git("rev-parse", "main")
    (top / "lost.dat").write_bytes(b"lost" * 1000)
    (top / "good.txt").write_bytes(b"good")
    tell(mount, "changes")
    [file] = [each for each in (tmp_path / "over/data").iterdir() if each.stat().st_size == 4000]
    damage(file)
    said = push(mount)
    assert (said["kind"], said["exit_code"]) == (OverlayDamaged.__name__, OverlayDamaged.exit_code)
    assert re.search(r"written to lost\.dat \(.*restore", said["error"])
    assert dataset.git("rev-parse", "main") == before
    assert (top / "good.txt").read_bytes() == b"good"
    assert changed(mount) == ["good.txt", "lost.dat"]
    (top / "lost.dat").unlink()
    push(mount)
    assert (changed(mount), (top / "good.txt").read_bytes()) == ([], b"good")
