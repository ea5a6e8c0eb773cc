"""What cannot be pushed to is refused before anything is written, with a reason and a way out."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from riafs.errors import (
    BadSource,
    Busy,
    CorruptContent,
    NoAuthor,
    OutsideStore,
    PushRefused,
    ReadOnly,
    RiafsError,
    StoreDenied,
    StoreError,
)
from riafs.formats.sources import parse_ria_source
from riafs.git.user import author, committer
from riafs.push.protocol import PushRequest
from tests.plugins.log_hygiene import Announce
from tests.push.changes import Below
from tests.push.conftest import (
    STORAGE,
    changes_over,
    content,
    means,
    opened,
    push,
    request,
    run,
    sound,
    state,
    tree,
    with_annex,
)
from tests.push.destinations import open_for_pushing
from tests.small import SmallDataset, SmallStore, noise

NEW = b"new content\n"
Prepare = Callable[[SmallDataset], object]


def branch_with(**logs: bytes) -> Prepare:
    """Another top-level log on the git-annex branch."""
    return lambda dataset: with_annex(dataset, **logs)


def storage_with(fields: str) -> Prepare:
    """Other fields in the storage remote's line."""
    return lambda dataset: with_annex(dataset, fields)


def version_file(text: str, *, above: int = 0) -> Prepare:
    """Another layout version, of the dataset or of the store."""

    def write(dataset: SmallDataset) -> None:
        directory = dataset.path.parents[above - 1] if above else dataset.path
        (directory / "ria-layout-version").write_text(text)

    return write


