"""Which versions there are: the directory ``.riafs/versions``, and what is said of one that is not there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.errors import NoSuchName, NoSuchVersion, RiafsError, SourceNotFound
from riafs.formats.gitobjects import Heading, parse_heading
from tests.behaviour.drivers import opened
from tests.small import EPOCH, SmallDataset, SmallStore

Announce = Callable[..., None]

STUDY = b".riafs/versions/study"


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def study(store: SmallStore) -> SmallDataset:
    """Two tags, a branch with a slash, branches of git-annex's own."""
    made = store.dataset("study")
    first = made.commit({b"file": b"one"})
    second = made.commit({b"file": b"two", b"other": b"x"}, time=EPOCH + 60)
    made.git("tag", "v1.0", first)
    made.git("-c", "user.name=t", "-c", "user.email=t@t", "tag", "-a", "-m", "of a tag", "v1.1", second)
    made.git("branch", "fix/scans", first)
    for name in ("git-annex", "synced/main", "adjusted/main(unlocked)"):
        made.git("update-ref", f"refs/heads/{name}", first)
    made.git("update-ref", "refs/tags/tree", made.git("rev-parse", f"{first}^{{tree}}"))
    return made


async def test_versions_are_listed_and_entered(store: SmallStore, study: SmallDataset) -> None:
    async with opened(store.path) as shown:
        assert list(await shown.ls(b".riafs/versions")) == [b"study", b"by-id"]
        assert list(await shown.ls(STUDY)) == [b"branches", b"commits", b"tags"]
        assert list(await shown.ls(STUDY + b"/branches")) == [b"fix%2Fscans", b"main"]
        assert list(await shown.ls(STUDY + b"/tags")) == [b"v1.0", b"v1.1"]
        assert await shown.read(STUDY + b"/branches/fix%2Fscans/file") == b"one"
        assert await shown.read(STUDY + b"/tags/v1.1/file") == b"two"
        assert (await shown.stat(STUDY + b"/tags/v1.1")).mtime_ns == (EPOCH + 60) * 10**9
        assert await shown.getxattr(STUDY + b"/tags/v1.1", "user.riafs.subject") == b"x"
        by_id = b".riafs/versions/by-id/" + study.id.encode() + b"/tags/v1.0/file"
        assert await shown.read(by_id) == b"one"
        with pytest.raises(NoSuchName):
            await shown.stat(b".riafs/versions/study@v1.0")


async def test_the_newest_commits_are_listed_by_their_beginnings(store: SmallStore, study: SmallDataset) -> None:
    commits = study.git("log", "--format=%H", "main").split()
    async with opened(store.path, "#~study@v1.0") as shown:
        assert list(await shown.ls(b".riafs/versions/commits")) == [each[:10].encode() for each in commits]
        for commit, content in zip(commits, (b"two", b"one"), strict=True):
            assert await shown.read(f".riafs/versions/commits/{commit[:10]}/file".encode()) == content


async def test_new_moved_and_removed_refs_are_seen(store: SmallStore, study: SmallDataset) -> None:
    async with opened(store.path) as shown:
        assert await shown.read(STUDY + b"/branches/main/file") == b"two"
        assert await shown.ls(STUDY + b"/tags")
        study.commit({b"file": b"three"}, time=EPOCH + 120)
        study.git("tag", "-d", "v1.0")
        study.git("tag", "deep/down/v3", "main")
        await shown.refresh()
        assert list(await shown.ls(STUDY + b"/tags")) == [b"deep%2Fdown%2Fv3", b"v1.1"]
        assert await shown.read(STUDY + b"/branches/main/file") == b"three"
        assert (await shown.stat(STUDY + b"/branches/main")).mtime_ns == (EPOCH + 120) * 10**9
        study.git("pack-refs", "--all")
        study.git("tag", "-d", "v1.1")
        await shown.refresh()
        assert list(await shown.ls(STUDY + b"/tags")) == [b"deep%2Fdown%2Fv3"]


