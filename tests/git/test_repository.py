"""Versions, objects and blobs of a bare repository that somebody else wrote."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.errors import (
    GitError,
    MalformedObject,
    MissingObject,
    NoSuchVersion,
    RiafsError,
    TooLarge,
    UnsupportedRepository,
)
from riafs.git import repository as repository_module
from riafs.git.catfile import GitPool
from riafs.git.environment import PrivateGitDirs
from riafs.git.object_source import RepositoryPlace
from riafs.git.repository import Repository
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from tests.behaviour.drivers import opened
from tests.small import EPOCH, SmallDataset, SmallStore, noise

Announce = Callable[..., None]
Open = Callable[[SmallDataset], Repository]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
async def open_repository(store: SmallStore, tmp_path: Path) -> AsyncIterator[Open]:
    counters = Counters()
    storage = await LocalStorage.open_root(os.fsencode(store.path), Deadline("the store", 10, counters))
    pool = GitPool(PrivateGitDirs("git", os.environ["PATH"], os.fsencode(tmp_path)), 10, counters)

    def open_it(dataset: SmallDataset) -> Repository:
        path = os.fsencode(dataset.path.relative_to(store.path))
        return Repository(RepositoryPlace(storage, path, (storage, path)), pool, "dataset one", 10)

    yield open_it
    pool.close()
    storage.close()


async def test_file_that_cannot_be_read_is_not_a_file_that_is_not_there(
    store: SmallStore, open_repository: Open
) -> None:
    dataset = store.dataset("one", {b"a/b/file": b"content", b"a/large": bytes(100), b"a/new\nline": b"odd"})
    repository = open_repository(dataset)
    commit = dataset.git("rev-parse", "main").encode()
    for absent in (b"", b"x", b"a/x", b"a/b/x", b"a/b/file/x", b"a/b", b"x/y/z", b"a/x\ny"):
        assert await repository.blob_at(commit, absent, 50) is None, absent
    assert await repository.blob_at(commit, b"a/b/file", 50) == b"content"
    assert await repository.blob_at(commit, b"a/new\nline", 50) == b"odd"
    with pytest.raises(TooLarge, match="a/large of dataset one has 100 bytes"):
        await repository.blob_at(commit, b"a/large", 50)
    for lost in ("main:a/b/file", "main:a/b", "main:a", "main^{tree}", "main"):
        oid = dataset.git("rev-parse", lost)
        (dataset.path / "objects" / oid[:2] / oid[2:]).unlink()
        with pytest.raises(MissingObject):
            await repository.blob_at(commit, b"a/b/file", 50)


async def test_unreadable_branch_is_not_passed_over_for_an_older_one(store: SmallStore, open_repository: Open) -> None:
    dataset = store.dataset("one")
    dataset.commit({b"file": b"older"}, ref="refs/heads/older", time=EPOCH - 10)
    newest = dataset.commit({b"file": b"newest"}, ref="refs/heads/newest")
    (dataset.path / "objects" / newest[:2] / newest[2:]).unlink()
    with pytest.raises(MissingObject):
        await open_repository(dataset).find(None)


async def shown_at(store: SmallStore, version: str) -> bytes:
    """The file ``file`` of dataset ``one`` at a version."""
    async with opened(store.path, f"#~one@{version}") as shown:
        return await shown.read(b"file")


@pytest.fixture
def versions(store: SmallStore) -> SmallDataset:
    """A dataset with every way to name its first commit."""
    dataset = store.dataset("one")
    first = dataset.commit({b"file": b"first"})
    dataset.git("tag", "light", first)
    dataset.git("tag", "with/slash", first)
    dataset.git("update-ref", "refs/heads/branch", first)
    dataset.git("update-ref", "refs/tags/both", first)
    dataset.git("update-ref", "refs/notes/x", first)
    for tag, target in (("annotated", first), ("of-tag", "annotated")):
        dataset.git(
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
            "-c",
            "advice.nestedTag=false",
            "tag",
            "-a",
            "-m",
            "m",
            tag,
            target,
        )
    second = dataset.commit({b"file": b"second"})
    dataset.git("update-ref", "refs/heads/both", second)
    return dataset


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "version", ["branch", "light", "with/slash", "annotated", "of-tag", "refs/tags/both", "refs/notes/x"]
)
async def test_ref_names_a_commit(store: SmallStore, versions: SmallDataset, version: str, packed: bool) -> None:
    if packed:
        versions.git("pack-refs", "--all")
        assert not list((versions.path / "refs" / "tags").rglob("l*"))
    assert await shown_at(store, version) == b"first"


async def test_a_damaged_line_of_packed_refs_is_not_a_ref_that_does_not_exist(
    store: SmallStore, versions: SmallDataset
) -> None:
    versions.git("pack-refs", "--all")
    place = versions.path / "packed-refs"
    place.write_bytes(place.read_bytes().replace(b" refs/heads/branch", b"\0refs/heads/branch"))
    with pytest.raises(MalformedObject, match="packed-refs is damaged at byte"):
        await shown_at(store, "branch")
    with pytest.raises(MalformedObject, match="packed-refs is damaged at byte"):
        await shown_at(store, "both")


@pytest.mark.parametrize("place", ["packed-refs", "refs/heads/branch"])
async def test_what_is_no_file_in_the_place_of_a_ref_is_told(
    store: SmallStore, versions: SmallDataset, place: str
) -> None:
    versions.git("pack-refs", "--all")
    (versions.path / place).unlink(missing_ok=True)
    os.mkfifo(versions.path / place)
    with pytest.raises(MalformedObject, match="is not a regular file"):
        await shown_at(store, "branch")


async def test_a_directory_that_is_left_where_a_ref_was_is_no_ref(store: SmallStore, versions: SmallDataset) -> None:
    versions.git("pack-refs", "--all")
    (versions.path / "refs/heads/branch").mkdir()
    assert await shown_at(store, "branch") == b"first"


async def test_branch_goes_before_tag(store: SmallStore, versions: SmallDataset) -> None:
    assert await shown_at(store, "both") == b"second"


@pytest.mark.parametrize("digits", [7, 8, 39, 40])
async def test_commit_is_named_by_its_beginning(store: SmallStore, versions: SmallDataset, digits: int) -> None:
    assert await shown_at(store, versions.git("rev-parse", "branch")[:digits]) == b"first"


@pytest.mark.parametrize(
    "version", ["none", "0000000", "12" * 20, "main~1", "main:file", "HEAD^", "refs/heads", "--all"]
)
async def test_version_that_does_not_exist(store: SmallStore, versions: SmallDataset, version: str) -> None:
    with pytest.raises(NoSuchVersion):
        await shown_at(store, version)


async def test_object_that_is_no_commit_is_no_version(store: SmallStore, versions: SmallDataset) -> None:
    for name in ("main:file", "main^{tree}"):
        with pytest.raises(NoSuchVersion, match="not a commit"):
            await shown_at(store, versions.git("rev-parse", name))


# -- HEAD -------------------------------------------------------------------------------------------------------------


async def test_detached_head(store: SmallStore, versions: SmallDataset) -> None:
    versions.git("update-ref", "--no-deref", "HEAD", versions.git("rev-parse", "light"))
    async with opened(store.path, "#~one") as shown:
        assert await shown.read(b"file") == b"first"


async def test_unborn_head_shows_the_branch_with_the_newest_commit(store: SmallStore) -> None:
    dataset = store.dataset("one")
    for branch, time in (("main", 1), ("newest", 5), ("old", 2)):
        dataset.commit({b"file": branch.encode()}, f"refs/heads/{branch}", EPOCH + time)
    for hidden in ("git-annex", "synced/main", "adjusted/main(unlocked)"):
        dataset.commit({b"file": b"hidden"}, f"refs/heads/{hidden}", EPOCH + 100)
    dataset.git("symbolic-ref", "HEAD", "refs/heads/master")
    async with opened(store.path, "#~one") as shown:
        assert await shown.read(b"file") == b"newest"


FORMS = [
    "unlocked",
    "locked",
    "fixed",
    "unfixed",
    "hidemissing",
    "hideunwanted",
    "unlockpresent",
    "hidemissing-unlocked",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("branch", ["main", "feature/we(ird"])
async def test_head_that_names_an_adjusted_branch_stands_for_the_one_that_was_adjusted(
    store: SmallStore, open_repository: Open, branch: str, form: str
) -> None:
    dataset = store.dataset("one")
    dataset.commit({b"file": b"itself"}, f"refs/heads/{branch}")
    adjusted = f"refs/heads/adjusted/{branch}({form})"
    made = dataset.git("commit-tree", "-p", branch, "-m", "git-annex adjusted branch", f"{branch}^{{tree}}")
    dataset.git("update-ref", adjusted, made)
    dataset.git("symbolic-ref", "HEAD", adjusted)
    repository = open_repository(dataset)
    assert (await repository.find(None)).ref == f"refs/heads/{branch}".encode()
    assert (await repository.find(adjusted.encode())).ref == adjusted.encode()
    dataset.commit({b"file": b"only on the adjusted branch"}, adjusted)
    assert (await repository.find(None)).ref == adjusted.encode()
    dataset.git("update-ref", adjusted, made)
    dataset.git("update-ref", "-d", f"refs/heads/{branch}")
    assert (await repository.find(None)).ref == adjusted.encode()


async def test_a_branch_that_is_only_called_like_an_adjusted_one_is_shown(
    store: SmallStore, open_repository: Open
) -> None:
    dataset = store.dataset("one", {b"file": b"main"})
    dataset.commit({b"file": b"x"}, "refs/heads/adjusted/main")
    dataset.git("symbolic-ref", "HEAD", "refs/heads/adjusted/main")
    assert (await open_repository(dataset).find(None)).ref == b"refs/heads/adjusted/main"


async def test_dataset_without_any_commit_names_that(store: SmallStore) -> None:
    store.dataset("one")
    with pytest.raises(NoSuchVersion, match="no commit yet"):
        async with opened(store.path, "#~one"):
            pass


async def test_chain_of_symbolic_refs(store: SmallStore, versions: SmallDataset, open_repository: Open) -> None:
    for number in range(7):
        target = "refs/heads/branch" if number == 0 else f"refs/heads/s{number - 1}"
        (versions.path / "refs" / "heads" / f"s{number}").write_text(f"ref: {target}\n")
    repository = open_repository(versions)
    assert (await repository.find(b"s2")).oid == versions.git("rev-parse", "branch").encode()
    with pytest.raises(MalformedObject, match="too many symbolic refs"):
        await repository.find(b"s6")


@pytest.mark.parametrize("text", [b"", b"garbage\n", b"ref: ../../outside\n", b"ref: refs/heads/../../x\n", b"\0" * 50])
async def test_malformed_ref_is_a_failure_of_that_version_only(
    store: SmallStore, versions: SmallDataset, open_repository: Open, text: bytes
) -> None:
    (versions.path / "refs" / "heads" / "bad").write_bytes(text)
    repository = open_repository(versions)
    with pytest.raises(RiafsError):
        await repository.find(b"bad")
    assert await repository.find(b"branch")
    assert await repository.references.branches()


# -- objects ----------------------------------------------------------------------------------------------------------


async def test_sha256_repository(store: SmallStore) -> None:
    dataset = store.dataset("one", {b"file": b"by sha256", b"d/e": b"below"}, object_format="sha256")
    commit = dataset.git("rev-parse", "main")
    assert len(commit) == 64
    for version in ("main", commit, commit[:9]):
        assert await shown_at(store, version) == b"by sha256"


async def test_packed_objects(store: SmallStore, versions: SmallDataset) -> None:
    versions.git("repack", "-adq")
    versions.git("pack-refs", "--all")
    assert await shown_at(store, "light") == b"first"


@pytest.mark.parametrize(
    "setting", ["[extensions]\n\trefstorage = reftable\n", "[extensions]\n\tobjectformat = sha3\n"]
)
async def test_repository_that_cannot_be_read_says_why(store: SmallStore, versions: SmallDataset, setting: str) -> None:
    with (versions.path / "config").open("a") as config:
        config.write(setting)
    with pytest.raises(UnsupportedRepository):
        await shown_at(store, "light")


async def test_missing_object_is_named(open_repository: Open, versions: SmallDataset) -> None:
    with pytest.raises(MissingObject, match=r"1212.* is missing in dataset one"):
        await open_repository(versions).commit(b"12" * 20)


async def test_object_of_another_kind_is_malformed(open_repository: Open, versions: SmallDataset) -> None:
    blob = versions.git("rev-parse", "main:file").encode()
    with pytest.raises(MalformedObject, match="is a blob, not a tree"):
        await open_repository(versions).tree(blob)


@pytest.mark.parametrize("size", [0, 100, 5_000_000])
async def test_blob_is_read_whole_whatever_its_size(open_repository: Open, store: SmallStore, size: int) -> None:
    dataset = store.dataset("one", {b"blob": noise(size)})
    blob = await open_repository(dataset).open_blob(dataset.git("rev-parse", "main:blob").encode(), size)
    assert await blob.read(0, size + 1) == noise(size)
    blob.close()


async def test_large_blob_that_is_gone_is_an_error(
    open_repository: Open, versions: SmallDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository_module, "IN_MEMORY", 10)
    with pytest.raises(GitError, match="cannot be read whole"):
        await open_repository(versions).open_blob(b"12" * 20, 5000)


async def test_damaged_object_costs_only_itself(open_repository: Open, store: SmallStore) -> None:
    dataset = store.dataset("one", {b"%d" % number: noise(200, str(number)) for number in range(10)})
    oids = [dataset.git("rev-parse", f"main:{number}").encode() for number in range(10)]
    bad = dataset.path / "objects" / os.fsdecode(oids[4][:2]) / os.fsdecode(oids[4][2:])
    bad.chmod(0o644)
    bad.write_bytes(b"no zlib stream")
    found = await open_repository(dataset).objects([b"contents " + oid for oid in oids])
    assert [each is not None for each in found] == [number != 4 for number in range(10)]


async def test_many_requests_are_answered_in_order(open_repository: Open, store: SmallStore) -> None:
    dataset = store.dataset("one", {b"%04d" % number: b"%d" % number for number in range(2000)})
    tree = await open_repository(dataset).tree(dataset.git("rev-parse", "main^{tree}").encode())
    found = await open_repository(dataset).objects([b"contents " + oid.hex().encode() for oid in tree.oids])
    assert [each and each.data for each in found] == [b"%d" % number for number in range(2000)]


async def test_pool_ends_the_children_least_recently_used(store: SmallStore, tmp_path: Path) -> None:
    gits = PrivateGitDirs("git", os.environ["PATH"], os.fsencode(tmp_path))
    pool = GitPool(gits, 10, Counters(), limit=2)
    children = []
    for name in ("one", "two", "three"):
        dataset = store.dataset(name, {b"file": b""})
        child = pool.child(os.fsencode(dataset.path / "objects"), b"sha1", name)
        await child.batch([b"info " + dataset.git("rev-parse", "main").encode()], 1)
        children.append(child)
    assert [child._process is None for child in children] == [True, False, False]
    pool.close()
    assert [child._process for child in children] == [None] * 3
    assert not list(tmp_path.glob("git-*"))