REFUSED: dict[str, tuple[Prepare, str]] = {
    "layout of the dataset": (version_file("9\n"), "layout is unknown"),
    "layout of the store": (version_file("7\n", above=2), "layout is unknown"),
    "tuned": (branch_with(difference=b"x ObjectHashLower timestamp=1s\n"), "difference.log"),
    "tuned in both": (
        branch_with(difference=b"x fromList [OneLevelBranchHash,OneLevelObjectHash] timestamp=1s\n"),
        "links",
    ),
    "dead storage": (branch_with(trust=STORAGE + b" X timestamp=1s\n"), "dead"),
    "files by name": (storage_with("encryption=none exporttree=yes"), "exporttree=yes"),
    "retired chunks": (storage_with("encryption=none chunksize=1MiB"), "chunksize"),
    "shared encryption": (storage_with("encryption=shared cipher=eHh4"), "encryption=shared"),
    "keys of others": (storage_with("encryption=hybrid cipher=eHh4"), "encryption=hybrid"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(dataset: SmallDataset, below: Below, expected_warnings: Announce, name: str) -> None:
    prepare, reason = REFUSED[name]
    if "layout" in name:
        expected_warnings("version")
    prepare(dataset)
    before = state(dataset)
    with pytest.raises(PushRefused, match=reason):
        await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert state(dataset) == before


async def test_a_storage_that_came_back_to_life(dataset: SmallDataset) -> None:
    with_annex(dataset, trust=STORAGE + b" X timestamp=1s\n" + STORAGE + b" ? timestamp=2s\n")
    await opened(dataset)


async def test_annexed_files_need_a_storage_on_record(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", {b"a": b"a"})
    dataset.annex_branch({b"uuid.log": b"x y timestamp=1s\n"})
    below = changes_over(dataset, tmp_path / "overlay")
    with pytest.raises(PushRefused, match="no storage on record"):
        await push(dataset, below, [below.write(b"n.dat", NEW)])


async def test_a_store_is_no_dataset(dataset: SmallDataset) -> None:
    with pytest.raises(BadSource, match="names no dataset"):
        async with open_for_pushing(parse_ria_source(str(dataset.path.parent.parent)), means()):
            pass


@pytest.mark.parametrize(
    ("ref", "message"),
    [(None, "--as-branch"), (b"refs/heads/gone", "does not exist"), (b"refs/heads/git-annex", "no branch to push to")],
)
async def test_branches(dataset: SmallDataset, below: Below, ref: bytes | None, message: str) -> None:
    with pytest.raises(PushRefused, match=message):
        await push(dataset, below, [below.write(b"n.dat", NEW)], ref=ref)


ADJUSTED = b"refs/heads/adjusted/main(unlocked)"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (ADJUSTED, request()),
        (b"refs/heads/main", request(branch=ADJUSTED)),
        (b"refs/heads/main", request(as_branch=ADJUSTED)),
        (ADJUSTED, request(branch=b"refs/heads/main")),
        (b"refs/heads/other-name", request()),
    ],
)
async def test_adjusted_branches(dataset: SmallDataset, below: Below, shown: bytes, wanted: PushRequest) -> None:
    dataset.git("update-ref", ADJUSTED, "main")
    dataset.git("symbolic-ref", "refs/heads/other-name", ADJUSTED)
    before = state(dataset)
    with pytest.raises(PushRefused, match=r"adjusted/main\(unlocked\) is main .* git push of main .* --as-branch"):
        await push(dataset, below, [below.write(b"n.dat", NEW)], wanted, ref=shown)
    assert state(dataset) == before
    await push(dataset, below, [below.write(b"n.dat", NEW)], request(as_branch=b"refs/heads/mine"), ref=shown)
    assert content(dataset, b"n.dat", "mine") == NEW


@pytest.mark.parametrize("name", [b"a/../b", b".git/config", b"x/.GIT/y", b"a//b"])
async def test_names_git_cannot_hold(dataset: SmallDataset, below: Below, name: bytes) -> None:
    with pytest.raises(PushRefused, match="rename it"):
        await push(dataset, below, [below.write(name, NEW)])


async def test_backends_whose_keys_are_no_digest(dataset: SmallDataset, below: Below) -> None:
    changes = [below.write(b"w/.gitattributes", b"* annex.backend=WORM\n"), below.write(b"w/x", NEW)]
    with pytest.raises(PushRefused, match="WORM"):
        await push(dataset, below, changes)


async def test_rules_that_are_none(dataset: SmallDataset, below: Below) -> None:
    changes = [below.write(b"w/.gitattributes", b"* annex.largefiles=(largerthan=\n"), below.write(b"w/x", NEW)]
    with pytest.raises(PushRefused, match="no expression"):
        await push(dataset, below, changes)


async def test_a_damaged_base_is_not_pushed_on(
    dataset: SmallDataset, below: Below, expected_warnings: Announce
) -> None:
    expected_warnings("is not used", "cannot be read")
    stored = dataset.object_path(below.entry(b"data/locked.dat").origin.content)
    stored.chmod(0o644)
    stored.write_bytes(b"Locked content\n")
    before = dataset.git("for-each-ref")
    with pytest.raises(CorruptContent):
        await push(dataset, below, [below.put(b"data/locked.dat", below.patched({3: b"x"}, 15))])
    assert dataset.git("for-each-ref") == before
    sound(dataset)


# -- stores that cannot be written ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a tmpfs")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)  # what failed may still hold descriptors


async def test_a_full_disk_changes_nothing_that_is_visible(small_disk: Path, tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"a": b"a"}))
    below = changes_over(dataset, tmp_path / "overlay")
    before = state(dataset)
    with pytest.raises(StoreError, match="no room"):
        await push(dataset, below, [below.write(b"n.dat", noise(4_000_000))])
    assert state(dataset) == before
    sound(dataset)
    await push(dataset, below, [below.write(b"m", NEW)])
    assert b"/SHA256E-s12--" in tree(dataset)[b"m"][1]


async def test_a_read_only_store_is_refused_at_once(small_disk: Path, tmp_path: Path) -> None:
    dataset = with_annex(SmallStore.make(small_disk / "store").dataset("one", {b"a": b"a"}))
    below = changes_over(dataset, tmp_path / "overlay")
    run(tmp_path, "mount", "-o", "remount,ro", small_disk)
    with pytest.raises(ReadOnly):
        await push(dataset, below, [below.write(b"n.dat", NEW)])


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_a_store_of_somebody_else_is_refused_at_once(dataset: SmallDataset) -> None:
    (dataset.path / "objects").chmod(0o555)
    with pytest.raises(StoreDenied):
        await opened(dataset)