async def test_a_dataset_without_a_commit_has_no_versions(store: SmallStore) -> None:
    store.dataset("new")
    async with opened(store.path) as shown:
        for kind in (b"branches", b"commits", b"tags"):
            assert not await shown.ls(b".riafs/versions/new/" + kind)


# -- what is near -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("below", "fragment", "kind", "words"),
    [
        ("", "#~study@v1.O", NoSuchVersion, "called v1.O; the nearest are v1.0, v1.1"),
        ("", "#~study@1.1", NoSuchVersion, "the nearest are v1.1"),
        ("", "#~study@mian", NoSuchVersion, "the nearest are main"),
        ("", "#~study@" + "0" * 40, RiafsError, "is missing"),
        ("", "#~stdy", SourceNotFound, "did you mean {store}#~study?"),
        ("", "#~stdy@v1.0", SourceNotFound, "did you mean {store}#~study@v1.0?"),
        ("", "#study@v1.0", SourceNotFound, "did you mean {store}#~study@v1.0?"),
        ("", "#{id:.9}", SourceNotFound, "did you mean {store}#{id}?"),
        ("", "#~{id}", SourceNotFound, "did you mean {store}#{id}?"),
        ("", "#~nothing-like-it", SourceNotFound, "its aliases are study"),
        ("/study", "", SourceNotFound, "does not exist; did you mean {store}#~study?"),
        ("/alias/study", "", SourceNotFound, "directory of a dataset, not a store; did you mean {store}#~study?"),
        ("/{place}", "", SourceNotFound, "directory of a dataset, not a store; did you mean {store}#~study?"),
        ("/{place}/refs/heads", "", SourceNotFound, "did you mean {store}#~study?"),
        ("/{place:.3}", "", SourceNotFound, "did you mean {store}?"),
        ("/alias", "", SourceNotFound, "did you mean {store}?"),
        ("/..", "", SourceNotFound, "did you mean {store}?"),
        ("/../stoer", "", SourceNotFound, "does not exist; did you mean {store}?"),
        ("/../clone", "", SourceNotFound, "did you mean {store}#~study?"),
        ("/../away", "", SourceNotFound, "did you mean {store}#~study?"),
    ],
)
async def test_a_source_that_names_nothing_is_refused_with_the_nearest(
    store: SmallStore, study: SmallDataset, below: str, fragment: str, kind: type[RiafsError], words: str
) -> None:
    place = f"{study.id[:3]}/{study.id[3:]}"
    clone = store.path.parent / "clone" / ".git"
    clone.mkdir(parents=True)
    (clone / "config").write_text(f'[remote "origin"]\n\turl = {store.path}/{place}\n')
    (store.path.parent / "away").symlink_to(study.path)
    with pytest.raises(kind) as caught:
        async with opened(f"{store.path}{below.format(place=place)}", fragment.format(id=study.id)):
            pass
    assert words.format(store=store.path, id=study.id) in str(caught.value)


# -- commits ----------------------------------------------------------------------------------------------------------


def test_a_heading_is_read_whatever_a_commit_says() -> None:
    raw = "tree 0\nauthor Zoë Ω <z@x> 1700000000 -0330\ncommitter c <c@x> 1700000009 +0000\n\n\nOne\ntwo\n\nmore\n"
    assert parse_heading(raw.encode()) == Heading("Zoë Ω", 1_700_000_000, -12600, "One two")
    latin = b"author Zo\xeb <z@x> 99999999999999999 +9999\ncommitter c <c@x> 7 +0000\nencoding latin-1\n\n\xfcber"
    assert parse_heading(latin) == Heading("Zoë", 7, 14 * 3600, "über")
    assert parse_heading(b"encoding base64\n\n\xff\x1b") == Heading("", 0, 0, "�\x1b")
    assert parse_heading(b"") == Heading("", 0, 0, "")
