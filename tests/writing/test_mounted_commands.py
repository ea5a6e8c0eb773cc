"""riafs push, diff, restore and status on a mount, and what happens when the mount or the push is killed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from riafs.cli.overlay import overlays
from riafs.daemon.mounts import riafs_mounts
from tests.fuse.mounting import COMMAND, PROJECT, Mounted, mounted, run_riafs
from tests.plugins import mounts
from tests.push.conftest import content, run, sound, tree, with_annex
from tests.push.conftest import dataset as dataset
from tests.small import SmallDataset, SmallStore, noise
from tests.waiting import eventually, random_moment

pytestmark = pytest.mark.usefixtures("fuse")


@pytest.fixture
def mount(dataset: SmallDataset, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(dataset.path.parent.parent, tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as made:
        yield made


def riafs(*words: str | Path, status: int = 0) -> str:
    """What a command prints, on its error output if it is to fail."""
    done = run_riafs(*words)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def listed(place: Path, *words: str) -> list[str]:
    return [f"{each['kind']} {each['path']}" for each in json.loads(riafs("diff", *words, place, "--json"))]


def test_what_is_changed_is_told_pushed_and_shown(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "new.dat").write_bytes(b"new")
    os.rename(top / "data", top / "moved")
    (top / "empty").mkdir()
    assert riafs("diff", mount.path).splitlines() == [
        "added    one/empty/",
        "renamed  one/moved (was one/data)",
        "added    one/new.dat (3 B)",
    ]
    status = riafs("status", mount.path)
    assert "changes" in status
    assert str(mount.path.parents[1] / "over") in status
    assert "empty is empty" in riafs("push", top, "-m", "a message")
    assert dataset.git("log", "-1", "--format=%s", "main") == "a message"
    assert {b"new.dat", b"moved/locked.dat"} <= set(tree(dataset))
    assert listed(mount.path) == ["added one/empty"]
    assert (top / "new.dat").read_bytes() == b"new"
    sound(dataset)


def test_a_push_makes_files_of_hard_links_and_leaves_special_files_out(mount: Mounted, dataset: SmallDataset) -> None:
    """`locked.dat` is annexed, `script` git's; each has a second name deeper or less deep."""
    top = mount.path / "one"
    before = tree(dataset)
    (top / "new.dat").write_bytes(b"new")
    os.link(top / "new.dat", top / "data" / "second.dat")
    os.link(top / "data" / "locked.dat", top / "copy.dat")
    with open(top / "text", "wb") as file:
        file.write(b"text")
    os.mkfifo(top / "fifo")
    told = ["copied one/copy.dat", "added one/data/second.dat", "special one/fifo", "added one/new.dat"]
    assert listed(mount.path) == [*told, "added one/text"]
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(top / "socket"))
        server.listen()
        client.connect(str(top / "socket"))
    assert riafs("diff", top).splitlines()[2] == "special  one/fifo"
    said = riafs("push", top, "-m", "names")
    assert "fifo is a fifo, a socket or a device" in said
    after = tree(dataset)
    assert after.keys() - before.keys() == {b"new.dat", b"data/second.dat", b"copy.dat", b"text"}
    assert content(dataset, b"data/second.dat") == content(dataset, b"new.dat") == b"new"
    assert content(dataset, b"copy.dat") == content(dataset, b"data/locked.dat")
    assert listed(mount.path) == ["special one/fifo", "special one/socket"]
    assert (top / "copy.dat").read_bytes() == (top / "data" / "locked.dat").read_bytes()
    assert os.stat(top / "new.dat").st_nlink == 1
    sound(dataset)