@pytest.mark.parametrize("part", ["refs/heads", "refs/heads/main", "annex/objects", "objects"])
async def test_nothing_is_written_through_links_out_of_the_store(
    dataset: SmallDataset, below: Below, tmp_path: Path, expected_warnings: Announce, part: str
) -> None:
    expected_warnings(".")
    outside = tmp_path / "outside"
    place = dataset.path / part
    place.rename(outside)
    place.symlink_to(outside)
    files = sorted(path for path in outside.rglob("*"))
    text = outside.read_bytes() if outside.is_file() else b""
    with pytest.raises(RiafsError):
        await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert sorted(path for path in outside.rglob("*")) == files
    assert outside.is_dir() or outside.read_bytes() == text


async def test_alternates_out_of_the_store_are_refused(
    dataset: SmallDataset, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("not followed")
    (tmp_path / "elsewhere").mkdir()
    (dataset.path / "objects" / "info" / "alternates").write_text(f"{tmp_path}/elsewhere\n")
    with pytest.raises(OutsideStore):
        await opened(dataset)


@pytest.mark.parametrize("ref", ["main", "git-annex"])
async def test_a_lock_that_was_left_behind_is_named_before_anything_is_written(
    dataset: SmallDataset, below: Below, ref: str
) -> None:
    lock = dataset.path / "refs" / "heads" / f"{ref}.lock"
    lock.touch()
    os.utime(lock, (time.time() - 3600, time.time() - 3600))
    before = state(dataset)
    with pytest.raises(Busy, match=f"{re.escape(str(lock))} has been there for 60 minutes.* remove that file"):
        await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert state(dataset) == before
    assert lock.exists()
    lock.unlink()
    await push(dataset, below, [below.write(b"n.dat", NEW)])


async def test_a_lock_that_is_held_asks_to_try_again(dataset: SmallDataset, below: Below) -> None:
    lock = dataset.path / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(Busy, match=f"{re.escape(str(lock))} is its lock.*try again"):
        await push(dataset, below, [below.write(b"n.dat", NEW)])
    assert lock.exists()


async def test_what_killed_pushes_left_is_removed(dataset: SmallDataset, below: Below) -> None:
    left = dataset.path / "annex" / ".riafs-push"
    (left / "dead").mkdir(parents=True)
    (left / "dead" / "1").write_bytes(b"x")
    (left / "dead.lock").touch()
    await push(dataset, below, [below.write(b"n.dat", NEW)])
    sound(dataset)
    assert content(dataset, b"n.dat") == NEW


# -- authors ----------------------------------------------------------------------------------------------------------


def test_the_author_is_who_git_says() -> None:
    environment = {"PATH": os.environ["PATH"], "GIT_AUTHOR_NAME": "A B", "GIT_AUTHOR_EMAIL": "a@b.invalid"}
    assert author(environment).ident.startswith(b"A B <a@b.invalid> ")
    assert author(environment, "C D <c@d.invalid>").ident.startswith(b"C D <c@d.invalid> ")
    assert committer(os.environ).ident.startswith(b"riafs tests <tests@riafs.invalid> ")


@pytest.mark.parametrize("given", ["nobody", "A <>", "<a@b>", "A <a@b> c", "A a@b>"])
def test_an_author_that_is_none(given: str) -> None:
    with pytest.raises(NoAuthor, match="Name <address>"):
        author(os.environ, given)


def test_without_an_author_nobody_commits(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    with pytest.raises(NoAuthor, match=r"user\.name"):
        committer(environment)


async def test_what_goes_into_git_only_needs_no_annex_to_write_to(dataset: SmallDataset, below: Below) -> None:
    (dataset.path / "annex").rename(dataset.path / "kept")
    (dataset.path / "annex").write_text("no directory")
    in_git = [below.write(b".gitattributes", b"* annex.largefiles=nothing\n"), below.write(b"text", b"text\n")]
    await push(dataset, below, in_git)
    assert tree(dataset)[b"text"] == ("100644", b"text\n")
    later = changes_over(dataset, below.area)
    to_annex = [later.write(b".gitattributes", b"* annex.largefiles=anything\n"), later.write(b"n.dat", NEW)]
    with pytest.raises(RiafsError):
        await push(dataset, later, to_annex)
