"""What stops a push from a mount: one line, an exit status, the changes as they were; then the same push succeeds."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.plugins.log_hygiene import Announce
from tests.push.conftest import content, remote_log, run, sound, state, with_annex
from tests.push.conftest import dataset as dataset
from tests.push.test_refusals import small_disk as small_disk
from tests.small import SmallDataset, SmallStore, noise

pytestmark = pytest.mark.usefixtures("fuse")

Prepare = Callable[[SmallDataset], object]


@contextmanager
def changed(dataset: SmallDataset, directory: Path, data: bytes = b"new", **options: object) -> Iterator[Mounted]:
    """A mount with a new file, and one removed."""
    store = dataset.path.parent.parent
    with mounted(store, directory / "mounted", "--overlay", str(directory / "over"), **options) as mount:
        (mount.path / "one" / "new.dat").write_bytes(data)
        (mount.path / "one" / "tool").unlink()
        yield mount


def local(mount: Mounted) -> list[str]:
    done = run_riafs("diff", mount.path)
    assert done.returncode == 0, done.stderr
    return [line.split(" (")[0] for line in done.stdout.splitlines()]


CHANGES = ["added    one/new.dat", "removed  one/tool"]


def refused(mount: Mounted, status: int, reason: str, *words: str, data: bytes = b"new") -> None:
    """A push that fails, and leaves everything as it was."""
    done = run_riafs("push", mount.path, *words)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert reason in done.stderr
    assert local(mount) == CHANGES
    assert (mount.path / "one" / "new.dat").read_bytes() == data
    assert not (mount.path / "one" / "tool").exists()


def pushed(mount: Mounted, dataset: SmallDataset, *words: str, branch: str = "main", data: bytes = b"new") -> None:
    """A push that succeeds."""
    done = run_riafs("push", mount.path, *words)
    assert done.returncode == 0, done.stderr
    assert content(dataset, b"new.dat", branch) == data
    sound(dataset)


def write(name: str, text: str) -> Prepare:
    return lambda dataset: (dataset.path / name).write_text(text)


REFUSED: dict[str, tuple[Prepare, str]] = {
    "unknown layout": (write("ria-layout-version", "7\n"), "its layout is unknown"),
    "tuned": (lambda one: with_annex(one, difference=b"1s uuid objectHash1 = 1\n"), "difference.log"),
    "encrypted": (lambda one: with_annex(one, "encryption=shared cipher=eHh4"), "encryption=shared"),
    "retired chunks": (lambda one: with_annex(one, "encryption=none chunksize=1MiB"), "chunksize"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_store_that_is_not_written_to_is_refused(
    dataset: SmallDataset, tmp_path: Path, expected_warnings: Announce, name: str
) -> None:
    prepare, reason = REFUSED[name]
    version, branch = (dataset.path / "ria-layout-version").read_text(), dataset.git("rev-parse", "git-annex")
    with changed(dataset, tmp_path) as mount:
        prepare(dataset)
        before = state(dataset)
        refused(mount, 1, reason)
        assert state(dataset) == before
        (dataset.path / "ria-layout-version").write_text(version)
        dataset.git("update-ref", "refs/heads/git-annex", branch)
        pushed(mount, dataset)


def test_chunks_are_written_as_chunks(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("one", {b"tool": b"tool"})
    with_annex(dataset, "encryption=none chunk=1MiB")
    with changed(dataset, tmp_path, noise(2_500_000)) as mount:
        done = run_riafs("push", mount.path)
        assert done.returncode == 0, done.stderr
        assert (mount.path / "one" / "new.dat").read_bytes() == noise(2_500_000)
    names = [path.name for path in (dataset.path / "annex" / "objects").rglob("*") if path.is_file()]
    assert len([name for name in names if "-S1048576-C" in name]) == len(names) == 3


def test_a_missing_branch_is_refused(dataset: SmallDataset, tmp_path: Path) -> None:
    with changed(dataset, tmp_path) as mount:
        refused(mount, 1, "branch nowhere of", "--branch", "nowhere")
        refused(mount, 1, "cannot be the name of a branch", "--branch", "a..b")
        pushed(mount, dataset)


def test_a_branch_that_is_removed_meanwhile_is_refused(dataset: SmallDataset, tmp_path: Path) -> None:
    with changed(dataset, tmp_path) as mount:
        tip = dataset.git("rev-parse", "main")
        dataset.git("update-ref", "-d", "refs/heads/main")
        refused(mount, 1, "branch main of")
        dataset.git("update-ref", "refs/heads/main", tip)
        pushed(mount, dataset)


def test_a_detached_head_is_refused(dataset: SmallDataset, tmp_path: Path) -> None:
    (dataset.path / "HEAD").write_text(dataset.git("rev-parse", "main") + "\n")
    with changed(dataset, tmp_path) as mount:
        refused(mount, 1, "is shown at a commit, not at a branch")
        pushed(mount, dataset, "--as-branch", "mine", branch="mine")


def test_no_author_is_refused(dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with changed(dataset, tmp_path) as mount:
        with monkeypatch.context() as patched:
            patched.setenv("HOME", str(tmp_path))
            patched.setenv("XDG_CONFIG_HOME", str(tmp_path))
            refused(mount, 1, "git does not know who you are")
        pushed(mount, dataset)


def test_a_read_only_store_is_refused(small_disk: Path, tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"tool": b""}))
    with changed(dataset, tmp_path) as mount:
        run(tmp_path, "mount", "-o", "remount,ro", small_disk)
        refused(mount, 2, "read-only")
        run(tmp_path, "mount", "-o", "remount,rw", small_disk)
        pushed(mount, dataset)


def test_a_full_store_leaves_everything_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"tool": b""}))
    large = noise(4_000_000)
    with changed(dataset, tmp_path, large) as mount:
        before = state(dataset)
        refused(mount, 2, "no room", data=large)
        assert state(dataset) == before
        sound(dataset)
        run(tmp_path, "mount", "-o", "remount,size=20m", small_disk)
        pushed(mount, dataset, data=large)


def test_a_store_that_is_full_once_git_writes_leaves_everything_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    in_git = {b"tool": b"", b".gitattributes": b"* annex.largefiles=nothing\n"}
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", in_git))
    large = noise(4_000_000)
    with changed(dataset, tmp_path, large) as mount:
        before = state(dataset)
        refused(mount, 2, "No space left on device", data=large)
        assert state(dataset) == before
        run(tmp_path, "mount", "-o", "remount,size=20m", small_disk)
        pushed(mount, dataset, data=large)


def test_a_dataset_that_goes_away_half_way_is_told_and_the_push_run_again(
    dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAT_GOES", str(dataset.path))
    command = ("-m", "tests.faults.sabotage", "store_gone_before_refs_move")
    with changed(dataset, tmp_path, command=command) as mount:
        done = run_riafs("push", mount.path)
        assert not dataset.path.exists()
        assert done.returncode in (2, 32), done.stderr
        assert done.stderr.count("\n") == 1
        assert local(mount) == CHANGES
        assert (mount.path / "one" / "new.dat").read_bytes() == b"new"
        Path(f"{dataset.path}.gone").rename(dataset.path)
        pushed(mount, dataset)


def test_annexed_files_need_a_storage_on_record(dataset: SmallDataset, tmp_path: Path) -> None:
    with changed(dataset, tmp_path) as mount:
        dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n"})
        refused(mount, 1, "no storage on record")
        dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n", b"remote.log": remote_log(dataset)})
        pushed(mount, dataset)


def test_a_lock_that_was_left_behind_is_named(dataset: SmallDataset, tmp_path: Path) -> None:
    lock = dataset.path / "refs" / "heads" / "main.lock"
    with changed(dataset, tmp_path) as mount:
        lock.touch()
        os.utime(lock, (0, 0))
        refused(mount, 2, f"{lock} has been there for")
        lock.unlink()
        pushed(mount, dataset)


def test_a_mount_says_at_once_what_a_push_will_say(dataset: SmallDataset, tmp_path: Path) -> None:
    store, mountpoint = dataset.path.parent.parent, tmp_path / "mnt"
    mountpoint.mkdir()

    def said(source: str) -> str:
        overlay = str(tmp_path / "over")
        done = run_riafs("mount", source, mountpoint, "--overlay", overlay, "--log", str(tmp_path / "log"))
        assert done.returncode == 0
        assert run_riafs("umount", mountpoint).returncode == 0
        shutil.rmtree(overlay)
        return done.stderr

    assert said(f"{store}#~one") == ""
    dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n"})
    assert "no storage on record" in said(f"{store}#~one")
    assert said(str(store)) == ""