def test_a_push_of_one_name_leaves_the_others_with_what_they_have(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    locked = (top / "data" / "locked.dat").read_bytes()
    (top / "new.dat").write_bytes(b"new")
    os.link(top / "new.dat", top / "second.dat")
    os.link(top / "data" / "locked.dat", top / "copy.dat")
    riafs("push", top / "new.dat", "-m", "one name")
    assert listed(mount.path) == ["copied one/copy.dat", "added one/second.dat"]
    assert (os.stat(top / "second.dat").st_nlink, os.stat(top / "copy.dat").st_nlink) == (1, 2)
    with open(top / "second.dat", "ab") as file:
        file.write(b"er")
    assert ((top / "new.dat").read_bytes(), (top / "second.dat").read_bytes()) == (b"new", b"newer")
    os.unlink(top / "data" / "locked.dat")
    riafs("push", top / "data" / "locked.dat", "-m", "gone, and what is copied from it")
    assert b"data/locked.dat" not in tree(dataset)
    assert content(dataset, b"copy.dat") == (top / "copy.dat").read_bytes() == locked
    assert listed(mount.path) == ["added one/second.dat"]
    riafs("push", top, "-m", "the rest")
    assert content(dataset, b"second.dat") == b"newer"
    sound(dataset)


def test_programs_use_hard_links_as_they_do_anywhere(mount: Mounted, tmp_path: Path) -> None:
    """An archive with hard links, a tree of links to files of the store, a fifo between two processes."""
    top = mount.path / "one"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a").write_bytes(b"a")
    os.link(tmp_path / "packed" / "a", tmp_path / "packed" / "b")
    run(tmp_path, "tar", "cf", tmp_path / "packed.tar", "packed")
    run(top, "tar", "xf", tmp_path / "packed.tar")
    assert os.path.samefile(top / "packed" / "a", top / "packed" / "b")
    run(top, "cp", "-al", "data", "linked")
    files = [path for path in (top / "data").rglob("*") if path.is_file()]
    assert len(files) > 1
    for each in files:
        assert os.path.samefile(each, top / "linked" / each.relative_to(top / "data"))
        assert each.stat().st_nlink == 2
    with subprocess.Popen([sys.executable, "-c", "import os; os.mkfifo('f'); print(open('f').read())"], cwd=top,
                          stdout=subprocess.PIPE, text=True) as reader:  # fmt: skip
        eventually((top / "f").exists)
        (top / "f").write_text("through")
        assert reader.communicate()[0] == "through\n"


def test_a_push_to_an_adjusted_head_goes_to_the_branch_that_was_adjusted(dataset: SmallDataset, tmp_path: Path) -> None:
    adjusted = "refs/heads/adjusted/main(unlocked)"
    tip = dataset.git("commit-tree", "-p", "main", "-m", "git-annex adjusted branch", "main^{tree}")
    dataset.git("update-ref", adjusted, tip)
    dataset.git("symbolic-ref", "HEAD", adjusted)
    store, overlay = dataset.path.parent.parent, str(tmp_path / "over")
    with mounted(store, tmp_path / "mounted", "--overlay", overlay) as mount:
        assert os.getxattr(mount.path / "one", "user.riafs.ref") == b"refs/heads/main"
        (mount.path / "one" / "new.dat").write_bytes(b"new")
        riafs("push", mount.path)
        assert content(dataset, b"new.dat") == b"new"
        assert dataset.git("rev-parse", adjusted) == tip
        assert listed(mount.path) == []
        dataset.commit({b"only": b"x"}, adjusted)
        mount.refresh()
        assert os.getxattr(mount.path / "one", "user.riafs.ref") == os.fsencode(adjusted)
        (mount.path / "one" / "more.dat").write_bytes(b"more")
        assert "is main as git annex adjust made it" in riafs("push", mount.path, status=1)
        assert listed(mount.path) == ["added one/more.dat"]


def test_only_the_named_file_is_pushed_and_restored(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    for name in ("a", "b", "c"):
        (top / name).write_bytes(name.encode())
    (top / "tool").unlink()
    riafs("push", top / "a")
    assert b"b" not in tree(dataset)
    assert listed(mount.path) == ["added one/b", "added one/c", "removed one/tool"]
    riafs("restore", top / "b", top / "tool")
    assert listed(top / "c") == listed(mount.path) == ["added one/c"]
    assert (top / "tool").read_bytes() == b"tool\n"
    assert not (top / "b").exists()
    assert "nothing is changed at one/b" in riafs("restore", top / "b", status=2)


def test_a_dataset_is_named_by_its_id_wherever_it_is_mounted(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    dataset = with_annex(store.dataset(f"one-{uuid.uuid4()}", {b"a": b"a"}))  # other tests have mounts, too
    with (
        mounted(store.path, tmp_path / "first", "--overlay", str(tmp_path / "over1")) as first,
        mounted(f"{store.path}#{dataset.id}", tmp_path / "second", "--overlay", str(tmp_path / "over2")) as second,
    ):
        top = first.path / dataset.alias
        (top / "new").write_bytes(b"x")
        (top / "b#1").write_bytes(b"x")
        assert listed(top / "b#1") == [f"added {dataset.alias}/b#1"]
        (second.path / "other").write_bytes(b"y")
        assert "name one of these directories" in riafs("push", dataset.id, status=1)
        riafs("restore", second.path)
        riafs("push", dataset.id)
        assert content(dataset, b"new") == b"x"
        assert "nothing is changed in dataset" in riafs("push", f"{store.path}#{dataset.id}", status=2)


def test_a_second_place_of_a_changed_dataset_is_read_only_and_the_log_names_both(
    mount: Mounted, dataset: SmallDataset
) -> None:
    second = mount.path / "by-id" / dataset.id
    (mount.path / "one" / "new").write_bytes(b"x")
    with pytest.raises(OSError, match="Read-only file system"):
        (second / "other").write_bytes(b"y")
    errors = (mount.path / ".riafs" / "errors").read_text()
    assert f"is being changed in one, so that it can only be read in by-id/{dataset.id}" in errors
    riafs("push", mount.path)
    (second / "other").write_bytes(b"y")
    assert listed(mount.path) == [f"added by-id/{dataset.id}/other"]


def test_a_conflict_has_an_exit_status_of_its_own(mount: Mounted, dataset: SmallDataset) -> None:
    (mount.path / "one" / "tool").write_bytes(b"ours")
    dataset.commit({b"tool": b"theirs"}, time=1_800_000_000)
    done = run_riafs("push", mount.path)
    assert (done.returncode, done.stdout) == (16, "conflict  tool\n")
    assert done.stderr.count("\n") == 1
    assert listed(mount.path) == ["changed one/tool"]
    riafs("push", mount.path, "--theirs")
    assert (mount.path / "one" / "tool").read_bytes() == b"theirs"


def test_what_others_changed_as_well_is_told_and_not_covered(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "a").write_bytes(b"ours")
    (top / "b").write_bytes(b"b")
    dataset.commit({b"a": b"theirs"}, time=1_800_000_000)
    told = riafs("push", top / "b")
    assert "one: a is changed here and was changed in the store as well; push again to settle it" in told
    assert {b"a", b"b"} <= set(tree(dataset))
    assert (top / "a").read_bytes() == b"ours"
    assert listed(mount.path) == ["added one/a", "added one/b"]
    riafs("push", top, "--ours")
    assert (top / "a").read_bytes() == b"ours"
    assert listed(mount.path) == []


def test_a_mount_that_is_only_read_has_nothing_to_push(dataset: SmallDataset, tmp_path: Path) -> None:
    with mounted(dataset.path.parent.parent, tmp_path / "mounted") as mount:
        assert "is mounted read-only" in riafs("push", mount.path, status=1)


def test_overlays_in_use_are_listed_with_their_mount(
    mount: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount.path / "one" / "new").write_bytes(b"x")
    own = [each for each in riafs_mounts() if each.mountpoint == str(mount.path)]
    monkeypatch.setattr("riafs.cli.overlay.riafs_mounts", lambda: own)
    monkeypatch.setattr("riafs.cli.overlay.overlays_directory", lambda _: str(tmp_path / "overlays"))
    [known] = overlays(os.environ)
    assert (known["changes"], known["mountpoint"]) == (1, str(mount.path))
    assert known["directory"] == str(tmp_path / "over")
    assert "in use" in riafs("overlay", "remove", tmp_path / "over", "--force", status=2)


def test_an_overlay_is_there_right_after_the_unmount(dataset: SmallDataset, tmp_path: Path) -> None:
    overlay, mountpoint = tmp_path / "over", tmp_path / "mnt"
    mountpoint.mkdir()
    for count in range(3):
        riafs("mount", dataset.path.parent.parent, mountpoint, "--overlay", overlay)
        (mountpoint / "one" / f"new{count}").write_bytes(b"x")
        riafs("umount", mountpoint)
    assert len(listed(Path(), "--overlay", str(overlay))) == 3


@pytest.fixture
def kills(long: bool) -> int:
    return 30 if long else 2


def test_a_daemon_that_is_killed_in_a_push_loses_nothing(dataset: SmallDataset, tmp_path: Path, kills: int) -> None:
    overlay, mountpoint, store = tmp_path / "over", tmp_path / "mnt", dataset.path.parent.parent
    mountpoint.mkdir()
    large, chance = noise(3_000_000), random.Random(1)
    for attempt in range(kills):
        riafs("mount", store, mountpoint, "--overlay", overlay)
        pid = json.loads(riafs("status", mountpoint, "--json"))[0]["pid"]
        with open(mountpoint / "one" / f"large{attempt}.dat", "wb") as file:
            file.write(large + bytes([attempt]))
            os.fsync(file.fileno())
        pushing = started("push", mountpoint)
        random_moment(chance, 0.3, 1.5)
        os.kill(pid, signal.SIGKILL)
        pushing.wait(60)
        mounts.sweep(mounts.below(tmp_path))
        dataset.git("fsck", "--full", "--strict")
    riafs("push", "--overlay", overlay)
    for attempt in range(kills):
        assert content(dataset, b"large%d.dat" % attempt) == large + bytes([attempt])
    assert listed(Path(), "--overlay", str(overlay)) == []
    sound(dataset)


def test_a_push_that_is_killed_is_finished_by_the_next(mount: Mounted, dataset: SmallDataset, kills: int) -> None:
    chance = random.Random(2)
    for attempt in range(kills):
        (mount.path / "one" / f"file{attempt}.dat").write_bytes(noise(500_000, str(attempt)))
        pushing = started("push", mount.path)
        random_moment(chance, 0.2, 0.8)
        pushing.kill()
        pushing.wait(60)
        dataset.git("fsck", "--full", "--strict")
    # the daemon may still be at the one that was asked for
    eventually(lambda: run_riafs("push", mount.path).returncode == 0, 30)
    for attempt in range(kills):
        assert content(dataset, b"file%d.dat" % attempt) == noise(500_000, str(attempt))
    assert listed(mount.path) == []
    sound(dataset)


def started(*words: str | Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *COMMAND, *words], cwd=PROJECT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip


def test_older_clones_and_fresh_ones_have_what_was_pushed(tmp_path: Path) -> None:
    work, store, older = tmp_path / "work", tmp_path / "store", tmp_path / "older"
    run(tmp_path, "datalad", "create", work)
    (work / "first.dat").write_bytes(b"first")
    run(work, "datalad", "save", "-m", "one")
    run(work, "datalad", "create-sibling-ria", "-s", "ria", "--new-store-ok", "--alias", "lab", f"ria+file://{store}")
    run(work, "datalad", "push", "--to", "ria")
    run(tmp_path, "datalad", "clone", f"ria+file://{store}#~lab", older)
    run(older, "git", "config", "remote.ria-storage.annex-verified", "verified")
    with mounted(f"{store}#~lab", tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as mount:
        (mount.path / "mine.dat").write_bytes(noise(100_000))
        (older / "before.dat").write_bytes(b"before")
        run(older, "datalad", "save", "-m", "before")
        run(older, "datalad", "push", "--to", "origin")
        riafs("push", mount.path, "-m", "from the mount")
        assert (mount.path / "before.dat").read_bytes() == b"before"
        run(older, "datalad", "update", "--how", "merge", "-s", "origin")
        (older / "after.dat").write_bytes(b"after")
        run(older, "datalad", "save", "-m", "after")
        run(older, "datalad", "push", "--to", "origin")
        mount.refresh()
        assert (mount.path / "after.dat").read_bytes() == b"after"
    fresh = tmp_path / "fresh"
    run(tmp_path, "datalad", "clone", f"ria+file://{store}#~lab", fresh)
    run(fresh, "datalad", "get", ".")
    run(fresh, "git", "annex", "fsck")
    run(fresh, "git", "annex", "fsck", "--from", "ria-storage")
    assert run(fresh, "git", "annex", "find", "--not", "--in", "ria-storage") == ""
    assert (fresh / "mine.dat").read_bytes() == noise(100_000)
    run(store / "alias" / "lab", "git", "fsck", "--strict")
